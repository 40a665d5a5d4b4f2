"""Match: which column of somebody's table holds what, by the usual names whatever their case and punctuation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import UserError
from ...quantities import parse_number, plural
from ..column_words import kind_of_batch
from ..field_names import (
    BARE_BATCH,
    COUNTED,
    DEVICE_BATCH,
    GLOBAL_BATCH,
    KNOWN,
    TOTAL_STEPS,
    UNCLEAR_LETTERS,
    normalise,
    plain_forms,
    split_unit,
    without_keeper,
)
from .column_search import ColumnSearch, Found, counts_of
from .raw_table import RawTable

# Numeric fields of an observation, in the order of its attributes.
FIELDS = ("num_params", "tokens", "loss", "flops", "loss_se")
# Further numeric fields, under these names in ``Observations.extra``.
EXTRA = (
    "batch_tokens",
    "batch_sequences",
    "sequence_length",
    "steps",
    "lr",
    "unique_tokens",
    "warmup",
    "weight_decay",
    "seed",
    "group",
    "trunk",
    "trunk_noise",
    "run_noise",
    "accumulation",
    "processes",
    "active_params",
    "total_steps",
    "nodes",
    "tokens_per_param",
)
# Fields that name rather than count: words are numbered in the order in which they come first.
NAMES = frozenset({"trunk"})
# Counts may be written 1.5B or 200M, and must be above zero.
COUNTS = frozenset(
    {
        "num_params",
        "tokens",
        "flops",
        "batch_tokens",
        "batch_sequences",
        "steps",
        "unique_tokens",
        "accumulation",
        "processes",
        "active_params",
        "total_steps",
        "nodes",
        "tokens_per_param",
    }
)

# A table with all of these was written by ``Observations.write_csv``: its names are fields as they stand.
WRITTEN = frozenset({"label", "tokens", "flops", "loss", "loss_se"})


@dataclass(frozen=True)
class Match:
    """What the columns of a table hold.

    Attributes:
        taken: field → name of its column, or a number that holds in every row.
        counted: what num_params counts.
        factors: field → what one of its column counts, where its name or the user states a unit: 1e6 of ``params (M)``.
        chosen: the fields whose column the user named; what is wrong there is refused, and not left out.
        batch_kind: what a batch in sequences is by its name: "whole" (of a step), "device" (of one device or piece),
            "bare" (left open, and whether it counts sequences too) or "sequences".
        searched: whether the columns were found by their usual names, and their units must be checked.
        notes: which columns were taken, and the other candidates.
    """

    taken: dict[str, str | float]
    counted: str = "unknown"
    factors: Mapping[str, float] = field(default_factory=dict)
    chosen: frozenset[str] = frozenset()
    batch_kind: str = "sequences"
    searched: bool = False
    notes: tuple[str, ...] = ()

    def is_optional(self, name: str) -> bool:
        """Whether the table can do without a field: what is wrong in its column is then left out, and said."""
        return (
            self.searched
            and name not in self.chosen
            and (
                name not in FIELDS
                or name == "loss_se"
                or (name == "flops" and {"num_params", "tokens"} <= set(self.taken))
            )
        )


def match_columns(
    table: RawTable, chosen: Mapping[str, str | float | None] | None = None, counted: str | None = None
) -> Match:
    """Choose a column for every field that the table offers.

    Args:
        table: the columns; one that holds words is never taken as numbers because of its name.
        chosen: field → column, number, or None for no column, by the user; it takes precedence over the usual names.
        counted: which parameters to take where the table counts several ways.

    Raises:
        UserError: a chosen column or field does not exist; no size, no loss, or neither tokens nor flops; several
            columns could be one field; no parameters counted that way.
    """
    chosen = chosen or {}
    choices = _chosen(table, chosen)
    if WRITTEN.issubset(table.columns):
        choices, notes = _written(table, counted) | choices, []
    else:
        notes = _search(table, choices, {name for name, column in chosen.items() if column is None}, counted)
    taken: dict[str, str | float] = {
        name: one.column if isinstance(one, Found) else one for name, one in choices.items()
    }
    factors = {
        name: one.factor for name, one in choices.items() if isinstance(one, Found) and (one.factor != 1 or one.stated)
    }
    _check_complete(table, taken)
    counted, unsure = _which_counted(table, taken, counted)
    used = ", ".join(f"{name} = {taken[name]!r}" for name in (*FIELDS, *EXTRA) if name in taken)
    notes += [
        f"{name}: {taken[name]!r} is read in units of {factors[name]:.12g}" for name in factors if factors[name] != 1
    ]
    if re.search("bits?(per|$)|bp[bc]", normalise(taken["loss"])):
        notes.append(f"loss is column {taken['loss']!r}, in bits by its name: so are predictions")
    named = frozenset(name for name, column in chosen.items() if column is not None)
    kind = "sequences" if "batch_sequences" in chosen else _batch_kind(taken.get("batch_sequences"))
    all_notes = (f"columns taken: {used}", *notes, *unsure)
    return Match(taken, counted, factors, named, kind, not WRITTEN.issubset(table.columns), all_notes)


def check_counted(counted: str) -> None:
    """Refuse a way of counting parameters that is not known."""
    if counted not in COUNTED:
        raise UserError(f"counted is {counted!r}; parameters are counted {', '.join(COUNTED)}")


def convert(table: RawTable, name: str, match: Match) -> np.ndarray:
    """A field's column as float64, nan where a cell is blank; counts may be written 1.5B or 200M.

    Raises:
        UserError: text among the numbers, with the row, where the table cannot do without them.
    """
    column, factor = match.taken[name], match.factors.get(name, 1.0)
    if not isinstance(column, str):
        return np.full(len(table), float(column))
    values, odd = table.numbers(column)
    if name in NAMES and odd.any():
        texts = table.texts(column)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(filter(None, texts)))}
        return np.array([numbers.get(text, np.nan) for text in texts], dtype=float)
    values = values * factor
    rows = np.flatnonzero(odd)
    if not len(rows):
        return values
    cells = table.columns[column].cells[table.index[rows]]
    for row, cell in zip(rows, cells, strict=True):
        text, where = str(cell).strip(), f"{table.name}, {table.place(int(row))}"
        if name in COUNTS and text.lstrip("~≈ ")[:1].isdigit():
            values[row] = parse_number(text[:60], f"{where}: {name}")
        elif not match.is_optional(name):
            more = f" (and {plural(len(rows) - 1, 'more row')})" if len(rows) > 1 else ""
            raise UserError(f"{where}: {name} is {text[:60]!r}, not a number{more}; correct the cell or remove the row")
    return values


def _chosen(table: RawTable, chosen: Mapping[str, str | float | None]) -> dict[str, Found | float]:
    """The user's choice, checked; a text that is no column but a number is a number, ``params*1e6`` has a unit."""
    choices: dict[str, Found | float] = {}
    for name, column in chosen.items():
        if name not in KNOWN:
            raise UserError(f"columns: no field {name!r}; known are {', '.join(KNOWN)}")
        if isinstance(column, str):
            choices[name] = _named_by_user(table, name, column)
            continue
        if isinstance(column, int | float) and not math.isfinite(column):
            raise UserError(f"columns: {name} is {column}; give a column's name or a finite number")
        if column is not None:
            choices[name] = float(column)
    return choices


def _named_by_user(table: RawTable, name: str, column: str) -> Found | float:
    """A column by its name, with the unit that the name or the user states, or a number."""
    if column in table.columns:
        return Found(column, split_unit(column).factor if name in COUNTS else 1.0)
    base, star, factor = column.rpartition("*")
    if star and base.strip() in table.columns and name in COUNTS:
        return Found(base.strip(), parse_number(factor, f"columns: {name}"), stated=True)
    try:
        return parse_number(column)
    except UserError:
        raise UserError(f"{table.name}: no column {column!r} for {name}; found: {table.shown}") from None


def _written(table: RawTable, counted: str | None) -> dict[str, Found | float]:
    """The fields of a table that ``Observations.write_csv`` wrote, by their exact names only."""
    choices: dict[str, Found | float] = {name: Found(name) for name in KNOWN if name in table.columns}
    sizes = [column for column in table.columns if column in ("num_params", *(f"num_params_{one}" for one in COUNTED))]
    if sizes:
        choices["num_params"] = Found(f"num_params_{counted}" if f"num_params_{counted}" in sizes else sizes[0])
    return choices


def _search(table: RawTable, taken: dict[str, Found | float], skipped: set[str], counted: str | None) -> list[str]:
    """Fill ``taken`` by the usual names; notes on other candidates."""
    if counted is not None:
        check_counted(counted)
    search, notes = ColumnSearch(table, COUNTS, NAMES | {"label", "status"}), []
    order = ["loss", "num_params", *(name for name in KNOWN if name not in ("loss", "num_params"))]
    for name in order:
        if name not in taken and name not in skipped:
            words = counts_of(counted) if name == "num_params" else KNOWN[name]
            notes += _take(search, taken, name, search.candidates(name, words))
        if name == "loss":
            if "loss" not in taken and "loss" not in skipped:
                taken |= dict(zip(["loss"], search.guess_loss(), strict=False))
            if isinstance(one := taken.get("loss"), Found):
                counts = np.isfinite(table.numbers(one.column)[0])
                search.rows = counts if counts.any() else search.rows
    _split_steps(taken, search)
    notes += _unclear(search, taken, skipped)
    if taken.get("active_params") == taken.get("num_params"):
        taken.pop("active_params", None)
    return notes


def _take(search: ColumnSearch, taken: dict[str, Found | float], name: str, choices: list[Found]) -> list[str]:
    """Take the likeliest of the columns that could hold a field; notes on the others."""
    table, notes, required = search.table, [], name in ("num_params", "tokens", "loss")
    size = taken.get("num_params")
    sizes = search.values(size) if isinstance(size, Found) else None
    if name == "label":
        choices = sorted(choices, key=lambda one: -len(table.columns[one.column].codes[1]))[:1] if choices else []
    elif name not in ("status", *NAMES) and len(choices):
        choices, passed = search.filled(choices, required)
        if passed:
            notes.append(f"{name}: {', '.join(map(repr, passed))} passed over, blank in rows that have a loss")
        misfit = [one.column for one in choices if not search.letter_fits(name, one, sizes)]
        if misfit:
            notes.append(f"{name}: {', '.join(map(repr, misfit))} not taken, its numbers are of another magnitude")
            choices = [one for one in choices if one.column not in misfit]
    if not choices:
        return notes
    same = search.same_name(choices)
    if len(same) > 1 and required and not search.equal(same):
        shown, first = ", ".join(repr(one.column) for one in same), same[0].column
        raise UserError(
            f"{table.name}: columns {shown} could all be {name}; say which, e.g. columns={{{name!r}: {first!r}}}"
        )
    taken[name] = choices[0]
    if len(choices) > 1 and name in FIELDS:
        others = ", ".join(repr(one.column) for one in choices[1:])
        notes.append(f"{name} is column {choices[0].column!r}; {others} not used")
    return notes


def _unclear(search: ColumnSearch, taken: Mapping[str, Found | float], skipped: set[str]) -> list[str]:
    """Notes on columns of one letter that could be meant for a field."""
    size, notes = taken.get("num_params"), []
    sizes = search.values(size) if isinstance(size, Found) else None
    used = {one.column for one in taken.values() if isinstance(one, Found)}
    for name, letter in UNCLEAR_LETTERS.items():
        if name in taken or name in skipped:
            continue
        for one in search.candidates(name, [letter]):
            if one.column not in used and search.letter_fits(name, one, sizes):
                notes.append(
                    f"{name}: {one.column!r} not taken, one letter may be anything; if it is that, say "
                    f"columns={{{name!r}: {one.column!r}}}"
                )
    return notes


def _split_steps(taken: dict[str, Found | float], search: ColumnSearch) -> None:
    """Beside a column of the row's own steps, that of the whole run is ``total_steps``."""
    own = taken.get("steps")
    if not isinstance(own, Found) or normalise(own.column) in TOTAL_STEPS.split():
        return
    totals = [one for one in search.candidates("steps", TOTAL_STEPS.split()) if one.column != own.column]
    if totals:
        taken["total_steps"] = totals[0]


def _batch_kind(column: object) -> str:
    """What a batch in sequences is by the name of its column."""
    forms = {normalise(column), normalise(without_keeper(str(column)))}
    for kind, words in (("whole", GLOBAL_BATCH), ("device", DEVICE_BATCH), ("bare", BARE_BATCH)):
        if forms & set(words.split()):
            return kind
    if column is None or forms & set(KNOWN["batch_sequences"]):
        return "sequences"
    return kind_of_batch(str(column)) or "bare"


def _check_complete(table: RawTable, taken: Mapping[str, str | float]) -> None:
    """Refuse a table without sizes, tokens or losses, unless they can be derived."""
    tokens = bool({"tokens", "flops", "tokens_per_param"} & set(taken)) or ("steps" in taken and _has_batch(taken))
    missing = [name for name in ("num_params", "loss") if name not in taken]
    if "num_params" in missing and {"flops", "tokens"} <= set(taken):
        missing.remove("num_params")
    if not tokens:
        missing.append("tokens (or flops)")
    if not missing:
        return
    hint = ""
    others = [column for column in table.columns if _named_count(column)]
    if "num_params" in missing and others:
        hint = f"; {', '.join(map(repr, others))} counts {_named_count(others[0])} parameters: choose another counted="
    if any(normalise(column) in ("ppl", "perplexity", "valppl", "valperplexity") for column in table.columns):
        hint = "; loss is the natural logarithm of a perplexity"
    unread = next((note for note in table.notes if note.startswith("not read")), "")
    if unread:
        hint = f"; {unread}"
    if "batch_sequences" in taken and not tokens:
        hint = "; a batch in sequences gives tokens with its length, e.g. columns={'sequence_length': 2048}, and steps"
    raise UserError(
        f"{table.name}: no column for {', '.join(missing)}; found: {table.shown}; "
        f"needed: num_params (N, params), tokens (D) or flops (C), loss; say which columns they are, "
        f"e.g. columns={{{missing[0].split()[0]!r}: 'COLUMN'}}{hint}"
    )


def _has_batch(taken: Mapping[str, str | float]) -> bool:
    return "batch_tokens" in taken or {"batch_sequences", "sequence_length"} <= set(taken)


def _which_counted(table: RawTable, taken: Mapping[str, str | float], counted: str | None) -> tuple[str, list[str]]:
    """Which parameters the column counts: by its name, or by the user's word."""
    column = taken.get("num_params")
    if column is None:
        return counted or "unknown", []
    named = _named_count(column)
    if counted is not None and named is not None and named != counted:
        raise UserError(
            f"{table.name}: column {column!r} counts {named} parameters, not {counted}; give one of the two"
        )
    if known := counted or named:
        return known, []
    return "unknown", [
        f"which parameters {column!r} counts is unknown: exponents depend on it, so give counted= "
        f"({', '.join(COUNTED)}) and plan with the same"
    ]


def _named_count(column: object) -> str | None:
    """Which parameters a column counts, by its name."""
    base = split_unit(str(column)).base
    forms = {normalise(form) for form in (column, without_keeper(str(column)), base, *plain_forms(base))}
    return next((count for count, words in COUNTED.items() if forms & set(words.split())), None)

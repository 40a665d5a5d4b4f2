"""Match: which column of somebody's table holds what, by the usual names whatever their case and punctuation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...quantities import parse_number, plural
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
)
# Fields that name rather than count: words are numbered in the order in which they come first.
NAMES = frozenset({"trunk"})
# Counts may be written 1.5B or 200M, and must be above zero.
COUNTS = frozenset({"num_params", "tokens", "flops", "batch_tokens", "batch_sequences", "steps", "unique_tokens"})

# A table with all of these was written by ``Observations.write_csv``: its names are fields as they stand.
WRITTEN = frozenset({"label", "tokens", "flops", "loss", "loss_se"})

# What ``num_params`` may count, with the column names of each.
COUNTED = {
    "non_embedding": "numparamsnonembedding nonembeddingparams nonembeddingparameters numnonembeddingparams "
    "nonembeddingparamsize nonembeddingparamcount paramsnonembedding nnonembedding nnoembed nnonembed nonembed "
    "noembedparams paramsnoembed",
    "matmul": "numparamsmatmul matmulparams paramsmatmul nmatmul",
    "total": "numparamstotal totalparams totalparameters numtotalparams paramstotal ntotal",
}
# Names of a batch that leave open whether it counts tokens or sequences.
BARE_BATCH = "bsz batch batchsize bs globalbatch globalbatchsize gbs trainbatchsize"

# Names of parameters that leave open which are counted.
BARE_COUNTS = "numparams nparams params parameters paramcount modelsize modelparams numparameters n size"

# Normalised names, the likeliest first.
KNOWN = {
    name: words.split()
    for name, words in (
        ("num_params", BARE_COUNTS),
        ("tokens", "tokens numtokens ntokens trainingtokens traintokens trainedtokens totaltokens datasize d t"),
        ("flops", "flops flop trainingflop trainingflops trainflops totalflops compute trainingcompute c"),
        (
            "loss",
            "heldoutloss valloss validationloss evalloss testloss finalvalloss finalloss lmloss loss l bitsperbyte bpb",
        ),
        ("loss_se", "lossse lossstderr lossstandarderror stderr se"),
        ("batch_tokens", "batchtokens batchsizetokens bstokens tokensperbatch tokensperstep batchsizeintokens"),
        ("batch_sequences", f"batchsequences bsseqs batchseqs batchsizesequences sequencesperbatch {BARE_BATCH}"),
        ("sequence_length", "sequencelength seqlen seqlength contextlength contextlen ctxlen ctx blocksize nctx"),
        ("steps", "steps numsteps nsteps trainsteps trainingsteps totalsteps maxsteps step iterations iters"),
        ("lr", "lr peaklr maxlr learningrate peaklearningrate maxlearningrate baselr"),
        ("unique_tokens", "uniquetokens numuniquetokens nuniquetokens uniquetraintokens"),
        ("warmup", "warmup warmupsteps numwarmupsteps"),
        ("weight_decay", "weightdecay wd"),
        ("seed", "seed randomseed"),
        ("group", "group"),
        ("trunk", "trunk trunkid"),
        ("trunk_noise", "trunknoise"),
        ("label", "label name run runid runname id"),
        ("status", "status state"),
    )
}


@dataclass(frozen=True)
class Match:
    """What the columns of a table hold.

    Attributes:
        taken: field → name of its column, or a number that holds in every row.
        counted: what num_params counts.
        bare_batch: whether ``batch_sequences`` comes from a column whose name leaves its unit open.
        notes: which columns were taken, and the other candidates.
    """

    taken: dict[str, str | float]
    counted: str = "unknown"
    bare_batch: bool = False
    notes: tuple[str, ...] = ()


def normalise(name: object) -> str:
    """``Training FLOP`` and ``training_flop`` are one name."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


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
    taken = _chosen(table, chosen)
    if WRITTEN.issubset(table.columns):
        taken, notes = _written(table, counted) | taken, []
    else:
        notes = _search(table, taken, {name for name, column in chosen.items() if column is None}, counted)
    _check_complete(table, taken)
    counted, unsure = _which_counted(table, taken, counted)
    used = ", ".join(f"{name} = {taken[name]!r}" for name in (*FIELDS, *EXTRA) if name in taken)
    if re.search("bits?(per|$)|bpb", normalise(taken["loss"])):
        notes.append(f"loss is column {taken['loss']!r}, in bits by its name: so are predictions")
    bare = "batch_sequences" not in chosen and normalise(taken.get("batch_sequences")) in BARE_BATCH.split()
    return Match(taken, counted, bare, (f"columns taken: {used}", *notes, *unsure))


def check_counted(counted: str) -> None:
    """Refuse a way of counting parameters that is not known."""
    if counted not in COUNTED:
        raise UserError(f"counted is {counted!r}; parameters are counted {', '.join(COUNTED)}")


def convert(table: RawTable, name: str, column: str | float) -> np.ndarray:
    """A field's column as float64, nan where a cell is blank; counts may be written 1.5B or 200M.

    Raises:
        UserError: text among the numbers, with the row.
    """
    if not isinstance(column, str):
        return np.full(len(table), float(column))
    values, odd = table.numbers(column)
    if name in NAMES and odd.any():
        texts = table.texts(column)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(filter(None, texts)))}
        return np.array([numbers.get(text, np.nan) for text in texts], dtype=float)
    rows = np.flatnonzero(odd)
    if not len(rows):
        return values
    values = values.copy()
    cells = table.columns[column].cells[table.index[rows]]
    for row, cell in zip(rows, cells, strict=True):
        text, where = str(cell).strip(), f"{table.name}, {table.place(int(row))}"
        if name not in COUNTS or not text[:1].isdigit():
            more = f" (and {plural(len(rows) - 1, 'more row')})" if len(rows) > 1 else ""
            raise UserError(f"{where}: {name} is {text[:60]!r}, not a number{more}; correct the cell or remove the row")
        values[row] = parse_number(text[:60], f"{where}: {name}")
    return values


def _chosen(table: RawTable, chosen: Mapping[str, str | float | None]) -> dict[str, str | float]:
    """The user's choice, checked; a text that is no column but a number is a number."""
    taken: dict[str, str | float] = {}
    for name, column in chosen.items():
        if name not in KNOWN:
            raise UserError(f"columns: no field {name!r}; known are {', '.join(KNOWN)}")
        if isinstance(column, str) and column not in table.columns:
            try:
                column = parse_number(column)
            except UserError:
                raise UserError(f"{table.name}: no column {column!r} for {name}; found: {table.shown}") from None
        if isinstance(column, int | float) and not math.isfinite(column):
            raise UserError(f"columns: {name} is {column}; give a column's name or a finite number")
        if column is not None:
            taken[name] = column
    return taken


def _written(table: RawTable, counted: str | None) -> dict[str, str | float]:
    """The fields of a table that ``Observations.write_csv`` wrote, by their exact names only."""
    taken: dict[str, str | float] = {name: name for name in KNOWN if name in table.columns}
    sizes = [column for column in table.columns if column in ("num_params", *(f"num_params_{one}" for one in COUNTED))]
    if sizes:
        taken["num_params"] = f"num_params_{counted}" if f"num_params_{counted}" in sizes else sizes[0]
    return taken


def _search(table: RawTable, taken: dict[str, str | float], skipped: set[str], counted: str | None) -> list[str]:
    """Fill ``taken`` by the usual names; notes on other candidates."""
    by_name: dict[str, list[str]] = {}
    for column in table.columns:
        by_name.setdefault(normalise(column), []).append(column)
    notes = []
    for name, words in KNOWN.items():
        if name in taken or name in skipped:
            continue
        matches = _candidates(table, by_name, name, _count_words(counted, words) if name == "num_params" else words)
        if matches:
            taken[name] = matches[0]
        if len(matches) > 1 and name in FIELDS:
            notes.append(f"{name} is column {matches[0]!r}; {', '.join(map(repr, matches[1:]))} not used")
    if "loss" not in taken:
        taken.update(_guess_loss(table))
    return notes


def _candidates(table: RawTable, by_name: dict[str, list[str]], name: str, words: list[str]) -> list[str]:
    """The columns that could hold a field, the likeliest first; a column of words only if there is no other."""
    matching = []
    for word in words:
        columns = [
            c for c in by_name.get(word, []) if name in ("label", "status", *NAMES) or not table.columns[c].is_text
        ]
        if len(columns) > 1:
            shown = ", ".join(map(repr, columns))
            raise UserError(
                f"{table.name}: columns {shown} could all be {name}; say which, "
                f"e.g. columns={{{name!r}: {columns[0]!r}}}"
            )
        matching += columns
    if matching or name not in ("num_params", "tokens", "loss"):
        return matching
    return [columns[0] for word in words if (columns := by_name.get(word))][:1]


def _guess_loss(table: RawTable) -> dict[str, str]:
    """The column of numbers that has loss in its name, if there is exactly one."""
    named = [column for column in table.columns if "loss" in normalise(column)]
    candidates = [column for column in named if not table.columns[column].is_text] or named
    if len(candidates) > 1:
        raise UserError(
            f"{table.name}: several columns could be the loss ({', '.join(candidates)}); "
            f"say which, e.g. columns={{'loss': {candidates[0]!r}}}"
        )
    return {"loss": candidates[0]} if candidates else {}


def _check_complete(table: RawTable, taken: Mapping[str, str | float]) -> None:
    """Refuse a table without sizes, tokens or losses, unless they can be derived."""
    tokens = "tokens" in taken or "flops" in taken or ("steps" in taken and _has_batch(taken))
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
    if "batch_sequences" in taken and not tokens:
        hint = "; a batch in sequences gives tokens with its length, e.g. columns={'sequence_length': 2048}, and steps"
    raise UserError(
        f"{table.name}: no column for {', '.join(missing)}; found: {table.shown}; "
        f"needed: num_params (N, params), tokens (D) or flops (C), loss{hint}"
    )


def _has_batch(taken: Mapping[str, str | float]) -> bool:
    return "batch_tokens" in taken or {"batch_sequences", "sequence_length"} <= set(taken)


def _count_words(counted: str | None, bare: list[str]) -> list[str]:
    """Names of a column of parameters, counted one way or any: non-embedding first, as laws usually count."""
    if counted is None:
        return [*COUNTED["non_embedding"].split(), *bare, *COUNTED["matmul"].split(), *COUNTED["total"].split()]
    check_counted(counted)
    return [*COUNTED[counted].split(), *bare]


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
    return next((count for count, words in COUNTED.items() if normalise(column) in words.split()), None)

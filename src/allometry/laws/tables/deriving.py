"""Derive: missing columns from those that the table has (D from batch and steps), groups from columns of words."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..field_names import ONE_REPLICA, PER_NODE, TOTAL_STEPS, normalise, without_keeper
from .cleaning import Cleaned
from .columns import FIELDS, Match
from .raw_table import RawTable
from .rows.points_along import share_by_checkpoint, share_done
from .run_arrays import RunArrays

Columns = dict[str, np.ndarray]

MOST_GROUPS = 12
# A batch of this many sequences would be several hundred million tokens; from here on a bare batch counts tokens.
LEAST_BATCH_IN_TOKENS = 1 << 16
# C below this share of 6·N·D is not in FLOPs: not even a model with few active experts goes there.
LEAST_SHARE = 1e-2
# C above so many times 6·N·D means that N or D is in thousands or more: attention and a head add no such factor.
LEAST_FACTOR = 300.0
UNITS = (1.0, 1e3, 1e6, 1e9)
# A row with fewer of the steps of its run is a point along it.
WHOLE_RUN = 0.999
# Names of a number of devices that have a batch each, and of one that is that of all machines.
OF_BATCHES = re.compile("^dp|dataparallel")
OF_ALL_NODES = re.compile(f"worldsize|total|^(num|n)?ranks|{OF_BATCHES.pattern}")
# Names of columns that only models with experts have.
EXPERTS = re.compile("experts|activ(e|ated)(ratio|fraction|share)|^topk$|^moetopk|sparsity|^granularity$")


class Derived(NamedTuple):
    """The runs with all that follows from their columns, and notes on what was derived."""

    runs: RunArrays
    notes: list[str]


def derive(cleaned: Cleaned, match: Match) -> Derived:
    """Fill what is missing from what is there, and number the groups of rows that columns of words distinguish."""
    columns, own = dict(cleaned.columns), dict(cleaned.own)
    derived = _without_numbers(cleaned, match)
    derived += _one_unit(columns, match) if match.searched else []
    derived += _complete(columns, match, own)
    if match.searched:
        derived += _points_along(columns, own, cleaned, match)
        derived += _experts(cleaned.table, columns, match)
    group, mixed = _groups(cleaned.table, match, columns["num_params"])
    if group is not None:
        own["group"] = group
    unknown = np.full(len(cleaned.table), np.nan)
    fields = {name: columns.pop(name, unknown) for name in FIELDS}
    extra = {name: values for name, values in (columns | own).items() if not np.isnan(values).all()}
    return Derived(RunArrays(**fields, labels=tuple(cleaned.labels), extra=extra), [*mixed, *derived])


def _without_numbers(cleaned: Cleaned, match: Match) -> list[str]:
    """A sentence for each column that was taken and holds nothing that can be read as a number."""
    sentences = []
    for name, values in cleaned.columns.items():
        column = match.taken.get(name)
        if isinstance(column, str) and np.isnan(values).all():
            odd = cleaned.table.numbers(column)[1]
            if odd.any():
                shown = cleaned.table.texts(column)[int(np.argmax(odd))]
                sentences.append(f"{name}: {column!r} holds no number (it has {shown!r}), so it is not used")
    return sentences


def _complete(columns: Columns, match: Match, own: Columns) -> list[str]:
    """Fill what is missing from what is there, in place.

    D from batch and steps, or from C/(6·N); N from C/(6·D); C as 6·N·D; batch and steps from each other and D.

    Args:
        columns: field → values, nan where a row has none.
        match: by their names, what the batch is of, and whose steps those are.
        own: the columns of numbers that are no field.

    Returns:
        One sentence for each derived column.
    """
    rows = len(next(iter(columns.values())))
    for name in ("num_params", "tokens", "flops"):
        columns.setdefault(name, np.full(rows, np.nan))
    notes = [*_steps_of_rows(columns, match), *_whole_batch(columns, match, own)] if match.searched else []
    ratio = columns.pop("tokens_per_param", None)
    notes += _batch_in_tokens(columns, match.batch_kind) if "batch_sequences" in columns else []

    def value(name: str) -> np.ndarray:
        return columns.get(name, np.full(rows, np.nan))

    def fill(name: str, values: np.ndarray, how: str) -> None:
        gaps = np.isnan(value(name)) & np.isfinite(values) & (values > 0)
        if gaps.any():
            columns[name] = np.where(gaps, values, value(name))
            notes.append(f"{name} derived as {how} in {plural(gaps.sum(), 'row')}")

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fill("tokens", value("batch_tokens") * value("steps"), "D = batch·steps")
        if ratio is not None:
            fill("tokens", ratio * value("num_params"), "D = tokens a parameter · N")
        notes += _drop_small_flops(columns)
        fill("tokens", value("flops") / (6 * value("num_params")), "D = C/(6·N)")
        fill("num_params", value("flops") / (6 * value("tokens")), "N = C/(6·D)")
        fill("flops", 6 * value("active_params") * value("tokens"), "C = 6·N·D of the active parameters")
        fill("flops", 6 * value("num_params") * value("tokens"), "C = 6·N·D")
        fill("batch_tokens", value("tokens") / value("steps"), "D/steps")
        fill("steps", value("tokens") / value("batch_tokens"), "D/batch")
    return notes


def _one_unit(columns: Columns, match: Match) -> list[str]:
    """Rescale sizes or tokens that are in thousands, millions or billions, where the table's own compute proves it.

    Raises:
        UserError: the compute is not 6·N·D in any units that sizes and tokens of a model can have.
    """
    if not {"num_params", "tokens", "flops"} <= set(columns):
        return []
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = columns["flops"] / (6 * columns.get("active_params", columns["num_params"]) * columns["tokens"])
    share = share[np.isfinite(share) & (share > 0)]
    if not len(share) or np.median(share) < LEAST_FACTOR:
        return []
    times, sizes, tokens = (float(np.nanmedian(x)) for x in (share, columns["num_params"], columns["tokens"]))
    fits = [
        (of_sizes, of_tokens)
        for of_sizes in UNITS
        for of_tokens in UNITS
        if abs(np.log(times / (of_sizes * of_tokens))) < np.log(3)
        and 1e4 < sizes * of_sizes < 1e14
        and 1e6 < tokens * of_tokens < 1e16
        and (of_sizes == 1 or sizes < 1e6)  # a size or a length that is one as it stands is left
        and (of_tokens == 1 or tokens < 1e8)
        and 1e-2 < tokens * of_tokens / (sizes * of_sizes) < 1e6
        and not ({"num_params"} if of_sizes > 1 else set()) & set(match.factors)
        and not ({"tokens"} if of_tokens > 1 else set()) & set(match.factors)
    ]
    if len(fits) != 1:
        raise UserError(
            f"the compute of the table (column {match.taken['flops']!r}) is {times:.3g} times 6·N·D: sizes, tokens or "
            f"compute are in other units; say which, e.g. columns={{'num_params': '{match.taken['num_params']}*1e6'}}"
        )
    notes = []
    for name, factor in zip(("num_params", "tokens"), fits[0], strict=True):
        if factor == 1:
            continue
        columns[name] = columns[name] * factor
        if name == "num_params" and "active_params" in columns:
            columns["active_params"] = columns["active_params"] * factor
        notes.append(
            f"{name} rescaled: {match.taken[name]!r} is read in units of {factor:.0e}, as the compute of the table is "
            f"{times:.3g} times 6·N·D otherwise"
        )
    return notes


def _steps_of_rows(columns: Columns, match: Match) -> list[str]:
    """How far along its run each row is; steps that are those of the whole run are not the row's."""
    if "total_steps" in columns:
        total, steps = columns.pop("total_steps"), columns["steps"]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = steps / total
        inside = share < WHOLE_RUN
        if not inside.any():
            return []
        columns["share_of_run"] = share
        return [
            f"{plural(int(inside.sum()), 'row')} of {len(share)} {'is a point' if inside.sum() == 1 else 'are points'} "
            f"along a run, not its end: {match.taken['steps']!r} is below {match.taken['total_steps']!r}"
        ]
    if "steps" not in columns or "tokens" not in columns or "batch_tokens" in columns or "batch_sequences" in columns:
        return []
    if normalise(match.taken["steps"]) not in TOTAL_STEPS.split() or not match.is_optional("steps"):
        return []
    steps, tokens = columns["steps"], columns["tokens"]
    sizes = np.nan_to_num(columns.get("num_params", steps))
    key = np.unique(np.stack([sizes, np.nan_to_num(steps)]), axis=1, return_inverse=True)[1]
    batch, order = tokens / steps, np.argsort(key, kind="stable")
    along = [rows for rows in np.split(order, np.cumsum(np.bincount(key))[:-1]) if len(rows) > 3]
    along = [rows for rows in along if np.isfinite(batch[rows]).all()]
    if not along or not all(len(np.unique(tokens[rows])) > 3 and (batch[rows] % 1 != 0).any() for rows in along):
        return []
    del columns["steps"]
    return [
        f"steps not taken from {match.taken['steps']!r}: it stays while tokens differ, so it is of the whole run and "
        "not of the row"
    ]


def _points_along(columns: Columns, own: Columns, cleaned: Cleaned, match: Match) -> list[str]:
    """The share of its run that is done at each row, by a column of shares, of epochs, or of checkpoints' names."""
    if "share_of_run" in columns:
        return []
    named = {column: columns[name] for name, column in match.taken.items() if name in columns}
    named = {column: values for column, values in named.items() if isinstance(column, str)}
    shares = share_done({**own, **named}) or share_by_checkpoint(
        cleaned.table, columns["num_params"], columns["tokens"]
    )
    if shares is None or not (inside := shares[0] < WHOLE_RUN).any():
        return []
    columns["share_of_run"] = shares[0]
    verb = "is a point" if inside.sum() == 1 else "are points"
    return [f"{plural(int(inside.sum()), 'row')} of {len(inside)} {verb} along a run, not its end: {shares[1]}"]


def _experts(table: RawTable, columns: Columns, match: Match) -> list[str]:
    """A warning where a table speaks of experts, but not of how many parameters are active."""
    if "active_params" in columns or match.counted == "active" or "flops" in match.taken:
        return []
    names = [name for name in table.columns if EXPERTS.search(normalise(name)) and name not in match.taken.values()]
    many = [name for name in names if (np.nan_to_num(table.numbers(name)[0]) > 0).any()]
    if not many or all((table.numbers(name)[0] == 1).all() for name in many):
        return []
    return [
        f"{', '.join(map(repr, many))}: models with experts, whose compute is not 6·N·D of all parameters; give the "
        "active ones, e.g. columns={'active_params': …}, or flops"
    ]


def _processes(columns: Columns, match: Match, own: Columns) -> tuple[np.ndarray | None, list[str]]:
    """How many devices have a batch of their own: over all machines, without those that share one copy of a model.

    Raises:
        UserError: whether the devices are those of one machine or of all is not known.
    """
    processes, nodes = columns.pop("processes", None), columns.pop("nodes", None)
    if processes is None:
        return None, []
    if "processes" in match.chosen:
        return processes, []
    column, notes = match.taken["processes"], []
    name = normalise(without_keeper(str(column)))
    if nodes is not None and np.nanmax(nodes) > 1 and not OF_ALL_NODES.search(name):
        if name not in PER_NODE.split():
            raise UserError(
                f"{column!r} may be the devices of one machine or of all of {match.taken['nodes']!r}: say the number "
                "of all, e.g. columns={'processes': 16}"
            )
        processes = processes * np.nan_to_num(nodes, nan=1.0)
        notes.append(f"processes = {column!r} · {match.taken['nodes']!r}")
    if not OF_BATCHES.search(name):
        for shared in [one for one in own if normalise(without_keeper(one)) in ONE_REPLICA.split()]:
            together = np.nan_to_num(own[shared], nan=1.0)
            if (together > 1).any() and (together >= 1).all():
                processes = processes / together
                notes.append(f"processes = {column!r} / {shared!r}, as those devices share one batch")
    return processes, notes


def _whole_batch(columns: Columns, match: Match, own: Columns) -> list[str]:
    """Make the batch that of a whole step: pieces that are accumulated and processes count.

    Raises:
        UserError: how many pieces or processes there were is not known, or their number may be in the other already.
    """
    pieces, (processes, notes) = columns.pop("accumulation", None), _processes(columns, match, own)
    batch, kind = columns.get("batch_sequences"), match.batch_kind
    if batch is None or kind in ("whole", "sequences") or "batch_tokens" in columns:
        return []
    column = match.taken["batch_sequences"]
    parts = [("accumulation", pieces), ("processes", processes)]
    known = [(name, np.nan_to_num(values, nan=1.0)) for name, values in parts if values is not None]
    if (by_tokens := _as_tokens_tell(columns, known)) is not None:
        columns["batch_sequences"], how = by_tokens
        return [*notes, f"batch of a step = {column!r}{how}, as tokens and steps tell"]
    tokens_follow = bool(np.isnan(columns["tokens"]).any()) and "steps" in columns
    if kind == "device" and tokens_follow and processes is None:
        raise UserError(
            f"column {column!r} is the batch of one device, and the table does not say how many there were; say it, "
            "e.g. columns={'processes': 8}, and columns={'accumulation': 4} if gradients were accumulated"
        )
    if pieces is not None and processes is not None and kind == "bare":
        many = (processes > 1) & (pieces > 1)
        whole = many.any() and bool((pieces[many] % processes[many] == 0).all())
        nanogpt = _is_nanogpt(match)
        if whole and nanogpt:  # in nanoGPT the pieces of all processes are counted together
            columns["batch_sequences"] = batch * np.nan_to_num(pieces, nan=1.0)
            return [
                *notes,
                f"batch of a step = {column!r} · accumulation, which holds the processes already in nanoGPT",
            ]
        if whole and tokens_follow:
            raise UserError(
                f"{match.taken['accumulation']!r} may count the pieces of one process or of all of them (as in "
                "nanoGPT): say columns={'processes': 1} if it counts all, or give the sequences of a whole step, "
                "e.g. columns={'batch_sequences': 512}"
            )
    if not known:
        return []
    for _, values in known:
        batch = batch * values
    columns["batch_sequences"] = batch
    return [*notes, f"batch of a step = {column!r} · {' · '.join(name for name, _ in known)}"]


def _is_nanogpt(match: Match) -> bool:
    """Whether a table has the names of nanoGPT's settings."""
    return (
        normalise(match.taken.get("steps")) == "maxiters"
        and normalise(match.taken.get("sequence_length")) == "blocksize"
    )


def _as_tokens_tell(columns: Columns, known: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, str] | None:
    """The batch whose product with length and steps is the tokens of the table, and how it comes about."""
    if not known or not {"tokens", "steps", "sequence_length"} <= set(columns):
        return None
    batch = columns["batch_sequences"]
    with np.errstate(divide="ignore", invalid="ignore"):
        times = columns["tokens"] / (columns["steps"] * columns["sequence_length"] * batch)
        for chosen in (known, *([one] for one in known), []):
            product = np.prod([values for _, values in chosen], axis=0) if chosen else np.ones_like(batch)
            shares = (times / product)[np.isfinite(times / product)]
            if len(shares) and abs(np.median(shares) - 1) < 0.05:
                return batch * product, "".join(f" · {name}" for name, _ in chosen)
    return None


def _batch_in_tokens(columns: Columns, kind: str) -> list[str]:
    """The batch in tokens, from sequences and their length; steps or its size decide about a batch of unknown unit."""
    batch = columns["batch_sequences"]
    if "sequence_length" in columns:
        columns.setdefault("batch_tokens", batch * columns["sequence_length"])
        return ["batch_tokens = batch in sequences · sequence length"]
    if kind == "sequences":
        return ["the batch is in sequences; columns={'sequence_length': ...} gives it in tokens"]
    if "steps" in columns and "tokens" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            lengths = columns["tokens"] / (columns["steps"] * batch)
        lengths = lengths[np.isfinite(lengths)]
        in_tokens = bool(len(lengths)) and bool(abs(np.median(lengths) - 1) < 0.2)
    else:
        in_tokens = bool(np.nanmedian(batch) >= LEAST_BATCH_IN_TOKENS)
    if in_tokens:
        columns["batch_tokens"] = columns.pop("batch_sequences")
        return ["the batch is taken to be in tokens: it is too large for sequences, or batch·steps are the tokens"]
    return [
        "the batch has no unit in its name and is taken to be in sequences; columns={'sequence_length': ...} gives it "
        "in tokens, columns={'batch_tokens': ...} takes it as tokens"
    ]


def _drop_small_flops(columns: Columns) -> list[str]:
    """Leave out compute that is far below 6·N·D and so in some other unit; it is then derived from N and D."""
    share = columns["flops"] / (6 * columns["num_params"] * columns["tokens"])
    share = share[np.isfinite(share)]
    if not len(share) or not np.median(share) < LEAST_SHARE:
        return []
    columns["flops"] = np.full_like(columns["flops"], np.nan)
    return [f"flops not taken from the table: they are {np.median(share):.2g} of 6·N·D, so not in FLOPs"]


def _groups(table: RawTable, match: Match, sizes: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """One number for each combination of words, over the columns of words that distinguish a few kinds of rows."""
    total, notes = np.zeros(len(table), np.int64), []
    for name, column in table.columns.items():
        if name in match.taken.values() or name.startswith("Unnamed:") or not column.is_text:
            continue
        words, codes = np.unique(column.codes[0][table.index], return_inverse=True)
        if not 1 < len(words) <= min(MOST_GROUPS, len(table) // 2) or _follows(codes, sizes):
            continue
        shown = ", ".join(column.codes[1][word] or "blank" for word in words)
        first = column.codes[1][words[0]] or column.codes[1][words[1]]
        notes.append(f"{name} differs between rows ({shown}); where={{{name!r}: {first!r}}} takes one kind")
        total = np.unique(total * len(words) + codes, return_inverse=True)[1]
    return (total.astype(np.float64) if notes and "group" not in match.taken else None), notes


def _follows(codes: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether the words only name the sizes: one for each."""
    if len(np.unique(sizes[:1000])) > codes.max() + 1:
        return False
    levels, size = np.unique(sizes, return_inverse=True)
    pairs = np.unique(size * (codes.max() + 1) + codes)
    return len(pairs) == len(levels) == codes.max() + 1

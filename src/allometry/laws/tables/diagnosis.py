"""What a table of runs can support, and what looks wrong in it: the noise floor, odd runs, uninformative designs.

A finding names its runs and what to do about them; no run is left out because of one. Only a design that does not
determine the constants of a law is refused, by ``check_design``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...quantities import format_count, plural
from .rows.initial_phase import in_initial_phase
from .rows.points_along import run_of
from .run_arrays import RunArrays

Array = np.ndarray

# Two runs that agree in these, where the table has them, repeat each other.
CONDITIONS = (
    "batch_tokens",
    "batch_sequences",
    "lr",
    "unique_tokens",
    "warmup",
    "weight_decay",
    "group",
    "share_of_run",
)
# The logarithm of a vocabulary of a million: the loss of a model that guesses.
MOST_LOSS = float(np.log(1e6))
MOST_LIKELY_RATIO = 1e4
# A run this far from its neighbours' surface, in scales of their scatter and as a logarithm, does not belong to them.
FAR_SCALES, FAR, VERY_FAR = 6.0, np.log(1.1), np.log(1.5)
ROUNDS = 30
# Between levels of C/(6·N·D), as a logarithm; exact counts differ from 6·N·D smoothly, and by less between neighbours.
LEAST_LEVEL = np.log(1.4)
LEAST_RUNS = 3  # with so many, not even the law of the fewest constants, power, can be fitted
MOST_ROWS_FOR_SURFACE = 5000
# Budgets of one sweep differ by so much, by rounding of sizes and steps.
SAME_BUDGET = 0.02


@dataclass(frozen=True)
class Finding:
    """Something about the runs that a careful person would look at.

    Attributes:
        kind: "duplicate", "impossible", "levels" (of the compute against 6·N·D), "checkpoints" (rows that are points
            along a run), "diverged", "outlier", "constant", "collinear", "rising", "pre-asymptotic" or "edge".
        rows: labels of the runs.
        text: one sentence on what it is, one on what to do.
    """

    kind: str
    rows: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Noise:
    """The scatter between repeated runs.

    Attributes:
        sigma: standard deviation of ln L, pooled within the sets of repeats: 0.001 is 0.1 % of the loss.
        freedom: its degrees of freedom.
        sets: labels of the runs that repeat each other.
    """

    sigma: float
    freedom: int
    sets: tuple[tuple[str, ...], ...]


def check_design(runs: RunArrays, name: str, num_constants: int) -> None:
    """Refuse a table that does not determine the constants of a law in N and D, and name a run that would help.

    Raises:
        UserError: fewer runs than ``num_constants`` + 1, one size, one token count, N and D tied to each other, or a
            loss that rises with both (``power`` may fit that).
    """
    tied = _tied(runs)
    if tied:
        raise UserError(tied)
    if name != "power" and (rising := _rising(runs)):
        raise UserError(rising)
    if len(runs) < num_constants + 1:
        smaller = ", or fit a smaller law such as power" if name != "power" and len(runs) > LEAST_RUNS else ""
        raise UserError(
            f"{plural(len(runs), 'run')} {'is' if len(runs) == 1 else 'are'} too few "
            f"for law {name} with {num_constants} constants; add runs up to {num_constants + 1}{smaller}"
        )


def noise(runs: RunArrays) -> Noise | None:
    """The noise floor: standard deviation of ln L between runs that differ in nothing but the seed.

    Runs that agree in loss and seed as well are copies, not repeats, and do not count. None without repeats.
    """
    alone = runs.where(~_copies(runs))
    groups = _sets(_identity(alone), 2)
    if not groups:
        return None
    log_loss = np.log(alone.loss)
    squares = sum(float(((log_loss[rows] - log_loss[rows].mean()) ** 2).sum()) for rows in groups)
    freedom = sum(len(rows) - 1 for rows in groups)
    return Noise(float(np.sqrt(squares / freedom)), freedom, tuple(_labels(alone, rows) for rows in groups))


def diagnose(runs: RunArrays) -> tuple[Finding, ...]:
    """All findings, the gravest kinds first."""
    searches = (_duplicates, _impossible, _levels_of_compute, _checkpoints, _far_off, _design_findings, _short)
    searches += (_initial, _edges)
    return tuple(finding for search in searches for finding in search(runs))


def excess(runs: RunArrays, flops: Array | None = None, log_loss: Array | None = None) -> Array:
    """How far ln L lies above the best loss of the table at no more compute, at least 0; 0.1 is about 10 %.

    Of the runs themselves, or of points with these FLOPs and ln L; the smallest run's loss is the best below all runs.
    """
    flops = runs.flops if flops is None else flops
    log_loss = np.log(runs.loss) if log_loss is None else log_loss
    steps, best = frontier(runs)
    # Runs of one budget differ in compute by rounding of sizes and steps; they share a frontier.
    last = np.searchsorted(steps, 1.01 * flops, side="right") - 1
    return np.maximum(log_loss - best[np.maximum(last, 0)], 0.0)


def frontier(runs: RunArrays) -> tuple[Array, Array]:
    """Where the best loss of the table falls: FLOPs, ascending, and ln of the best loss at no more than so many."""
    order = np.argsort(runs.flops, kind="stable")
    flops, best = runs.flops[order], np.minimum.accumulate(np.log(runs.loss[order]))
    falls = np.diff(best, prepend=np.inf) < 0
    return flops[falls], best[falls]


def _tied(runs: RunArrays) -> str:
    """Why the effects of N and D cannot be separated, and the run to add; empty if they can."""
    log_n, log_d = np.log(runs.num_params), np.log(runs.tokens)
    size, tokens = float(np.exp(np.median(log_n))), float(np.exp(np.median(log_d)))
    who = f"all {len(runs)} runs have" if len(runs) > 1 else "the only run has"
    if np.ptp(log_n) < 0.05:
        return (
            f"{who} one size ({format_count(size)} parameters): a law in N needs at least "
            f"two; add a run at {format_count(4 * size)} parameters and {format_count(tokens)} tokens"
        )
    if np.ptp(log_d) < 0.05:
        return (
            f"{who} one token count ({format_count(tokens)}): a law in D needs at least "
            f"two; add a run at {format_count(size)} parameters and {format_count(4 * tokens)} tokens"
        )
    slope, offset = np.polyfit(log_n, log_d, 1)
    if np.std(log_d - slope * log_n - offset) >= 0.03:
        return ""
    ratio = f"one ratio of {tokens / size:.3g} tokens a parameter" if abs(slope - 1) < 0.05 else "one line in (N, D)"
    return (
        f"all {len(runs)} runs lie on {ratio}, so the effects of N and of D cannot be separated; "
        f"add a run at {format_count(size)} parameters and {format_count(4 * tokens)} tokens"
    )


def _rising(runs: RunArrays) -> str:
    """What to do about a loss that rises with size and with tokens; empty if it falls."""
    if len(runs) < 4:
        return ""
    log_n, log_d, log_l = (np.log(x) for x in (runs.num_params, runs.tokens, runs.loss))
    slopes = np.linalg.lstsq(np.stack([np.ones_like(log_n), log_n, log_d], axis=1), log_l, rcond=None)[0][1:]
    log_c, log_l = log_n + log_d - (log_n + log_d).mean(), log_l - log_l.mean()
    together = log_c @ log_l > 0.5 * np.sqrt((log_c @ log_c) * (log_l @ log_l))
    if not (together and (slopes > 0).all()):
        return ""
    return (
        "the loss rises with size and with tokens: is the column an accuracy or another score? "
        "Choose the loss with columns={'loss': ...}, or fit the law power, which may rise"
    )


def _identity(runs: RunArrays, more: tuple[str, ...] = ()) -> Array:
    """A number for each run, equal for runs of equal N, D and hyperparameters."""
    names = ["num_params", "tokens", *(name for name in (*CONDITIONS, *more) if name in runs.extra)]
    code = np.zeros(len(runs), np.int64)
    for values in [*map(runs.column, names), *([runs.loss] if more else [])]:
        # Six digits: the rest is how a number was written.
        rounded = np.round(np.log(np.where(values > 0, values, 1.0)), 6) + np.where(values > 0, 0.0, values - 1e6)
        levels, inverse = np.unique(np.where(np.isnan(values), -np.inf, rounded), return_inverse=True)
        code = np.unique(code * len(levels) + inverse, return_inverse=True)[1]
    return code


def _sets(code: Array, least: int) -> list[Array]:
    """The rows of each code that so many rows have."""
    rows = np.flatnonzero(np.bincount(code)[code] >= least)
    order = rows[np.argsort(code[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(rows) else []


def _copies(runs: RunArrays) -> Array:
    """Whether an earlier run is the same in everything, including the loss and the seed."""
    _, first = np.unique(_identity(runs, ("seed",)), return_index=True)
    copies = np.ones(len(runs), bool)
    copies[first] = False
    return copies


def _duplicates(runs: RunArrays) -> Iterator[Finding]:
    rows = np.flatnonzero(_copies(runs))
    if len(rows):
        yield _finding(
            "duplicate",
            runs,
            rows,
            "the same as another in size, tokens, settings and loss; remove the copies, as a fit counts them twice",
        )


def _impossible(runs: RunArrays) -> Iterator[Finding]:
    n, d, share = runs.num_params, runs.tokens, runs.flops / _six_nd(runs)
    for wrong, text in (
        (
            runs.loss > MOST_LOSS,
            "a loss above that of guessing among a million words; is it a perplexity (take its logarithm), or a "
            "sum over tokens (divide by their number)?",
        ),
        ((n < 1e2) | (d < 1e3), "counts too small for a language model; are some cells in millions or billions?"),
        ((n > 1e14) | (d > 1e16), "counts beyond any model or corpus; are the columns exchanged?"),
        (d < n / 1000, "less than one token for a thousand parameters; are tokens in the same unit everywhere?"),
        (
            (d / n > MOST_LIKELY_RATIO) & (n < 1e6),
            "more tokens a parameter than anybody trains on; are sizes in thousands, or tokens in a larger unit?",
        ),
        (
            share < 1 / 3,
            "less compute than one forward pass, 2·N·D; does N count parameters that are not active?",
        ),
    ):
        if wrong.any():
            yield _finding("impossible", runs, np.flatnonzero(wrong), text)


def _levels_of_compute(runs: RunArrays) -> Iterator[Finding]:
    """Runs whose C/(6·N·D) lies on another level than that of the others, by the scatter of the table itself."""
    share = np.log(runs.flops / _six_nd(runs))
    order = np.argsort(share, kind="stable")
    gaps = np.diff(share[order])
    if not len(gaps) or (at := int(np.argmax(gaps))) < 0 or gaps[at] < LEAST_LEVEL:
        return
    below, above = order[: at + 1], order[at + 1 :]
    scatter = max(np.ptp(share[below]), np.ptp(share[above]))
    if scatter > gaps[at] / 3:
        return
    sizes = [runs.num_params[rows] for rows in (below, above)]
    smooth = scatter > 0.02 or min(len(np.unique(one)) for one in sizes) == 1
    if smooth and sizes[1].max() < sizes[0].min():
        return  # it falls with the size, as attention and a head make it
    few, many = sorted((below, above), key=len)
    times = float(np.exp(np.median(share[few]) - np.median(share[many])))
    yield _finding(
        "levels",
        runs,
        np.sort(few),
        f"C/(6·N·D) is {times:.3g} times that of the other {plural(len(many), 'run')}; are size, tokens or compute of "
        "these counted in another way?",
    )


def _checkpoints(runs: RunArrays) -> Iterator[Finding]:
    """Rows that are points along a run: by their share of it, or by a label that several rows have."""
    share = runs.extra.get("share_of_run")
    text = "points along a run and not its end; a law is of finished runs, so leave them out"
    if share is not None:
        inside = np.flatnonzero(share < 0.999)
        if len(inside):
            yield _finding("checkpoints", runs, inside, text)
        return
    places: dict[str, list[int]] = {}
    for row, label in enumerate(runs.labels):
        places.setdefault(run_of(label), []).append(row)
    along = []
    for rows in places.values():
        n, d = runs.num_params[rows], runs.tokens[rows]
        if len(rows) > 2 and np.ptp(n) == 0 and len(np.unique(d)) == len(rows):
            along += [row for row in rows if runs.tokens[row] < d.max()]
    if 2 * len(along) > len(runs):
        yield _finding("checkpoints", runs, np.sort(along), text)


def _far_off(runs: RunArrays) -> Iterator[Finding]:
    """Runs far from a smooth surface through the others, on the side on which a smaller or larger run contradicts."""
    surface = _residuals(runs)
    if surface is None:
        return
    residual, scale = surface
    for kind, sign, text in (
        (
            "diverged",
            1.0,
            "a loss far above runs of like size, tokens and settings; if they diverged leave them out, or fit with "
            "objective='huber'",
        ),
        (
            "outlier",
            -1.0,
            "a loss far below runs of like size, tokens and settings; is it measured on the same corpus?",
        ),
    ):
        far = np.flatnonzero(sign * residual > max(FAR, FAR_SCALES * scale))
        rows = [row for row in far if sign * residual[row] > VERY_FAR or _contradicted(runs, int(row), sign)]
        if rows:
            yield _finding(kind, runs, np.array(rows), text)


def _contradicted(runs: RunArrays, row: int, sign: float) -> bool:
    """Whether a run that is no larger and no longer did better (sign 1), or one no smaller and no shorter worse (−1).

    A surface bends wrongly at the ends of a table; this does not.
    """
    larger = sign * (runs.num_params[row] - runs.num_params) >= 0
    longer = sign * (runs.tokens[row] - runs.tokens) >= 0
    gap = sign * np.log(runs.loss[row] / runs.loss[larger & longer])
    return bool(gap.max() > FAR / 2)


def _residuals(runs: RunArrays) -> tuple[Array, float] | None:
    """Residuals of ln L from a quadratic surface in what was varied, robust against a few odd runs; and their scale.

    Least absolute residuals by reweighting, in the logarithms of N, D, batch and rate. None with too few runs.
    """
    names = ("num_params", "tokens", "batch_tokens", "batch_sequences", "lr", "unique_tokens")
    logs = []
    for name in names:
        values = runs.extra.get(name) if name not in ("num_params", "tokens") else runs.column(name)
        if values is None or not np.all(np.isfinite(values) & (values > 0)) or np.ptp(np.log(values)) < 0.05:
            continue
        logs.append((np.log(values) - np.log(values).mean()) / np.log(values).std())
    squares = [a * b for i, a in enumerate(logs) for b in logs[i:]]
    terms = [np.ones(len(runs)), *logs]
    if len(runs) >= 3 * (len(terms) + len(squares)):
        terms += squares
    if len(runs) < 2 * len(terms) + 2 or not logs:
        return None
    design, target = np.stack(terms, axis=1), np.log(runs.loss)
    residual = target - np.median(target)
    thin = slice(None, None, -(-len(target) // MOST_ROWS_FOR_SURFACE))
    for _ in range(ROUNDS):
        root = 1 / np.sqrt(np.maximum(np.abs(residual[thin]), 1e-4))
        solution = np.linalg.lstsq(root[:, None] * design[thin], root * target[thin], rcond=1e-9)[0]
        residual = target - design @ solution
    return residual, 1.4826 * float(np.median(np.abs(residual)))


def _design_findings(runs: RunArrays) -> Iterator[Finding]:
    everyone = tuple(runs.labels)
    if len(runs) > 2 and np.ptp(runs.loss) == 0:
        text = f"all {len(runs)} runs have one loss ({runs.loss[0]:g}); is that column the loss of each run?"
        yield Finding("constant", everyone, text)
    if text := _tied(runs):
        yield Finding("collinear", everyone, text)
    if text := _rising(runs):
        yield Finding("rising", everyone, text)


def _short(runs: RunArrays) -> Iterator[Finding]:
    """Runs that a law for long training need not hold for."""
    ratio = runs.tokens / runs.num_params
    few = (ratio < np.median(ratio) / 8) & (excess(runs) > FAR)
    if few.any():
        yield _finding(
            "pre-asymptotic",
            runs,
            np.flatnonzero(few),
            "far fewer tokens a parameter than the others, and a loss over 10 % above the best for their "
            "compute; they bend a law, so fit without them and see whether the constants stay",
        )
    steps, warmup = runs.extra.get("steps"), runs.extra.get("warmup")
    if steps is None or warmup is None:
        return
    rising = (warmup > 1) & (steps < 2 * warmup)
    if rising.any():
        yield _finding(
            "pre-asymptotic",
            runs,
            np.flatnonzero(rising),
            "more than half of the steps in warmup; train them longer, or leave them out",
        )


def _edges(runs: RunArrays) -> Iterator[Finding]:
    """Sweeps whose best run is at the end of what was tried."""
    batch = next((name for name in ("batch_tokens", "batch_sequences") if name in runs.extra), None)
    rate = "lr" if "lr" in runs.extra else None
    for what, name, fixed in (
        ("size for its compute", "num_params", ("flops",)),
        ("learning rate for its size and tokens", rate, ("num_params", "tokens")),
        ("batch for its size and tokens", batch, ("num_params", "tokens")),
    ):
        if name is None:
            continue
        low, high = _best_at_ends(runs, runs.column(name), fixed)
        for rows, side, beyond in ((low, "smallest", "below"), (high, "largest", "above")):
            if rows:
                text = f"best of its sweep at the {side} {what}; the optimum may lie {beyond}, so add a run there"
                yield _finding("edge", runs, np.array(rows), text)


def _initial(runs: RunArrays) -> Iterator[Finding]:
    rows = np.flatnonzero(in_initial_phase(runs.num_params, runs.tokens, runs.loss))
    if len(rows):
        yield _finding(
            "pre-asymptotic",
            runs,
            rows,
            "so short that the loss falls faster with every doubling that follows, which no law describes; train "
            "longer, or at a higher learning rate, and leave these out",
        )


def _best_at_ends(runs: RunArrays, values: Array, fixed: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """The best runs of the sweeps of at least four values over a factor of two, where they have the least or most."""
    columns = [runs.column(name) for name in fixed]
    code = np.zeros(len(runs), np.int64)
    for column in [*columns, *([runs.extra["group"]] if "group" in runs.extra else [])]:
        level = _levels(column)
        code = np.unique(code * (level.max() + 1) + level, return_inverse=True)[1]
    low, high, swept = [], [], 0
    for rows in _sets(code, least=4):
        tried = values[rows]
        if not np.isfinite(tried).all() or len(np.unique(tried)) < 4 or tried.max() < 2 * tried.min():
            continue
        if any(np.ptp(np.log(column[rows])) > 2 * SAME_BUDGET for column in columns):
            continue
        swept += len(rows)
        best = rows[np.argmin(runs.loss[rows])]
        if values[best] == tried.min():
            low.append(int(best))
        if values[best] == tried.max():
            high.append(int(best))
    # Runs anywhere in (N, D) share a budget by chance now and then; that is no sweep over sizes.
    by_chance = "flops" in fixed and swept < len(runs) / 2
    return ([], []) if by_chance else (low, high)


def _levels(column: Array) -> Array:
    """A number for each value; what differs by rounding, as the budgets of one sweep do, has the same one."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    step = ~(np.diff(ordered) <= SAME_BUDGET * np.abs(ordered[:-1]))
    level = np.empty(len(column), np.int64)
    level[order] = np.concatenate([[0], np.cumsum(step)])
    return level


def _six_nd(runs: RunArrays) -> Array:
    return 6 * runs.num_params * runs.tokens


def _labels(runs: RunArrays, rows: Array) -> tuple[str, ...]:
    return tuple(runs.labels[row] for row in rows)


def _finding(kind: str, runs: RunArrays, rows: Array, text: str) -> Finding:
    """A finding that begins with the runs: "2 runs (a, b): a loss far above ..."."""
    labels = _labels(runs, rows)
    shown = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    return Finding(kind, labels, f"{len(labels)} {'run' if len(labels) == 1 else 'runs'} ({shown}): {text}")

"""The coordinate check: does a training step change the activations equally at every width?

    print(nn.coord_check(make_model, widths=(64, 128, 256, 512)))

If the learning rate carries over to any width, a training step changes each activation by an amount that does not
depend on the width. The check trains a model a few steps at each width, and fits the slope of the log of each
activation's change against the log of the width. Source: Tensor Programs V (arXiv 2203.03466,
appendix D.1).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .check_table import BAD, GOOD, CheckLine, CheckTable, short
from .coord_trace import EMBEDDING, TOGETHER, Trace, attentions, few_rows, heads_held, parts_of, train_a_little
from .objective import Objective
from .probe import unwrap

OK, INHERITS, HEADS, GROWS, SHRINKS, NON_FINITE = "ok", "inherits", "heads", "grows", "shrinks", "non-finite"
HARMLESS = (OK, INHERITS, HEADS)
LEAST_ROWS, ROWS_PER_WIDTH = 4, 1 / 4  # of the batch that is trained on, of the least width

Traces = dict[str, dict[int, list[Trace]]]  # by part and width, one of each seed


@dataclass(frozen=True)
class Coordinate:
    """One activation at every width.

    ``change`` and ``value``: by step and by width, the root mean square of its difference from the start, and of itself
    (geometric means over seeds). ``slopes`` and ``value_slopes``: by step, the slope of their logs against the log of
    the width, or None if a value is zero or not finite. ``parts``: the slopes of the change if only that kind of
    weight is trained ("input", "hidden", "output", "bias and gain"); empty for a model whose weights have no roles.
    ``verdict`` is "ok", "inherits" (it shrinks only because the embedding does), "heads" (it grows only because
    attention's heads do), "grows", "shrinks" or "non-finite".
    """

    name: str
    change: tuple[tuple[float, ...], ...]
    value: tuple[tuple[float, ...], ...]
    slopes: tuple[float | None, ...]
    value_slopes: tuple[float | None, ...]
    verdict: str
    parts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it neither grows nor shrinks with the width, but for what it inherits."""
        return self.verdict in HARMLESS


@dataclass(frozen=True)
class CoordCheck:
    """The result of :func:`coord_check`: ``ok``, ``rows`` (every activation), ``failures``; it prints as a table."""

    model: str
    widths: tuple[int, ...]
    steps: int
    seeds: tuple[int, ...]
    tolerance: float
    batch_rows: int
    given_rows: int
    rows: tuple[Coordinate, ...]

    @property
    def ok(self) -> bool:
        """Whether no activation failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Coordinate, ...]:
        """The activations that failed, in the order of execution."""
        return tuple(row for row in self.rows if not row.ok)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        return {"ok": self.ok, **_listed(asdict(self))}

    @property
    def table(self) -> CheckTable:
        """The table that ``print`` shows."""
        count, bad = len(self.rows), len(self.failures)
        head = f"{self.model}: ok, {count} activations" if self.ok else f"{self.model}: {bad} of {count} activations"
        head += "" if self.ok else " drift with the width"
        first, last = self.widths[0], self.widths[-1]
        about = f"slope of log rms against log width over {len(self.widths)} widths, {first} to {last}; the worst of "
        about += f"{self.steps} steps for the change, the last for the value; healthy within ±{self.tolerance:g}"
        if self.batch_rows < self.given_rows:
            about += f"; on {self.batch_rows} of the batch's {self.given_rows} rows"
        columns = ("activation", "slope", "leading part", f"change@{first}", f"@{last}", "value slope", "verdict")
        lines = [_line(row) for row in sorted(self.rows, key=lambda row: row.ok)]
        return CheckTable(CheckLine((head, about), GOOD if self.ok else BAD), columns, tuple(lines), self._notes())

    def _notes(self) -> tuple[str, ...]:
        kinds = {row.verdict for row in self.rows}
        crowd = ""
        if self.batch_rows > self.widths[0]:
            crowd = f"; or it only appears to: {self.batch_rows} rows are more than width {self.widths[0]}, give fewer"
        advice = {
            GROWS: "grows: a learning rate tuned at one width is too high at a wider one; divide that of hidden "
            "weights by the width, or take nn.parametrize(model, 'umup') with nn.AdamW",
            SHRINKS: "shrinks: the wider the model, the less this learns; its learning rate or multiplier decreases "
            "too fast" + crowd,
            NON_FINITE: "non-finite: training diverged; lower lr",
            INHERITS: "inherits: it shrinks as the embedding's learning rate does by u-μP's table, and no other weight "
            "comes before it; no fault",
            HEADS: "heads: attention's heads have more dimensions in wider models, and under 1/√head_dim their logits "
            "then change more; the weights transfer. More heads instead, of the same dimension, avoid it",
        }
        return tuple(text for kind, text in advice.items() if kind in kinds)

    def __str__(self) -> str:
        return self.table.text()

    def __rich__(self) -> Any:
        return self.table

    def _repr_html_(self) -> str:
        return self.table.html()


def coord_check(
    make_model: Callable[[int], Any],
    widths: Sequence[int],
    batch: Any = None,
    steps: int = 4,
    *,
    loss: Callable[..., Tensor] | None = None,
    lr: float | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    seeds: Iterable[int] = (0, 1, 2),
    tolerance: float = 0.25,
    rows: int | None = None,
) -> CoordCheck:
    """Train ``make_model(width)`` a few steps at each width, and fit how each activation's change depends on the width.

    ``make_model`` returns a model, or ``(model, batch)`` or ``(model, batch, loss)`` if ``batch`` is None; the batch of
    the first width is then used for all. ``batch`` and ``loss`` are as in :func:`.audit`; ``optimizer(model)`` is by
    default our AdamW at ``lr`` (0.1 under u-μP, 0.01 under μS, else 0.001), or torch's for a model without our layers.
    Each seed draws other weights; the data are the same for all, and so is dropout at each step.

    An activation is ok if the slope of log rms(change) against log width is within ±``tolerance`` at every step, and
    that of its value after the last step too. A drift that spoils transfer has a slope of ±½ or 1; the default is
    half-way to the smaller. The change is a sum of what the kinds of weights contribute, and at large widths the part
    with the largest slope is left; so each kind is trained alone as well. An activation *grows* if any part does, and
    *shrinks* if all do; each by more than the standard error over seeds. Three things are no failures: the value of the
    model's output, which begins at width^-½ in μP and u-μP; what shrinks because only the embedding comes before it,
    whose learning rate in u-μP is width^-½ (arXiv 2407.17465, table 2); and, where heads grow with the width, what
    grows no more once the logits of our attention are held at the scale that they have at the least width.

    The law holds for widths far above the number of independent rows: with more, an Adam step on one row is mostly
    noise of the others, which averages out as width^-½, and every slope comes out too low. So at most ``rows`` rows of
    the batch are used, by default a quarter of the least width, at least 4.

    Raises:
        TypeError, ValueError: fewer than two widths, no loss to train on, models whose activations differ by name.
    """
    sizes, draws = _checked(widths, steps, seeds, tolerance)
    most = max(LEAST_ROWS, int(sizes[0] * ROWS_PER_WIDTH)) if rows is None else max(1, rows)
    checked = _Checked(make_model, batch, loss, steps, lr, optimizer, sizes, draws, most)
    traces = checked.traces()
    first = traces[TOGETHER][sizes[0]][0]
    for width in sizes:
        if set(traces[TOGETHER][width][0].changes) != set(first.changes):
            odd = sorted(set(traces[TOGETHER][width][0].changes) ^ set(first.changes))
            raise ValueError(f"make_model: width {width} has other activations than width {sizes[0]}: {odd[0]}")
    rows_checked = [_coordinate(name, traces, sizes, tolerance) for name in first.changes]
    if checked.heads_grow and any(row.verdict == GROWS for row in rows_checked):
        held = checked.traces(hold_heads=True)
        again = [_coordinate(row.name, held, sizes, tolerance) for row in rows_checked]
        rows_checked = [
            replace(row, verdict=HEADS) if row.verdict == GROWS and other.ok else row
            for row, other in zip(rows_checked, again, strict=True)
        ]
    return CoordCheck(first.model, sizes, steps, draws, tolerance, first.rows, checked.given_rows, tuple(rows_checked))


class _Checked:
    """The trainings of a check: every width, seed and part."""

    def __init__(
        self,
        make_model: Callable[[int], Any],
        batch: Any,
        loss: Callable | None,
        steps: int,
        lr: float | None,
        optimizer: Callable | None,
        sizes: tuple[int, ...],
        draws: tuple[int, ...],
        most_rows: int,
    ):
        self.make_model, self.batch, self.loss, self.sizes, self.draws = make_model, batch, loss, sizes, draws
        self.training, self.most_rows = (steps, lr, optimizer), most_rows
        self.few: Any = None
        self.given_rows = 0
        self.head_dims: dict[str, int] = {}
        self.heads_grow = False

    def traces(self, hold_heads: bool = False) -> Traces:
        traces: Traces = defaultdict(lambda: defaultdict(list))
        for width in self.sizes:
            for seed in self.draws:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    model, self.batch, self.loss = _model_and_batch(self.make_model(width), self.batch, self.loss)
                self._look_at(model)
                with heads_held(model, self.head_dims) if hold_heads else nullcontext():
                    for part in (TOGETHER, *parts_of(model)):
                        trace = train_a_little(model, self.few, self.loss, *self.training, seed, part)
                        traces[part][width].append(trace)
        return traces

    def _look_at(self, model: nn.Module) -> None:
        """Cut the batch by the first model; note whether the heads of our attention grow from one to the next."""
        dims = {name: attention.head_dim for name, attention in attentions(model).items()}
        if self.few is None:
            whole = Objective(model, self.batch, self.loss)
            self.head_dims, self.given_rows = dims, whole.rows
            self.few = few_rows(self.batch, self.most_rows) if whole.rows > self.most_rows else self.batch
        self.heads_grow |= dims.keys() == self.head_dims.keys() and dims != self.head_dims


def _checked(widths: Any, steps: Any, seeds: Any, tolerance: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes, draws = tuple(sorted(set(widths))), tuple(seeds)
    if len(sizes) < 2 or sizes[0] < 1:
        raise ValueError(f"widths: {list(widths)}; give two or more that differ, better four, as (64, 128, 256, 512)")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps: {steps!r}; give 1 or more, since it is the change by training that is compared")
    if not draws:
        raise ValueError("seeds: none; give at least one, as (0,)")
    if not tolerance > 0:
        raise ValueError(f"tolerance: {tolerance!r}; give a slope above 0, as 0.2")
    return sizes, draws


def _model_and_batch(returned: Any, batch: Any, loss: Callable | None) -> tuple[nn.Module, Any, Callable | None]:
    """The model that ``make_model`` returned, and the batch and loss: those given, else those that it returned."""
    parts: list[Any] = list(returned) if isinstance(returned, tuple) else [returned]
    if len(parts) > 3:
        raise TypeError(f"make_model: returned {len(parts)} values; give model, (model, batch) or (model, batch, loss)")
    if batch is None and len(parts) > 1:
        batch = parts[1]
    if batch is None:
        raise ValueError("batch: none; give one, or let make_model return (model, batch)")
    return unwrap(parts[0]), batch, loss or (parts[2] if len(parts) > 2 else None)


def _coordinate(name: str, traces: Traces, sizes: tuple[int, ...], tolerance: float) -> Coordinate:
    first = traces[TOGETHER][sizes[0]][0]
    of = lambda part, what: _by_step([[getattr(each, what)[name] for each in traces[part][width]] for width in sizes])
    change, value = of(TOGETHER, "changes"), of(TOGETHER, "values")
    by_step = lambda numbers: tuple(slope(sizes, at) for at in numbers)
    parts = {part: by_step(of(part, "changes")) for part in traces if part != TOGETHER}
    row = Coordinate(name, change, value, by_step(change), by_step(value), OK, parts)
    sure = lambda part, what, slopes: _less_error(slopes, name, traces[part], what, sizes)
    certain = replace(
        row,
        slopes=sure(TOGETHER, "changes", row.slopes),
        value_slopes=sure(TOGETHER, "values", row.value_slopes),
        parts={part: sure(part, "changes", slopes) for part, slopes in parts.items()},
    )
    return replace(row, verdict=_verdict(certain, first, tolerance))


def _less_error(
    slopes: Sequence[float | None], name: str, traces: dict[int, list[Trace]], what: str, sizes: tuple[int, ...]
) -> tuple[float | None, ...]:
    """Slopes by step, nearer to 0 by their standard error over seeds."""
    certain: list[float | None] = []
    for step, mean in enumerate(slopes):
        of_seeds = [
            slope(sizes, [getattr(trace, what)[name][step] for trace in column])
            for column in zip(*(traces[w] for w in sizes), strict=True)
        ]
        known = [one for one in of_seeds if one is not None]
        if mean is None or len(known) < 2:
            certain.append(mean)
            continue
        error = statistics.stdev(known) / math.sqrt(len(known))
        certain.append(math.copysign(max(0.0, abs(mean) - error), mean))
    return tuple(certain)


def _verdict(row: Coordinate, first: Trace, tolerance: float) -> str:
    """The verdict on slopes from which their noise has been taken."""
    value = row.value_slopes[-1] or 0.0
    if not all(map(math.isfinite, (number for at in (*row.change, *row.value) for number in at))):
        return NON_FINITE
    known = {part: [one for one in slopes if one is not None] for part, slopes in row.parts.items()}
    known = {part: slopes for part, slopes in known.items() if slopes}
    together = [one for one in row.slopes if one is not None]
    if max([value, *together, *(one for slopes in known.values() for one in slopes)]) > tolerance:
        return GROWS
    if row.name not in first.final and value < -tolerance:
        return SHRINKS
    # What is left at large widths is the part that shrinks least; at each step, of all that contribute.
    counted = known or {TOGETHER: together}
    leading = [max(at) for at in zip(*counted.values(), strict=False)]
    if min([*leading, 0.0]) >= -tolerance:
        return OK
    exempt = row.name in first.embedded or (set(known) == {EMBEDDING} if known else row.name in first.early)
    return INHERITS if exempt else SHRINKS


def _by_step(by_width: list[list[list[float]]]) -> tuple[tuple[float, ...], ...]:
    """Width × seed × step → step × width, by the geometric mean over seeds."""
    mean = lambda numbers: math.exp(sum(map(math.log, numbers)) / len(numbers)) if all(numbers) else 0.0
    steps = range(len(by_width[0][0]))
    return tuple(tuple(mean([seed[step] for seed in seeds]) for seeds in by_width) for step in steps)


def slope(widths: Sequence[float], values: Sequence[float]) -> float | None:
    """Least-squares slope of log ``values`` against log ``widths``; None if a value is zero or not finite."""
    if not all(math.isfinite(value) and value > 0 for value in values):
        return None
    x, y = [math.log(width) for width in widths], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def _line(row: Coordinate) -> CheckLine:
    known = [one for one in row.slopes if one is not None]
    sign = lambda number: "–" if number is None else f"{number:+.2f}"
    cells = (
        row.name,
        sign(max(known, key=abs) if known else None),
        _leading(row),
        short(row.change[-1][0]),
        short(row.change[-1][-1]),
        sign(row.value_slopes[-1]),
        row.verdict,
    )
    return CheckLine(cells, "" if row.ok else BAD)


def _leading(row: Coordinate) -> str:
    """The kind of weight whose share is left at large widths, with its slope at the last step."""
    last = {part: slopes[-1] for part, slopes in row.parts.items() if slopes[-1] is not None}
    if not last:
        return ""
    part = max(last, key=lambda one: last[one] or 0.0)
    return f"{part} {last[part]:+.2f}"


def _listed(value: Any) -> Any:
    """Tuples as lists, for JSON."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value

"""The coordinate check: does a training step change the activations equally at every width?

    print(nn.coord_check(make_model, widths=(64, 128, 256, 512)))

If the learning rate carries over to any width, a training step changes each activation by an amount that does not
depend on the width. The check trains a model a few steps at each width, and fits the slope of the log of each
activation's change against the log of the width. Source: Tensor Programs V (arXiv 2203.03466,
appendix D.1).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .check_table import BAD, GOOD, CheckLine, CheckTable, short
from .objective import Objective, default_optimizer
from .probe import INPUT, untouched, unwrap, watched

OK, GROWS, SHRINKS, NON_FINITE = "ok", "grows", "shrinks", "non-finite"


@dataclass(frozen=True)
class Coordinate:
    """One activation at every width.

    ``change`` and ``value``: by step and by width, the root mean square of its difference from the start, and of itself
    (geometric means over seeds). ``slopes`` and ``value_slopes``: by step, the slope of their logs against the log of
    the width, or None if a value is zero or not finite.
    """

    name: str
    change: tuple[tuple[float, ...], ...]
    value: tuple[tuple[float, ...], ...]
    slopes: tuple[float | None, ...]
    value_slopes: tuple[float | None, ...]
    verdict: str

    @property
    def ok(self) -> bool:
        """Whether it neither grows nor shrinks with the width."""
        return self.verdict == OK


@dataclass(frozen=True)
class CoordCheck:
    """The result of :func:`coord_check`: ``ok``, ``rows`` (every activation), ``failures``; it prints as a table."""

    model: str
    widths: tuple[int, ...]
    steps: int
    seeds: tuple[int, ...]
    tolerance: float
    batch_rows: int
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
        columns = ("activation", "slope", f"change@{first}", f"@{last}", "value slope", "verdict")
        lines = [_line(row) for row in sorted(self.rows, key=lambda row: row.ok)]
        return CheckTable(CheckLine((head, about), GOOD if self.ok else BAD), columns, tuple(lines), self._notes())

    def _notes(self) -> tuple[str, ...]:
        kinds = {row.verdict for row in self.failures}
        crowd = ""
        if self.batch_rows > self.widths[0]:
            crowd = f"; or it only appears to: {self.batch_rows} rows are more than width {self.widths[0]}, give fewer"
        advice = {
            GROWS: "grows: a learning rate tuned at one width is too high at a wider one; divide that of hidden "
            "weights by the width, or take nn.parametrize(model, 'umup') with nn.AdamW",
            SHRINKS: "shrinks: the wider the model, the less this learns; its learning rate or multiplier decreases "
            "too fast" + crowd,
            NON_FINITE: "non-finite: training diverged; lower lr",
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
) -> CoordCheck:
    """Train ``make_model(width)`` a few steps at each width, and fit how each activation's change depends on the width.

    ``make_model`` returns a model, or ``(model, batch)`` or ``(model, batch, loss)`` if ``batch`` is None; the batch of
    the first width is then used for all. ``batch`` and ``loss`` are as in :func:`.audit`; ``optimizer(model)`` is by
    default our AdamW at ``lr`` (0.1), or torch's (0.001) for a model without layers of ours. Each seed draws other
    weights; the data are the same for all, and so is dropout at each step.

    An activation is ok if the slope of log rms(change) against log width is within ±``tolerance`` at every step, and
    that of its value after the last step too. A drift that spoils transfer has a slope of ±½ or 1; the default is
    half-way to the smaller. Two quantities may shrink: the value of the model's output, which begins at width^-½ in μP
    and u-μP; and the change of what comes before any hidden weight, since u-μP's learning rate for the embedding is
    width^-½ (arXiv 2407.17465, table 2).

    Give few rows and wide models. The law holds for widths far above the number of independent rows. With more rows, an
    Adam step on one row is mostly noise of the others, which averages out as width^-½, and every slope comes out too
    low (u-μP, widths 64 to 512: −0.1 with 4 random tokens, −0.3 with 64).

    Raises:
        TypeError, ValueError: fewer than two widths, no loss to train on, models whose activations differ by name.
    """
    sizes, draws = _checked(widths, steps, seeds, tolerance)
    traces: dict[int, list[_Trace]] = defaultdict(list)
    for width in sizes:
        for seed in draws:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model, batch, loss = _model_and_batch(make_model(width), batch, loss)
            traces[width].append(_trace(model, batch, loss, steps, lr, optimizer, seed))
    first = traces[sizes[0]][0]
    for width in sizes:
        if set(traces[width][0].changes) != set(first.changes):
            odd = sorted(set(traces[width][0].changes) ^ set(first.changes))
            raise ValueError(f"make_model: width {width} has other activations than width {sizes[0]}: {odd[0]}")
    rows = [_coordinate(name, first, traces, sizes, tolerance) for name in first.changes]
    return CoordCheck(first.model, sizes, steps, draws, tolerance, first.rows, tuple(rows))


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


class _Trace:
    """By activation and step: mean squares of value and change, at one width and seed."""

    def __init__(self, model: nn.Module, rows: int):
        self.model, self.rows = type(model).__name__, rows
        self.start: dict[tuple[str, int], Tensor] = {}
        self.changes: dict[str, list[float]] = {}
        self.values: dict[str, list[float]] = {}
        self.early: set[str] = set()  # computed before any hidden weight
        self.final: set[str] = set()

    def record(self, model: nn.Module, objective: Objective, seed: int) -> Tensor | None:
        """Run one forward pass and record it as the next step; returns its loss."""
        calls: dict[str, int] = defaultdict(int)
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
        begin, hidden = not self.start, False

        def activation(name: str, module: nn.Module, tensor: Tensor) -> None:
            nonlocal hidden
            if name.startswith(INPUT):
                return
            reading = name.endswith(INPUT)  # no weight of this module has been applied yet
            kinds = set() if reading else set(getattr(module, "roles", {}).values())
            # Children run before their containers; after the first hidden weight, every tensor may depend on one.
            hidden = hidden or bool(kinds & {"hidden", "output"})
            if begin and not hidden and ("input" in kinds or self.early):
                self.early.add(name)
            if begin and "output" in kinds:
                self.final.add(name)
            key = name, calls[name]
            calls[name] += 1
            x = tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
            start = self.start.setdefault(key, x.clone())
            if start.shape != x.shape:
                raise ValueError(f"make_model: {name} has another shape at each step; its change cannot be measured")
            pool = sums[name]
            pool[0] += float(x.abs().square().sum())
            pool[1] += float((x - start).abs().square().sum())
            pool[2] += x.numel()

        torch.manual_seed(seed)  # the same dropout at each step
        with watched(model, activation) as watch:
            value = objective()
            self.final |= watch.outputs
        for name, (square, change, count) in sums.items():
            self.values.setdefault(name, []).append(math.sqrt(square / count))
            if not begin:
                self.changes.setdefault(name, []).append(math.sqrt(change / count))
        return value


def _trace(
    model: nn.Module,
    batch: Any,
    loss: Callable | None,
    steps: int,
    lr: float | None,
    optimizer: Callable | None,
    seed: int,
) -> _Trace:
    objective = Objective(model, batch, loss)
    trace = _Trace(model, objective.rows)
    with untouched(model, seed):
        stepper = optimizer(model) if optimizer else default_optimizer(model, lr)
        for step in range(steps + 1):
            value = trace.record(model, objective, seed)
            if objective.is_upstream or value is None:
                raise ValueError("loss: there is none to train on; give loss, or targets in the batch")
            if step < steps:
                model.zero_grad(set_to_none=True)
                value.backward()
                stepper.step()
    return trace


def _coordinate(name: str, first: _Trace, traces: dict, sizes: tuple[int, ...], tolerance: float) -> Coordinate:
    change = _by_step([[trace.changes[name] for trace in traces[width]] for width in sizes])
    value = _by_step([[trace.values[name] for trace in traces[width]] for width in sizes])
    slopes, value_slopes = (tuple(slope(sizes, at) for at in by_step) for by_step in (change, value))
    verdict = OK
    known = [one for one in slopes if one is not None]
    last = value_slopes[-1] or 0.0
    if not all(map(math.isfinite, (number for at in (*change, *value) for number in at))):
        verdict = NON_FINITE
    elif max([*known, last]) > tolerance:
        verdict = GROWS
    elif (name not in first.early and min([*known, 0.0]) < -tolerance) or (
        name not in first.final and last < -tolerance
    ):
        verdict = SHRINKS
    return Coordinate(name, change, value, slopes, value_slopes, verdict)


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
        short(row.change[-1][0]),
        short(row.change[-1][-1]),
        sign(row.value_slopes[-1]),
        row.verdict,
    )
    return CheckLine(cells, "" if row.ok else BAD)


def _listed(value: Any) -> Any:
    """Tuples as lists, for JSON."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value

"""The audit: measure every activation, weight and gradient of a step, and judge whether its scale is healthy.

    print(nn.audit(model, (inputs, targets)))

It works on any ``torch.nn.Module``, ours or not, and restores the model afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from html import escape
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..precision.formats import E4M3FN, E5M2
from .check_table import BAD, GOOD, CheckLine, CheckTable, percent, short, spread
from .objective import Objective, default_optimizer
from .probe import FORMATS, INPUT, Statistics, untouched, unwrap, watched
from .scale_picture import scale_picture
from .verdicts import (
    ACTIVATION,
    ACTIVATION_GRADIENT,
    HEADROOM,
    KINDS,
    OK,
    PARAMETER,
    PARAMETER_GRADIENT,
    Limits,
    Measured,
    advise,
)

_FOLD = 4  # from this number on, similar rows become one line
_ALWAYS = ("E4M3", "E5M2")
_MEMBERS = 3  # the number of names in a line of advice
_SHOWN = 48  # rows of a picture that is unfolded in a notebook
# Of each direction: its name, the kinds of tensors, and the 8-bit format that it is computed in.
DIRECTIONS = (
    ("Forward", (ACTIVATION, PARAMETER), E4M3FN),
    ("Backward", (ACTIVATION_GRADIENT, PARAMETER_GRADIENT), E5M2),
)


@dataclass(frozen=True)
class AuditRow:
    """One tensor of the step, pooled over the calls of its module.

    Statistics are of the finite entries. ``underflow`` and ``overflow`` are, by format, the shares of the nonzero
    finite entries that a cast would flush to zero, or that lie beyond the largest number. ``step`` is the number of
    training steps taken before.
    """

    name: str
    kind: str
    module: str
    shape: tuple[int, ...]
    calls: int
    rms: float
    std: float
    mean: float
    largest: float
    nonfinite: int
    zeros: float
    underflow: dict[str, float]
    overflow: dict[str, float]
    verdict: str
    advice: str
    step: int = 0

    @property
    def ok(self) -> bool:
        """Whether the tensor is healthy."""
        return self.verdict == OK

    def lost(self, form: str) -> float:
        """The share of the nonzero entries that a cast to ``form`` would flush to zero or take beyond its maximum."""
        return self.underflow[form] + self.overflow[form]


@dataclass(frozen=True)
class Audit:
    """The result of :func:`audit`: ``ok``, ``rows`` (every tensor), ``failures``; it prints as a table.

    A tensor fails in one of these cases:

    - an entry is not finite;
    - an entry is beyond the largest number, or more than the share ``underflow`` of its nonzero entries is flushed to
      zero, in E4M3 (activations, weights) or E5M2 (gradients);
    - its root mean square is outside ``healthy`` (activations, their gradients, weight matrices);
    - it is a gradient or an activation of only zeros.

    E4M3 holds 2^-9 to 448: at 1/8 a tenth of a normal tensor is already subnormal (below 2^-6), and above 8 fewer than
    56 standard deviations are left for outliers. E5M2's maximum is 128 times E4M3's, so a gradient may be 128 times as
    large. A readout's weight and output are not computed in 8 bits: its weight may have any scale, and its output may
    be small.
    """

    model: str
    loss: str
    value: float | None
    healthy: tuple[float, float]
    underflow: float
    rows: tuple[AuditRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no tensor failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[AuditRow, ...]:
        """The rows that failed, in the order of execution."""
        return tuple(row for row in self.rows if not row.ok)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        rows = [asdict(row) | {"shape": list(row.shape)} for row in self.rows]
        head = {"ok": self.ok, "model": self.model, "loss": self.loss, "value": self.value}
        return head | {"healthy": list(self.healthy), "underflow": self.underflow, "rows": rows}

    def __str__(self) -> str:
        return self._table().text()

    def __rich__(self) -> Any:
        return self._table()

    def _repr_html_(self) -> str:
        """The scales as a picture, what they say, what to do next, and the table folded away."""
        steps = sorted({row.step for row in self.rows})
        pictures = ""
        for title, kinds, form in DIRECTIONS:
            rows = [row for row in self.rows if row.kind in kinds]
            if rows:
                shut = "" if len(rows) <= _SHOWN else f" ({len(rows)} tensors)"
                unfolded = "" if shut else " open"
                pictures += (
                    f"<details{unfolded}><summary>{title}{shut}</summary>{scale_picture(rows, steps, form)}</details>"
                )
        return f"<div>{self._sentences()}{pictures}<details><summary>Table</summary>{self.table_html()}</details></div>"

    def _sentences(self) -> str:
        """What an audit is, what this one says, how sure it is and what to do next, as HTML."""
        count, bad = len(self.rows), len(self.failures)
        says = f"all {count} tensors are healthy" if self.ok else f"{bad} of {count} tensors fail"
        trained = any(row.step for row in self.rows)
        advice = "train." if trained else "audit again after some steps: nn.audit(model, batch, steps=20)"
        rows = {
            "What it is": f"the scale of every activation, weight and gradient of one training step of {self.model}. "
            "A dot is a root mean square, its bar reaches to the largest entry; shaded is what FP8 holds.",
            "What it says": f"{says}.",
            "How sure": "these are measurements on one batch; another batch moves them a little.",
            "Next": advice if self.ok else self.failures[0].advice,
        }
        return "".join(f"<div><b>{name}.</b> {escape(text)}</div>" for name, text in rows.items())

    def table_html(self) -> str:
        """The table alone, as an HTML fragment in which everything is escaped."""
        return self._table().html()

    def _table(self) -> CheckTable:
        # A format in which nothing is lost (usually BF16) needs no column.
        shown = [name for name in FORMATS if name in _ALWAYS or any(row.lost(name) for row in self.rows)]
        columns = ("tensor", "rms", "max|x|", *(f"{name}%" for name in shown), "verdict")
        count, bad = len(self.rows), len(self.failures)
        head = f"{self.model}: ok, {count} tensors" if self.ok else f"{self.model}: {bad} of {count} tensors fail"
        loss = f"loss: {self.loss}" + ("" if self.value is None else f", {short(self.value)}")
        low, high = (short(bound) for bound in self.healthy)
        high_gradient = short(self.healthy[1] * HEADROOM["E5M2"])
        rule = f"healthy: rms {low} to {high}, gradients to {high_gradient}; at most {100 * self.underflow:g} % flushed"
        rule += " to zero, none beyond the maximum (E4M3 forward, E5M2 backward). With %: lost, of the nonzero entries"
        lines: list[CheckLine] = []
        steps = sorted({row.step for row in self.rows})
        for healthy in (False, True):
            for step in steps:
                for kind in KINDS:
                    rows = [row for row in self.rows if (row.ok, row.step, row.kind) == (healthy, step, kind)]
                    lines += _section(rows, kind, step if len(steps) > 1 else None, shown)
        verdict = CheckLine((head, loss, rule), GOOD if self.ok else BAD)
        return CheckTable(verdict, columns, tuple(lines), _notes(self.failures))


def audit(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None = None,
    steps: int = 0,
    *,
    lr: float | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    healthy: tuple[float, float] = (1 / 8, 8.0),
    underflow: float = 0.05,
    seed: int = 0,
) -> Audit:
    """Measure every activation, parameter and gradient of a step of ``model`` on ``batch``, and name what is wrong.

    ``batch`` is the input, a pair (inputs, targets), or a dict of forward's arguments. ``loss(output, targets)``
    returns the scalar that is differentiated; without targets it gets the output alone, and with a dict batch the
    targets are the dict. Without ``loss`` the audit takes the first of these that exists: ``model.loss(inputs,
    targets)``; the scalar that the model returns; cross-entropy for integer targets (unit-scaled if the model has
    layers of ours), or the squared error for targets shaped like the output; a unit-normal gradient on the output.

    With ``steps`` the model is measured, trained that many steps on the batch, and measured again. The optimiser is
    ``optimizer(model)``, or AdamW at ``lr`` (ours, 0.1, for a model of ours; else torch's, 0.001).

    :class:`Audit` lists the cases in which a tensor fails. The audit sees the outputs of modules, and what
    functional code between modules hands to a module with parameters, as ``name(input)``. The model runs in its
    current mode (train or eval). Values, buffers, gradients, modes, hooks and generators are restored, also after
    an error. ``seed`` sets dropout and the upstream gradient.

    Raises:
        TypeError, ValueError: a batch, loss or limit that cannot be used, or a model without values.
    """
    model = unwrap(model)
    limits = _limits(healthy, underflow)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps: {steps!r} is not a number of steps; give 0 or more")
    objective = Objective(model, batch, loss)
    with untouched(model, seed):
        value, tensors = _measure(model, objective, seed)
        rows = _rows(tensors, limits, 0)
        if steps:
            _train(model, objective, steps, (optimizer or (lambda m: default_optimizer(m, lr))))
            rows += _rows(_measure(model, objective, seed)[1], limits, steps)
    return Audit(type(model).__name__, objective.description, value, limits[:2], limits.underflow, tuple(rows))


def _limits(healthy: tuple[float, float], underflow: float) -> Limits:
    try:
        low, high = (float(bound) for bound in healthy)
    except (TypeError, ValueError):
        raise ValueError(f"healthy: {healthy!r}; give two numbers, the least and the greatest rms") from None
    if not 0 <= low < high:
        raise ValueError(f"healthy: {healthy!r}; the first must be below the second, neither negative")
    if not 0 <= underflow <= 1:
        raise ValueError(f"underflow: {underflow!r} is not a share; give 0 to 1")
    return Limits(low, high, float(underflow))


def _measure(model: nn.Module, objective: Objective, seed: int) -> tuple[float | None, list[Measured]]:
    """The loss, and every tensor of one forward and backward pass: parameters first, then in order of execution."""
    forward: dict[str, Measured] = {}
    backward: dict[str, Measured] = {}

    def activation(name: str, module: nn.Module, tensor: Tensor) -> None:
        forward.setdefault(name, Measured(name, ACTIVATION, module, Statistics())).stats.add(tensor)

    def gradient(name: str, tensor: Tensor) -> None:
        if name not in backward:
            module = forward[name].module if name in forward else model
            backward[name] = Measured(name, ACTIVATION_GRADIENT, module, Statistics())
        backward[name].stats.add(tensor)

    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    with watched(model, activation, gradient) as watch:
        value = objective()
        if value is not None:
            watch.backward = True
            value.backward()
    for name, tensor in [*forward.items(), *backward.items()]:
        # u-μP's logits start small by design, wherever the readout is in the model.
        readout = "output" in getattr(tensor.module, "roles", {}).values() and not name.endswith(INPUT)
        tensor.final = name in watch.outputs or readout
    weights, gradients = _parameters(model, value is not None)
    for tensor in weights:
        tensor.final = getattr(tensor.module, "roles", {}).get(tensor.name.rpartition(".")[2]) == "output"
    number = None if value is None or objective.is_upstream else float(value.detach())
    return number, [*weights, *forward.values(), *backward.values(), *gradients]


def _parameters(model: nn.Module, with_gradients: bool) -> tuple[list[Measured], list[Measured]]:
    weights, gradients = [], []
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        weights.append(Measured(name, PARAMETER, module, Statistics()))
        weights[-1].stats.add(parameter)
        if with_gradients and parameter.requires_grad:
            gradients.append(Measured(name, PARAMETER_GRADIENT, module, Statistics(shape=tuple(parameter.shape))))
            if parameter.grad is not None:
                gradients[-1].stats.add(parameter.grad)
    return weights, gradients


def _train(model: nn.Module, objective: Objective, steps: int, make_optimizer: Callable) -> None:
    if objective.is_upstream:
        raise ValueError("steps: there is no loss to train on; give loss, or targets in the batch")
    stepper = make_optimizer(model)
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        value = objective()
        if value is None:
            raise ValueError("steps: no parameter requires a gradient, so there is nothing to train")
        value.backward()
        stepper.step()


def _rows(tensors: Iterable[Measured], limits: Limits, step: int) -> list[AuditRow]:
    return [_row(*judged, step) for judged in advise(tensors, limits)]


def _row(tensor: Measured, verdict: str, advice: str, step: int) -> AuditRow:
    stats = tensor.stats
    return AuditRow(
        name=tensor.name,
        kind=tensor.kind,
        module=type(tensor.module).__name__,
        shape=stats.shape,
        calls=stats.calls,
        rms=stats.rms,
        std=stats.std,
        mean=stats.mean,
        largest=stats.largest,
        nonfinite=stats.count - stats.finite,
        zeros=(stats.finite - stats.nonzero) / max(1, stats.finite),
        underflow=stats.shares(stats.under),
        overflow=stats.shares(stats.over),
        verdict=verdict,
        advice=advice,
        step=step,
    )


def _section(rows: list[AuditRow], kind: str, step: int | None, formats: list[str]) -> list[CheckLine]:
    """A heading and the lines of one kind at one step; nothing without rows."""
    if not rows:
        return []
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    when = "" if step is None else f" after {step} steps" if step else " before training"
    lines = [CheckLine((f"{plural}{when}{'' if rows[0].ok else ' that fail'} ({len(rows)})",))]
    for name, group in _folded(rows):
        cells = [name, spread([row.rms for row in group]), short(max(row.largest for row in group))]
        cells += [percent(max(row.lost(form) for row in group)) for form in formats]
        lines.append(CheckLine((*cells, group[0].verdict), "" if rows[0].ok else BAD))
    return lines


def _folded(rows: list[AuditRow]) -> list[tuple[str, list[AuditRow]]]:
    """Groups of rows, each with a name; rows that differ only in layer numbers become one group."""
    groups: dict[tuple, list[AuditRow]] = {}
    for row in rows:
        groups.setdefault(_alike(row), []).append(row)
    folded: dict[str, list[AuditRow]] = {}
    for row in rows:  # a group stands in the place of its first row
        group = groups[_alike(row)]
        alone = len(group) < _FOLD
        folded[row.name if alone else _common_name([row.name for row in group])] = [row] if alone else group
    return list(folded.items())


def _alike(row: AuditRow) -> tuple:
    pattern = ".".join("#" if part.isdigit() else part for part in row.name.split("."))
    return pattern, row.module, row.kind, row.verdict, row.step


def _common_name(names: list[str]) -> str:
    """``blocks.0…23.norm`` for names that differ in numbers; with gaps ``0…3,7``."""
    return ".".join(
        _ranges(sorted({int(part) for part in parts})) if all(map(str.isdigit, parts)) else parts[0]
        for parts in zip(*(name.split(".") for name in names), strict=True)
    )


def _ranges(numbers: list[int]) -> str:
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        first, *rest = (number for _, number in run)
        runs.append(f"{first}…{rest[-1]}" if rest else str(first))
    text = ",".join(runs)
    return text if len(text) <= 12 else f"{numbers[0]}…{numbers[-1]}"


def _notes(failures: Iterable[AuditRow]) -> tuple[str, ...]:
    """One line for each piece of advice, with the tensors that it is for."""
    groups: dict[tuple[str, str], list[AuditRow]] = {}
    for row in failures:
        groups.setdefault((row.kind, re.sub(r"[\d.e+-]+", "#", row.advice)), []).append(row)
    notes = []
    for (kind, _), rows in groups.items():
        names = list(dict.fromkeys(name for name, _ in _folded(rows)))
        more = f" and {len(names) - _MEMBERS} more" if len(names) > _MEMBERS else ""
        notes.append(f"{kind} {', '.join(names[:_MEMBERS])}{more}: {rows[0].advice}")
    return tuple(notes)

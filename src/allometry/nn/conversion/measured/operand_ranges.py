"""The exponent bits that the operands of a model need, before and after measured scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...checks.check_table import GOOD, CheckLine, CheckTable
from .measured_factors import PARTS, check_real
from .measured_modules import ProductModule, measured_modules
from .run_batches import Loss, batches_of, run_batches


def exponent_bits(tensor: Tensor, share: float = 1e-3) -> int:
    """The fewest exponent bits that hold ``tensor``, except for at most a ``share`` of its energy Σx².

    A format of e exponent bits has bias 2^(e−1) − 1 and reserves its all-ones exponent, as in IEEE 754. Its normal
    numbers have magnitudes in [2^(2 − 2^(e−1)), 2^(2^(e−1))): [1, 4) for e = 2, [2^-2, 2^4) for 3, [2^-6, 2^8) for 4,
    [2^-14, 2^16) for 5, [2^-126, 2^128) for 8. The energy of every entry outside, subnormals included, counts as lost.
    The default share, 30 dB below the signal, is the rounding error of E4M3's three mantissa bits. A tensor of zeros
    needs 0 bits.

    Raises:
        TypeError: an integer or complex tensor.
        ValueError: no entries, or some that are not finite.
    """
    check_real("tensor", tensor)
    if not 0 <= share < 1:
        raise ValueError(f"share: {share} is not a share of the energy; give 0 ≤ share < 1")
    magnitude = tensor.detach().double().abs().flatten()
    largest = float(magnitude.max())
    if largest == 0:
        return 0
    exponent = torch.frexp(magnitude)[1] - 1  # magnitude in [2^exponent, 2^(exponent + 1))
    energy = (magnitude / largest).square()
    for bits in range(2, 12):
        reach = 2 ** (bits - 1)
        outside = (exponent < 2 - reach) | (exponent >= reach)
        if float(energy[outside & (magnitude > 0)].sum()) <= share * float(energy.sum()):
            return bits
    return 12


@dataclass(frozen=True)
class OperandRange:
    """The exponent bits that one operand needs: in the plain model, and as the GEMM of the scaled model reads it."""

    module: str
    tensor: str
    before: int
    after: int


@dataclass(frozen=True)
class RangeReport:
    """The exponent bits of all operands of a scaled model, as :func:`exponent_bits` defines them."""

    ranges: tuple[OperandRange, ...]
    share: float

    @property
    def before(self) -> int:
        """The exponent bits that hold every operand of the plain model."""
        return max(row.before for row in self.ranges)

    @property
    def after(self) -> int:
        """The exponent bits that hold every operand of the scaled model."""
        return max(row.after for row in self.ranges)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        rows = [{"module": r.module, "tensor": r.tensor, "before": r.before, "after": r.after} for r in self.ranges]
        return {"share": self.share, "before": self.before, "after": self.after, "ranges": rows}

    def _table(self) -> CheckTable:
        verdict = CheckLine((f"exponent bits needed by any operand: {self.before} before, {self.after} after scaling",))
        lines = tuple(
            CheckLine((row.module, row.tensor, str(row.before), str(row.after)), GOOD if row.after < row.before else "")
            for row in self.ranges
        )
        note = f"the fewest that hold all but {self.share:g} of the tensor's energy, bias 2^(e−1) − 1"
        return CheckTable(verdict, ("module", "tensor", "before", "after"), lines, (note,))

    def __str__(self) -> str:
        return self._table().text()

    def __rich__(self) -> Any:
        return self._table().rich()

    def _repr_html_(self) -> str:
        return self._table().html()


def range_report(model: nn.Module, example: Any, loss: Loss | None = None, share: float = 1e-3) -> RangeReport:
    """The exponent bits that each operand of a scaled ``model`` needs on ``example``, before and after scaling.

    ``model`` is the result of :func:`~allometry.nn.scale_model` with a measured rule. Gradients need a ``loss``. Over
    several batches, or several uses of a module, the largest number of bits counts.

    Raises:
        ValueError: the model has no modules with measured factors.
    """
    modules = measured_modules(model)
    if not modules:
        raise ValueError("model: has no scaled modules; give what nn.scale_model(..., rule='absmax') returned")
    bits: dict[tuple[str, str], tuple[int, int]] = {}

    def note(path: str, tensor: str, before: Tensor, after: Tensor) -> None:
        old = bits.get((path, tensor), (0, 0))
        new = exponent_bits(before, share), exponent_bits(after, share)
        bits[path, tensor] = max(old[0], new[0]), max(old[1], new[1])

    def observe(path: str, kind: str, module: nn.Module, tensor: Tensor) -> None:
        if isinstance(module, ProductModule):
            factor = module.input_factor if kind == "activation" else module.grad_factor
            note(path, kind, tensor, tensor / factor.value)

    for path, module in modules.items():
        note(path, "weight", module.unscaled_weight(), module.weight)
    run_batches(model, modules, batches_of(example), loss, observe)
    order = {path: index for index, path in enumerate(modules)}
    rows = sorted(bits.items(), key=lambda item: (order[item[0][0]], PARTS.index(item[0][1])))
    return RangeReport(tuple(OperandRange(path, tensor, *counts) for (path, tensor), counts in rows), share)

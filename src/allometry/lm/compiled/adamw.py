"""AdamW over all weights of a model in one call of ``cpp/adamw.h``, equal to PyTorch's to rounding.

PyTorch's takes longer to begin with a tensor than to compute one of a small model. The state is that of PyTorch's
optimiser, under the same names.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import nn
from .build import adamw_function


class _Moments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "grad", "first", "second", "steps")),
        ("size", ctypes.c_int64),
    )


class _Rates(ctypes.Structure):
    _fields_ = (("rate", ctypes.c_float), ("decay", ctypes.c_float))


class CompiledAdamW(nn.AdamW):
    """As :class:`allometry.nn.AdamW`, for FP32 weights on the CPU, by a kernel."""

    _table: _Table | None = None

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        table = self._table
        if table is None or not table.holds(self.state):
            table = self._table = _Table(self)
        (beta1, beta2), eps = self.defaults["betas"], self.defaults["eps"]
        table.step(self.param_groups, beta1, beta2, eps)
        return loss

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]  # PyTorch's wrapper takes as long as a small step

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_table": None}  # which holds addresses


class _Table:
    """All tensors of a step with their addresses, kept as long as they are the same."""

    def __init__(self, optimizer: CompiledAdamW):
        places = [
            (group, weight)
            for group, parameters in enumerate(optimizer.param_groups)
            for weight in parameters["params"]
            if weight.grad is not None
        ]
        self.all = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.groups = [group for group, _ in places]
        self.tensors = [_tensors(weight, optimizer.state[weight]) for _, weight in places]
        self.grads = [weight.grad for weight in self.all]
        self.addresses = [weight.data_ptr() for weight in self.all]
        self.moments = (_Moments * len(places))(
            *(_Moments(*(tensor.data_ptr() for tensor in five), five[0].numel()) for five in self.tensors)
        )
        self.rates = (_Rates * len(places))()
        self.run = adamw_function()

    def holds(self, state: Mapping[Tensor, dict[str, Tensor]]) -> bool:
        """Whether weights, gradients and moments are the tensors of this table still."""
        return (
            all(map(operator.is_, self.grads, [weight.grad for weight in self.all]))
            and self.addresses == [weight.data_ptr() for weight in self.all]
            and all(
                state[weight].get("exp_avg") is first and state[weight].get("exp_avg_sq") is second
                for weight, _, first, second, _ in self.tensors
            )
        )

    def step(self, groups: Sequence[dict[str, Any]], beta1: float, beta2: float, eps: float) -> None:
        of_groups = [_Rates(group["lr"], group["lr"] * group["weight_decay"]) for group in groups]
        for i, group in enumerate(self.groups):
            self.rates[i] = of_groups[group]
        self.run(self.moments, self.rates, len(self.groups), beta1, beta2, eps, torch.get_num_threads())


def _tensors(weight: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the kernel reads and writes: weight, gradient, moments, steps."""
    assert weight.grad is not None
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
    tensors = weight, weight.grad, state["exp_avg"], state["exp_avg_sq"], state["step"]
    if not all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in tensors):
        raise TypeError("weights, gradients and moments: the kernel takes contiguous FP32 tensors")
    return tensors

"""Observe a model's tensors while it runs, and restore the model afterwards: hooks, statistics, saved state.

:mod:`.audit` and :mod:`.coord_check` share it. It works on any ``torch.nn.Module``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..precision.formats import BF16, E4M3FN, E5M2, FP16

FORMATS = {"E4M3": E4M3FN, "E5M2": E5M2, "FP16": FP16, "BF16": BF16}
INPUT, OUTPUT = "(input)", "(output)"


@dataclass
class Statistics:
    """Running statistics of a tensor, pooled over the calls of its module. Of non-finite entries only the number."""

    shape: tuple[int, ...] = ()
    calls: int = 0
    count: int = 0
    finite: int = 0
    nonzero: int = 0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    under: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FORMATS, 0))
    over: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FORMATS, 0))

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Add one more tensor to the statistics."""
        self.shape, self.calls = tuple(x.shape), self.calls + 1
        x = x.detach()
        if x.layout is not torch.strided:
            x = x.coalesce().values() if x.layout is torch.sparse_coo else x.to_dense()
        x = (torch.view_as_real(x) if x.is_complex() else x).reshape(-1)
        self.count += x.numel()
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        finite = torch.isfinite(x)
        if not finite.all():
            x = x[finite]
        self.finite += x.numel()
        x = x[x != 0]  # a zero cannot be flushed to zero, and adds nothing to the sums
        if not x.numel():
            return
        self.nonzero += x.numel()
        wide, size = x.double(), x.abs()
        self.total += float(wide.sum())
        self.squares += float(wide.square().sum())
        self.largest = max(self.largest, float(size.max()))
        for name, form in FORMATS.items():
            # Only the few beyond the ends of a format can be lost; casting those alone saves most of the work.
            small, large = x[size < form.min_subnormal], x[size > form.max]
            self.under[name] += round(float(form.underflow(small)) * small.numel())
            self.over[name] += round(float(form.overflow(large)) * large.numel())

    @property
    def mean(self) -> float:
        return self.total / self.finite if self.finite else 0.0

    @property
    def rms(self) -> float:
        return math.sqrt(self.squares / self.finite) if self.finite else 0.0

    @property
    def std(self) -> float:
        return math.sqrt(max(0.0, self.rms**2 - self.mean**2))

    def shares(self, counts: dict[str, int]) -> dict[str, float]:
        """Counts by format as shares of the nonzero finite entries."""
        return {name: count / self.nonzero if self.nonzero else 0.0 for name, count in counts.items()}


class TensorWatch:
    """Hooks on every module: they pass on each tensor that a module returns, once, and later its gradient.

    ``activation(name, module, tensor)`` is called in the order of execution, ``gradient(name, tensor)`` in the order of
    the backward pass. A tensor that a container returns from its child is passed on once. The result of functional code
    between modules is passed on where a module with parameters reads it, as ``name(input)``.
    """

    def __init__(self, model: nn.Module, activation: Callable, gradient: Callable | None = None):
        self.activation, self.gradient = activation, gradient
        self.outputs: set[str] = set()  # names of the tensors that the model as a whole returns
        self.backward = False
        self._seen: dict[tuple[int, int], tuple[Tensor, str]] = {}
        self._handles = [model.register_forward_pre_hook(self._enter, with_kwargs=True)]
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_hook(self._hook(name, module)))
            if name and next(module.parameters(recurse=False), None) is not None:
                self._handles.append(module.register_forward_pre_hook(self._read(name, module)))

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.backward:
            return
        self._seen.clear()
        for suffix, tensor in tensors_in((args, kwargs)):
            if is_real(tensor):
                self.activation(INPUT if len(args) + len(kwargs) == 1 else INPUT + suffix, module, tensor)
                self._seen[id(tensor), tensor._version] = tensor, INPUT

    def _hook(self, path: str, module: nn.Module) -> Callable:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            for suffix, tensor in tensors_in(output):
                if is_real(tensor):
                    self._take((path or OUTPUT) + suffix, module, tensor, is_output=not path)

        return hook

    def _read(self, path: str, module: nn.Module) -> Callable:
        def hook(_module: nn.Module, args: tuple) -> None:
            if args and isinstance(args[0], Tensor) and is_real(args[0]):
                self._take(path + INPUT, module, args[0], is_output=False)

        return hook

    def _take(self, name: str, module: nn.Module, tensor: Tensor, is_output: bool) -> None:
        # An in-place operation changes the version of the same tensor.
        key = id(tensor), tensor._version
        if key in self._seen:
            name = self._seen[key][1]
        else:
            self._seen[key] = tensor, name  # while the tensor is held, no other tensor gets its id
            # In the backward pass, checkpointing runs modules again: the values are counted already, but with the
            # reentrant kind only these tensors get gradients.
            if not self.backward:
                self.activation(name, module, tensor)
            if tensor.requires_grad and (gradient := self.gradient) is not None:
                self._handles.append(tensor.register_hook(lambda grad: gradient(name, grad)))
        if is_output:
            self.outputs.add(name)

    def close(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()


@contextmanager
def watched(model: nn.Module, activation: Callable, gradient: Callable | None = None) -> Iterator[TensorWatch]:
    """A :class:`TensorWatch` whose hooks are removed at the end, also after an error."""
    watch = TensorWatch(model, activation, gradient)
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Run the body with gradients on and a seeded generator; then restore ``model`` and the generators.

    Restored are the values of parameters and buffers (bit for bit), gradients (the same tensors) and training modes.
    """
    modules = list(model.modules())
    stores: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (store, dict(store)) for module in modules for store in (module._parameters, module._buffers)
    ]
    values = {id(t): (t, t.detach().clone()) for _, held in stores for t in held.values() if t is not None}
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in modules]
    state = random.getstate()
    devices = sorted({t.device.index for t, _ in values.values() if t.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if any(module._compiled_call_impl is not None for module in modules):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code runs no new hooks
        try:
            torch.manual_seed(seed)
            for parameter, _ in grads:
                parameter.grad = None
            yield
        finally:
            for store, held in stores:
                store.clear()
                store.update(held)
            with torch.no_grad():
                for tensor, value in values.values():
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)
            for parameter, grad in grads:
                parameter.grad = grad
            for module, mode in modes:
                module.training = mode
            random.setstate(state)


def unwrap(model: nn.Module) -> nn.Module:
    """The module itself, without ``torch.compile``'s wrapper, after a check that it can be run.

    Raises:
        TypeError: not a module.
        ValueError: parameters that hold no values (meta device, lazy modules).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
    model = getattr(model, "_orig_mod", model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise ValueError(f"model: {name} holds no values yet; run a batch (lazy modules) or to_empty() and init")
    return model


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor has a scale at all: floating point or complex, and not empty."""
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0


def tensors_in(value: Any, suffix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested tuples, lists and dicts, with what to append to the name: ``[0]``, ``[key]``."""
    if isinstance(value, Tensor):
        yield suffix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{suffix}[{key}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{suffix}[{index}]")

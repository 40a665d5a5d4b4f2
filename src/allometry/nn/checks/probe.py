"""Look into a model while it runs, and leave no trace: hooks, statistics, and everything put back.

What :mod:`.audit` and :mod:`.coordinates` share. Works on any ``torch.nn.Module``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..optim import AdamW
from ..own_modules import has_ours
from ..precision.formats import BF16, E4M3FN, E5M2, FP16

FORMATS = {"E4M3": E4M3FN, "E5M2": E5M2, "FP16": FP16, "BF16": BF16}
INPUT, OUTPUT = "(input)", "(output)"


@dataclass
class Statistics:
    """Running statistics of a tensor, pooled over the calls of its module. Non-finite entries are only counted."""

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
        """Count the entries of one more tensor."""
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
        x = x[x != 0]  # what is zero already cannot be flushed to zero, and adds nothing to the sums
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
    """Hooks on every module: hands on each tensor a module returns, once, and its gradient when that comes.

    ``activation(name, module, tensor)`` sees values in the order of execution; ``gradient(name, tensor)`` in the order
    of the backward pass. A container that returns what its child returned is not counted again. What functional code
    between modules makes is seen where a module with parameters reads it, as ``name(input)``.
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
        # The version tells apart what an in-place operation made of the same tensor.
        key = id(tensor), tensor._version
        if key in self._seen:
            name = self._seen[key][1]
        else:
            self._seen[key] = tensor, name  # holding the tensor keeps its id from being given to another
            # In the backward pass, checkpointing runs modules again: the values are counted already, but with the
            # reentrant kind only these tensors get gradients.
            if not self.backward:
                self.activation(name, module, tensor)
            if tensor.requires_grad and self.gradient is not None:
                self._handles.append(tensor.register_hook(lambda grad: self.gradient(name, grad)))
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
    """A :class:`TensorWatch` that is removed at the end, whatever happens."""
    watch = TensorWatch(model, activation, gradient)
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Run the body with gradients on and a seeded generator; put back all that it changed in ``model``.

    Values of parameters and buffers (bit for bit), gradients (the same tensors), training modes, generators.
    """
    modules = list(model.modules())
    stores = [(store, dict(store)) for module in modules for store in (module._parameters, module._buffers)]
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
    """The module itself, out of ``torch.compile``'s wrapper, once it is sure that it can be run.

    Raises:
        TypeError: not a module.
        ValueError: parameters that hold no values (meta device, lazy modules).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is no torch.nn.Module")
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


class Objective:
    """How a batch becomes one number to differentiate; :func:`.audit.audit` documents the choice."""

    def __init__(self, model: nn.Module, batch: Any, loss: Callable | None):
        self.model, self.loss, self.targets, self.is_upstream = model, loss, None, False
        self.description = "" if loss is None else "given"
        if isinstance(batch, Tensor):
            self.args, self.kwargs = (batch,), {}
        elif isinstance(batch, Mapping):
            self.args, self.kwargs, self.targets = (), dict(batch), batch
        elif isinstance(batch, list | tuple) and len(batch) == 2:
            inputs, self.targets = batch
            self.args = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
            self.kwargs = {}
            if isinstance(inputs, Mapping):
                self.args, self.kwargs = (), dict(inputs)
        else:
            kind = (
                f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__
            )
            raise TypeError(f"batch: {kind}; give a tensor, a pair (inputs, targets), or a dict of forward's arguments")
        if loss is not None and not callable(loss):
            raise TypeError(f"loss: {type(loss).__name__} cannot be called; give a function of (output, targets)")

    @property
    def rows(self) -> int:
        """How many vectors, or tokens, the first tensor of the input holds."""
        first = next((tensor for _, tensor in tensors_in((self.args, self.kwargs))), torch.empty(0))
        return first.numel() // (first.shape[-1] if is_real(first) and first.ndim > 1 else 1)

    def __call__(self) -> Tensor | None:
        """Forward pass to a scalar; None where nothing in the result depends on a tensor that requires a gradient."""
        own = getattr(self.model, "loss", None)
        pair = self.targets is not None and not self.kwargs
        if self.loss is None and pair and callable(own) and not isinstance(own, nn.Module):
            self.description = "model.loss"
            value = own(*self.args, self.targets)
        else:
            output = self.model(*self.args, **self.kwargs)
            value = self._value(output, own if isinstance(own, nn.Module) else None)
        if value is None or not value.requires_grad:
            return None
        return value if value.ndim == 0 else value.sum()

    def _value(self, output: Any, criterion: nn.Module | None) -> Tensor | None:
        given = self.loss or (criterion if self.targets is not None else None)
        if given is not None:
            self.description = self.description or "model.loss"
            value = given(output) if self.targets is None else given(output, self.targets)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError("loss: returned no scalar tensor; reduce it with .mean()")
            return value
        scalar = _scalar_in(output)
        if scalar is not None:
            self.description = "the scalar that the model returns"
            return scalar
        targets = self.targets if isinstance(self.targets, Tensor) else None
        if targets is not None and isinstance(output, Tensor):
            if not targets.is_floating_point():
                return self._cross_entropy(output, targets)
            if targets.shape == output.shape:
                return self._squared_error(output, targets)
        self.description = "unit-normal gradient on the output"
        self.is_upstream = True
        floats = [tensor for _, tensor in tensors_in(output) if is_real(tensor) and tensor.requires_grad]
        if not floats:
            return None
        # The gradient of this sum is the normal tensor itself, in the output's own type.
        return sum((tensor * torch.randn_like(tensor)).sum().real for tensor in floats)

    def _cross_entropy(self, output: Tensor, targets: Tensor) -> Tensor:
        if output.ndim == targets.ndim + 1 and output.shape[:-1] == targets.shape:
            logits = output.flatten(0, -2)
        elif output.ndim == targets.ndim + 1 and output.shape[2:] == targets.shape[1:]:
            logits = output.movedim(1, -1).flatten(0, -2)  # torch's own order, classes second
        else:
            shapes = f"{tuple(targets.shape)} for an output of {tuple(output.shape)}"
            raise ValueError(f"batch: targets of shape {shapes} are no classes of it; give loss")
        if has_ours(self.model):
            self.description = "cross-entropy, unit-scaled"
            return functional.cross_entropy(logits, targets.flatten())
        self.description = "mean cross-entropy"
        return F.cross_entropy(logits.float(), targets.flatten())

    def _squared_error(self, output: Tensor, targets: Tensor) -> Tensor:
        if has_ours(self.model):
            self.description = "squared error, unit-scaled"
            return functional.mse_loss(output, targets)
        self.description = "mean squared error"
        return F.mse_loss(output, targets)


def _scalar_in(output: Any) -> Tensor | None:
    """The loss that a model returns by itself: a scalar, or the one scalar of a tuple, or ``loss`` of a record."""
    if isinstance(output, Tensor):
        return output if output.ndim == 0 else None
    if isinstance(output, tuple) and not hasattr(output, "loss"):
        scalars = [item for item in output if isinstance(item, Tensor) and item.ndim == 0 and item.requires_grad]
        return scalars[0] if len(scalars) == 1 else None
    value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return value if isinstance(value, Tensor) and value.numel() == 1 else None


def default_optimizer(model: nn.Module, lr: float | None) -> torch.optim.Optimizer:
    """Our AdamW at ``lr`` (0.1) where the model is ours, torch's (0.001, no decay) where it is not."""
    if has_ours(model):
        return AdamW(model, 0.1 if lr is None else lr)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-3 if lr is None else lr, weight_decay=0.0)

"""How a model and a batch become one number to differentiate, and which optimiser trains on it by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..layers.with_parameters import Parametrized
from ..optim import AdamW
from ..own_modules import has_ours
from .probe import is_real, tensors_in


class Objective:
    """The number that a batch is differentiated by; :func:`.audit.audit` documents which one is chosen.

    ``description`` names it after the first call; ``is_upstream`` says that it is no loss but a unit-normal gradient.

    Raises:
        TypeError: a batch of another kind, or a loss that cannot be called.
    """

    def __init__(self, model: nn.Module, batch: Any, loss: Callable | None):
        if loss is not None and not callable(loss):
            raise TypeError(f"loss: {type(loss).__name__} cannot be called; give a function of (output, targets)")
        self.model, self.loss, self.is_upstream = model, loss, False
        self.description = "" if loss is None else "given"
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.targets: Any = None
        if isinstance(batch, Tensor):
            self.args = (batch,)
        elif isinstance(batch, Mapping):
            self.kwargs, self.targets = dict(batch), batch
        elif isinstance(batch, list | tuple) and len(batch) == 2:
            inputs, self.targets = batch
            if isinstance(inputs, Mapping):
                self.kwargs = dict(inputs)
            else:
                self.args = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
        else:
            size = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
            kind = f"{type(batch).__name__}{size}"
            raise TypeError(f"batch: {kind}; give a tensor, a pair (inputs, targets), or a dict of forward's arguments")

    @property
    def rows(self) -> int:
        """The number of vectors, or tokens, in the first tensor of the input."""
        first = next((tensor for _, tensor in tensors_in((self.args, self.kwargs))), torch.empty(0))
        return first.numel() // (first.shape[-1] if is_real(first) and first.ndim > 1 else 1)

    def __call__(self) -> Tensor | None:
        """Run the forward pass; returns a scalar, or None if it depends on no tensor that requires a gradient."""
        own: Any = getattr(self.model, "loss", None)
        pair = self.targets is not None and not self.kwargs
        if self.loss is None and pair and callable(own) and not isinstance(own, nn.Module):
            self.description = "model.loss"
            value: Any = own(*self.args, self.targets)
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
        first, *others = [(tensor * torch.randn_like(tensor)).sum().real for tensor in floats]
        return sum(others, first)

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
    """The loss that a model itself returns: a scalar, the only scalar of a tuple, or ``loss`` of a record."""
    if isinstance(output, Tensor):
        return output if output.ndim == 0 else None
    if isinstance(output, tuple) and not hasattr(output, "loss"):
        scalars = [item for item in output if isinstance(item, Tensor) and item.ndim == 0 and item.requires_grad]
        return scalars[0] if len(scalars) == 1 else None
    value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return value if isinstance(value, Tensor) and value.numel() == 1 else None


def default_optimizer(model: nn.Module, lr: float | None) -> torch.optim.Optimizer:
    """Our AdamW if the model has layers of ours, else torch's; both without weight decay.

    The default ``lr`` changes what a layer gives by some per cent a step: weights of deviation 1 take 0.1 (u-μP) or
    0.01 (μS), those of deviation 1/√width 0.001.
    """
    if has_ours(model):
        scheme = next((module.scheme for module in model.modules() if isinstance(module, Parametrized)), "umup")
        return AdamW(model, {"umup": 0.1, "mus": 0.01}.get(scheme, 1e-3) if lr is None else lr)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-3 if lr is None else lr, weight_decay=0.0)

"""Optimisers that take their learning rates from roles, with weight decay that does not depend on the learning rate.

The tables of :mod:`allometry.nn.schemes` hold Adam's learning rates. Lion uses them unchanged, since its updates have
Adam's size. SGD does too, since its updates are the gradients, which are at unit scale. Muon's update has spectral norm
1, an aligned one of Adam √(fan_in·fan_out); with that factor the same table is the spectral condition
(arXiv 2310.17813).
"""

# PyTorch's own optimisers call torch._foreach_*, which its type declarations do not export.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from .parametrization import UNDRAWN, distinct, learning_rate_factors, roles

FUSED = ("cpu", "cuda")
LEAST_DECAY = 1e-30  # no weight of FP32 feels it; zero would say that a group never decays


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    factors: dict[str, float] | None = None,
    names: set[str] | None = None,
) -> list[dict]:
    """Parameter groups for a ``torch.optim`` optimiser, one for each distinct learning rate.

    ``lr`` is the base learning rate; a group's learning rate is ``lr`` times its factor. ``weight_decay`` is
    independent of it: at the peak of the schedule a weight shrinks by the share ``weight_decay`` a step, and elsewhere
    in proportion to the schedule. (PyTorch's AdamW multiplies the decay by the learning rate; the group's value is
    divided by it.) Biases and gains do not decay. ``factors`` replaces the scheme's factors; ``names`` selects
    parameters. Parameters that require no gradient are left out.

    Raises:
        ValueError: a learning rate that is not positive, a negative decay, or nothing to train.
    """
    _check_model(model)
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr: {lr} is not a base learning rate; it must be positive")
    if not 0 <= weight_decay < 1:
        raise ValueError(f"weight_decay: {weight_decay} is not a share of a weight to lose in a step; give 0 ≤ λ < 1")
    factors = learning_rate_factors(model) if factors is None else factors
    spared = {name for name, role in roles(model).items() if role.kind in UNDRAWN} if weight_decay else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in distinct(model):
        if parameter.requires_grad and (names is None or name in names):
            groups[lr * factors[name], 0.0 if name in spared else weight_decay].append(parameter)
    if not groups and names is None:
        raise ValueError("model: no parameter requires a gradient; there is nothing to train")
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay / rate}
        for (rate, decay), parameters in groups.items()
    ]


class Scheduled:
    """The base of our optimisers: the schedule as one number, and the independent weight decay."""

    param_groups: list[dict[str, Any]]

    def set_schedule(self, shape: float, weight_decay: float | None = None) -> None:
        """Set every group's learning rate to ``shape`` (0 to 1) times its peak.

        ``weight_decay``, where given, is from now on that of the weights that decay; an optimiser that was made with
        zero has none.
        """
        for group in self.param_groups:
            group["lr"] = group["peak_lr"] * shape
            if weight_decay is not None and group["weight_decay"]:
                group["weight_decay"] = max(weight_decay, LEAST_DECAY) / group["peak_lr"]

    def _decay(self, group: dict) -> None:
        """w ← w·(1 − λ·shape); the group's ``weight_decay`` is λ divided by the peak learning rate."""
        if group["weight_decay"]:
            with_grad = [p for p in group["params"] if p.grad is not None]
            if with_grad:
                torch._foreach_mul_(with_grad, 1 - group["lr"] * group["weight_decay"])


class AdamW(Scheduled, torch.optim.AdamW):
    """AdamW with learning rates by role and independent weight decay; fused on devices for which PyTorch has it."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-12,
        weight_decay: float = 0.0,
    ):
        groups = param_groups(model, lr, weight_decay)
        super().__init__(groups, lr=lr, betas=betas, eps=eps, fused=_fusible(groups) or None)


class Adam(AdamW):
    """Adam with learning rates by role and no weight decay."""

    def __init__(self, model: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-12):
        super().__init__(model, lr, betas, eps)


class SGD(Scheduled, torch.optim.SGD):
    """SGD with learning rates by role; the weight decay is independent and does not enter the momentum."""

    def __init__(
        self, model: nn.Module, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ):
        groups = param_groups(model, lr, weight_decay)
        # Not fused: PyTorch 2.13's fused SGD does not update BF16 weights on the CPU, and does not support sharding.
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=nesterov)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = _evaluate(closure)
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            self._decay(group)
            group["weight_decay"] = 0.0  # PyTorch's would add it to the gradient
        try:
            # Without the wrapper that runs step hooks: the wrapper of this method has run them already.
            getattr(torch.optim.SGD.step, "__wrapped__", torch.optim.SGD.step)(self)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
        return loss


class Lion(Scheduled, torch.optim.Optimizer):
    """Lion (arXiv 2302.06675): the sign of an interpolated momentum; learning rates by role, independent decay."""

    def __init__(
        self, model: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ):
        _check_betas(betas)
        super().__init__(param_groups(model, lr, weight_decay), {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = _evaluate(closure)
        for group in self.param_groups:
            self._decay(group)
            parameters, grads, moments = self._gather(group)
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            update = torch._foreach_lerp(grads, moments, beta1)
            torch._foreach_sign_(update)
            torch._foreach_add_(parameters, update, alpha=-group["lr"])
            torch._foreach_lerp_(moments, grads, 1 - beta2)
        return loss

    def _gather(self, group: dict) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        parameters = [p for p in group["params"] if p.grad is not None]
        return parameters, [p.grad for p in parameters], [_moment(self.state[p], "exp_avg", p) for p in parameters]


class Muon(Scheduled, torch.optim.Optimizer):
    """Muon for hidden matrices, AdamW for the rest; learning rates by role, independent decay.

    Each hidden weight moves by the semi-orthogonal matrix nearest to its momentum (Newton–Schulz, five steps in BF16),
    whose spectral norm is 1. A convolution's weight counts as a matrix of (fan_out, fan_in·taps). ``lr`` is the base
    learning rate of the hidden matrices, ``adam_lr`` (default: the same) that of embedding, readout, biases and gains.
    Source: Jordan et al., 2024, kellerjordan.github.io/posts/muon.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = True,
        adam_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-12,
    ):
        _check_betas(betas)
        _check_model(model)
        by_role, factors = roles(model), learning_rate_factors(model)
        shapes = {name: p.shape for name, p in distinct(model)}
        matrices = {name for name in factors if by_role[name].kind == "hidden" and len(shapes[name]) >= 2}
        spectral = {name: factors[name] * math.sqrt(by_role[name].fan_in * by_role[name].fan_out) for name in matrices}
        groups = param_groups(model, lr, weight_decay, factors=spectral, names=matrices)
        adam_lr = lr if adam_lr is None else adam_lr
        rest = param_groups(model, adam_lr, weight_decay, factors=factors, names=set(factors) - matrices)
        groups = [group | {"muon": True} for group in groups] + [group | {"muon": False} for group in rest]
        defaults = {"momentum": momentum, "nesterov": nesterov, "betas": betas, "eps": eps}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = _evaluate(closure)
        for group in self.param_groups:
            self._decay(group)
            if not group["muon"]:
                self._adam(group)
                continue
            for parameter in group["params"]:
                if (grad := parameter.grad) is not None:
                    parameter.add_(self._orthogonal(parameter, grad, group), alpha=-group["lr"])
        return loss

    def _orthogonal(self, parameter: Tensor, grad: Tensor, group: dict) -> Tensor:
        moment = _moment(self.state[parameter], "momentum_buffer", parameter)
        moment.lerp_(grad, 1 - group["momentum"])
        direction = grad.lerp(moment, group["momentum"]) if group["nesterov"] else moment
        return orthogonalize(direction.flatten(1)).view_as(parameter).to(parameter.dtype)

    def _adam(self, group: dict) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for p in parameters:
            self.state[p].setdefault("step", torch.zeros((), dtype=torch.float32, device=p.device))
        first, second = ([_moment(self.state[p], key, p) for p in parameters] for key in ("exp_avg", "exp_avg_sq"))
        steps = [self.state[p]["step"] for p in parameters]
        (beta1, beta2), grads = group["betas"], [p.grad for p in parameters]
        options: dict[str, Any] = {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"]}
        options |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False, "fused": _fusible([group]) or None}
        adamw(parameters, grads, first, second, [], steps, **options)


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """A semi-orthogonal matrix near ``matrix`` (rows, columns): its singular values become about 0.7 to 1.2.

    Newton–Schulz iteration with the quintic (3.4445, −4.7750, 2.0315), in BF16: every singular value above about
    1 % of the Frobenius norm ends near 1. Source: Jordan et al., 2024.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.t() if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-30)
    for _ in range(steps):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.t() if tall else x


def _fusible(groups: list[dict]) -> bool:
    parameters = [p for group in groups for p in group["params"]]
    return all(p.device.type in FUSED and p.is_floating_point() for p in parameters)


def _moment(state: dict, key: str, parameter: Tensor) -> Tensor:
    if key not in state:
        state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state[key]


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: a {type(model).__name__}; give the model itself, whose modules hold the roles")


def _check_betas(betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: {betas} must lie in [0, 1)")


def _evaluate(closure: Callable | None):
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()

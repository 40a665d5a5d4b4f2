"""The rules "absmax" and "rms": measure a model's operands on batches, and divide the operands by these factors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...checks.probe import tensors_in
from .measured_factors import PARTS, ActivationFactor, GradientFactor, WeightFactor, check_real
from .measured_modules import (
    MEASURED_MODULES,
    MeasuredTransposedLinear,
    Treated,
    attach_factors,
    feature_dim,
    measured_form,
    measured_modules,
    save_plain_weights,
    unscale,
)
from .operands_of_products import in_products
from .run_batches import Loss, evaluate, run_batches, undisturbed

# These modules own parameters and multiply no matrix by them. There is nothing to bring into range: they stay as is.
NO_PRODUCT = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
    nn.PReLU,
)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


def treatable(
    model: nn.Module, batch: Any, loss: Loss | None, strict: bool
) -> tuple[dict[str, Treated], dict[str, str]]:
    """The modules that the rules treat, by path; and others whose parameters enter a product, each with the reason.

    Parameters that enter no product (gains, biases, tokens, positions) have nothing to bring into range: the module
    that owns them stays as it is. Whether a matrix enters one is seen on ``batch``.

    Raises:
        ValueError: there are others and ``strict``, or there is no module to treat.
    """
    modules: dict[str, Treated] = {}
    left: dict[str, str] = {}
    unknown: dict[str, Sequence[Tensor]] = {}
    for path, module in model.named_modules():
        name = path or "(model)"
        if measured_form(module) is not None:
            if getattr(module, "max_norm", None) is None:
                modules[name] = module  # pyright: ignore[reportArgumentType]  # the forms are those of Treated
            else:
                left[name] = "Embedding with max_norm, which rescales its rows"
        elif not isinstance(module, NO_PRODUCT):
            matrices = [parameter for parameter in module.parameters(recurse=False) if parameter.dim() > 1]
            if matrices:
                unknown[name] = matrices
    if unknown:
        used = in_products(model, batch, loss, [matrix for matrices in unknown.values() for matrix in matrices])
        for name, matrices in unknown.items():
            if any(id(matrix) in used for matrix in matrices):
                left[name] = type(model.get_submodule("" if name == "(model)" else name)).__name__
    if left and strict:
        listed = ", ".join(f"{name} ({kind})" for name, kind in left.items())
        known = ", ".join(f"torch.nn.{kind.__name__}" for kind in MEASURED_MODULES)
        raise ValueError(
            f"model: cannot scale {listed}; the measured rules treat {known}. strict=False leaves others as they are"
        )
    if not modules:
        raise ValueError(f"model: {type(model).__name__} holds no module that the measured rules treat")
    return modules, left


def scale_measured(
    model: nn.Module,
    batches: list[Any],
    rule: str,
    loss: Loss | None,
    strict: bool,
    *,
    parts: Collection[str] = PARTS,
    formats: tuple[Any, Any] = (None, None),
    running: bool = False,
    momentum: float = 0.1,
    power_of_two: bool = False,
) -> dict[str, str]:
    """Scale ``model`` in place by what ``batches`` show; returns the modules that stay as they are, and why."""
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"parts: {part!r} is unknown; any of {', '.join(map(repr, PARTS))}")
    modules, left = treatable(model, batches[0], loss, strict)
    options = {"running": running, "momentum": momentum, "power_of_two": power_of_two}
    operands = _Operands(modules, rule, parts, options)
    before = run_batches(model, modules, batches, loss, operands.observe)
    if missing := sorted(modules.keys() - operands.reached):
        if strict:
            raise ValueError(f"example: no batch reached {', '.join(missing)}; strict=False leaves it as it is")
        left |= dict.fromkeys(missing, "no batch reached it")
        modules = {path: module for path, module in modules.items() if path in operands.reached}
    weights = _divide_weights(modules, rule, power_of_two, measure="weight" in parts)
    for path, module in modules.items():
        inputs, gradients = operands.of(path)
        for factor in (weights[path], inputs, gradients):
            if factor is not None:
                factor.to(module.weight.device).train(module.training)
        attach_factors(module, weights[path], inputs, gradients)
    _verify(model, batches[0], loss, before)
    save_plain_weights(model)
    for module in measured_modules(model).values():
        module.formats = formats
    return left


class _Operands:
    """The factors of inputs and output gradients, one of each for every module, and which modules a batch reached."""

    def __init__(self, modules: dict[str, Treated], rule: str, parts: Collection[str], options: dict[str, Any]):
        self.parts, self.modules = parts, modules
        self.inputs = {path: ActivationFactor(rule, dim=feature_dim(m), **options) for path, m in modules.items()}
        self.gradients = {path: GradientFactor(rule, dim=feature_dim(m), **options) for path, m in modules.items()}
        self.reached: set[str] = set()

    def observe(self, path: str, kind: str, module: nn.Module, tensor: Tensor) -> None:
        self.reached.add(path)
        if isinstance(module, nn.Embedding):
            return
        check_real(f"{'input' if kind == 'activation' else 'output gradient'} of {path}", tensor)
        if kind in self.parts:
            (self.inputs if kind == "activation" else self.gradients)[path].observe(tensor)

    def of(self, path: str) -> tuple[ActivationFactor, GradientFactor] | tuple[None, None]:
        """The two factors of a module; none for an embedding, which reads integers."""
        if isinstance(self.modules[path], nn.Embedding):
            return None, None
        return self.inputs[path], self.gradients[path]


def _divide_weights(
    modules: dict[str, Treated], rule: str, power_of_two: bool, measure: bool
) -> dict[str, WeightFactor]:
    """Measure and divide every weight; modules that share a weight share its factor, and it is divided once."""
    for path, module in modules.items():  # before any is divided
        check_real(f"{path}.weight", module.weight)
    by_weight: dict[int, WeightFactor] = {}
    factors = {}
    for path, module in modules.items():
        weight = module.weight
        if id(weight) not in by_weight:
            factor = by_weight[id(weight)] = WeightFactor(rule, power_of_two=power_of_two)
            factor.transposed = measured_form(module) is MeasuredTransposedLinear
            if measure:
                factor.observe(weight)
                with torch.no_grad():
                    weight.div_(factor.value)
        factors[path] = by_weight[id(weight)]
    return factors


def _verify(model: nn.Module, batch: Any, loss: Loss | None, before: Any) -> None:
    """Compare the outputs of the scaled and the plain model: code that reads a weight directly is off by its α."""
    with undisturbed(model), torch.no_grad():
        after = evaluate(model, batch, loss)
    for (name, old), (_, new) in zip(tensors_in(before, "output"), tensors_in(after, "output"), strict=True):
        if not old.is_floating_point():
            continue
        error = float((new - old.detach()).abs().max()) / max(float(old.detach().abs().max()), 1e-30)
        if not error <= TOLERANCE.get(old.dtype, 5e-2):
            unscale(model)
            raise ValueError(
                f"model: its {name} changes by {error:.2g} (relative) when its weights are scaled; it seems to read a "
                "weight past the module that owns it, or to draw random numbers from a generator of its own"
            )

"""``torch.nn`` modules whose operands are divided by measured factors and multiplied back in the product.

:func:`attach_factors` turns a plain module into one of these, in place; :func:`unscale` turns it back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...ops.autograd import NamedArguments
from .measured_factors import ActivationFactor, FactorValue, GradientFactor, WeightFactor


class Operands(NamedTuple):
    """The factors and number formats of the three products; ``observer`` is the running gradient factor, if any."""

    alpha: FactorValue
    beta: FactorValue
    gamma: FactorValue
    format: Any = None
    grad_format: Any = None
    observer: GradientFactor | None = None

    def gradient(self, grad: Tensor) -> tuple[Tensor, FactorValue]:
        """g/γ in its format, and γ. A running γ first takes this gradient into account."""
        gamma = self.gamma
        if self.observer is not None:
            self.observer.observe(grad)
            gamma = self.observer.value
        return operand(grad, gamma, self.grad_format), gamma


def operand(tensor: Tensor, factor: FactorValue, number_format: Any) -> Tensor:
    """One operand as the product reads it: divided by its factor, rounded to its format."""
    if isinstance(factor, Tensor):
        tensor = tensor / factor.to(tensor.dtype)
    elif factor != 1.0:
        tensor = tensor / factor
    return tensor if number_format is None else number_format.cast(tensor)


def _product(a: Tensor, b: Tensor, alpha: FactorValue, bias: Tensor | None = None) -> Tensor:
    """α·a·b + bias: one GEMM if α is a number."""
    if isinstance(alpha, Tensor):
        y = (a @ b) * alpha.to(a.dtype)
        return y if bias is None else y + bias
    addend = a.new_zeros(1) if bias is None else bias
    return torch.addmm(addend, a, b, beta=float(bias is not None), alpha=alpha)


class _MeasuredLinearFunction(NamedArguments):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
        low_x = operand(x, operands.beta, operands.format)
        low_w = operand(weight, 1.0, operands.format)
        ctx.save_for_backward(low_x, low_w)
        ctx.operands = operands
        return _product(low_x, low_w.t(), operands.alpha * operands.beta, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        low_g, gamma = ctx.operands.gradient(grad)
        alpha, beta = ctx.operands.alpha, ctx.operands.beta
        grad_x = _product(low_g, weight, alpha * gamma) if ctx.needs_input_grad[0] else None
        grad_w = _product(low_g.t(), x, alpha * beta * gamma) if ctx.needs_input_grad[1] else None
        grad_b = grad.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, grad_w, grad_b, None


class _MeasuredConvolutionFunction(NamedArguments):
    """No library's convolution takes a factor, so the result is multiplied by it, before the bias is added."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple, operands: Operands) -> Tensor:
        low_x = operand(x, operands.beta, operands.format)
        low_w = operand(weight, 1.0, operands.format)
        ctx.save_for_backward(low_x, low_w)
        ctx.geometry, ctx.operands = geometry, operands
        stride, dilation, groups = geometry
        padding = [0] * len(stride)
        y = torch.ops.aten.convolution(low_x, low_w, None, stride, padding, dilation, False, padding, groups)
        y = _times(y, operands.alpha * operands.beta)
        return y if bias is None else y.add_(bias.view(-1, *(1,) * len(stride)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        stride, dilation, groups = ctx.geometry
        low_g, gamma = ctx.operands.gradient(grad)
        alpha, beta = ctx.operands.alpha, ctx.operands.beta
        padding = [0] * len(stride)
        needed = [*ctx.needs_input_grad[:2], False]
        grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
            low_g, x, weight, None, stride, padding, dilation, False, padding, groups, needed
        )
        if needed[0]:
            grad_x = _times(grad_x, alpha * gamma)
        if needed[1]:
            grad_w = _times(grad_w, alpha * beta * gamma)
        grad_b = grad.transpose(0, 1).flatten(1).sum(1) if ctx.needs_input_grad[2] else None
        return grad_x, grad_w, grad_b, None, None


def _times(tensor: Tensor, factor: FactorValue) -> Tensor:
    return tensor * (factor.to(tensor.dtype) if isinstance(factor, Tensor) else factor)


class MeasuredModule(nn.Module):
    """The base of the modules with measured factors: ``weight`` holds θ/α, ``weight_factor`` holds α.

    :func:`attach_factors` changes a plain module's class to one of these, so its names, hooks and identity remain.
    """

    weight: Tensor
    weight_factor: WeightFactor
    formats: tuple[Any, Any] = (None, None)

    def unscaled_weight(self) -> Tensor:
        """θ = α · ``weight``, differentiable."""
        return self.weight_factor.restore(self.weight)


Product = Callable[[Tensor, Tensor, Tensor | None, Operands], Tensor]


def _call(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


# PyTorch declares all forms of this decorator at once.
_not_compiled: Callable[..., Tensor] = torch.compiler.disable(_call)  # pyright: ignore[reportAssignmentType]


class ProductModule(MeasuredModule):
    """A linear map or convolution: ``input_factor`` holds β and ``grad_factor`` holds γ."""

    bias: Tensor | None
    input_factor: ActivationFactor
    grad_factor: GradientFactor

    def _multiply(self, product: Product, x: Tensor) -> Tensor:
        if self.input_factor.running or self.grad_factor.running:
            # A running factor moves during the backward pass, which no compiled graph can hold.
            return _not_compiled(self._multiply_operands, product, x)
        return self._multiply_operands(product, x)

    def _multiply_operands(self, product: Product, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        x, weight = x.to(dtype), self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return product(x, weight, bias, self._operands(x))

    def _operands(self, x: Tensor) -> Operands:
        inputs, gradients = self.input_factor, self.grad_factor
        if inputs.running and inputs.training:
            inputs.observe(x)
        observer = gradients if gradients.running and gradients.training else None
        return Operands(self.weight_factor.value, inputs.value, gradients.value, *self.formats, observer)


class MeasuredLinear(ProductModule, nn.Linear):
    """``nn.Linear`` with measured factors; each of its three GEMMs takes them as its ``alpha``."""

    def forward(self, input: Tensor) -> Tensor:
        flat = input.reshape(-1, input.shape[-1])
        return self._multiply(_MeasuredLinearFunction.apply, flat).view(*input.shape[:-1], self.out_features)


class MeasuredTransposedLinear(ProductModule):
    """A linear map whose weight has shape (fan_in, fan_out), as transformers' ``Conv1D``, with measured factors."""

    def forward(self, x: Tensor) -> Tensor:
        return self._multiply(_transposed_product, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _transposed_product(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
    return _MeasuredLinearFunction.apply(x, weight.t(), bias, operands)


class _MeasuredConv(ProductModule):
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:
        axes = self.weight.dim() - 2
        batched = input if input.dim() == axes + 2 else input.unsqueeze(0)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        if any(self._reversed_padding_repeated_twice):
            batched = F.pad(batched, self._reversed_padding_repeated_twice, mode=mode)
        y = self._multiply(self._convolve, batched)
        return y if input.dim() == axes + 2 else y.squeeze(0)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands) -> Tensor:
        geometry = (self.stride, self.dilation, self.groups)
        return _MeasuredConvolutionFunction.apply(x, weight, bias, geometry, operands)


class MeasuredConv1d(_MeasuredConv, nn.Conv1d):
    """``nn.Conv1d`` with measured factors."""


class MeasuredConv2d(_MeasuredConv, nn.Conv2d):
    """``nn.Conv2d`` with measured factors."""


class MeasuredConv3d(_MeasuredConv, nn.Conv3d):
    """``nn.Conv3d`` with measured factors."""


class MeasuredEmbedding(MeasuredModule, nn.Embedding):
    """``nn.Embedding`` whose table holds θ/α; the rows that are looked up are multiplied by α."""

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)
        number_format = self.formats[0]
        if number_format is not None:
            rows = rows + (number_format.cast(rows.detach()) - rows.detach())
        return self.weight_factor.restore(rows)


Treated = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Embedding
MEASURED_MODULES: dict[type[nn.Module], type[MeasuredModule]] = {
    nn.Linear: MeasuredLinear,
    nn.Conv1d: MeasuredConv1d,
    nn.Conv2d: MeasuredConv2d,
    nn.Conv3d: MeasuredConv3d,
    nn.Embedding: MeasuredEmbedding,
}
FACTOR_NAMES = ("weight_factor", "input_factor", "grad_factor")


def measured_form(module: nn.Module) -> type[MeasuredModule] | None:
    """The class that gives a module measured factors; None for what is no matrix product that we know."""
    if _is_transposed(module):
        return MeasuredTransposedLinear
    return MEASURED_MODULES.get(type(module))


def _is_transposed(module: nn.Module) -> bool:
    """transformers' ``Conv1D`` (of GPT-2), known by its name and its fields, so that transformers is not imported."""
    return type(module).__name__ == "Conv1D" and {"nf", "nx"} <= module.__dict__.keys()


def feature_dim(module: Treated) -> int:
    """The dimension of a module's input and output that holds features, or channels."""
    if isinstance(module, nn.Linear | nn.Embedding) or module.weight.dim() < 3:
        return -1
    return 1 - module.weight.dim()


def attach_factors(
    module: Treated, weight: WeightFactor, activation: ActivationFactor | None, gradient: GradientFactor | None
) -> None:
    """Turn a plain module into its measured one, in place. The caller divides the weight, which may be shared."""
    form, plain = measured_form(module), type(module)
    assert form is not None
    _change_class(module, form)
    module.__dict__["plain_form"] = plain
    module.weight_factor = weight
    if activation is not None and gradient is not None:
        module.input_factor, module.grad_factor = activation, gradient


def _change_class(module: nn.Module, kind: type[nn.Module]) -> None:
    module.__class__ = kind


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dictionary of the plain model: weights θ, no factors; what is one tensor here is one there."""
    factors = {id(module.weight): module.weight_factor.value for module in measured_modules(model).values()}
    prefixes = tuple(
        f"{path}.{name}." if path else f"{name}." for path in measured_modules(model) for name in FACTOR_NAMES
    )
    plain: dict[int, Tensor] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if not key.startswith(prefixes) and id(tensor) not in plain:
            value = tensor.detach()
            plain[id(tensor)] = value * factors[id(tensor)] if id(tensor) in factors else value
    return {
        key: plain[id(tensor)]
        for key, tensor in model.state_dict(keep_vars=True).items()
        if not key.startswith(prefixes)
    }


class SavesPlainWeights:
    """Mixed into the class of a scaled model of transformers: ``save_pretrained`` writes the plain model."""

    def save_pretrained(self, *arguments: Any, **options: Any) -> Any:
        if options.get("state_dict") is None:
            options["state_dict"] = plain_state(self)  # pyright: ignore[reportArgumentType]  # mixed into a module
        return super().save_pretrained(*arguments, **options)  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _saving_plain(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (SavesPlainWeights, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def save_plain_weights(model: nn.Module) -> None:
    """Let every part of a scaled model that has a ``save_pretrained`` write plain weights by it."""
    for module in model.modules():
        if hasattr(type(module), "save_pretrained") and not isinstance(module, SavesPlainWeights):
            _change_class(module, _saving_plain(type(module)))


def save_as_they_are(model: nn.Module) -> None:
    """Undo :func:`save_plain_weights`."""
    for module in model.modules():
        if isinstance(module, SavesPlainWeights):
            _change_class(module, type(module).__bases__[1])


def measured_modules(model: nn.Module) -> dict[str, MeasuredModule]:
    """The modules of ``model`` with measured factors, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, MeasuredModule)}


@torch.no_grad()
def unscale(model: nn.Module) -> nn.Module:
    """Restore the plain modules and the weights θ of ``model``, in place; training is not undone. Returns ``model``."""
    save_as_they_are(model)
    restored: set[int] = set()
    for module in measured_modules(model).values():
        if id(module.weight) not in restored:
            module.weight.mul_(module.weight_factor.value)
            restored.add(id(module.weight))
        _change_class(module, module.__dict__.pop("plain_form"))
        for name in FACTOR_NAMES:
            module._modules.pop(name, None)
        module.__dict__.pop("formats", None)
    return model


def finetune_groups(
    model: nn.Module, lr: float, *, weight_decay: float = 0.0, eps: float = 1e-8, optimizer: str = "adamw"
) -> list[dict[str, Any]]:
    """Parameter groups with which ``torch.optim.AdamW`` or ``SGD`` takes the same steps as on the plain model.

    The stored weight is θ/α and its gradient α·dL/dθ. AdamW's step has size ``lr`` whatever the gradient: its group
    gets ``lr``/α, with decay and ε times α. The step of SGD (with or without momentum) is proportional to the gradient:
    its group gets ``lr``/α², with L2 decay times α². There is one group for each distinct α.

    Raises:
        ValueError: ``optimizer`` is neither "adamw" nor "sgd".
    """
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"optimizer: {optimizer!r} is unknown; give 'adamw' or 'sgd'")
    factors = {id(module.weight): float(module.weight_factor.value) for module in measured_modules(model).values()}
    groups: dict[float, dict[str, Any]] = {}
    for parameter in model.parameters():
        alpha = factors.get(id(parameter), 1.0)
        if optimizer == "adamw":
            options = {"lr": lr / alpha, "weight_decay": weight_decay * alpha, "eps": eps * alpha}
        else:
            options = {"lr": lr / alpha**2, "weight_decay": weight_decay * alpha**2}
        groups.setdefault(alpha, {"params": [], **options})["params"].append(parameter)
    return list(groups.values())

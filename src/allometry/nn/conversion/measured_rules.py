"""Measure a model on examples: give it the measured scaling of :mod:`.measured_rule`, and say what range it needs.

A model is measured in the mode it is in, training or evaluation (an untrained batch norm gives other numbers in the
two), and left as it was: no buffer moved, no random number drawn, no gradient accumulated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks.check_table import GOOD, CheckLine, CheckTable
from ..checks.probe import tensors_in
from .measured_factors import PARTS, ActivationFactor, GradientFactor, MeasuredFactor, WeightFactor, check_real
from .measured_modules import MEASURED_MODULES, attach_factors, features, measured_modules, unscale

Loss = Callable[..., Tensor]  # of (output, targets), or of the output alone where there are none
# They own parameters and multiply no matrix by them: nothing to bring in range, so they stay as they are.
NO_PRODUCT = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
    nn.PReLU,
)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


def batches_of(example: Any) -> list[Any]:
    """A tensor, tuple or dictionary is one batch; anything else an iterable of batches.

    Raises:
        TypeError: neither; a complex tensor. ValueError: no batch; entries that are not finite.
    """
    if isinstance(example, Tensor | tuple | dict):
        batches = [example]
    elif isinstance(example, Iterable):
        batches = list(example)
    else:
        raise TypeError(f"example: {type(example).__name__} is no batch; give a tensor, tuple, dict or batches of them")
    if not batches:
        raise ValueError("example: no batches; there must be at least one to measure on")
    single = len(batches) == 1
    for index, batch in enumerate(batches):
        for name, tensor in tensors_in(batch, "example" if single else f"example[{index}]"):
            if tensor.is_floating_point() or tensor.is_complex():
                check_real(name, tensor)
    return batches


def call(model: nn.Module, inputs: Any) -> Any:
    """``model`` on a tensor, on positional arguments (tuple, list) or on named ones (dictionary)."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def inputs_of(model: nn.Module, batch: Any, loss: Loss | None) -> Any:
    """The model's inputs in a batch: the first of a pair if there is a loss, or if ``forward`` does not take both."""
    if not isinstance(batch, tuple | list):
        return batch
    if loss is not None and len(batch) != 2:
        raise ValueError(f"example: a batch of {len(batch)}; with a loss give pairs (inputs, targets)")
    return batch[0] if loss is not None or (len(batch) == 2 and not _takes(model, batch)) else batch


def evaluate(model: nn.Module, batch: Any, loss: Loss | None) -> Any:
    """The model's output on ``batch``, or with a ``loss`` its value."""
    output = call(model, inputs_of(model, batch, loss))
    if loss is None:
        return output
    if isinstance(batch, dict):
        return loss(output, batch)
    return loss(output, batch[1]) if isinstance(batch, tuple | list) else loss(output)


def _takes(model: nn.Module, arguments: Any) -> bool:
    try:
        inspect.signature(model.forward).bind(*arguments)
    except TypeError:
        return False
    return True


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Buffers and generators are afterwards as they were; running scalings do not move inside."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    scalings = [module for module in model.modules() if isinstance(module, MeasuredFactor)]
    modes = [scaling.training for scaling in scalings]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        for scaling in scalings:
            scaling.training = False
        try:
            yield
        finally:
            for scaling, mode in zip(scalings, modes, strict=True):
                scaling.training = mode
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def watch(
    model: nn.Module,
    modules: dict[str, nn.Module],
    batches: list[Any],
    loss: Loss | None,
    see: Callable[[str, str, nn.Module, Tensor], None],
) -> Any:
    """Run ``model``, show ``see(path, "activation" | "gradient", module, tensor)`` the inputs and output gradients.

    Returns the output (or loss) of the first batch.
    """
    first: Any = None
    with undisturbed(model), ExitStack() as hooks:
        for path, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(_before(path, see), with_kwargs=True).remove)
            if loss is not None:
                hooks.callback(module.register_forward_hook(_after(path, see)).remove)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for batch in batches:
            output = evaluate(model, batch, loss)
            first = output if first is None else first
            if loss is None:
                continue
            if not isinstance(output, Tensor) or output.numel() != 1 or not output.requires_grad:
                raise ValueError(
                    "loss: must return a scalar tensor that depends on parameters which require a gradient"
                )
            torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    return first


def _before(path: str, see: Callable) -> Callable:
    return lambda module, args, kwargs: see(path, "activation", module, args[0] if args else kwargs["input"])


def _after(path: str, see: Callable) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda grad: see(path, "gradient", module, grad))

    return hook


def treatable(model: nn.Module, strict: bool) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The modules that the measured rules treat, and those with parameters that they cannot, with the reason.

    Raises:
        ValueError: there are some of the latter and ``strict``, or none of the former.
    """
    found: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    for path, module in model.named_modules():
        name = path or "(model)"
        if type(module) in MEASURED_MODULES:
            if getattr(module, "max_norm", None) is None:
                found[name] = module
            else:
                left[name] = "Embedding with max_norm, which rescales its rows"
        elif not isinstance(module, NO_PRODUCT) and next(module.parameters(recurse=False), None) is not None:
            left[name] = type(module).__name__
    if left and strict:
        listed = ", ".join(f"{name} ({kind})" for name, kind in left.items())
        known = ", ".join(f"torch.nn.{kind.__name__}" for kind in MEASURED_MODULES)
        raise ValueError(
            f"model: cannot scale {listed}; the measured rules treat {known}. strict=False leaves others as they are"
        )
    if not found:
        raise ValueError(f"model: {type(model).__name__} holds no module that the measured rules treat")
    return found, left


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
    """Scale ``model`` in place by what ``batches`` show; returns what was left as it is, and why."""
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"parts: {part!r} is unknown; any of {', '.join(map(repr, PARTS))}")
    found, left = treatable(model, strict)
    options = {"running": running, "momentum": momentum, "power_of_two": power_of_two}
    inputs = {path: ActivationFactor(rule, dim=features(module), **options) for path, module in found.items()}
    gradients = {path: GradientFactor(rule, dim=features(module), **options) for path, module in found.items()}
    reached: set[str] = set()

    def see(path: str, kind: str, module: nn.Module, tensor: Tensor) -> None:
        reached.add(path)
        if isinstance(module, nn.Embedding):
            return
        check_real(f"{'input' if kind == 'activation' else 'output gradient'} of {path}", tensor)
        if kind in parts:
            (inputs if kind == "activation" else gradients)[path].observe(tensor)

    before = watch(model, found, batches, loss, see)
    if missing := found.keys() - reached:
        if strict:
            raise ValueError(f"example: no batch reached {', '.join(sorted(missing))}; strict=False leaves it as it is")
        left |= dict.fromkeys(sorted(missing), "no batch reached it")
        found = {path: module for path, module in found.items() if path in reached}
    weights = _divide_weights(found, rule, power_of_two, "weight" in parts)
    for path, module in found.items():
        own = (None, None) if isinstance(module, nn.Embedding) else (inputs[path], gradients[path])
        for scaling in (weights[path], *own):
            if scaling is not None:
                scaling.to(module.weight.device).train(module.training)
        attach_factors(module, weights[path], *own)
    _verify(model, batches[0], loss, before)
    for module in measured_modules(model).values():
        module.formats = formats
    return left


def _divide_weights(
    found: dict[str, nn.Module], rule: str, power_of_two: bool, wanted: bool
) -> dict[str, WeightFactor]:
    """Measure every weight and divide it, a shared one once; its scaling is shared likewise."""
    shared: dict[int, WeightFactor] = {}
    scalings = {}
    for path, module in found.items():  # before any is divided
        check_real(f"{path}.weight", module.weight)
    for path, module in found.items():
        weight = module.weight
        if id(weight) not in shared:
            scaling = shared[id(weight)] = WeightFactor(rule, power_of_two=power_of_two)
            if wanted:
                scaling.observe(weight)
                with torch.no_grad():
                    weight.div_(scaling.value)
        scalings[path] = shared[id(weight)]
    return scalings


def _verify(model: nn.Module, batch: Any, loss: Loss | None, before: Any) -> None:
    """Hold the scaled model to the plain one's output: a weight read past its module would be off by its α."""
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


def exponent_bits(tensor: Tensor, share: float = 1e-3) -> int:
    """The fewest exponent bits that hold ``tensor`` but for a ``share`` of its energy Σx².

    A format of e exponent bits has bias 2^(e−1) − 1 and its all-ones exponent reserved, as IEEE 754 has it, so its
    normal numbers have magnitudes in [2^(2 − 2^(e−1)), 2^(2^(e−1))), about 1: [1, 4) for e = 2, [2^-2, 2^4) for 3,
    [2^-6, 2^8) for 4, [2^-14, 2^16) for 5, [2^-126, 2^128) for 8. Counted as lost is the energy of every entry outside
    (subnormals too). The default share, 30 dB below the signal, is the rounding error of E4M3's three mantissa bits.
    0 for a tensor of zeros.

    Raises:
        TypeError: an integer or complex tensor. ValueError: no entries, or some that are not finite.
    """
    check_real("tensor", tensor)
    if not 0 <= share < 1:
        raise ValueError(f"share: {share} is no share of the energy; give 0 ≤ share < 1")
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
    """Exponent bits that one tensor needs, as the plain model has it and as the scaled model's GEMM reads it."""

    module: str
    tensor: str
    before: int
    after: int


@dataclass(frozen=True)
class RangeReport:
    """The ranges of a scaled model's operands; the definition is that of :func:`exponent_bits`."""

    ranges: tuple[OperandRange, ...]
    share: float

    @property
    def before(self) -> int:
        """The exponent bits that all of the plain model's operands fit."""
        return max(row.before for row in self.ranges)

    @property
    def after(self) -> int:
        """The exponent bits that all of the scaled model's operands fit."""
        return max(row.after for row in self.ranges)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON takes it."""
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
    """The exponent bits that each operand of a scaled ``model`` needs, before and after scaling, on ``example``.

    ``model`` comes from :func:`~allometry.nn.scale_model` with a measured rule. Gradients are seen only with a
    ``loss``. Over several batches (or uses of a module) the most bits count.

    Raises:
        ValueError: the model has no scaled modules.
    """
    modules = measured_modules(model)
    if not modules:
        raise ValueError("model: has no scaled modules; give what nn.scale_model(..., rule='absmax') returned")
    bits: dict[tuple[str, str], tuple[int, int]] = {}

    def note(path: str, tensor: str, before: Tensor, after: Tensor) -> None:
        old = bits.get((path, tensor), (0, 0))
        new = exponent_bits(before, share), exponent_bits(after, share)
        bits[path, tensor] = max(old[0], new[0]), max(old[1], new[1])

    def see(path: str, kind: str, module: nn.Module, tensor: Tensor) -> None:
        if isinstance(module, nn.Embedding):
            return
        scaling = module.input_factor if kind == "activation" else module.grad_factor
        note(path, kind, tensor, tensor / scaling.value)

    for path, module in modules.items():
        note(path, "weight", module.unscaled_weight(), module.weight)
    watch(model, modules, batches_of(example), loss, see)
    order = {path: index for index, path in enumerate(modules)}
    found = sorted(bits.items(), key=lambda item: (order[item[0][0]], PARTS.index(item[0][1])))
    return RangeReport(tuple(OperandRange(path, tensor, *counts) for (path, tensor), counts in found), share)

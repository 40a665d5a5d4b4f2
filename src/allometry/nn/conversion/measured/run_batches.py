"""Run a model on example batches and look at what its modules read, without changing the model.

A model runs in its current mode, training or evaluation (an untrained batch norm gives other numbers in the two).
Afterwards its buffers, its gradients and the random generators are as before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...checks.probe import tensors_in
from .measured_factors import MeasuredFactor, check_real

Loss = Callable[..., Tensor]  # of (output, targets), or of the output alone for batches without targets
Observe = Callable[[str, str, nn.Module, Tensor], None]


def batches_of(example: Any) -> list[Any]:
    """The batches in ``example``: a tensor, tuple or dictionary is one batch, any other iterable holds several.

    Raises:
        TypeError: not a batch and not an iterable; a complex tensor.
        ValueError: no batch; entries that are not finite.
    """
    if isinstance(example, Tensor | tuple | dict):
        batches = [example]
    elif isinstance(example, Iterable):
        batches = list(example)
    else:
        raise TypeError(
            f"example: {type(example).__name__} is not a batch; give a tensor, tuple, dict or batches of them"
        )
    if not batches:
        raise ValueError("example: no batches; there must be at least one to measure on")
    single = len(batches) == 1
    for index, batch in enumerate(batches):
        for name, tensor in tensors_in(batch, "example" if single else f"example[{index}]"):
            if tensor.is_floating_point() or tensor.is_complex():
                check_real(name, tensor)
    return batches


def call(model: nn.Module, inputs: Any) -> Any:
    """The output of ``model`` for a tensor, positional arguments (tuple, list) or named arguments (dictionary)."""
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
    """Restore buffers and generators at the end; running factors do not move inside."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    factors = [module for module in model.modules() if isinstance(module, MeasuredFactor)]
    modes = [factor.training for factor in factors]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        for factor in factors:
            factor.training = False
        try:
            yield
        finally:
            for factor, mode in zip(factors, modes, strict=True):
                factor.training = mode
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def run_batches(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: list[Any], loss: Loss | None, observe: Observe
) -> Any:
    """Run ``model`` on all batches and call ``observe`` with the inputs and output gradients of ``modules``.

    ``observe(path, kind, module, tensor)`` gets inputs (kind "activation") and, if there is a ``loss``, gradients of
    outputs (kind "gradient"). Returns the output (or loss) of the first batch.
    """
    first: Any = None
    with undisturbed(model), ExitStack() as hooks:
        for path, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(_input_hook(path, observe), with_kwargs=True).remove)
            if loss is not None:
                hooks.callback(module.register_forward_hook(_gradient_hook(path, observe)).remove)
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


def _input_hook(path: str, observe: Observe) -> Callable:
    return lambda module, args, kwargs: observe(path, "activation", module, args[0] if args else kwargs["input"])


def _gradient_hook(path: str, observe: Observe) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda grad: observe(path, "gradient", module, grad))

    return hook

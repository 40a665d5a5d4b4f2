"""A member of a family of modules: built on the meta device, its parameters and FLOPs counted, its faults refused."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ... import nn as unit
from ...config.model import ModelConfig, ModuleConfig
from ...config.task import TaskConfig
from ...errors import UserError
from ..families import family_of
from .module_code import Code, function_of, user_code

CHECKED, CHECKED_ROWS = 3, 4  # widths, and rows of random data, of the coordinate check
ROWS = 2  # of the batch that is counted: one alone is a special case of some modules


def member(
    code: Code, width: int, task: TaskConfig, context: int, fields: dict[str, Any], parametrization: str
) -> ModuleConfig:
    """The member of a width, with its counts.

    ``fields`` and what the task tells a module (``shape`` and ``classes`` of images, ``vocab_size`` and ``context`` of
    texts) are passed by name, the latter where the function takes them.

    Raises:
        UserError: the module cannot be built, has no parameters, or does not return what the task needs.
    """
    function = function_of(code.fingerprint, code.source, code.function)
    offered, shape, high, units = task.of_module(context)
    accepted = inspect.signature(function).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in accepted.values())
    for name in fields:
        if name not in accepted and not takes_any:
            raise UserError(f"family {code.source}: {code.function} takes no {name!r}")
    offered = {name: value for name, value in offered.items() if name in accepted or takes_any}
    given: dict[str, Any] = {"code": code.fingerprint, "function": code.function, "source": code.source, "width": width}
    given |= {"fields": _plain(offered | fields), "parametrization": parametrization}
    given |= {"input_shape": shape, "input_high": high, "units": units}
    bare = ModuleConfig.model_construct(family="module", **given)
    with user_code(code.source):
        counted, flops, row_bytes = _count(bare, task)
    return ModuleConfig.parse(given | {"counted": counted, "unit_flops": flops / units, "row_bytes": row_bytes})


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def plain_module(config: ModuleConfig) -> nn.Module:
    """The module that the function of a member returns.

    Raises:
        UserError: it is no module, or has no parameters to train.
    """
    function = function_of(config.code, config.source, config.function)
    with user_code(config.source):
        model = function(config.width, **config.fields)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"family {config.source}: {config.function} returned {type(model).__name__}, no torch.nn.Module"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"family {config.source}: at width {config.width} the module has no parameters to train")
    return model


def inputs_of(config: ModuleConfig, rows: int, device: str = "cpu") -> Tensor:
    """Random inputs of a member."""
    shape = (rows, *config.input_shape)
    if config.input_high:
        return torch.randint(config.input_high, shape, device=device)
    return torch.randn(shape, device=device)


def _count(config: ModuleConfig, task: TaskConfig) -> tuple[tuple[int, int, int], float, float]:
    """Parameters (non-embedding, matmul, total), FLOPs of a row, bytes that a row keeps for the backward pass."""
    try:
        with torch.device("meta"):
            model = plain_module(config)
            return _counted(config, task, model, inputs_of(config, ROWS, "meta"))
    except (NotImplementedError, RuntimeError, UserError):  # code that computes with values when it builds
        with torch.random.fork_rng(devices=[]):
            return _counted(config, task, plain_module(config), inputs_of(config, ROWS))


def _counted(
    config: ModuleConfig, task: TaskConfig, model: nn.Module, inputs: Tensor
) -> tuple[tuple[int, int, int], float, float]:
    last: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda one, *_: last.append(one))
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    saved = 0
    seen: set[int] = {id(parameter) for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        if id(tensor) not in seen:
            seen.add(id(tensor))
            saved += tensor.numel() * tensor.element_size()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = model(inputs)
        _check_output(config, task, output, inputs)
        output.float().sum().backward()
    for hook in hooks:
        hook.remove()
    total = sum(parameter.numel() for parameter in model.parameters())
    tables = [module.weight for module in model.modules() if type(module).__name__ == "Embedding"]
    used = {id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)
            if type(module).__name__ != "Embedding"}  # fmt: skip
    looked_up = sum(table.numel() for table in tables if isinstance(table, Tensor) and id(table) not in used)
    head = sum(parameter.numel() for parameter in last[-1].parameters(recurse=False)) if len(last) > 1 else 0
    matmul = total - looked_up
    return (max(1, matmul - head), matmul, total), float(counter.get_total_flops()) / ROWS, saved / ROWS


def _check_output(config: ModuleConfig, task: TaskConfig, output: Any, inputs: Tensor) -> None:
    classes = getattr(task, "classes", None) or getattr(task, "vocab_size", 0)
    wanted = (len(inputs), classes) if config.input_high == 0 else (*inputs.shape, classes)
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"family {config.source}: from inputs {tuple(inputs.shape)} the module returns {what}; the task "
            f"{task.name} needs logits of shape {wanted}"
        )


def check_members(family: Sequence[ModelConfig]) -> None:
    """Refuse a family whose members do not differ, and one that is not the same for the same seed.

    Raises:
        UserError: it ignores the width, or is not deterministic.
    """
    members = [one for one in family if isinstance(one, ModuleConfig)]
    first = members[0]
    if len({member.width for member in members}) > 1 and len({member.num_params_total for member in members}) == 1:
        raise UserError(
            f"family {first.source}: every width has {first.num_params_total} parameters; it ignores the width"
        )
    states, outputs = [], []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = plain_module(first)
            states.append(model.state_dict())
            with user_code(first.source):
                outputs.append(model.eval()(inputs_of(first, ROWS)))
    finite = all(torch.isfinite(one).all() for one in states[0].values() if one.is_floating_point())
    if not finite or not torch.isfinite(outputs[0]).all():
        what = "its outputs" if finite else "its first weights"
        raise UserError(f"family {first.source}: {what} are NaN or infinite before any training")
    same = all(torch.equal(one, states[1][name]) for name, one in states[0].items() if one.is_floating_point())
    if not same or not torch.equal(*outputs):
        what = "its outputs" if same else "its first weights"
        raise UserError(f"family {first.source}: {what} differ for the same seed; draw from torch's generator only")


def transfer_note(members: Sequence[ModelConfig], task: TaskConfig) -> str:
    """Whether one learning rate will serve a family, by the coordinate check of its narrower members, in a sentence."""
    modules = {one.width: one for one in members if isinstance(one, ModuleConfig)}
    widths = sorted(modules)[:CHECKED]
    classes = getattr(task, "classes", None) or getattr(task, "vocab_size", 2)

    def build(width: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        one = modules[width]
        generator = torch.Generator().manual_seed(0)
        inputs = torch.empty(CHECKED_ROWS, *one.input_shape).normal_(generator=generator)
        shape: tuple[int, ...] = (CHECKED_ROWS,)
        if one.input_high:
            shape = (CHECKED_ROWS, *one.input_shape)
            inputs = torch.randint(one.input_high, shape, generator=generator)
        return family_of(one).build(one, 0), (inputs, torch.randint(classes, shape, generator=generator))

    try:
        checked = unit.coord_check(build, widths, steps=2, seeds=(0, 1))
    except (ValueError, TypeError, RuntimeError, UserError) as error:
        return f"coordinate check: it cannot be done on this module ({' '.join(str(error).split())})"
    over = f"widths {widths[0]} to {widths[-1]}"
    if checked.ok:
        return f"coordinate check: ok over {over}: one learning rate should serve them all"
    bad, count = len(checked.failures), len(checked.rows)
    how = ", ".join(sorted({row.verdict for row in checked.failures}))
    return (
        f"coordinate check: {bad} of {count} activations drift over {over} ({how}): the best learning rate changes "
        'with the width; take parametrization = "umup", a sweep, or widths that lie close'
    )

"""From a parameter's place in the module tree to its role, and from the role to multiplier, init and learning rate.

Nothing is stored on tensors. A layer names the roles of its own parameters, the module tree gives the number of
residual branches around it, and a scheme's table (:mod:`allometry.nn.schemes`) turns the role into numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from .layers.with_parameters import Parametrized
from .schemes import KINDS, Base, Role, scheme

UNDRAWN = ("bias", "gain")  # not random: they start at 0 and at 1


def parametrize(model: nn.Module, name: str = "umup", base: Base | None = None) -> nn.Module:
    """Apply the scheme ``name`` to every layer of ``model``, in place; returns the model.

    ``name`` is "sp", "mup", "umup", "completep" or "mus"; ``base`` holds the constants of the scheme. Weights are
    rescaled from the deviation of the old scheme to that of the new one, so the same seed gives the same draw. Create
    optimisers after this call.

    Raises:
        ValueError: the scheme is unknown, or a parameter has no role.
    """
    scheme(name)
    roles(model)
    base = base or Base()
    # A shared weight has a deviation under each of its names; it takes the smallest, and is rescaled once.
    before = _deviations(model)
    for _, module, branches in _walk(model):
        if isinstance(module, Parametrized):
            module.adopt(name, base, branches)
    after = _deviations(model)
    with torch.no_grad():
        for key, (parameter, std) in after.items():
            parameter.mul_(std / before[key][1])
    return model


def _deviations(model: nn.Module) -> dict[int, tuple[nn.Parameter, float]]:
    """Every randomly drawn weight by identity, with its deviation under the scheme."""
    deviations: dict[int, tuple[nn.Parameter, float]] = {}
    for _, module, key, parameter, _ in _parameters(model):
        if isinstance(module, Parametrized) and module.roles[key] not in UNDRAWN:
            std = module.init_std(key)
            _, smallest = deviations.get(id(parameter), (parameter, std))
            deviations[id(parameter)] = parameter, min(std, smallest)
    return deviations


def distinct(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter once, under its first name in the module tree, whatever names a wrapper gives it."""
    seen = set()
    for name, _, _, parameter, _ in _parameters(model):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, parameter


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter of ``model``, by its name in the module tree; a shared one under each of its names.

    It works through every wrapper that leaves the modules in place: DistributedDataParallel, fully_shard,
    torch.compile, activation checkpointing.

    Raises:
        ValueError: a parameter's module names no role for it, or an unknown one.
    """
    by_name: dict[str, Role] = {}
    for name, module, key, _, branches in _parameters(model):
        if not isinstance(module, Parametrized) or module.roles.get(key) is None:
            raise ValueError(
                f"{name}: {type(module).__name__} names no role for it; use the layers of allometry.nn, convert "
                "the model by nn.scale_model(model, example, rule='unit'), or derive the layer from nn.Parametrized"
            )
        if module.roles[key] not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise ValueError(f"{name}: role {module.roles[key]!r} is unknown; there are {known}")
        by_name[name] = module.role(key, branches)
    return by_name


def learning_rate_factors(model: nn.Module) -> dict[str, float]:
    """The factor on the base learning rate, for every parameter by name.

    A parameter with several names (a tied embedding) appears once, with the smallest of its factors.
    """
    by_name = roles(model)
    factors: dict[str, float] = {}
    first: dict[int, str] = {}
    for name, module, _, parameter, _ in _parameters(model):
        if isinstance(module, Parametrized):
            role = by_name[name]
            factor = scheme(module.scheme).rate[role.kind](role, module.base)
            name = first.setdefault(id(parameter), name)
            factors[name] = min(factor, factors.get(name, factor))
    return factors


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter, int]]:
    """Every parameter under each of its names: name, module, name in the module, parameter, residual branches."""
    for path, module, branches in _walk(model):
        for key, parameter in module.named_parameters(recurse=False):
            yield (f"{path}.{key}" if path else key), module, key, parameter, branches


def _walk(module: nn.Module, path: str = "", branches: int = 1) -> Iterator[tuple[str, nn.Module, int]]:
    """Every module with its path and the number of residual branches: ``branches`` of the nearest module with it."""
    branches = getattr(module, "branches", branches)
    yield path, module, branches
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, branches)

"""From the place of a parameter in the module tree to its role, and from its role to multiplier, init and rate.

Nothing is kept on tensors. A layer names the roles of its own parameters, the walk down the tree adds the residual
branches around it, and a scheme's table (:mod:`allometry.nn.schemes`) turns the role into numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from .layers.with_parameters import Parametrized
from .schemes import KINDS, Base, Role, scheme

UNDRAWN = ("bias", "gain")  # begin at 0 and at 1


def parametrize(model: nn.Module, name: str = "umup", base: Base | None = None) -> nn.Module:
    """Put every layer of ``model`` under the scheme ``name``; returns the model, changed in place.

    ``name`` is "sp", "mup", "umup", "completep" or "mus"; ``base`` holds the constants of the scheme. Weights are
    rescaled from the deviation of the scheme before to that of the new one, so that the same seed gives the same draw.
    Optimisers made before must be made again.

    Raises:
        ValueError: the scheme is unknown, or a parameter has no role.
    """
    scheme(name)
    roles(model)
    base = base or Base()
    # A shared weight has a deviation under each of its names, the least of which holds, and is rescaled once.
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
    """Every drawn weight by identity, with the deviation of its scheme."""
    found: dict[int, tuple[nn.Parameter, float]] = {}
    for _, module, _ in _walk(model):
        for key, parameter in module.named_parameters(recurse=False):
            if module.roles[key] not in UNDRAWN:
                std = module.init_std(key)
                found[id(parameter)] = (parameter, min(std, found.get(id(parameter), (None, std))[1]))
    return found


def distinct(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter once, under its first name in the tree, which wrappers with names of their own cannot hide."""
    seen = set()
    for path, module, _ in _walk(model):
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield (f"{path}.{key}" if path else key), parameter


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter of ``model``, by its name in the module tree; a shared one under each of its names.

    Works through whatever wraps a model without moving its modules: DistributedDataParallel, fully_shard,
    torch.compile, activation checkpointing.

    Raises:
        ValueError: a parameter sits in a module that names no role for it, or an unknown one.
    """
    found: dict[str, Role] = {}
    for path, module, branches in _walk(model):
        for key, _ in module.named_parameters(recurse=False):
            full = f"{path}.{key}" if path else key
            kind = module.roles.get(key) if isinstance(module, Parametrized) else None
            if kind is None:
                raise ValueError(
                    f"{full}: {type(module).__name__} names no role for it; use the layers of allometry.nn, convert "
                    "the model by nn.scale_model(model, example, rule='unit'), or derive the layer from nn.Parametrized"
                )
            if kind not in KINDS:
                raise ValueError(f"{full}: role {kind!r} is unknown; there are {', '.join(map(repr, KINDS))}")
            found[full] = module.role(key, branches)
    return found


def learning_rate_factors(model: nn.Module) -> dict[str, float]:
    """What to multiply the base learning rate with, for every parameter by name.

    A parameter that serves under several names (a tied embedding) appears once and takes the least of their factors.
    """
    by_role = roles(model)
    factors: dict[str, float] = {}
    first: dict[int, str] = {}
    for path, module, _ in _walk(model):
        for key, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{key}" if path else key
            role = by_role[full]
            factor = scheme(module.scheme).rate[role.kind](role, module.base)
            name = first.setdefault(id(parameter), full)
            factors[name] = min(factor, factors.get(name, factor))
    return factors


def _walk(module: nn.Module, path: str = "", branches: int = 1) -> Iterator[tuple[str, nn.Module, int]]:
    """Every module with its path and the residual branches around it: the ``branches`` of the nearest that counts."""
    branches = getattr(module, "branches", branches)
    yield path, module, branches
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, branches)

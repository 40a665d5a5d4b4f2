"""From the place of a parameter in the module tree to its role, and from its role to multiplier, init and rate.

Nothing is kept on tensors. A layer names the roles of its own parameters, the walk down the tree adds the residual
branches around it, and a scheme's table (:mod:`allometry.nn.schemes`) turns the role into numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from .layers import Parametrized
from .schemes import KINDS, Base, Role, scheme
from .transformer import ResidualStack, TransformerBlock


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
    for _, module, branches in _walk(model):
        if not isinstance(module, Parametrized):
            continue
        weights = [(key, p) for key, p in module.named_parameters(recurse=False) if _drawn(module, key)]
        before = {key: module.init_std(key, branches) for key, _ in weights}
        module.adopt(name, base, branches)
        with torch.no_grad():
            for key, parameter in weights:
                parameter.mul_(module.init_std(key, branches) / before[key])
    return model


def _drawn(module: Parametrized, key: str) -> bool:
    return module.roles[key] not in ("bias", "gain")


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
            kind = getattr(module, "roles", {}).get(key)
            if kind is None:
                raise ValueError(
                    f"{full}: {type(module).__name__} names no role for it; use the layers of allometry.nn, convert "
                    "the model with nn.scale_model(model, example, rule='unit'), or derive the layer from nn.Parametrized"
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
    """Every module with its path and the number of residual branches around it."""
    if isinstance(module, ResidualStack | TransformerBlock):
        branches = module.branches
    yield path, module, branches
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, branches)

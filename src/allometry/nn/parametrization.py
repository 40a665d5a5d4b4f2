"""From the place of a parameter in the module tree to its learning rate: u-μP.

In u-μP all weights start as unit normals and the forward factors are the layers' own, so the scheme is one column,
the Adam learning rate by role (arXiv 2407.17465, table 2). One base rate then serves every width and depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from .layers import ResidualStack


@dataclass(frozen=True)
class Role:
    """What a parameter is for: ``kind`` is input, hidden or output; ``branches`` those that share its stream."""

    kind: str
    fan_in: int
    fan_out: int
    branches: int = 1


# The Adam rate of each kind of weight, as a factor on the base rate.
UMUP: dict[str, Callable[[Role], float]] = {
    "input": lambda role: 1 / math.sqrt(role.fan_out),
    "hidden": lambda role: 1 / math.sqrt(role.fan_in * role.branches),
    "output": lambda role: 1.0,
}


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter of ``model``, by its name in the module tree.

    Raises:
        ValueError: a parameter sits in a module that names no role for it.
    """
    found: dict[str, Role] = {}
    for path, module, branches in _walk(model):
        for name, parameter in module.named_parameters(recurse=False):
            kind = getattr(module, "roles", {}).get(name)
            full = f"{path}.{name}" if path else name
            if kind is None:
                raise ValueError(
                    f"{full}: {type(module).__name__} names no role for it; use the layers of allometry.nn"
                )
            # A table's rows are looked up, not summed: the fan-in of an embedding is its vocabulary.
            shape = parameter.shape if kind == "input" else parameter.shape[::-1]
            found[full] = Role(kind, fan_in=shape[0], fan_out=shape[1], branches=branches)
    return found


def learning_rate_factors(model: nn.Module) -> dict[str, float]:
    """What to multiply the base learning rate with, for every parameter by name."""
    return {name: UMUP[role.kind](role) for name, role in roles(model).items()}


def _walk(module: nn.Module, path: str = "", branches: int = 1) -> Iterator[tuple[str, nn.Module, int]]:
    """Every module with its path and the number of residual branches around it."""
    if isinstance(module, ResidualStack):
        branches = module.branches
    yield path, module, branches
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, branches)

"""Which modules and functions belong to this package: the one definition that the checks and the unit rule use."""

from __future__ import annotations

from typing import Any

from torch import nn

PACKAGE = __name__.rpartition(".")[0] + "."  # the names of our modules begin with this


def is_ours(thing: Any) -> bool:
    """Whether a class or a function is defined in this package."""
    return getattr(thing, "__module__", "").startswith(PACKAGE)


def has_ours(model: nn.Module) -> bool:
    """Whether any module of the model is one of this package."""
    return any(is_ours(type(module)) for module in model.modules())

"""What a name in a configuration stands for: an object of this package, or one that an installed package declares.

A package declares, say, a trainer by an entry point of the group ``allometry.trainers``. Nothing is imported before
its name is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import UserError


def load(kind: str, name: str, built_in: Mapping[str, str]) -> Any:
    """The object called ``name`` among ``built_in`` ("module:attribute" by name), or the entry point of that name.

    ``kind`` is the plural of what is looked for ("trainers"), which names the group of entry points.

    Raises:
        UserError: there is no such name.
    """
    if name in built_in:
        module, _, attribute = built_in[name].partition(":")
        return getattr(import_module(module), attribute)
    declared = declaration(kind, name)
    if declared is None:
        raise UserError(f"{name}: not one of the {kind} ({', '.join(built_in)}), and no installed package declares it")
    return declared


def declaration(kind: str, name: str) -> Any:
    """What an installed package declares by that name, imported; None if none does."""
    for entry in entry_points(group=f"allometry.{kind}", name=name):
        return entry.load()
    return None

"""Trainers by the name that a run's configuration gives (``trainer.name``); each is imported when it is asked for."""

from __future__ import annotations

from ..extras import require
from ..plugins import load
from .contract import Trainer

TRAINERS = {"built_in": "allometry.trainers.built_in:BuiltIn"}
LIBRARIES = {"built_in": ("torch", "safetensors")}  # that they need, beyond what a ladder needs anyway


def trainer_named(name: str) -> Trainer:
    """A new trainer of that name.

    Raises:
        UserError: there is none, or a library that it needs is not installed.
    """
    require(*LIBRARIES.get(name, ()))
    return load("trainers", name, TRAINERS)()

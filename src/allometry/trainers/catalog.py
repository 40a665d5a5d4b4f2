"""Trainers by the name that a run's configuration gives (``trainer.name``); each is imported when it is asked for."""

from __future__ import annotations

from ..extras import require_trainer
from ..plugins import load
from .contract import Trainer

TRAINERS = {"built_in": "allometry.trainers.built_in:BuiltIn", "script": "allometry.trainers.script:Script"}


def trainer_named(name: str) -> Trainer:
    """A new trainer of that name.

    Raises:
        UserError: there is none, or a library that it needs is not installed.
    """
    require_trainer(name)
    return load("trainers", name, TRAINERS)()

"""Tasks by the name that a run's configuration gives (``task.name``); each is imported when it is asked for."""

from __future__ import annotations

from ..plugins import load
from .contract import TaskSource

TASKS = {
    "text": "allometry.tasks.text:TEXT",
    "distilled_text": "allometry.lm.distillation.distilled_text:DISTILLED_TEXT",
    "audio": "allometry.tasks.next_samples:AUDIO",
    "images": "allometry.tasks.image_classes:IMAGES",
    "translation": "allometry.tasks.answers:PAIRS",
    "summaries": "allometry.tasks.answers:PAIRS",
    "questions": "allometry.tasks.answers:PAIRS",
}


def task_named(name: str) -> TaskSource:
    """What opens the tasks of that name.

    Raises:
        UserError: there is no such task.
    """
    return load("tasks", name, TASKS)

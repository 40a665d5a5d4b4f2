"""The built-in trainer: one trunk, or several that step alike as one batched model; bit-equal when interrupted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from ..config.run import RunConfig
from ..lm.modules.module_code import offer
from ..lm.training.step_seconds import step_seconds
from ..lm.training.train_batched import train_batched
from ..lm.training.train_trunk import train_trunk
from ..runs.hooks import SILENT, Hooks
from ..runs.job import Job
from ..runs.study import Study
from ..tasks.catalog import task_named
from ..tasks.contract import OpenTask


class BuiltIn:
    """Trains any family on any task, by as many threads as OMP_NUM_THREADS says. See :class:`.contract.Trainer`."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._tasks: dict[tuple[str, str], OpenTask] = {}  # the data of a study are opened once

    def train(self, job: Job, study: Study, hooks: Hooks = SILENT, follows: int | None = None) -> None:
        offer(study.path)  # the code of its models, if they are the user's
        key = str(study.path), job.configs[0].task.name
        if key not in self._tasks:
            self._tasks[key] = task_named(key[1]).open(study.corpus_path)
        open_task = self._tasks[key]
        for config in job.configs:
            open_task(config)  # refuses a run that was planned for other data, before any is trained
        together = len({config.trunk for config in job.configs}) > 1
        (train_batched if together else train_trunk)(job, open_task, study, hooks, follows=follows)

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        return [step_seconds(config, models) for config in configs]

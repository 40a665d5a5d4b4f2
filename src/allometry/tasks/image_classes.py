"""Name the class of an image; scored by cross-entropy in nats and by accuracy on held-out images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..config.run import RunConfig
from ..config.task import ImagesConfig
from ..data.task_data.sample_set import Samples
from ..errors import UserError
from ..nn import functional as F
from ..nn.own_modules import has_ours
from ..quantities import Score
from .contract import ALONE, Batch, OpenTask, Processes
from .sample_order import SampleOrder, evaluating, turns

EVALUATED = 256  # images at a time
_unit_scaled: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # to ask it at every step costs some per cent


class ImagesTask:
    """Classes of images, for models (rows, channels, height, width) → (rows, classes). See :class:`.contract.Task`."""

    name = "images"
    unit = ImagesConfig.unit

    def __init__(self, samples: Samples, seed: int):
        self.fingerprint = samples.fingerprint
        self.order = SampleOrder(samples.size, seed)
        sides = samples.train, samples.held_out
        self.train, self.held_out = ((torch.from_numpy(side["x"]), torch.from_numpy(side["y"])) for side in sides)
        self.guess = math.log(int(samples.facts["classes"]))

    def batch(self, first: int, rows: int) -> Batch:
        chosen = torch.from_numpy(self.order.rows(first, rows))
        return self.train[0][chosen], self.train[1][chosen]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return cross_entropy_of(model, model(images), labels)

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        images, labels = self.held_out
        device = next(model.parameters()).device
        of_samples = torch.zeros(2, len(labels), dtype=torch.float64, device=device)
        with evaluating(model):
            for number, counts in turns(-(-len(labels) // EVALUATED), processes):
                part = slice(number * EVALUATED, (number + 1) * EVALUATED)
                targets = labels[part].to(device)
                logits = model(images[part].to(device)).double()
                if counts:
                    of_samples[0, part] = nn.functional.cross_entropy(logits, targets, reduction="none")
                    of_samples[1, part] = (logits.argmax(1) == targets).double()
        losses, right = processes.sum(of_samples)
        return {"loss": mean_of(losses), "accuracy": mean_of(right)}


def cross_entropy_of(model: nn.Module, logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """The mean cross-entropy; its gradient at unit scale for a model of our layers."""
    if model not in _unit_scaled:
        _unit_scaled[model] = has_ours(model)
    function = F.cross_entropy if _unit_scaled[model] else nn.functional.cross_entropy
    return function(logits, targets, **options)


def mean_of(values: Tensor) -> Score:
    """The mean of independent values and its standard error."""
    error = values.std(correction=1).item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Score(values.mean().item(), error)


class _Images:
    """Opens image tasks. See :class:`.contract.TaskSource`."""

    def open(self, folder: Path, verify: bool = True) -> OpenTask:
        samples = Samples.load(folder, verify)

        def task_of(config: RunConfig) -> ImagesTask:
            if config.task.fingerprint != samples.fingerprint:
                raise UserError(f"{folder.parent}: run {config.id} was planned for other images than this study holds")
            return ImagesTask(samples, config.train.seed)

        return task_of

    def stand_in(self, config: RunConfig) -> ImagesTask:
        """On random images, enough for one batch of the run."""
        task = config.task
        if not isinstance(task, ImagesConfig):
            raise TypeError(f"task {task.name} has no images")
        count = max(2, config.train.batch_tokens)
        rng = np.random.default_rng(0)
        x = rng.random((count, *task.shape), dtype=np.float32)
        side = {"x": x, "y": rng.integers(task.classes, size=count)}
        samples = Samples("images", "random", side, side, {"shape": list(task.shape), "classes": task.classes})
        return ImagesTask(samples, 0)


IMAGES = _Images()

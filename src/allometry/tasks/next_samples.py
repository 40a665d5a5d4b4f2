"""Predict the next sample of speech: the task of text on another kind of bytes, scored by accuracy as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..quantities import Score
from .contract import ALONE, Processes
from .image_classes import mean_of
from .sample_order import evaluating
from .text import TextSource, TextTask, measure_windows


class AudioTask(TextTask):
    """Next samples of sound files. See :class:`.contract.Task`."""

    name = "audio"
    unit = "sample"

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        """Means over windows of the loss and of the share of samples that are the likeliest."""

        def measure(tokens: Tensor, targets: Tensor) -> Tensor:
            logits = model(tokens)
            each = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
            right = logits.argmax(-1) == targets
            return torch.stack([each.view(targets.shape).double().mean(1), right.double().mean(1)])

        with evaluating(model):
            losses, right = measure_windows(model, self.held_out, processes, measure, 2)
        return {"loss": mean_of(losses), "accuracy": mean_of(right)}


class AudioSource(TextSource):
    """Opens audio tasks. See :class:`.contract.TaskSource`."""

    task = AudioTask


AUDIO = AudioSource()

"""Predict the next sample of speech: the task of text on another kind of bytes, scored by accuracy as well."""

from __future__ import annotations

import torch
from torch import nn

from ..config.task import EVALUATED_TOKENS
from ..quantities import Score
from .contract import ALONE, Processes
from .image_classes import mean_of
from .sample_order import evaluating
from .text import TextSource, TextTask


class AudioTask(TextTask):
    """Next samples of sound files. See :class:`.contract.Task`."""

    name = "audio"
    unit = "sample"

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        """Means over windows of the loss and of the share of samples that are the likeliest."""
        tokens, targets = self.held_out
        device = next(model.parameters()).device
        rows = max(1, EVALUATED_TOKENS // tokens.shape[1])
        of_windows = torch.zeros(2, len(tokens), dtype=torch.float64, device=device)
        with evaluating(model):
            for number, begin in enumerate(range(0, len(tokens), rows)):
                if number % processes.size != processes.rank:
                    continue
                part = slice(begin, begin + rows)
                logits, wanted = model(tokens[part].to(device)), targets[part].to(device)
                each = nn.functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
                of_windows[0, part] = each.view(wanted.shape).double().mean(1)
                of_windows[1, part] = (logits.argmax(-1) == wanted).double().mean(1)
        losses, right = processes.sum(of_windows)
        return {"loss": mean_of(losses), "accuracy": mean_of(right)}


class AudioSource(TextSource):
    """Opens audio tasks. See :class:`.contract.TaskSource`."""

    task = AudioTask


AUDIO = AudioSource()

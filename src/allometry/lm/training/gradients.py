"""Gradients of one process: of one model's batch, in pieces that fit into memory; of several models as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ... import nn
from ...errors import UserError
from ...tasks.answers import PairsTask
from ...tasks.contract import Task
from ...tasks.text import TextTask
from .. import device as devices
from ..compiled.step import Step
from ..compiled.whole_step import LEFT_OUT
from ..decoder import LanguageModel
from .member import Member
from .stacked_models import Stack
from .step_memory import StepLimits, step_limits


class Gradients(Protocol):
    """Where the gradients of a step come from."""

    def backward(self, places: Sequence[tuple[int, int]]) -> list[float]:
        """Compute the gradients of a batch for each member, from its place (first row, rows); the mean losses."""
        ...

    def clear(self) -> None:
        """Put the gradients back to zero, once they have been used."""
        ...


class Pieces:
    """The gradients of one model: of one backward pass, or of equal pieces of the batch that fit into memory."""

    def __init__(self, member: Member, limits: StepLimits | None = None):
        self.member = member
        self.limits = limits or step_limits(member)
        self.cleared = True  # what lies there as gradients counts for nothing

    def backward(self, places: Sequence[tuple[int, int]]) -> list[float]:
        [(first, rows)] = places
        if not isinstance(self.member.model, LanguageModel):  # it may draw, as dropout does
            seed = hash((self.member.config.train.seed, first))
            if self.member.device.type == "cpu":
                torch.default_generator.manual_seed(seed)  # a tenth of the time of seeding every device
            else:
                torch.manual_seed(seed)
        pieces = [(first + begin, end - begin) for begin, end in shares(rows, max(1, rows // self.limits.rows))]
        if (step := self._whole_step()) is not None:
            return [self._by_whole_steps(step, pieces)]
        return [backward_in_pieces(self.member.task, self.member.model, pieces, rows)]

    def _whole_step(self) -> Step | None:
        """The model's step by kernels, if the task's loss is the model's and a step is one call."""
        model = self.member.model
        by_model = isinstance(self.member.task, TextTask | PairsTask)
        return model.whole_step if isinstance(model, LanguageModel) and by_model else None

    def _by_whole_steps(self, step: Step, pieces: Sequence[tuple[int, int]]) -> float:
        """The same without autograd."""
        rows, total, model = sum(count for _, count in pieces), 0.0, self.member.model
        assert isinstance(model, LanguageModel)
        for first, count in pieces:
            tokens, targets = self.member.task.batch(first, count)
            with nn.accumulation(rows / count):
                [loss] = step.gradients([model], tokens[None], targets[None], add=not self.cleared)
            self.cleared = False
            total += count / rows * loss * over_counted(self.member.task, targets)
        return total

    def clear(self) -> None:
        self.cleared = True
        if self._whole_step() is None:
            self.member.optimizer.zero_grad(set_to_none=True)


def over_counted(task: Task, targets: Tensor) -> float:
    """All positions over those that have a loss: the mean of the latter over that of all."""
    if isinstance(task, TextTask):
        return 1.0
    return targets.numel() / max(1, int((targets != LEFT_OUT).sum()))


class Stacked:
    """The gradients of several models of one shape, each of a batch of its own, by the operations of one model."""

    def __init__(self, members: Sequence[Member]):
        self.members = members
        models = [member.model for member in members if isinstance(member.model, LanguageModel)]
        if len(models) < len(members) or not all(member.config.stackable for member in members):
            raise UserError("only models of the built-in decoder, without its options, are trained as one")
        self.models = models
        self.step = models[0].whole_step  # which needs no stack
        self.stack = Stack(models) if self.step is None else None

    def backward(self, places: Sequence[tuple[int, int]]) -> list[float]:
        batches = [member.task.batch(*place) for member, place in zip(self.members, places, strict=True)]
        sides = [torch.stack(parts) for parts in zip(*batches, strict=True)]
        if self.step is not None:
            return self.step.gradients(self.models, *sides, add=False)
        assert self.stack is not None
        return self.stack.backward(*(devices.put(side, self.members[0].device) for side in sides))

    def clear(self) -> None:
        if self.stack is not None:
            self.stack.zero_grad()


def backward_in_pieces(
    task: Task,
    model: torch.nn.Module,
    pieces: Sequence[tuple[int, int]],
    rows: int,
    until_last: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> float:
    """Add the gradients of pieces (first row, rows) of a batch of ``rows``; their part of its mean loss.

    Their gradients carry the factor of the whole batch. A piece without rows takes one that counts for nothing.
    Passes before the last are within ``until_last()``.
    """
    device = next(model.parameters()).device
    part = 0.0
    for number, (first, count) in enumerate(pieces, 1):
        batch = tuple(devices.put(side, device) for side in task.batch(first, max(1, count)))
        apart = until_last() if number < len(pieces) else nullcontext()
        with nn.accumulation(rows=max(1, count), of=rows), apart:
            loss = task.loss(model, batch)
            (loss if count else 0.0 * loss).backward()
        part += count / rows * loss.item()
    return part


def shares(rows: int, parts: int) -> list[tuple[int, int]]:
    """Cut ``rows`` into consecutive parts as even as can be: begin and end of each."""
    ends = [rows * part // parts for part in range(parts + 1)]
    return list(pairwise(ends))

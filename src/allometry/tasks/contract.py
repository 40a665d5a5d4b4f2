"""The contract of a task: what is learned, batch by batch, and how what was learned is scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ..config.run import RunConfig
from ..quantities import Score

Batch = tuple[Tensor, ...]  # on the CPU; the first dimension of each tensor is the rows


class Processes(Protocol):
    """Processes that evaluate one model together, seen from one of them."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' tensors, in each of them."""
        ...


class _Alone:
    rank, size = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        return values


ALONE: Processes = _Alone()


class Task(Protocol):
    """What one run learns.

    ``fingerprint`` identifies the data; it is that of the run's configuration. ``unit`` is what the data are counted
    in: "token", "image".
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def guess(self) -> float:
        """The loss of a model that has learned nothing; a run that ends no better has diverged. ∞ if unknown."""
        ...

    def batch(self, first: int, rows: int) -> Batch:
        """Rows ``first`` to ``first + rows − 1`` of an endless sequence that the run's seed alone determines.

        A pure function: a run can be resumed at any row, and any number of processes share the rows of a batch.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, to be differentiated."""
        ...

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        """Scores on held-out data, "loss" first, then accuracies and the like; without gradients.

        With several ``processes``, each of which has the model and calls this, each takes a part of the data, and all
        return the scores of the whole.
        """
        ...


OpenTask = Callable[[RunConfig], Task]  # the task of a run


class TaskSource(Protocol):
    """Opens the tasks of one name; the catalog holds one for each."""

    def open(self, folder: Path, verify: bool = True) -> OpenTask:
        """A function from a run to its task, by the data in ``folder``; with ``verify`` every byte is checked.

        The function raises :class:`~allometry.errors.UserError` for a run that was planned for other data.

        Raises:
            UserError: the data are missing or damaged.
        """
        ...

    def stand_in(self, config: RunConfig) -> Task:
        """A task of the same shapes with random data, by which the speed of a training is measured."""
        ...

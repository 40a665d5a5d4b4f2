"""The task of a student: next tokens of a corpus, taught by a teacher's probabilities; scored as any text is."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from ...config.run import RunConfig
from ...config.task import DistilledTextConfig
from ...errors import UserError
from ...nn import functional as F
from ...tasks.contract import ALONE, Batch, OpenTask, Processes, Score
from ...tasks.text import TEXT, TextTask
from .teacher import Teacher, open_teacher


class DistilledText:
    """The windows of a text, and a teacher's probabilities for them. See :class:`allometry.tasks.contract.Task`.

    The teacher reads each batch when its loss is computed: nothing of it is stored, and the loss stays a function of
    the model and the batch alone, so a run is resumed, cut into pieces and shared among processes as any other.
    """

    name = "distilled_text"
    unit = DistilledTextConfig.unit

    def __init__(self, text: TextTask, teacher: Teacher, config: DistilledTextConfig):
        self.text, self.teacher, self.config = text, teacher, config
        self.fingerprint, self.guess = text.fingerprint, text.guess

    def batch(self, first: int, rows: int) -> Batch:
        return self.text.batch(first, rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens, targets = batch
        logits = model(tokens).flatten(0, 1)
        taught = self.teacher.logits(tokens, logits.shape[-1]).flatten(0, 1)
        options = {"temperature": self.config.temperature, "share": self.config.share}
        return F.distillation_loss(logits, taught, targets.flatten(), **options)

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        return self.text.evaluate(model, processes)


class DistilledTextSource:
    """Opens the tasks of students. See :class:`allometry.tasks.contract.TaskSource`."""

    def open(self, folder: Path, verify: bool = True) -> OpenTask:
        open_text = TEXT.open(folder, verify)
        teacher_of_study = lru_cache(1)(lambda: open_teacher(folder.parent))

        def task_of(config: RunConfig) -> DistilledText:
            text, task, teacher = open_text(config), config.task, teacher_of_study()
            assert isinstance(text, TextTask)
            if not isinstance(task, DistilledTextConfig) or task.teacher != teacher.facts.fingerprint:
                raise UserError(f"{folder.parent}: run {config.id} was planned for another teacher than this study has")
            return DistilledText(text, teacher, task)

        return task_of

    def stand_in(self, config: RunConfig) -> TextTask:
        """Text without a teacher: the time of its pass is not known before it is loaded."""
        return TEXT.stand_in(config)


DISTILLED_TEXT = DistilledTextSource()

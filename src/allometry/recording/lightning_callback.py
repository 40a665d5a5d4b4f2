"""A callback of Lightning's Trainer that records its run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from .recorder import Recorder
from .trainer_callback import UNFINISHED, scores_in


def for_lightning(
    study: str | Path, *, row_tokens: int, loss: str = "val_loss", train_loss: str = "train_loss", **stated: Any
) -> Any:
    """A ``lightning.pytorch.Callback`` that records the run into a study.

    The model is counted, the batch is rows of the first batch × accumulate_grad_batches × processes × ``row_tokens``,
    the rate is the optimiser's at the beginning, the seed is that of ``seed_everything``. The run is finished when the
    training ends, by the last validation.

    Args:
        row_tokens: units of data in one row of a batch: the length of a sequence, 1 for a classifier.
        loss: the logged metric that is the held-out loss; other metrics with "val_" become scores.
        train_loss: the logged metric of the training loss.
        stated: what else to state, or to state otherwise (``lr`` where it is warmed up), as for a
            :class:`~allometry.recording.recorder.Recorder`.
    """
    return _callback_class()(_LightningRun(study, row_tokens, loss, train_loss, stated))


class _LightningRun:
    """One run of Lightning's Trainer, as its hooks tell of it."""

    def __init__(self, study: str | Path, row_tokens: int, loss: str, train_loss: str, stated: dict[str, Any]) -> None:
        self.study, self.row_tokens, self.stated = study, row_tokens, stated
        self.loss, self.train_loss = loss, train_loss
        self.recorder: Recorder | None = None
        self.batch = 0
        self.scored: dict[str, Any] = {}

    def begin(self, trainer: Any, module: Any, batch: Any) -> None:
        """At the first batch, which says how many rows there are."""
        if self.recorder is not None:
            return
        self.batch = _rows(batch) * trainer.accumulate_grad_batches * trainer.world_size * self.row_tokens
        seed = os.environ.get("PL_GLOBAL_SEED")
        facts = {
            "model": module,
            "batch_tokens": self.batch,
            "lr": trainer.optimizers[0].param_groups[0]["lr"] or None,
            "seed": None if seed is None else int(seed),
            "rank": trainer.global_rank,
        }
        if trainer.max_steps > 0:
            facts["tokens"] = trainer.max_steps * self.batch
        self.recorder = Recorder(self.study, **(facts | self.stated))
        self.recorder.__enter__()

    def trained(self, trainer: Any) -> None:
        """After a step: a point of the curve, where Lightning logs."""
        step, value = trainer.global_step, trainer.callback_metrics.get(self.train_loss)
        if self.recorder is not None and value is not None and step and step % trainer.log_every_n_steps == 0:
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            self.recorder.log(step=step, tokens=step * self.batch, loss=value, lr=lr)

    def validated(self, trainer: Any) -> None:
        metrics = trainer.callback_metrics
        if self.recorder is not None and not trainer.sanity_checking and self.loss in metrics:
            self.scored = {name: float(value) for name, value in metrics.items()}
            step = trainer.global_step
            self.recorder.log(step=step, tokens=step * self.batch, val_loss=metrics[self.loss])

    def end(self, trainer: Any) -> None:
        """After the training: the run is finished by the last validation."""
        if self.recorder is None:
            return
        if self.loss not in self.scored:
            warnings.warn(UNFINISHED, stacklevel=3)
            return
        scores = scores_in(self.scored, self.loss, "val_")
        self.recorder.finish(loss=self.scored[self.loss], tokens=trainer.global_step * self.batch, **scores)
        self.leave(None)

    def leave(self, kind: type[BaseException] | None) -> None:
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.__exit__(kind)


def _callback_class() -> Any:
    """The callback, as a subclass of that of the Lightning that is installed."""
    try:
        from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
    except ImportError:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]

    class RecordLightningRun(Callback):
        def __init__(self, run: _LightningRun) -> None:
            super().__init__()
            self.run = run

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.run.begin(trainer, pl_module, batch)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.run.trained(trainer)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.run.validated(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.run.end(trainer)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.run.leave(type(exception))

    return RecordLightningRun


def _rows(batch: Any) -> int:
    """Rows of a batch: the first dimension of the first tensor in it."""
    while not hasattr(batch, "shape"):
        batch = next(iter(batch.values() if hasattr(batch, "values") else batch))
    return int(batch.shape[0])

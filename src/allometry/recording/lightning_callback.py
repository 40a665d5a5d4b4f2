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
    try:
        from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
    except ImportError:
        from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]

    class RecordLightningRun(Callback):
        run: Recorder | None = None
        batch = 0
        scored: dict[str, Any] = {}  # noqa: RUF012

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if self.run is not None:
                return
            self.batch = _rows(batch) * trainer.accumulate_grad_batches * trainer.world_size * row_tokens
            seed = os.environ.get("PL_GLOBAL_SEED")
            facts = {
                "model": pl_module,
                "batch_tokens": self.batch,
                "lr": trainer.optimizers[0].param_groups[0]["lr"] or None,
                "seed": None if seed is None else int(seed),
                "rank": trainer.global_rank,
            }
            if trainer.max_steps > 0:
                facts["tokens"] = trainer.max_steps * self.batch
            self.run = Recorder(study, **(facts | stated))
            self.run.__enter__()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            step = trainer.global_step
            value = trainer.callback_metrics.get(train_loss)
            if self.run is not None and value is not None and step and step % trainer.log_every_n_steps == 0:
                lr = trainer.optimizers[0].param_groups[0]["lr"]
                self.run.log(step=step, tokens=step * self.batch, loss=value, lr=lr)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            metrics = trainer.callback_metrics
            if self.run is not None and not trainer.sanity_checking and loss in metrics:
                self.scored = {name: float(value) for name, value in metrics.items()}
                step = trainer.global_step
                self.run.log(step=step, tokens=step * self.batch, val_loss=metrics[loss])

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.run is None:
                return
            if loss not in self.scored:
                warnings.warn(UNFINISHED, stacklevel=2)
                return
            tokens = trainer.global_step * self.batch
            self.run.finish(loss=self.scored[loss], tokens=tokens, **scores_in(self.scored, loss, "val_"))
            run, self.run = self.run, None
            run.__exit__(None)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            run, self.run = self.run, None
            if run is not None:
                run.__exit__(type(exception))

    return RecordLightningRun()


def _rows(batch: Any) -> int:
    """Rows of a batch: the first dimension of the first tensor in it."""
    while not hasattr(batch, "shape"):
        batch = next(iter(batch.values() if hasattr(batch, "values") else batch))
    return int(batch.shape[0])

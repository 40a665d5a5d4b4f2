"""A callback of Keras 3, on any backend, that records its run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .recorder import Recorder
from .trainer_callback import UNFINISHED, scores_in

LOG_STEPS = 10  # a point of the curve at least so often


def for_keras(study: str | Path, *, batch_tokens: int, loss: str = "val_loss", **stated: Any) -> Any:
    """A ``keras.callbacks.Callback`` that records the run into a study.

    The model is counted (all parameters), the rate is the optimiser's at the beginning, the length is the steps of all
    epochs × ``batch_tokens``. The run is finished when the training ends, by the last validation.

    Args:
        batch_tokens: units of data of one step: the ``batch_size`` of ``fit``, times the length of a sequence.
        loss: the metric that is the held-out loss; other metrics with "val_" become scores.
        stated: what else to state, or to state otherwise (``seed``; ``lr`` of a schedule), as for a
            :class:`~allometry.recording.recorder.Recorder`.
    """
    from keras.callbacks import Callback  # pyright: ignore[reportMissingImports]

    class RecordKerasRun(Callback):
        run: Recorder | None = None
        scored: dict[str, Any] = {}  # noqa: RUF012

        def on_train_begin(self, logs: Any = None) -> None:
            params, optimizer = self.params or {}, getattr(self.model, "optimizer", None)
            facts: dict[str, Any] = {"model": self.model, "batch_tokens": batch_tokens}
            if optimizer is not None:
                facts["lr"] = float(optimizer.learning_rate) or None
            if params.get("steps") and params.get("epochs"):
                facts["tokens"] = params["steps"] * params["epochs"] * batch_tokens
            self.scored, self.step = {}, 0
            self.run = Recorder(study, **(facts | stated))
            self.run.__enter__()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1
            if self.run is not None and logs and "loss" in logs and self.step % LOG_STEPS == 0:
                self.run.log(step=self.step, tokens=self.step * batch_tokens, loss=logs["loss"])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if self.run is not None and logs and loss in logs:
                self.scored = dict(logs)
                self.run.log(step=self.step, tokens=self.step * batch_tokens, loss=logs["loss"], val_loss=logs[loss])

        def on_train_end(self, logs: Any = None) -> None:
            run, self.run = self.run, None
            if run is None:
                return
            if loss not in self.scored:
                warnings.warn(UNFINISHED, stacklevel=2)
                run.__exit__(RuntimeError)
                return
            tokens = self.step * batch_tokens
            run.finish(loss=self.scored[loss], tokens=tokens, **scores_in(self.scored, loss, "val_"))
            run.__exit__(None)

    return RecordKerasRun()

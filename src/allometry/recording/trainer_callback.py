"""A callback of Hugging Face's Trainer that records its run: size, batch, rate, seed and loss are the Trainer's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .recorder import Recorder

UNFINISHED = (
    "this run has no held-out loss yet, so it is not recorded; its points are kept: evaluate it, or state it again"
)


def for_trainer(study: str | Path, *, row_tokens: int, loss: str = "eval_loss", **stated: Any) -> Any:
    """A ``transformers.TrainerCallback`` that records the run into a study.

    The run is finished by the first evaluation at or after the last step, that of ``Trainer.evaluate()`` too. The
    learning rate is the peak (``args.learning_rate``), the batch is per_device_train_batch_size × devices ×
    gradient_accumulation_steps × processes × ``row_tokens``, the length is max_steps × batch.

    Args:
        row_tokens: units of data in one row of a batch: the length of a sequence, 1 for a classifier.
        loss: the metric that is the loss; the other metrics of an evaluation become scores.
        stated: what else to state, or to state otherwise, as for a :class:`~allometry.recording.recorder.Recorder`.
    """
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

    class RecordTrainerRun(TrainerCallback):
        run: Recorder | None = None
        batch = 0
        ended = False

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            self.batch, self.ended = rows * row_tokens, False
            facts = {
                "model": model,
                "batch_tokens": self.batch,
                "tokens": state.max_steps * self.batch,
                "lr": args.learning_rate,
                "seed": args.seed,
                "rank": args.process_index,
            }
            self.run = Recorder(study, **(facts | stated))
            self.run.__enter__()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if self.run is not None and not self.ended and logs and "loss" in logs:
                values = {"lr": logs["learning_rate"]} if "learning_rate" in logs else {}
                self.run.log(step=state.global_step, tokens=self._tokens(state), loss=logs["loss"], **values)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any], **_: Any) -> None:
            if self.run is None or loss not in metrics:
                return
            if self.ended or state.global_step >= state.max_steps:
                self.run.finish(loss=metrics[loss], tokens=self._tokens(state), **scores_in(metrics, loss, "eval_"))
                self.close()
            else:
                self.run.log(step=state.global_step, tokens=self._tokens(state), val_loss=metrics[loss])

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ended = True
            if self.run is not None:
                warnings.warn(UNFINISHED, stacklevel=2)

        def _tokens(self, state: Any) -> int:
            return state.global_step * self.batch

        def close(self) -> None:
            run, self.run = self.run, None
            if run is not None:
                run.__exit__(None)

    return RecordTrainerRun()


def scores_in(metrics: dict[str, Any], loss: str, prefix: str) -> dict[str, Any]:
    """The scores beside the loss in the metrics of an evaluation, without their prefix; its speed is no score."""
    named = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    skipped = {loss.removeprefix(prefix), "runtime", "samples_per_second", "steps_per_second", "tokens", "note"}
    return {name: float(value) for name, value in named.items() if name not in skipped and _is_number(value)}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

"""The record of a run that ended: plain JSON that a person can read, written once."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..config.run import RunConfig
from ..errors import UserError


@dataclass(frozen=True)
class RunRecord:
    """One run that ended.

    Attributes:
        kind: what the run was for: ``sweep`` (it measures batch and learning rate), ``ladder`` (a point of the law),
            ``target`` (it carries out a plan) or ``run`` (anything else).
        status: ``finished`` or ``diverged``.
        loss: held-out cross-entropy in nats per token; None if the run diverged.
        loss_se: its standard error over held-out windows. The runs of a study are evaluated on the same windows, so
            the difference between two of them is more certain than this.
        train_loss: the smoothed training loss at the end.
        seconds, flops_spent: the cost of this run beyond the shorter runs of its trunk. ``config.flops`` is the cost
            if it had been trained alone.
        tokens_per_second: the speed of training.
        finished_at: the time of the end, in UTC.
        environment: versions and kind of machine; see :func:`environment`.
        note: a remark for people, for example why the run diverged.
        retry_of: the run that diverged at a higher learning rate, if this run is the next attempt.
    """

    config: RunConfig
    kind: str
    status: str
    loss: float | None
    loss_se: float | None
    train_loss: float | None
    seconds: float
    flops_spent: float
    tokens_per_second: float
    finished_at: str
    environment: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    retry_of: str = ""

    @property
    def id(self) -> str:
        return self.config.id

    @property
    def bits_per_byte(self) -> float | None:
        """The loss in bits per byte of text, which can be compared between tokenizers."""
        return None if self.loss is None else self.config.task.bits_per_byte(self.loss)

    def counts(self) -> dict[str, float]:
        """Parameters and FLOPs under every convention; tokens and steps."""
        model = self.config.model
        return {
            "num_params": model.num_params,
            "num_params_total": model.num_params_total,
            "num_params_matmul": model.num_params_matmul,
            "tokens": self.config.tokens,
            "steps": self.config.schedule.steps,
            "flops": self.config.flops,
            "flops_6nd": 6.0 * model.num_params * self.config.tokens,
        }

    def row(self) -> dict[str, Any]:
        """The run as a row of a table that :mod:`allometry.laws` reads."""
        train, task, model = self.config.train, self.config.task, self.config.model.to_dict()
        return {
            "label": self.id,
            "kind": self.kind,
            "status": self.status,
            **self.counts(),
            "loss": self.loss,
            "loss_se": self.loss_se,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_se": None if self.loss_se is None else task.bits_per_byte(self.loss_se),
            "unique_tokens": task.train_tokens,
            "epochs": self.config.epochs,
            "batch_tokens": train.batch_tokens,
            "lr": train.lr,
            "width": model["width"],
            "layers": model.get("layers"),
            "seed": train.seed,
            "seconds": self.seconds,
            "flops_spent": self.flops_spent,
            "tokens_per_second": self.tokens_per_second,
            "note": self.note,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "loss": self.loss,
            "loss_se": self.loss_se,
            "bits_per_byte": self.bits_per_byte,
            "train_loss": self.train_loss,
            "epochs": self.config.epochs,
            "counts": self.counts(),
            "seconds": self.seconds,
            "flops_spent": self.flops_spent,
            "tokens_per_second": self.tokens_per_second,
            "finished_at": self.finished_at,
            "environment": self.environment,
            "note": self.note,
            "retry_of": self.retry_of,
            "config": self.config.to_dict(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        """Read a record from its JSON form.

        Raises:
            UserError: a field is missing, or the configuration does not match the recorded id.
        """
        try:
            config = RunConfig.parse(value["config"], f"run {value['id']}")
            names = set(cls.__dataclass_fields__) - {"config"}
            record = cls(config=config, **{name: value[name] for name in names})
        except (KeyError, TypeError) as error:
            raise UserError(f"a run record lacks {error}; delete that run and run the same command again") from None
        if record.id != value["id"] or not config.trainer.current:
            raise UserError(f"run {value['id']}: its configuration was changed, or an older version trained it")
        return record


def environment(threads: int) -> dict[str, Any]:
    """The versions and the kind of machine that train a run; no host names, so that records can be published."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "allometry": installed("allometry"),
        "torch": installed("torch"),
        "numpy": installed("numpy"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": threads,
    }


def now() -> str:
    """The present time in UTC, in ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")

"""What came of a run: a plain record that a person can read, written once."""

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
    """One run that ended; ``status`` is finished or diverged.

    ``kind`` says what the run was for: ``sweep`` (batch and rate), ``ladder`` (a point of the law), ``target`` (a
    plan come true) or ``run``. ``loss`` is the held-out cross-entropy in nats a token, ``loss_se`` its standard error
    over held-out windows (runs of a study share the windows, so differences between runs are surer than that).
    ``seconds``, ``flops_spent`` count what this run cost beyond the shorter ones of its trunk; ``flops`` is what the
    run stands for, as if it had been trained alone. ``retry_of`` is the run that diverged at a higher rate, if this
    one is its next attempt.
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
        """The loss in bits a byte of text: what compares across tokenizers."""
        return None if self.loss is None else self.config.task.bits_per_byte(self.loss)

    def counts(self) -> dict[str, float]:
        """Parameters and FLOPs under every convention, and the tokens."""
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
        """The row of a table of runs, as :mod:`allometry.laws` reads it."""
        train, task = self.config.train, self.config.task
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
            "width": self.config.model.width,
            "layers": self.config.model.layers,
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
        """Read a record back.

        Raises:
            UserError: a field is missing, or the configuration does not belong to the recorded id.
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
    """What a stranger needs to know of where a run was trained: versions and kind of machine, no names of hosts."""

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
    """The time in UTC, to the second, in ISO form."""
    return datetime.now(UTC).isoformat(timespec="seconds")

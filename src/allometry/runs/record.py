"""The record of a run that ended: plain JSON that a person can read, written once."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..config.external import ExternalRun
from ..config.run import RunConfig
from ..config.script import ScriptConfig
from ..errors import UserError
from ..quantities import Score, clean


@dataclass(frozen=True)
class RunRecord:
    """One run that ended.

    Attributes:
        run: what determines it, for a run that a trainer here trained; for another one, what is stated of it.
        kind: what the run was for: ``sweep`` (it measures batch and learning rate), ``ladder`` (a point of the law),
            ``target`` (it carries out a plan) or ``run`` (anything else).
        status: ``finished``, ``diverged``, or, of a run that was not trained here, ``unfinished``.
        loss: the held-out loss, for text the cross-entropy in nats per token; None if the run diverged.
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
        scores: held-out scores beside the loss, by name (accuracy, …); the error of a score may be NaN: not known.
    """

    run: RunConfig | ExternalRun
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
    scores: Mapping[str, Score] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def external(self) -> bool:
        """Whether something outside this package trained the run."""
        return isinstance(self.run, ExternalRun)

    @property
    def config(self) -> RunConfig:
        """The configuration by which the run was trained here.

        Raises:
            UserError: it was not trained here, so it can be neither repeated nor gone on with.
        """
        if isinstance(self.run, ExternalRun):
            raise UserError(f"run {self.id} was not trained here ({self.run.trained_by}): it has no configuration")
        return self.run

    @property
    def num_params(self) -> int:
        return self.run.num_params

    @property
    def counted(self) -> str:
        """Which parameters ``num_params`` counts."""
        if isinstance(self.run, ExternalRun):
            return self.run.counted
        trainer = self.run.trainer
        return trainer.counted if isinstance(trainer, ScriptConfig) else "non_embedding"

    @property
    def tokens(self) -> int:
        return self.run.tokens

    @property
    def flops(self) -> float:
        return self.run.total_flops if isinstance(self.run, ExternalRun) else self.run.flops

    @property
    def epochs(self) -> float | None:
        return self.run.epochs

    @property
    def batch_tokens(self) -> int | None:
        return self.run.batch_tokens if isinstance(self.run, ExternalRun) else self.run.train.batch_tokens

    @property
    def lr(self) -> float | None:
        return self.run.lr if isinstance(self.run, ExternalRun) else self.run.train.lr

    @property
    def data(self) -> str:
        """Where the data came from, or their name."""
        return self.run.data or self.run.source if isinstance(self.run, ExternalRun) else self.run.task.source

    @property
    def loss_unit(self) -> str:
        """The unit of the loss, in words."""
        return self.run.loss_unit if isinstance(self.run, ExternalRun) else self.run.task.loss_unit

    @property
    def bits_per_byte(self) -> float | None:
        """The loss in bits per byte of text, which can be compared between tokenizers."""
        return None if self.loss is None else self._bits_per_byte(self.loss)

    def _bits_per_byte(self, loss: float) -> float | None:
        return (self.run if isinstance(self.run, ExternalRun) else self.run.task).bits_per_byte(loss)

    def counts(self) -> dict[str, float | None]:
        """Parameters and FLOPs under every convention; tokens and steps. None: not known."""
        run = self.run
        model, steps = (run, run.steps) if isinstance(run, ExternalRun) else (run.model, run.steps)
        counts = {
            "num_params": self.num_params,
            "num_params_total": model.num_params_total,
            "num_params_matmul": model.num_params_matmul,
        }
        return {
            **counts,
            **({f"num_params_{self.counted}": self.num_params} if self.counted in ("total", "matmul") else {}),
            "tokens": self.tokens,
            "steps": steps,
            "flops": self.flops,
            "flops_6nd": 6.0 * self.num_params * self.tokens,
        }

    def row(self) -> dict[str, Any]:
        """The run as a row of a table that :mod:`allometry.laws` reads."""
        run = self.run
        if isinstance(run, ExternalRun):
            shape, seed, unique, of_task = run.shape, run.seed, run.train_tokens, {}
        else:
            shape, seed, unique = run.model.to_dict(), run.train.seed, run.task.train_tokens
            of_task = run.task.columns()
        row = {
            "label": self.id,
            "kind": self.kind,
            "status": self.status,
            **self.counts(),
            "counted": self.counted,
            "loss": self.loss,
            "loss_se": self.loss_se,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_se": None if self.loss_se is None else self._bits_per_byte(self.loss_se),
            "unique_tokens": unique,
            "epochs": self.epochs,
            "batch_tokens": self.batch_tokens,
            "lr": self.lr,
            "width": shape.get("width"),
            "layers": shape.get("layers"),
            "seed": seed,
            "trunk": None if isinstance(run, ExternalRun) else run.trunk,
            "seconds": self.seconds,
            "flops_spent": self.flops_spent,
            "tokens_per_second": self.tokens_per_second,
            "note": self.note,
            **of_task,
        }
        for name, score in self.scores.items():
            row.setdefault(name, clean(score.value))
            row.setdefault(f"{name}_se", clean(score.error))
        return row

    def to_json(self) -> dict[str, Any]:
        scores = {name: {"value": clean(s.value), "error": clean(s.error)} for name, s in self.scores.items()}
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "loss": self.loss,
            "loss_se": self.loss_se,
            **({"scores": scores} if scores else {}),
            "bits_per_byte": self.bits_per_byte,
            "train_loss": self.train_loss,
            "epochs": self.epochs,
            "counts": self.counts(),
            "seconds": self.seconds,
            "flops_spent": self.flops_spent,
            "tokens_per_second": self.tokens_per_second,
            "finished_at": self.finished_at,
            "environment": self.environment,
            "note": self.note,
            "retry_of": self.retry_of,
            ("external" if self.external else "config"): self.run.to_dict(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        """Read a record from its JSON form.

        Raises:
            UserError: a field is missing, or the configuration does not match the recorded id.
        """
        try:
            where = f"run {value['id']}"
            if "external" in value:
                run: RunConfig | ExternalRun = ExternalRun.parse(value["external"], where)
            else:
                run = RunConfig.parse(value["config"], where)
            names = set(cls.__dataclass_fields__) - {"run", "scores"}
            scores = {name: Score.from_json(score) for name, score in value.get("scores", {}).items()}
            record = cls(run=run, scores=scores, **{name: value[name] for name in names})
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"a run record lacks {error}; `allometry runs` drops that run, and the same command trains it again"
            ) from None
        current = isinstance(run, ExternalRun) or run.trainer.current
        if record.id != value["id"] or not current:
            raise UserError(
                f"run {value['id']}: its configuration was changed, or an older version trained it; "
                "read the study with the allometry that trained it"
            )
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

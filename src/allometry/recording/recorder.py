"""Record a run of one's own training loop: three lines, safe from any crash, found again when the run comes again.

with allometry.Recorder("study", num_params=…, batch_tokens=…, lr=…) as run:
    for step in range(run.next_step, steps):
        …
        run.log(step=step, loss=loss, tokens=tokens)
    run.finish(loss=held_out, accuracy=(0.91, 0.004))

study/runs/<id>/points-000001.jsonl     what attempt 1 logged; becomes metrics.jsonl when the run finishes
study/runs/<id>/record.json             written by ``finish``, last
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from ..config.external import ExternalRun, Scalar
from ..errors import UserError
from ..quantities import Score
from ..runs import claims
from ..runs.machine import cores
from ..runs.record import RunRecord, environment, now
from ..runs.study import Study
from .module_counts import ModuleCounts, count_module
from .points_file import Point, PointsFile, delete_points, read_points

ScoreLike = float | tuple[float, float] | Score


class Recorder:
    """One run of a loop that is not ours. Use as a context manager.

    What is stated of the run identifies it. If the same is stated again, a run that was cut short goes on: its points
    are kept, and :attr:`next_step` says where. If it has finished, entering raises; ask :attr:`recorded` before. Under
    torchrun process 0 writes, the others do nothing.

    Args:
        study: folder of the study; made if it does not exist.
        num_params: the size, counted as ``counted`` says; or give ``model``, from which it is counted.
        model: a ``torch.nn.Module`` or a Keras model.
        example: a function without arguments that runs the model forward on ``example_units`` units of data, by
            which FLOPs are counted; without it, and without ``flops_per_token``, they are 6·N·D.
        batch_tokens: units of data of one step, over all processes and accumulated pieces.
        tokens: the length of the run, if it is decided before; else runs that differ in nothing but their length
            are told apart by ``name``.
        unit: what D counts: "token", "image"; ``loss_unit`` by default "nats per" that.
        shape: fields of the model (width, layers); ``settings``: whatever else tells runs apart.
        kind: "ladder", so that laws read the run; or "run", "sweep", "target".
        rank: of this process; by default ``RANK``, which torchrun sets.

    Attributes:
        recorded: the record of the run, once it has finished.
    """

    def __init__(
        self,
        study: str | Path,
        *,
        num_params: int | None = None,
        model: Any = None,
        example: Callable[[], Any] | None = None,
        example_units: int | None = None,
        batch_tokens: int | None = None,
        lr: float | None = None,
        tokens: int | None = None,
        seed: int | None = None,
        name: str = "",
        counted: str = "unknown",
        num_params_total: int | None = None,
        flops_per_token: float | None = None,
        unit: str = "token",
        loss_unit: str | None = None,
        data: str = "",
        unique_tokens: int | None = None,
        bytes_per_token: float | None = None,
        shape: Mapping[str, Scalar] | None = None,
        settings: Mapping[str, Scalar] | None = None,
        kind: str = "ladder",
        rank: int | None = None,
    ):
        """State what the run is; see the arguments of the class.

        Raises:
            UserError: the size is not known, or a value cannot be.
        """
        counts = None if model is None else count_module(model, example, example_units)
        size = num_params if num_params is not None else counts and counts.num_params
        if size is None:
            raise UserError("Recorder: give num_params, or a model to count them from")
        self.flops_per_token = flops_per_token or (counts and counts.flops_per_token)
        self._study_path, self._kind = Path(study), kind
        self._stated: dict[str, Any] = {
            "trained_by": "recorder",
            "num_params": size,
            "loss_unit": loss_unit or f"nats per {unit}",
            "shape": dict(shape or {}),
            "settings": dict(settings or {}),
            "open_ended": tokens is None,
            **_counts(counts if num_params is None else None, counted, num_params_total),
            **{"name": name, "batch_tokens": batch_tokens, "lr": lr, "seed": seed, "unit": unit, "data": data},
            **{"train_tokens": unique_tokens, "bytes_per_token": bytes_per_token},
        }
        self.writes = (int(os.environ.get("RANK", "0")) if rank is None else rank) == 0
        self.id = self._run(tokens or 1).id
        self._tokens = tokens
        self._points: PointsFile | None = None
        self._claim: claims.Claim | None = None
        self._last: Point = {}
        self._seconds_before = 0.0
        self._open = contextlib.ExitStack()

    def _run(self, tokens: int) -> ExternalRun:
        """The run, if it has so many tokens.

        Raises:
            UserError: a stated value cannot be.
        """
        flops = None if self.flops_per_token is None else self.flops_per_token * tokens
        values = {key: value for key, value in self._stated.items() if value is not None}
        return ExternalRun.parse(values | {"tokens": tokens} | ({} if flops is None else {"flops": flops}), "Recorder")

    @property
    def recorded(self) -> RunRecord | None:
        study = Study(self._study_path)
        return study.record(self.id) if study.settings_path.is_file() else None

    @property
    def next_step(self) -> int:
        """The step after the last that was logged, in an earlier attempt too; 0 at the beginning."""
        return int(self._last["step"]) + 1 if "step" in self._last else 0

    @property
    def tokens(self) -> int:
        """The tokens of the last point that was logged."""
        return int(self._last.get("tokens", 0))

    def __enter__(self) -> Self:
        """Begin, or go on.

        Raises:
            UserError: the run has finished before, another process is at it, or the folder holds something else.
        """
        self._begun = time.monotonic()
        if not self.writes:
            return self
        study = Study.collect(self._study_path)
        if (record := study.record(self.id)) is not None:
            loss = "diverged" if record.loss is None else f"loss {record.loss:.4g}"
            raise UserError(
                f"{study.path}: this run is recorded already ({self.id}, {loss}); what tells another one apart is what "
                "is stated of it: tokens, seed, settings or name. `allometry runs` drops a run"
            )
        try:
            claim = claims.take_when_free(study.claims_path, self.id)
        except claims.Taken:
            raise UserError(f"{study.path}: another process records run {self.id} now") from None
        self._open.enter_context(study.session())
        self._claim = self._open.enter_context(claim.kept())
        self.study, folder = study, study.run_path(self.id)
        before = read_points(folder)
        self._last = before[-1] if before else {}
        self._seconds_before = float(self._last.get("seconds", 0.0))
        with claim:
            study.log(self.id, "resumed" if before else "started", attempt=claim.attempt, step=self.next_step)
        self._points = PointsFile(folder, claim.attempt)
        return self

    def log(self, *, step: int | None = None, tokens: float | None = None, loss: float | None = None, **values: Any):
        """Add a point: ``loss`` is the training loss, and other values stand beside it under their names.

        Without ``tokens``, they are step × batch_tokens; without ``step``, it is the next. A loss that is no number is
        kept as none. When this returns, a kill of the process loses nothing of the point.

        Raises:
            UserError: neither tokens nor step × batch_tokens is known, a value is no number, or another process has
                taken the run over.
        """
        points = self._active() if self.writes else None
        step = self.next_step if step is None else step
        if tokens is None:
            batch = self._stated["batch_tokens"]
            if batch is None:
                raise UserError("run.log: give tokens, or batch_tokens to the Recorder")
            tokens = float(step * batch)
        seconds = self._seconds_before + time.monotonic() - self._begun
        point: Point = {"step": int(step), "tokens": int(tokens), "seconds": round(seconds, 3)}
        if loss is not None:
            point["train_loss"] = _number("loss", loss)
        for name, value in values.items():
            point[name] = _number(name, value)
        try:
            if points is not None:
                points.add(point)
        except OSError as error:
            raise UserError(f"{self._study_path}: {error.strerror}; the same run again goes on from here") from None
        self._last = point

    def finish(self, *, loss: ScoreLike, tokens: float | None = None, note: str = "", **scores: ScoreLike) -> RunRecord:
        """Record the run: its held-out ``loss`` and other scores, each a number or (number, standard error).

        A loss that is no number records the run as diverged. ``tokens`` are those of the last point by default.

        Returns:
            the record; under torchrun, in the other processes too, without a study.

        Raises:
            UserError: no tokens, other tokens than the stated ones, or another process has taken the run over.
        """
        length = round(tokens) if tokens is not None else self.tokens or self._tokens
        if not length:
            raise UserError("run.finish: give tokens, or log a point with tokens before")
        if self._tokens is not None and abs(length / self._tokens - 1) > 0.02:
            raise UserError(f"run.finish: {length} tokens were seen, but the run was stated to have {self._tokens}")
        record = self._record(_score(loss), {name: _score(score) for name, score in scores.items()}, length, note)
        if self.writes:
            self._active().close()
            self._points = None
            assert self._claim is not None
            folder = self.study.run_path(self.id)
            with self._unless_fenced():
                curve = [{key: value for key, value in p.items() if value is not None} for p in read_points(folder)]
                self.study.save(record, curve, self._claim)
                with self._claim:
                    self.study.log(self.id, record.status, step=self._last.get("step", 0))
                    delete_points(folder)
        return record

    def _record(self, loss: Score, scores: Mapping[str, Score], tokens: int, note: str) -> RunRecord:
        run = self._run(self._tokens or tokens)
        seconds = self._seconds_before + time.monotonic() - self._begun
        finite = math.isfinite(loss.value)
        notes = filter(None, [note, "" if finite else "the loss is not a number"])
        train_loss = self._last.get("train_loss")
        return RunRecord(
            run=run,
            kind=self._kind,
            status="finished" if finite else "diverged",
            loss=loss.value if finite else None,
            loss_se=loss.error if finite and math.isfinite(loss.error) else None,
            train_loss=train_loss,
            seconds=round(seconds, 3),
            flops_spent=run.total_flops,
            tokens_per_second=round(tokens / seconds, 1) if seconds else 0.0,
            finished_at=now(),
            environment=environment(int(os.environ.get("OMP_NUM_THREADS", cores()))),
            note="; ".join(notes),
            scores=scores,
        )

    def _active(self) -> PointsFile:
        if self._points is None:
            raise UserError("the run is not under way: use `with Recorder(…) as run:`, and log before it finishes")
        if self._claim is not None and self._claim.lost:
            raise UserError(f"run {self.id}: this process stood still, and another has taken the run over")
        return self._points

    @contextlib.contextmanager
    def _unless_fenced(self):
        try:
            yield
        except claims.Fenced:
            raise UserError(f"run {self.id}: this process stood still, and another has taken the run over") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave: what was logged stays, and the same run again goes on.

        Raises:
            UserError: the block ended well, but without ``finish``.
        """
        unfinished = self._points is not None
        if self._points is not None:
            self._points.close()
            self._points = None
            if self._claim is not None:
                with contextlib.suppress(claims.Fenced, OSError), self._claim:
                    self.study.log(self.id, "interrupted", step=self._last.get("step", 0))
        self._open.close()
        if unfinished and kind is None:
            raise UserError(
                f"run {self.id} ended without run.finish(loss=…), so it is not recorded; its points are kept: state "
                "the same run again and finish it"
            )


def _counts(counts: ModuleCounts | None, counted: str, total: int | None) -> dict[str, Any]:
    """What is stated about the counts: as they were counted from a model, or as the user says."""
    if counts is None:
        return {"counted": counted, "num_params_total": total}
    return {
        "counted": counts.counted,
        "num_params_total": counts.num_params_total,
        "num_params_matmul": counts.num_params_matmul,
        "notes": counts.notes,
    }


def _number(name: str, value: Any) -> float | None:
    """A value of a point as a number; None if it is not finite, which JSON cannot say."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"run.log: {name} = {value!r} is not a number") from None
    return number if math.isfinite(number) else None


def _score(value: ScoreLike) -> Score:
    if isinstance(value, Score):
        return value
    return Score(float(value[0]), float(value[1])) if isinstance(value, tuple) else Score(float(value))

"""The ladder of a study, as rows of a table and as curves. Only this file of laws reads ``allometry.runs``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError

Array = np.ndarray


class RunCurve(NamedTuple):
    """The training curve of one run: arrays of one entry a point, and the size of the model."""

    name: str
    step: Array
    loss: Array
    lr: Array
    tokens: Array
    num_params: float


def study_rows(path: Path) -> list[dict[str, Any]]:
    """The finished runs of the ladder, a row each.

    Raises:
        UserError: not a study, or one without a finished run.
    """
    from ...runs.study import Study  # a table of one's own needs no study

    rows = Study.open(path).rows()
    if not rows:
        raise UserError(f"{path}: no finished runs in this study yet; run `allometry ladder` on it")
    return rows


def study_curves(path: Path) -> list[RunCurve]:
    """The training curves of the ladder, with the learning rates of their schedules.

    Raises:
        UserError: not a study, or one without a curve.
    """
    curves = list(_curves(path))
    if not curves:
        raise UserError(f"{path}: no curves in this study yet; run `allometry ladder` on it")
    return curves


def _curves(path: Path) -> Iterator[RunCurve]:
    from ...runs.study import Study

    study = Study.open(path)
    for record in study.records("ladder"):
        if record.external or not record.config.trainer.schedules:
            if (curve := _external_curve(record, study.points(record.id))) is not None:
                yield curve
            continue
        points = study.curve(record.id)
        if not points:
            continue
        schedule, peak = record.config.schedule, record.config.train.lr
        tokens, loss = np.array(points, dtype=float).T
        starts = np.array([schedule.tokens_before(step) for step in range(schedule.steps + 1)])
        step = np.clip(np.searchsorted(starts, tokens), 1, schedule.steps)
        lr = np.array([peak * schedule.lr_factor_at(int(one) - 1) for one in step])
        yield RunCurve(record.id, step.astype(float), loss, lr, tokens, float(record.num_params))


def _external_curve(record: Any, points: list[dict[str, float]]) -> RunCurve | None:
    """The curve of a run that was recorded or imported: what its points hold; None without a training loss.

    The step is that of the point, else its place; a rate is that of the point, else the run's only one.
    """
    kept = [point for point in points if {"tokens", "train_loss"} <= point.keys()]
    if not kept:
        return None
    rate = math.nan if record.lr is None else record.lr
    column = lambda name, default: np.array([point.get(name, default) for point in kept], dtype=float)
    step = np.array([point.get("step", place + 1) for place, point in enumerate(kept)], dtype=float)
    tokens, loss = column("tokens", math.nan), column("train_loss", math.nan)
    return RunCurve(record.id, step, loss, column("lr", rate), tokens, float(record.num_params))

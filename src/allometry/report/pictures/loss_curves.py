"""The data of three pictures: loss against compute, loss against tokens by size, and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...config.run import RunConfig
from ...errors import UserError
from ...laws.along_a_run.expected_band import Band, Course, band
from ...planning import FittedRange
from ...planning.resources.shapes import size_of
from ..study_contents import Curve, StudyContents
from .points_and_lines import (
    Array,
    PredictedLine,
    Predictor,
    RunPoint,
    Target,
    budget_grid,
    exact_flops_per_token,
    finished_points,
    lowest,
    predicted_line,
    predicted_loss,
    run_line,
    target,
)

BUDGETS, SIZES, POINTS, STRETCHES = 40, 33, 48, 20
BEYOND = 3.0  # the frontier is drawn to this multiple of the target's compute
BEYOND_LADDER = 10.0  # or to this multiple of the largest rung's, while there is no target


@dataclass(frozen=True, eq=False)
class LossByCompute:
    """Loss against exact FLOPs: runs, and the prediction where each budget is split best between size and tokens."""

    unit: str
    level: float
    rungs: tuple[RunPoint, ...]
    sweep: tuple[RunPoint, ...]
    others: tuple[RunPoint, ...]
    frontier: PredictedLine | None
    target: Target | None


@dataclass(frozen=True, eq=False)
class SizeCurve:
    """The runs of one size and the law through them (None before a fit)."""

    num_params: float
    runs: tuple[RunPoint, ...]
    law: PredictedLine | None


@dataclass(frozen=True, eq=False)
class SizeCurves:
    """Loss against tokens, a line for each size, the smallest first."""

    unit: str
    curves: tuple[SizeCurve, ...]
    target: Target | None
    target_law: PredictedLine | None


@dataclass(frozen=True, eq=False)
class TrainingCurve:
    """The training loss of one run, and its held-out loss at the end (None: diverged).

    ``mean_tokens``, ``mean_loss``: averages over stretches of equal width in the logarithm of the tokens.
    """

    id: str
    kind: str
    num_params: float
    tokens: Array
    train_loss: Array
    mean_tokens: Array
    mean_loss: Array
    held_out: float | None

    def describe(self) -> str:
        """The run in one line, for a pointer over its end."""
        return run_line(self.id, self.num_params, self.tokens[-1], self.held_out)


@dataclass(frozen=True, eq=False)
class TrainingCurves:
    """Smoothed training loss against tokens, rungs first; the band in which the target's loss was expected."""

    unit: str
    curves: tuple[TrainingCurve, ...]
    expected: Band | None


def loss_by_compute(contents: StudyContents) -> LossByCompute:
    """Every finished run, the predicted frontier from the smallest rung to beyond the target, and the target."""
    rungs, aim = finished_points(contents, "ladder"), target(contents)
    actual = contents.target.id if contents.target else None
    others = [run for run in finished_points(contents, "target", "run") if run.id != actual]
    return LossByCompute(
        unit=contents.unit,
        level=contents.level,
        rungs=rungs,
        sweep=finished_points(contents, "sweep"),
        others=tuple(others),
        frontier=_frontier(contents, contents.predictor, rungs, aim) if contents.predictor else None,
        target=aim,
    )


def size_curves(contents: StudyContents) -> SizeCurves:
    """One curve for each size of the ladder, and the target's."""
    rungs, aim = finished_points(contents, "ladder"), target(contents)
    groups: dict[float, list[RunPoint]] = {}
    for run in sorted(rungs, key=lambda run: (run.num_params, run.tokens)):
        groups.setdefault(run.num_params, []).append(run)
    curves = tuple(
        SizeCurve(size, tuple(runs), _along_tokens(contents, size, [run.tokens for run in runs]))
        for size, runs in groups.items()
    )
    line = None
    if aim and contents.predictor and rungs:
        first = min(min(run.tokens for run in rungs), aim.tokens / 2)
        line = _along_tokens(contents, aim.num_params, [first, aim.tokens])
    return SizeCurves(contents.unit, curves, aim, line)


def training_curves(contents: StudyContents) -> TrainingCurves:
    """The training curves of the rungs, of the target and of other single runs."""
    order = {"ladder": 0, "run": 1, "target": 2}
    curves = []
    for record in sorted(contents.records, key=lambda r: (order.get(r.kind, 3), r.num_params, r.tokens)):
        points = np.array([p for p in contents.curves.get(record.id, []) if p[0] > 0], float).reshape(-1, 2)
        if len(points):
            tokens, loss = points[:, 0], points[:, 1]
            means = _means(tokens, loss)
            size = record.num_params
            curves.append(TrainingCurve(record.id, record.kind, size, tokens, loss, *means, record.loss))
    return TrainingCurves(contents.unit, tuple(curves), _expected(contents))


def _expected(contents: StudyContents) -> Band | None:
    """The early-warning band of the planned run, by the law and the rungs' curves; None where they do not give one."""
    run, predictor = contents.planned, contents.predictor
    if run is None or predictor is None or not run.trainer.schedules:
        return None
    try:
        rungs = [record for record in contents.finished("ladder") if record.config.trunk != run.trunk]
        courses = [_course(contents, record.config, contents.curves[record.id]) for record in rungs]
        return band(predictor, [course for course in courses if course.curve], _course(contents, run))
    except UserError:
        return None


def _course(contents: StudyContents, config: RunConfig, curve: Curve | None = None) -> Course:
    schedule = config.schedule
    start = max(1.0, schedule.tokens_before(schedule.decay_start))
    return Course(size_of(config.model, contents.counted), config.tokens, start, curve or ())


def _frontier(
    contents: StudyContents, predictor: Predictor, runs: Sequence[RunPoint], aim: Target | None
) -> PredictedLine:
    """The lowest predicted loss at each budget, over the sizes that the plan, or the data, would allow.

    From the smallest rung's FLOPs to ``BEYOND`` times the target's (``BEYOND_LADDER`` times the largest rung's before
    there is a target).
    """
    flops_per_token = exact_flops_per_token(contents)
    spent = [run.flops for run in runs] or list(predictor.range["flops"])
    last = max(BEYOND * aim.flops, max(spent)) if aim else BEYOND_LADDER * max(spent)
    budgets = np.geomspace(min(spent), last, BUDGETS)
    grid = budget_grid(budgets, *_tokens_per_param(contents, predictor), SIZES)
    sizes = np.exp(grid)
    loss = predicted_loss(predictor, sizes, budgets[:, None] / flops_per_token(sizes), contents.level)
    best = np.exp(lowest(grid, loss))
    tokens = budgets / flops_per_token(best)
    return predicted_line(predictor, best, tokens, flops_per_token(best) * tokens, contents.level)


def _tokens_per_param(contents: StudyContents, predictor: Predictor) -> tuple[float, float]:
    """The least and the most tokens per parameter: the plan's own limits, so that the plan lies on the frontier."""
    optimum = contents.plan.optimum if contents.plan else None
    if optimum and optimum.searched:
        least, largest = optimum.searched
        return optimum.flops / 6 / largest**2, optimum.flops / 6 / least**2
    covered = FittedRange.by(predictor)
    assert covered is not None  # every Fit and Forecast knows the runs that it was fitted to
    return covered.tokens_per_param


def _along_tokens(contents: StudyContents, num_params: float, tokens: list[float]) -> PredictedLine | None:
    """The law along the tokens of one size, with the given tokens among its points; None before a fit."""
    if contents.predictor is None:
        return None
    path = np.union1d(np.geomspace(min(tokens) * 0.8, max(tokens) * 1.25, POINTS), tokens)
    sizes = np.full_like(path, num_params)
    flops = exact_flops_per_token(contents)(sizes) * path
    return predicted_line(contents.predictor, sizes, path, flops, contents.level)


def _means(tokens: Array, loss: Array) -> tuple[Array, Array]:
    """Geometric mean of the tokens and mean of the loss in ``STRETCHES`` parts of every decade of tokens."""
    part = np.floor(STRETCHES * np.log10(tokens / tokens[-1]) - 1e-9)
    parts = np.unique(part)
    means = [(np.exp(np.log(tokens[part == one]).mean()), loss[part == one].mean()) for one in parts]
    return np.array([mean[0] for mean in means]), np.array([mean[1] for mean in means])

"""The data of pictures of a study: sweep, backtest, the slice at the plan's budget, the valleys of the budgets run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ... import laws
from ...errors import UserError
from ...quantities import format_count
from ...runs.record import RunRecord
from ..study_contents import StudyContents, fits_of, weights_of
from .law_data import Calibration, SurfaceSlice, backtest_calibration
from .points_and_lines import Array, PredictedLine, exact_flops_per_token, predicted_line, predicted_loss

POINTS, SURFACE_POINTS = 192, 61
DEVIATIONS = 1.6449  # of a 90 % interval
FEWEST_SCORED, MOST_SCORES = 3, 6
FEWEST_SIZES = 3  # of a valley
ISOFLOP_RISE = 0.05  # the slice ends where the loss exceeds its lowest value by this fraction


@dataclass(frozen=True, eq=False)
class SweepArm:
    """Runs of one size and length that differ in one setting. ``excess``: relative to the best run there."""

    num_params: float
    tokens: float
    setting: Array
    loss: Array
    excess: Array

    def describe(self) -> list[str]:
        """Each run in a line, for a pointer over its point."""
        rows = zip(self.setting, self.loss, self.excess, strict=True)
        return [f"{format_count(value)}: loss {loss:.4f}, {excess:+.2%}" for value, loss, excess in rows]


@dataclass(frozen=True, eq=False)
class SweepArms:
    """The recipe's evidence: loss against learning rate and against batch, and the chosen values (None: not yet)."""

    lr: tuple[SweepArm, ...]
    batch: tuple[SweepArm, ...]
    chosen_lr: float | None
    chosen_batch: float | None
    reference_tokens: float


@dataclass(frozen=True, eq=False)
class LawErrors:
    """Every prediction of one law in the backtest: its relative error by how far it extrapolated in compute."""

    law: str
    weight: float
    score: float
    factor: Array
    error: Array
    relevance: Array

    def describe(self) -> list[str]:
        """Each prediction in a line, for a pointer over its point."""
        return [f"{self.law}: {e:+.2%} at {f:.3g}× its fit" for f, e in zip(self.factor, self.error, strict=True)]


@dataclass(frozen=True, eq=False)
class ScoreByCompute:
    """One held-out score beside the loss, such as an accuracy, of every run that has it: arrays over the runs."""

    score: str
    flops: Array
    num_params: Array
    value: Array
    error: Array
    is_target: Array
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BudgetSlice:
    """The predicted loss along one budget (exact FLOPs): all laws together, and each alone.

    Attributes:
        laws, weights: law name → its own loss at the sizes of ``line``, and its weight.
        searched: the sizes that the plan could have; the line may extend beyond them.
        optimum, chosen: (size, loss) of the lowest point in that range, and of the plan.
        within: (rise, (least, largest size)): in this range of sizes the loss exceeds its lowest value by at most
            the fraction ``rise``.
    """

    flops: float
    level: float
    unit: str
    line: PredictedLine
    laws: dict[str, Array]
    weights: dict[str, float]
    searched: tuple[float, float]
    optimum: tuple[float, float]
    chosen: tuple[float, float]
    within: tuple[tuple[float, tuple[float, float]], ...]


def sweep(contents: StudyContents) -> SweepArms | None:
    """The two arms of the sweep's star; None without a sweep, or if all of it diverged."""
    records = contents.swept
    if not records:
        return None
    # The arms of a star cross in its centre: the setting that most runs share.
    centre = {name: _most_common([getattr(r.config.train, name) for r in records]) for name in ("lr", "batch_tokens")}
    arms: dict[str, list[SweepArm]] = {"lr": [], "batch_tokens": []}
    for size, tokens in sorted({(r.config.num_params, r.config.train.tokens) for r in records}):
        group = [r for r in records if (r.config.num_params, r.config.train.tokens) == (size, tokens)]
        best = min(record.loss for record in group if record.loss is not None)
        for setting, other in (("lr", "batch_tokens"), ("batch_tokens", "lr")):
            arm = [r for r in group if getattr(r.config.train, other) == centre[other]]
            arms[setting].append(_arm(arm, setting, size, tokens, best))
    recipe = contents.recipe or {}
    reference = records[0].config.train.reference_tokens
    chosen = recipe.get("lr"), recipe.get("batch_tokens")
    return SweepArms(tuple(arms["lr"]), tuple(arms["batch_tokens"]), *chosen, reference)


def sweep_surface(contents: StudyContents) -> SurfaceSlice | None:
    """The loss above its lowest over rate and batch, by parabolas with the curvatures of the recipe's evidence.

    None before the recipe is measured, or where the sweep has no curvature.
    """
    recipe, records = contents.recipe or {}, contents.swept
    evidence = recipe.get("evidence") or {}
    bends = np.array([evidence.get("lr_curvature", 0), evidence.get("batch_curvature", 0)], float)
    errors = np.array([evidence.get("lr_octaves_error", 0), evidence.get("batch_octaves_error", 0)], float)
    if not records or not np.all(bends > 0) or not np.all(np.isfinite(errors)):
        return None
    settings = np.array([(r.config.train.lr, r.config.train.batch_tokens) for r in records], float)
    places = [(r.config.num_params, r.config.train.tokens) for r in records]
    groups = sorted(set(places))
    member = np.array([[place == group for group in groups] for place in places])
    octaves, loss = np.log2(settings), np.array([r.loss for r in records], float)
    bent = np.log(loss) - octaves**2 @ bends
    slopes = np.linalg.lstsq(np.hstack([member.astype(float), octaves]), bent, rcond=None)[0][len(groups) :]
    lowest = -slopes / (2 * bends)
    grids = [np.linspace(column.min() - 0.5, column.max() + 0.5, SURFACE_POINTS) for column in octaves.T]
    lowest = np.clip(lowest, [grid[0] for grid in grids], [grid[-1] for grid in grids])
    rises = [bend * (grid - least) ** 2 for bend, grid, least in zip(bends, grids, lowest, strict=True)]
    best = np.array([loss[column].min() for column in member.T])
    chosen = recipe["lr"], recipe["batch_tokens"]
    (lr_low, lr_high), (batch_low, batch_high) = (
        (value * 2 ** (-DEVIATIONS * error), value * 2 ** (DEVIATIONS * error))
        for value, error in zip(chosen, errors, strict=True)
    )
    return SurfaceSlice(
        num_params=groups[-1][0],
        tokens=groups[-1][1],
        lr=2 ** grids[0],
        batch_tokens=2 ** grids[1],
        regret=np.expm1(rises[1][:, None] + rises[0][None, :]),
        runs=(settings[:, 0], settings[:, 1], loss / (member @ best) - 1),
        best=chosen,
        best_lr=(lr_low, lr_high),
        best_batch=(batch_low, batch_high),
    )


def _arm(records: Sequence[RunRecord], setting: str, size: float, tokens: float, best: float) -> SweepArm:
    ordered = sorted(records, key=lambda record: getattr(record.config.train, setting))
    values = np.array([getattr(record.config.train, setting) for record in ordered], float)
    loss = np.array([record.loss for record in ordered], float)
    return SweepArm(size, tokens, values, loss, loss / best - 1)


def _most_common(values: list[float]) -> float:
    return max(sorted(set(values)), key=values.count)


def backtest(contents: StudyContents) -> tuple[LawErrors, ...]:
    """The errors of the backtest by law, the law of largest weight first; empty without a backtest."""
    predictor = contents.predictor
    return law_errors(predictor) if isinstance(predictor, laws.Forecast) else ()


def law_errors(predictor: laws.Forecast) -> tuple[LawErrors, ...]:
    """The errors of a forecast's backtest, as :func:`backtest` gives them."""
    tested = predictor.backtest
    rows = {name: [row for row in tested.rows if row.law == name] for name in weights_of(predictor)}
    return tuple(
        LawErrors(
            law=name,
            weight=predictor.weights[name],
            score=tested.score(name),
            factor=np.array([row.factor for row in each]),
            error=np.expm1([row.error for row in each]),
            relevance=np.array([row.weight for row in each]),
        )
        for name, each in rows.items()
        if each
    )


def scores(contents: StudyContents) -> tuple[ScoreByCompute, ...]:
    """Every score that at least three finished runs have, at most ``MOST_SCORES``."""
    finished = contents.finished("ladder", "target", "run")
    names = dict.fromkeys(name for record in finished for name in record.scores)
    panels = []
    for name in names:
        runs = [r for r in finished if name in r.scores and np.isfinite(r.scores[name].value)]
        if len(runs) < FEWEST_SCORED:
            continue
        panels.append(
            ScoreByCompute(
                score=name,
                flops=np.array([r.flops for r in runs], float),
                num_params=np.array([contents.size(r) for r in runs]),
                value=np.array([r.scores[name].value for r in runs]),
                error=np.nan_to_num([r.scores[name].error for r in runs]),
                is_target=np.array([r.kind == "target" for r in runs]),
                names=tuple(f"{r.id}: {name} {r.scores[name].value:.4g}" for r in runs),
            )
        )
    return tuple(panels[:MOST_SCORES])


def calibration(contents: StudyContents) -> Calibration | None:
    """How often the backtest's runs lay inside their intervals; None without a backtest of enough runs."""
    predictor = contents.predictor
    return backtest_calibration(predictor) if isinstance(predictor, laws.Forecast) else None


def valleys(contents: StudyContents) -> laws.IsoFlop | None:
    """The valleys of the budgets at which the ladder has several sizes; None unless three budgets have a minimum."""
    rungs = contents.finished("ladder")
    if len({contents.size(run) for run in rungs}) < FEWEST_SIZES:
        return None
    rows = [
        {"label": r.id, "num_params": contents.size(r), "tokens": r.tokens, "flops": r.flops, "loss": r.loss}
        for r in rungs
    ]
    try:
        return laws.isoflop(laws.Observations.from_records(rows, contents.counted))
    except UserError:
        return None


def isoflop(contents: StudyContents) -> BudgetSlice | None:
    """The slice at the plan's budget, to twice beyond the sizes that were searched; None without a plan or a law."""
    plan, predictor = contents.plan, contents.predictor
    if plan is None or predictor is None:
        return None
    flops_per_token = exact_flops_per_token(contents)
    budget = float(flops_per_token(plan.num_params)) * plan.tokens
    low, high = plan.optimum.searched or (plan.num_params / 8, plan.num_params * 8)
    low, high = min(low, plan.num_params), max(high, plan.num_params)
    sizes = np.geomspace(low / 2, high * 2, POINTS)
    loss = predicted_loss(predictor, sizes, budget / flops_per_token(sizes), contents.level)
    first, last = _around(sizes, loss, ISOFLOP_RISE, (low, high))
    ends = min(first, plan.num_params), max(last, plan.num_params)
    sizes = np.union1d(np.geomspace(*ends, POINTS), [x for x in (low, plan.num_params, high) if ends[0] < x < ends[1]])
    tokens = budget / flops_per_token(sizes)
    line = predicted_line(predictor, sizes, tokens, flops_per_token(sizes) * tokens, contents.level)
    inside = (sizes >= low) & (sizes <= high)
    best = int(np.argmin(np.where(inside, line.loss, np.inf)))
    return BudgetSlice(
        flops=budget,
        level=contents.level,
        unit=contents.unit,
        line=line,
        laws={name: np.asarray(fit.law.loss(fit.values, sizes, tokens)) for name, fit in fits_of(predictor).items()},
        weights=weights_of(predictor),
        searched=(low, high),
        optimum=(float(sizes[best]), float(line.loss[best])),
        chosen=(plan.num_params, plan.loss),
        within=tuple((rise, _around(sizes[inside], line.loss[inside], rise, (low, high))) for rise in (0.005, 0.001)),
    )


def _around(sizes: Array, loss: Array, rise: float, searched: tuple[float, float]) -> tuple[float, float]:
    """The sizes around the lowest loss of the range searched at which the loss exceeds it by at most ``rise``."""
    inside = (sizes >= searched[0]) & (sizes <= searched[1])
    best = int(np.argmin(np.where(inside, loss, np.inf)))
    above = np.flatnonzero(loss > (1 + rise) * loss[best])
    left, right = above[above < best], above[above > best]
    first = left[-1] + 1 if len(left) else 0
    last = right[0] - 1 if len(right) else len(sizes) - 1
    return float(sizes[first]), float(sizes[last])

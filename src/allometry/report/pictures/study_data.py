"""What each picture shows, as plain arrays: computed here, drawn in ``plots``, so that a test can read the picture.

Compute is always the exact FLOPs of the shapes, as runs and plans count them: ``exact_flops_per_token`` carries that
count to sizes that nobody has shaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ... import laws
from ...planning import FittedRange
from ...runs.record import RunRecord
from ..study_contents import StudyContents, fits_of, weights_of

Array = np.ndarray
BUDGETS, SIZES, POINTS, STRETCHES = 40, 33, 48, 20
BEYOND = 3.0  # how far past the target the law is drawn
BEYOND_LADDER = 10.0  # and past the largest rung while there is no target
ISOFLOP_RISE = 0.05  # the slice ends where the loss is so much above its lowest


@dataclass(frozen=True)
class RunPoint:
    """One finished run as a point."""

    id: str
    kind: str
    num_params: float
    tokens: float
    flops: float
    loss: float
    loss_se: float | None

    @classmethod
    def of(cls, record: RunRecord) -> RunPoint:
        config = record.config
        return cls(record.id, record.kind, config.num_params, config.tokens, config.flops, record.loss, record.loss_se)


@dataclass(frozen=True, eq=False)
class PredictedLine:
    """A predicted loss along sizes and tokens, with its interval (NaN where the fit has none)."""

    num_params: Array
    tokens: Array
    flops: Array
    loss: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Target:
    """What was planned, what was predicted of it, and what came out (None: not yet)."""

    num_params: float
    tokens: float
    flops: float
    loss: float
    low: float | None
    high: float | None
    level: float
    actual: RunPoint | None


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
    """A run while it trained, and its loss on held-out text at the end (None: diverged).

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


@dataclass(frozen=True, eq=False)
class TrainingCurves:
    """Smoothed training loss against tokens, rungs first."""

    unit: str
    curves: tuple[TrainingCurve, ...]


@dataclass(frozen=True, eq=False)
class SweepArm:
    """Runs of one size and length that differ in one setting. ``excess``: relative to the best of all its runs."""

    num_params: float
    tokens: float
    setting: Array
    loss: Array
    excess: Array


@dataclass(frozen=True, eq=False)
class SweepArms:
    """The recipe's evidence: loss against learning rate and against batch, and what was chosen (None: not yet)."""

    lr: tuple[SweepArm, ...]
    batch: tuple[SweepArm, ...]
    chosen_lr: float | None
    chosen_batch: float | None
    reference_tokens: float


@dataclass(frozen=True, eq=False)
class LawErrors:
    """Every prediction that the backtest made with one law: relative errors by the factor of compute they reached."""

    law: str
    weight: float
    score: float
    factor: Array
    error: Array
    relevance: Array


@dataclass(frozen=True, eq=False)
class BudgetSlice:
    """The predicted loss along one budget (exact FLOPs), all laws together and each alone.

    Attributes:
        laws, weights: law name → its own loss at the sizes of ``line``, and its weight.
        searched: the sizes that the plan could have; the line may go on beyond them.
        optimum, chosen: (size, loss) of the lowest point in that range, and of the plan.
        within: (rise, (least, largest size)) of the basins in it: so little more than the lowest loss.
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


def loss_by_compute(contents: StudyContents) -> LossByCompute:
    """Every finished run, the predicted frontier from the smallest rung to beyond the target, and the target."""
    rungs, aim = _runs(contents, "ladder"), target(contents)
    actual = contents.target.id if contents.target else None
    others = [RunPoint.of(r) for r in contents.finished("target", "run") if r.id != actual]
    return LossByCompute(
        unit=contents.unit,
        level=contents.level,
        rungs=rungs,
        sweep=_runs(contents, "sweep"),
        others=tuple(others),
        frontier=_frontier(contents, rungs, aim) if contents.predictor else None,
        target=aim,
    )


def size_curves(contents: StudyContents) -> SizeCurves:
    """One curve a size of the ladder, and the target's."""
    rungs, aim = _runs(contents, "ladder"), target(contents)
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
    """Rungs and target (with other single runs) as they trained."""
    order = {"ladder": 0, "run": 1, "target": 2}
    curves = []
    for record in sorted(contents.records, key=lambda r: (order.get(r.kind, 3), r.config.num_params, r.config.tokens)):
        points = np.array([p for p in contents.curves.get(record.id, []) if p[0] > 0], float).reshape(-1, 2)
        if len(points):
            curves.append(
                TrainingCurve(
                    record.id, record.kind, record.config.num_params, *points.T, *_means(*points.T), record.loss
                )
            )
    return TrainingCurves(contents.unit, tuple(curves))


def sweep(contents: StudyContents) -> SweepArms | None:
    """The two arms of the sweep's star; None where there was none, or all of it diverged."""
    records = contents.swept
    if not records:
        return None
    # The arms of a star cross in its centre: the one setting that most runs share.
    centre = {name: _commonest([getattr(r.config.train, name) for r in records]) for name in ("lr", "batch_tokens")}
    arms: dict[str, list[SweepArm]] = {"lr": [], "batch_tokens": []}
    for size, tokens in sorted({(r.config.num_params, r.config.train.tokens) for r in records}):
        group = [r for r in records if (r.config.num_params, r.config.train.tokens) == (size, tokens)]
        best = min(record.loss for record in group)
        for setting, other in (("lr", "batch_tokens"), ("batch_tokens", "lr")):
            arm = [r for r in group if getattr(r.config.train, other) == centre[other]]
            arm.sort(key=lambda record, setting=setting: getattr(record.config.train, setting))
            x = np.array([getattr(record.config.train, setting) for record in arm], float)
            loss = np.array([record.loss for record in arm], float)
            arms[setting].append(SweepArm(size, tokens, x, loss, loss / best - 1))
    recipe = contents.recipe or {}
    reference = records[0].config.train.reference_tokens
    chosen = recipe.get("lr"), recipe.get("batch_tokens")
    return SweepArms(tuple(arms["lr"]), tuple(arms["batch_tokens"]), *chosen, reference)


def backtest(contents: StudyContents) -> tuple[LawErrors, ...]:
    """The backtest's errors law by law, the heaviest first; empty where there was no backtest."""
    if not isinstance(contents.predictor, laws.Forecast):
        return ()
    tested = contents.predictor.backtest
    rows = {name: [row for row in tested.rows if row.law == name] for name in weights_of(contents.predictor)}
    return tuple(
        LawErrors(
            law=name,
            weight=contents.predictor.weights[name],
            score=tested.score(name),
            factor=np.array([row.factor for row in each]),
            error=np.expm1([row.error for row in each]),
            relevance=np.array([row.weight for row in each]),
        )
        for name, each in rows.items()
        if each
    )


def isoflop(contents: StudyContents) -> BudgetSlice | None:
    """The slice at the plan's budget, to twice beyond the sizes that were searched; None without a plan or a law."""
    plan, predictor = contents.plan, contents.predictor
    if plan is None or predictor is None:
        return None
    count = exact_flops_per_token(contents)
    budget = float(count(plan.num_params)) * plan.tokens
    low, high = plan.optimum.searched or (plan.num_params / 8, plan.num_params * 8)
    low, high = min(low, plan.num_params), max(high, plan.num_params)
    sizes = np.geomspace(low / 2, high * 2, 4 * POINTS)
    loss = predictor.predict(sizes, budget / count(sizes), level=contents.level).value
    first, last = _around(sizes, loss, ISOFLOP_RISE, (low, high))
    ends = min(first, plan.num_params), max(last, plan.num_params)
    sizes = np.union1d(
        np.geomspace(*ends, 4 * POINTS), [x for x in (low, plan.num_params, high) if ends[0] < x < ends[1]]
    )
    line = _line(contents, sizes, budget / count(sizes))
    inside = (sizes >= low) & (sizes <= high)
    best = int(np.argmin(np.where(inside, line.loss, np.inf)))
    return BudgetSlice(
        flops=budget,
        level=contents.level,
        unit=contents.unit,
        line=line,
        laws={name: fit.law.loss(fit.values, sizes, line.tokens) for name, fit in fits_of(predictor).items()},
        weights=weights_of(predictor),
        searched=(low, high),
        optimum=(float(sizes[best]), float(line.loss[best])),
        chosen=(plan.num_params, plan.loss),
        within=tuple((rise, _around(sizes[inside], line.loss[inside], rise, (low, high))) for rise in (0.005, 0.001)),
    )


def target(contents: StudyContents) -> Target | None:
    """The plan as a point, with what its run reached."""
    plan = contents.plan
    if plan is None:
        return None
    config = contents.planned
    if config is not None:
        size, tokens, flops = config.num_params, config.tokens, config.flops
    else:
        size, tokens = plan.num_params, plan.tokens
        flops = float(exact_flops_per_token(contents)(size)) * tokens
    reached = contents.target if contents.target and contents.target.loss is not None else None
    return Target(
        size, tokens, flops, plan.loss, plan.low, plan.high, plan.level, RunPoint.of(reached) if reached else None
    )


def exact_flops_per_token(contents: StudyContents) -> Callable[[float | Array], float | Array]:
    """FLOPs a token of any size, as the shapes of this study count them.

    Head and attention add to 6·N a share that falls about as a power of N: exact at the sizes of the study and of its
    plan, and along that power between and beyond them. Plain 6·N where no shape is known.
    """
    models = [record.config.model for record in contents.records] + (
        [contents.planned.model] if contents.planned else []
    )
    share = {model.num_params: model.flops_per_token / (6 * model.num_params) - 1 for model in models}
    if not share:
        return lambda num_params: 6 * num_params
    sizes = np.log(sorted(share))
    shares = np.log([share[size] for size in sorted(share)])

    def count(num_params: float | Array) -> float | Array:
        x = np.log(num_params)
        value = np.interp(x, sizes, shares)
        if len(sizes) > 1:
            first, last = ((shares[i + 1] - shares[i]) / (sizes[i + 1] - sizes[i]) for i in (0, len(sizes) - 2))
            value = value + first * np.minimum(x - sizes[0], 0) + last * np.maximum(x - sizes[-1], 0)
        return 6 * num_params * (1 + np.exp(value))

    return count


def _frontier(contents: StudyContents, runs: Sequence[RunPoint], aim: Target | None) -> PredictedLine:
    """The lowest predicted loss at each budget, over the sizes that the plan, or the data, would allow.

    From the smallest rung's FLOPs to ``BEYOND`` times the target's (``BEYOND_LADDER`` times the largest rung's before
    there is one).
    """
    predictor, count = contents.predictor, exact_flops_per_token(contents)
    spent = [run.flops for run in runs] or list(predictor.range["flops"])
    last = max(BEYOND * aim.flops, max(spent)) if aim else BEYOND_LADDER * max(spent)
    budgets = np.geomspace(min(spent), last, BUDGETS)
    optimum = contents.plan.optimum if contents.plan else None
    if optimum and optimum.searched:
        # The plan's own limits on tokens per parameter, so that the plan lies on the line.
        fewest, most = (optimum.flops / 6 / size**2 for size in reversed(optimum.searched))
    else:
        fewest, most = FittedRange.by(predictor).tokens_per_param
    ends = (np.log(budgets / 6 / ratio) / 2 for ratio in (most, fewest))
    grid = np.linspace(*ends, SIZES, axis=1)  # ln N: (budgets, sizes)
    sizes = np.exp(grid)
    loss = predictor.predict(sizes, budgets[:, None] / count(sizes), level=contents.level).value
    best = np.exp(lowest(grid, loss))
    return _line(contents, best, budgets / count(best))


def _around(sizes: Array, loss: Array, rise: float, searched: tuple[float, float]) -> tuple[float, float]:
    """The sizes next to the lowest loss of the range searched whose loss is at most ``rise`` above it."""
    inside = (sizes >= searched[0]) & (sizes <= searched[1])
    best = int(np.argmin(np.where(inside, loss, np.inf)))
    above = np.flatnonzero(loss > (1 + rise) * loss[best])
    left, right = above[above < best], above[above > best]
    first = left[-1] + 1 if len(left) else 0
    last = right[0] - 1 if len(right) else len(sizes) - 1
    return float(sizes[first]), float(sizes[last])


def lowest(x: Array, y: Array) -> Array:
    """Where each row is lowest: the bottom of the parabola through the least point and its neighbours, or an end."""
    rows, index = np.arange(len(y)), np.argmin(y, axis=1)
    inner = np.clip(index, 1, y.shape[1] - 2)
    before, here, after = (y[rows, inner + step] for step in (-1, 0, 1))
    bend = np.maximum(before - 2 * here + after, 1e-300)
    shift = np.clip((before - after) / (2 * bend), -1, 1)
    moved = x[rows, inner] + shift * (x[:, 1] - x[:, 0])
    return np.where(index == inner, moved, x[rows, index])


def _along_tokens(contents: StudyContents, num_params: float, tokens: list[float]) -> PredictedLine | None:
    """The law along the tokens of one size; passes exactly through the given ones."""
    if contents.predictor is None:
        return None
    path = np.union1d(np.geomspace(min(tokens) * 0.8, max(tokens) * 1.25, POINTS), tokens)
    return _line(contents, np.full_like(path, num_params), path)


def _means(tokens: Array, loss: Array) -> tuple[Array, Array]:
    """Geometric mean of the tokens and mean of the loss in ``STRETCHES`` parts of every decade of tokens."""
    part = np.floor(STRETCHES * np.log10(tokens / tokens[-1]) - 1e-9)
    parts = np.unique(part)
    means = [(np.exp(np.log(tokens[part == one]).mean()), loss[part == one].mean()) for one in parts]
    return np.array([mean[0] for mean in means]), np.array([mean[1] for mean in means])


def _line(contents: StudyContents, num_params: Array, tokens: Array) -> PredictedLine:
    prediction = contents.predictor.predict(num_params, tokens, level=contents.level)
    flops = exact_flops_per_token(contents)(num_params) * tokens
    return PredictedLine(num_params, tokens, flops, prediction.value, prediction.low, prediction.high)


def _runs(contents: StudyContents, *kinds: str) -> tuple[RunPoint, ...]:
    return tuple(RunPoint.of(record) for record in contents.finished(*kinds))


def _commonest(values: list[float]) -> float:
    return max(sorted(set(values)), key=values.count)

"""The ladder of a program of the user's: short runs that measure each width, a sweep of the rate, the rungs.

The size of a width is what the program says, or what the study's own arithmetic gives; between and beyond the widths
that ran, it is interpolated. The time of a run is that of its start plus its FLOPs at one speed, fitted to the short
runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np

from ..arithmetic import evaluate
from ..config.run import RunConfig
from ..config.script import ScriptCounts, ScriptModelConfig, ScriptStudyConfig
from ..errors import UserError
from ..quantities import plural
from ..runs.record import RunRecord
from .parabolas import Parabolas, VariedSetting, most_probable

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the sweep, as multiples of the study's rate
# What is usual: the rise of ln L with the square of the octaves from the best rate, and the factor by which it varies;
# octaves from the given rate to the best; the exponent with which that falls with the width (0 in μP, 1 of a plain
# Adam), with its standard deviation; and the noise of the loss of a short run.
USUAL_BEND, USUAL_OFF, USUAL_EXPONENT, NOISE = (0.02, 3.0), 1.5, (0.5, 0.5), 0.01
NEAR_BEST = 3  # rates of each width, through whose losses the parabola goes
MILLION = 1_000_000  # units over which FLOPs of one unit are stated


@dataclass(frozen=True)
class ScriptRecipe:
    """The rate of the smallest width, and the exponent with which it falls with the width."""

    lr: float
    lr_exponent: float
    measured: str = "as given, not measured"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Sizes:
    """Parameters and FLOPs of one unit of data, by width: as measured, and between the widths by a power of the width.

    ``count`` is the arithmetic of the study, which then gives every size exactly.
    """

    measured: Mapping[int, tuple[int, float]]
    config: ScriptStudyConfig

    @classmethod
    def of(cls, config: ScriptStudyConfig, records: Sequence[RunRecord]) -> Sizes:
        """From the records of runs of the program.

        Raises:
            UserError: fewer than two widths, or all widths have one size: the program ignores the width.
        """
        measured: dict[int, tuple[int, float]] = {}
        for record in records:
            model = record.config.model
            assert isinstance(model, ScriptModelConfig)
            measured[model.width] = model.num_params, model.flops_per_token
        if len(measured) > 1 and len({size for size, _ in measured.values()}) == 1:
            raise UserError(
                f"the program says {plural(next(iter(measured.values()))[0], 'parameter')} at every width: it ignores "
                "{width}, or num_params names another number"
            )
        return cls(dict(sorted(measured.items())), config)

    def counts(self, width: int, tokens: int) -> ScriptCounts:
        """What is to be expected of a run."""
        size, flops = self.measured.get(width) or self._between(width)
        return ScriptCounts(num_params=size, flops=flops * tokens, tokens=tokens)

    def _between(self, width: int) -> tuple[int, float]:
        x = np.log([*self.measured])
        sizes, flops = (np.log(values) for values in zip(*self.measured.values(), strict=True))
        at = lambda y: math.exp(_interpolated(math.log(width), x, np.asarray(y)))
        script, size = self.config.trainer, at(sizes)
        if script.count is not None:
            places = script.calculate({"width": width, "seed": 0, "lr": 0.0, "batch_tokens": self.config.batch_tokens})
            numbers = {name: value for name, value in places.items() if isinstance(value, int | float)}
            size = evaluate(script.count, numbers, "trainer: count")
        return max(1, round(size)), at(flops)

    @property
    def grid(self) -> int:
        """What every width of the study is a multiple of."""
        return reduce(math.gcd, self.config.widths)

    def near(self, num_params: float) -> ScriptModelConfig:
        """The model whose size is nearest, in the logarithm, to a number of parameters; its width on the grid."""
        low, high = 1, 2
        size = lambda steps: self.counts(steps * self.grid, MILLION).num_params
        while size(high) < num_params and high < 1 << 24:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle) <= num_params else (low, middle)
        steps = min((low, high), key=lambda one: abs(math.log(size(one) / num_params)))
        return ScriptModelConfig(width=steps * self.grid, counts=self.counts(steps * self.grid, MILLION))


def _interpolated(at: float, x: np.ndarray, y: np.ndarray) -> float:
    """A line through the two nearest points."""
    if len(x) == 1:
        return float(y[0] + 2 * (at - x[0]))  # a matrix
    place = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    slope = (y[place] - y[place - 1]) / (x[place] - x[place - 1])
    return float(y[place] + slope * (at - x[place]))


def run_of(
    config: ScriptStudyConfig, width: int, tokens: int, recipe: ScriptRecipe, sizes: Sizes | None = None
) -> RunConfig:
    """The run of a width on so many units by a recipe."""
    counts = None if sizes is None else sizes.counts(width, tokens)
    train = config.train(width, tokens, recipe.lr, recipe.lr_exponent)
    return RunConfig(
        model=ScriptModelConfig(width=width, counts=counts), task=config.task(), train=train, trainer=config.trainer
    )


def given_recipe(config: ScriptStudyConfig) -> ScriptRecipe:
    """The rate as the study gives it."""
    return ScriptRecipe(config.lr, config.lr_exponent)


def probe_runs(config: ScriptStudyConfig, widths: Sequence[int]) -> list[RunConfig]:
    """A short run of each width, which measures its size and its speed."""
    return [run_of(config, width, config.short, given_recipe(config)) for width in widths]


def rungs_of(config: ScriptStudyConfig, recipe: ScriptRecipe, sizes: Sizes) -> list[RunConfig]:
    """Every width at every length."""
    lengths = sorted(set(config.tokens))
    return [run_of(config, width, tokens, recipe, sizes) for width in sorted(set(config.widths)) for tokens in lengths]


def sweep_of(config: ScriptStudyConfig, sizes: Sizes) -> list[RunConfig]:
    """Two widths, the smallest and one further up, at rates around the given one, on the shortest length."""
    if not config.sweep:
        return []
    widths, given = sorted(set(config.widths)), given_recipe(config)
    chosen = (widths[0], widths[max(1, len(widths) // 2)])
    recipes = [ScriptRecipe(given.lr * factor, given.lr_exponent) for factor in RATES]
    return [run_of(config, width, min(config.tokens), recipe, sizes) for width in chosen for recipe in recipes]


def measure_script_recipe(
    config: ScriptStudyConfig, records: Sequence[RunRecord]
) -> tuple[ScriptRecipe, dict[str, Any]]:
    """The best rate at each width of the sweep, by a parabola of ln L in the logarithm of the rate, and its exponent.

    The parabola goes through the best rate of a width and those beside it; its curvature is that of both widths
    together. Runs are noisy, so it is the one that is most probable after them and what is usual. A best rate beyond
    the rates that ran is their end.

    Raises:
        UserError: fewer than three rates of a width finished.
    """
    kept = [record for record in records if record.status == "finished" and record.loss and record.loss > 0]
    widths = sorted({_width(record) for record in kept})
    rates = {width: {r.lr for r in kept if _width(r) == width} for width in widths}
    if len(widths) < 2 or min(map(len, rates.values())) < 3:
        raise UserError("fewer than three rates of the sweep finished at two widths; give the study another lr")
    given = [(_width(r) / min(config.widths)) ** -config.lr_exponent * config.lr for r in kept]
    x = np.log2([(r.lr or 0) / rate for r, rate in zip(kept, given, strict=True)])
    member = np.array([[_width(r) == width for width in widths] for r in kept], float)
    y = np.log([r.loss or 1.0 for r in kept])
    # The loss is a parabola near the best rate only: a rate far below it has not learned, one far above hardly can.
    near = np.any([_nearest_best(x, y, member[:, i] > 0) for i in range(len(widths))], axis=0)
    octaves = math.log2(widths[-1] / widths[0])
    usual, sd = (USUAL_EXPONENT[0] - config.lr_exponent) * octaves, USUAL_EXPONENT[1] * octaves
    parabolas = _probable(x[near], y[near], member[near], (usual, sd))
    low, high = (math.log2(end) for end in (RATES[0], RATES[-1]))
    minima = [float(np.clip(vertex, low, high)) for vertex in parabolas.minima]
    smallest = min(config.widths)
    best_rates = [
        config.lr * (width / smallest) ** -config.lr_exponent * 2**minimum
        for width, minimum in zip(widths, minima, strict=True)
    ]
    first, last = best_rates[0], best_rates[-1]
    exponent = float(np.clip(-math.log(last / first) / math.log(widths[-1] / widths[0]), -1.0, 2.0))
    measured = f"{plural(len(kept), 'run')} of {len(widths)} widths"
    recipe = ScriptRecipe(float(f"{first:.3g}"), float(f"{exponent:.3g}"), measured)
    edge = any(m in (low, high) for m in minima)
    return recipe, {
        "best_lr": dict(zip(map(str, widths), best_rates, strict=True)),
        "lr_curvature": float(parabolas.bends[0]),
        "at_edge": edge,
    }


def _probable(x: np.ndarray, y: np.ndarray, member: np.ndarray, falls: tuple[float, float]) -> Parabolas:
    """The parabola of each width, with one bend, by the runs and by what is usual.

    ``falls``: octaves by which the best rate of the last width is usually below that of the first, in x; and their
    standard deviation.
    """
    bend, of_bend = USUAL_BEND

    def known(minima: np.ndarray, log_bends: np.ndarray) -> list[float]:
        fall = minima[0] - minima[-1] - falls[0]
        return [minima[0] / USUAL_OFF, fall / falls[1], (log_bends[0] - math.log(bend)) / math.log(of_bend)]

    least = [x[own > 0][y[own > 0].argmin()] for own in member.T]
    return most_probable(y, member, [VariedSetting(x, member)], NOISE, known, (least, [bend]))


def _nearest_best(x: np.ndarray, y: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of the rates of one width, the best and the two nearest to it."""
    places = np.flatnonzero(own)
    best = places[np.argmin(y[places])]
    near = np.zeros(len(x), bool)
    near[places[np.argsort(np.abs(x[places] - x[best]), kind="stable")[:NEAR_BEST]]] = True
    return near


def _width(record: RunRecord) -> int:
    return record.config.model.width


@dataclass(frozen=True)
class ProgramSpeed:
    """Seconds of a run of a program: its start, and each FLOP; ``workers`` run at once."""

    start: float
    per_flop: float
    workers: int

    @classmethod
    def of(cls, records: Sequence[RunRecord], workers: int) -> ProgramSpeed:
        """From short runs of several widths; neither part is below zero."""
        flops = np.array([record.flops for record in records], float)
        seconds = np.array([record.seconds for record in records], float)
        x = flops / flops.max()
        slope = float(((x - x.mean()) * seconds).sum() / max(((x - x.mean()) ** 2).sum(), 1e-12))
        start = float(seconds.mean() - slope * x.mean())
        if slope < 0:
            start, slope = float(seconds.mean()), 0.0
        elif start < 0:
            start, slope = 0.0, float((x * seconds).sum() / (x**2).sum())
        return cls(start, slope / float(flops.max()), workers)

    def seconds(self, run: RunConfig) -> float:
        """What a run is expected to take."""
        return self.start + self.per_flop * run.flops

    def total(self, runs: Sequence[RunConfig]) -> float:
        """When the last of these ends, handed out longest first."""
        free = [0.0] * self.workers
        for seconds in sorted(map(self.seconds, runs), reverse=True):
            free[free.index(min(free))] += seconds
        return max(free)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

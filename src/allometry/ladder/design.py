"""Which runs: a ladder of sizes and lengths whose cost is known before it is spent.

A ladder is trained in two stages. The *sweep* trains one small size at several learning rates and batches and so
measures the recipe; the *rungs* are then trained by that recipe, and the law is fitted to them alone. Everything that
decides a run is written to the study before the run starts, so the same command after a crash asks for the same runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.task import TaskConfig, TextConfig
from ..errors import UserError
from ..quantities import format_seconds
from ..runs.cost import PROCESS_BYTES, memory_bytes
from ..runs.trunks import HELD_OUT_TOKENS, groups, trunk_costs
from .recipe import Recipe
from .shape import shape
from .speed import BATCHED_GAIN, Speed
from .sweep import sweep_runs

TARGET_RATIO = 8.0  # the plan's FLOPs over those of the largest rung
FIXED_SECONDS = 24.0  # starting processes, reading text, measuring speed, fitting, the report
SIZES = 5
LENGTHS = (0.35, 0.6, 1)  # lengths of a trunk's runs over its longest; shorter runs say little about longer ones
# A ladder takes consecutive ones. Below 24, one learning rate no longer serves all widths (docs/log.md).
WIDTHS = (24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
PLAIN_RATE = 0.002  # of Adam, for small models in the standard parametrization
LEAST_TOKENS = 40_000  # a shorter run says nothing about longer ones
TOKENS_PER_PARAM = 2.5  # least for the longest run of the widest size: below it, a narrower ladder is better


@dataclass(frozen=True)
class Design:
    """The runs of a ladder by what is known before the sweep, and the seconds that they are expected to take.

    ``rungs`` use the recipe that the sweep will correct: batch and learning rate will change, sizes and tokens will
    not. ``ladder_seconds`` and ``target_seconds`` are None when no speed was measured.
    """

    sweep: tuple[RunConfig, ...]
    rungs: tuple[RunConfig, ...]
    recipe: Recipe
    ladder_seconds: float | None = None
    target_seconds: float | None = None
    batched: bool = False  # trunks of the sweep that step alike are trained as one batched model

    @property
    def total_seconds(self) -> float:
        """Seconds that ladder and target will take together; 0 for what is not known."""
        return (self.ladder_seconds or 0.0) + (self.target_seconds or 0.0)

    @property
    def largest(self) -> RunConfig:
        """The rung of most FLOPs."""
        return max(self.rungs, key=lambda config: config.flops)

    @property
    def target_flops(self) -> float:
        """The budget of the plan that the ladder is to predict."""
        return TARGET_RATIO * self.largest.flops

    def rungs_by(self, recipe: Recipe) -> list[RunConfig]:
        """The rungs as they are trained by a recipe: sizes and tokens stay, batch and learning rate follow it."""
        return [recipe.run(rung.model, rung.task, rung.train.tokens, rung.train.seed) for rung in self.rungs]

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": [config.to_dict() for config in self.sweep],
            "rungs": [config.to_dict() for config in self.rungs],
            "recipe": self.recipe.to_json(),
            "ladder_seconds": self.ladder_seconds,
            "target_seconds": self.target_seconds,
            "batched": self.batched,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Design:
        parse = lambda key: tuple(RunConfig.parse(config, f"ladder.json: {key}") for config in value[key])
        return cls(
            sweep=parse("sweep"),
            rungs=parse("rungs"),
            recipe=Recipe(**value["recipe"]),
            ladder_seconds=value["ladder_seconds"],
            target_seconds=value["target_seconds"],
            batched=value.get("batched", False),
        )


def design_members(config: StudyConfig, task: TaskConfig, members: Mapping[int, ModelConfig]) -> Design:
    """Every member of a family, by width, at every length: the ladder of any family and task, without its seconds.

    The first learning rate is the study's; without one, 0.002 for modules that are trained as they are. A warmup takes
    a tenth of the shortest run at most.
    """
    lengths = sorted(set(config.tokens or ()))
    rate = config.lr if "lr" in config.model_fields_set else PLAIN_RATE if _plain(config) else config.lr
    recipe = Recipe(lr=rate, batch_tokens=config.batch_tokens)
    recipe = replace(recipe, warmup_tokens=min(recipe.warmup_tokens, lengths[0] // 10))
    rungs = [
        recipe.run(members[width], task, tokens, config.seed)
        for width in sorted(set(config.widths or ()))
        for tokens in lengths
    ]
    return Design(_sweep(config, recipe, task, rungs), tuple(rungs), recipe)


def _plain(config: StudyConfig) -> bool:
    return config.family != "decoder" and config.parametrization == "sp"


def with_seconds(design: Design, speed: Speed) -> Design:
    """The design with the seconds that it is expected to take."""
    return _with_seconds(design, speed)


def make_design(config: StudyConfig, task: TextConfig, train_tokens: int, speed: Speed | None) -> Design:
    """The ladder that a study asks for; with ``minutes``, the largest that fits them, plan and target included.

    ``train_tokens`` is the length of the training data; ``speed`` may be None when the study names widths and tokens.

    Raises:
        UserError: the minutes are too few, or the corpus is too short; names the least that is needed.
    """
    way = {} if speed is None else {"precision": speed.precision, "compile": speed.compile}
    recipe = Recipe(lr=config.lr, batch_tokens=config.batch_tokens, **way)
    if config.minutes is None:
        return _grid(config, task, recipe, speed)
    if speed is None:
        raise ValueError("a study of minutes needs the machine's speed")
    design = _widest_that_fits(config, task, recipe, speed)
    if design is None:
        raise UserError(
            f"--minutes {config.minutes:g} is too few for any ladder on this machine; the least is "
            f"{_least_minutes(config, task, recipe, speed):.1f}"
        )
    needed = max(rung.tokens for rung in design.rungs) / 8
    if train_tokens < needed:
        raise UserError(
            f"{task.source}: {train_tokens} tokens of training text are too few for this ladder; "
            f"give {needed * task.bytes_per_token / 1e6:.1f} MB or more, or fewer --minutes"
        )
    return design


def _grid(config: StudyConfig, task: TextConfig, recipe: Recipe, speed: Speed | None) -> Design:
    """Every width of the study at every length."""
    rungs = [
        recipe.run(shape(width, config.context, task.vocab_size, config.decoder), task, tokens, config.seed)
        for width in sorted(set(config.widths or ()))
        for tokens in sorted(set(config.tokens or ()))
    ]
    design = Design(_sweep(config, recipe, task, rungs), tuple(rungs), recipe)
    return design if speed is None else _with_seconds(design, speed)


def _widest_that_fits(config: StudyConfig, task: TextConfig, recipe: Recipe, speed: Speed) -> Design | None:
    """The ladder of the widest models that still see enough tokens in the minutes; None if not even the least fits."""
    best = None
    for top in range(SIZES - 1, len(WIDTHS)):
        design = _fill(config, task, recipe, speed, top)
        if design is None:
            break
        widest = max(design.rungs, key=lambda rung: (rung.num_params, rung.tokens))
        if best is None or widest.tokens >= TOKENS_PER_PARAM * widest.num_params:
            best = design
    return best


def _least_minutes(config: StudyConfig, task: TextConfig, recipe: Recipe, speed: Speed) -> float:
    """The minutes that the least ladder takes, rounded up: the advice must hold when it is followed."""
    least = _with_seconds(_ladder(config, task, recipe, SIZES - 1, 1.0), speed)
    return math.ceil((FIXED_SECONDS + least.total_seconds) / 6) / 10


def _fill(config: StudyConfig, task: TextConfig, recipe: Recipe, speed: Speed, top: int) -> Design | None:
    """The ladder up to ``WIDTHS[top]`` that fills the minutes; None if even the shortest does not fit."""
    available = 60 * (config.minutes or 0.0) - FIXED_SECONDS

    def timed(flops: float) -> tuple[float, Design]:
        design = _with_seconds(_ladder(config, task, recipe, top, flops), speed)
        return design.total_seconds, design

    low, high = 1.0, 1e24  # of FLOPs, in the logarithm
    best = timed(low)
    if best[0] > available:
        return None
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        total, trial = timed(middle)
        if total <= available:
            low, best = middle, (total, trial)
        else:
            high = middle
    return best[1]


def _ladder(config: StudyConfig, task: TextConfig, recipe: Recipe, top: int, flops: float) -> Design:
    """The longest run of every size takes ``flops``: the smaller, the more tokens.

    So the ladder reaches about as far in tokens as the plan will, and as far in size, though never in both at once;
    the best ratio of the two lies inside. With a grid of equal tokens the law would have to guess one of the two.
    """
    configs = []
    for width in WIDTHS[top - SIZES + 1 : top + 1]:
        model = shape(width, config.context, task.vocab_size, config.decoder)
        longest = max(flops / model.flops_per_token, LEAST_TOKENS / LENGTHS[0])
        configs += [recipe.run(model, task, _round(length * longest), config.seed) for length in LENGTHS]
    return Design(_sweep(config, recipe, task, configs), tuple(configs), recipe)


def _sweep(config: StudyConfig, recipe: Recipe, task: TaskConfig, rungs: Sequence[RunConfig]) -> tuple[RunConfig, ...]:
    """The sweep of a ladder: its second smallest size, at its shortest length and half of that.

    The smallest size is too narrow for its best learning rate to carry over: it is lower (docs/log.md).
    """
    if not config.sweep:
        return ()
    models = sorted({rung.num_params: rung.model for rung in rungs}.items())
    model = models[min(1, len(models) - 1)][1]
    shortest = min(rung.train.tokens for rung in rungs if rung.model == model)
    return tuple(sweep_runs(recipe, model, task, (shortest // 2, shortest), config.seed))


def _with_seconds(design: Design, speed: Speed) -> Design:
    """The design with the time that its ladder and its target will take, and how the sweep is best trained."""
    one_by_one, together = (_seconds(design.sweep, speed, batched) for batched in (False, True))
    batched = speed.batched >= BATCHED_GAIN and together < one_by_one
    total = (together if batched else one_by_one) + _seconds(design.rungs, speed, batched=False)
    # The law will choose the target's size; the second widest of the ladder is near what it chose in trials. (Not the
    # rung of most FLOPs: all sizes have nearly the same, and rounding would pick now one width, now another.)
    models = sorted({rung.num_params: rung.model for rung in design.rungs}.items())
    model = models[max(0, len(models) - 2)][1]
    tokens = round(design.target_flops / model.flops_per_token)
    target = design.recipe.run(model, design.largest.task, tokens, 0)
    seconds = speed.target.trunk_seconds([target], HELD_OUT_TOKENS)[0]
    return replace(design, ladder_seconds=total, target_seconds=seconds, batched=batched)


def _seconds(configs: Sequence[RunConfig], speed: Speed, batched: bool) -> float:
    """When the last of these runs ends."""
    costs = trunk_costs(speed.ladder, configs)
    jobs = []
    for trunks in groups(configs, batched):
        gain = speed.batched if len(trunks) > 1 else 1.0
        jobs.append(sum(costs[config.id] for runs in trunks for config in runs) / gain)
    return _makespan(jobs, speed.workers)


def _makespan(seconds: list[float], workers: int) -> float:
    """When the last of these ends, handed out longest first."""
    free = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        free[free.index(min(free))] += duration
    return max(free)


def _round(tokens: float) -> int:
    """Three significant digits: a person reads these."""
    return int(float(f"{tokens:.3g}"))


def describe_cost(design: Design) -> str:
    """One line: how long the ladder takes, and how much memory its largest process needs."""
    seconds = "not measured" if design.ladder_seconds is None else format_seconds(design.ladder_seconds)
    memory = PROCESS_BYTES + max(memory_bytes(rung) for rung in design.rungs)
    return f"ladder {seconds}, about {memory / 1e9:.1f} GB of memory a process"

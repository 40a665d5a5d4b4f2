"""Which runs: a ladder of sizes and lengths whose cost is known before it is spent.

A ladder is climbed in two stages. The *sweep* trains the smallest size at several rates and batches and so measures
the recipe; the *rungs* are then trained by that recipe, and they alone make the law. Everything that decides a run is
written to the study before the run starts, so the same command after a crash asks for the same runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import DataConfig, RunConfig, StudyConfig
from ..errors import UserError
from ..quantities import format_seconds
from . import recipe as recipes
from .cost import Throughput, memory_bytes
from .engine import Job, Listener, LocalEngine, compiler
from .recipe import Recipe, shape
from .store import Study

TARGET_RATIO = 8.0  # the plan's FLOPs over those of the largest rung
HELD_OUT_TOKENS = 512 * 128
FIXED_SECONDS = 24.0  # starting processes, reading text, measuring speed, fitting, the report
BF16_GAIN = 1.1  # how many times faster BF16 must be to be used
PROCESS_BYTES = 450e6  # Python and PyTorch, before any model
SIZES = 5
LENGTHS = (0.35, 0.6, 1)  # lengths of a trunk over its longest; shorter ones are too short to tell of longer ones
# A ladder takes consecutive ones. Below 24, one rate no longer serves all widths (docs/log.md).
WIDTHS = (24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
LEAST_TOKENS = 40_000  # a shorter run says nothing of longer ones
TOKENS_PER_PARAM = 2.5  # least for the longest run of the widest size: below it, a narrower ladder is better


@dataclass(frozen=True)
class Design:
    """The runs of a ladder by what is known before the sweep, and what they are expected to take.

    ``rungs`` use the recipe that the sweep has yet to correct: batch and rate will change, sizes and tokens not.
    """

    sweep: tuple[RunConfig, ...]
    rungs: tuple[RunConfig, ...]
    recipe: Recipe
    ladder_seconds: float | None = None
    target_seconds: float | None = None

    @property
    def largest(self) -> RunConfig:
        """The rung of most FLOPs."""
        return max(self.rungs, key=lambda config: config.flops)

    @property
    def target_flops(self) -> float:
        """The budget of the plan that the ladder is to predict."""
        return TARGET_RATIO * self.largest.flops

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": [config.to_dict() for config in self.sweep],
            "rungs": [config.to_dict() for config in self.rungs],
            "recipe": self.recipe.to_json(),
            "ladder_seconds": self.ladder_seconds,
            "target_seconds": self.target_seconds,
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
        )


@dataclass(frozen=True)
class Speed:
    """Measured throughput: of the ladder's processes, one thread each and all at work, and of one on all cores."""

    ladder: Throughput
    target: Throughput
    workers: int
    precision: str = "fp32"
    compile: bool = False

    def to_json(self) -> dict[str, Any]:
        parts = {"ladder": self.ladder.to_json(), "target": self.target.to_json()}
        return parts | {"workers": self.workers, "precision": self.precision, "compile": self.compile}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Speed:
        parts = Throughput(**value["ladder"]), Throughput(**value["target"])
        return cls(*parts, value["workers"], value["precision"], value.get("compile", False))


def measure_speed(ladder: LocalEngine, target: LocalEngine, context: int) -> Speed:
    """A few seconds of training steps at the shapes that may be trained, in the precision that is faster here.

    Compiled wherever there is a compiler, without asking the clock: a study begun again on a busy machine must find
    its runs. For the same reason BF16 has to be faster at the smallest width too, where it never is by chance.
    """
    data = DataConfig(source="", fingerprint="")

    def at(way: dict[str, Any], *shapes: tuple[int, int]) -> list[RunConfig]:
        recipes_ = [Recipe(batch_tokens=n * context, batch_exponent=0.0, **way) for _, n in shapes]
        return [
            recipe.run(shape(width, context), data, recipe.batch_tokens, 0)
            for recipe, (width, _) in zip(recipes_, shapes, strict=True)
        ]

    compile = compiler() is not None
    ways = [{"precision": precision, "compile": compile} for precision in ("fp32", "bf16")]
    full, half = (ladder.measure(at(way, (16, 2), (64, 8))) for way in ways)
    way = ways[all(low < high / BF16_GAIN for low, high in zip(half, full, strict=True))]
    small = at(way, (16, 2), (16, 8), (32, 4), (64, 2), (64, 8))
    large = at(way, (64, 4), (64, 8), (128, 4), (128, 8))
    return Speed(
        ladder=Throughput.fit(small, ladder.measure(small)),
        target=Throughput.fit(large, target.measure(large)),
        workers=ladder.workers,
        **way,
    )


def design(config: StudyConfig, data: DataConfig, train_tokens: int, speed: Speed | None) -> Design:
    """The ladder that a study asks for; with ``minutes``, the largest that fits them, plan and target included.

    Raises:
        UserError: the minutes are too few, or the text too short; says the least.
    """
    way = {} if speed is None else {"precision": speed.precision, "compile": speed.compile}
    recipe = Recipe(lr=config.lr, batch_tokens=config.batch_tokens, **way)
    if config.minutes is None:
        rungs = [
            recipe.run(shape(width, config.context), data, tokens, config.seed)
            for width in sorted(set(config.widths))
            for tokens in sorted(set(config.tokens))
        ]
        made = Design(_sweep(config, recipe, data, rungs), tuple(rungs), recipe)
        return made if speed is None else _with_seconds(made, speed)
    best = None
    for top in range(SIZES - 1, len(WIDTHS)):
        fitted = _fill(config, data, recipe, speed, top)
        if fitted is None:
            break
        widest = max(fitted.rungs, key=lambda rung: (rung.num_params, rung.tokens))
        if best is None or widest.tokens >= TOKENS_PER_PARAM * widest.num_params:
            best = fitted
    if best is None:
        least = _with_seconds(_ladder(config, data, recipe, SIZES - 1, 1.0), speed)
        # Rounded up: the advice must hold when it is followed.
        minutes = math.ceil((FIXED_SECONDS + least.ladder_seconds + least.target_seconds) / 6) / 10
        raise UserError(
            f"--minutes {config.minutes:g} is too few for any ladder on this machine; the least is {minutes:.1f}"
        )
    needed = max(rung.tokens for rung in best.rungs) / 8
    if train_tokens < needed:
        raise UserError(
            f"{data.source}: {train_tokens} bytes of training text are too few for this ladder; "
            f"give {needed / 1e6:.1f} MB or more, or fewer --minutes"
        )
    return best


def tune(study: Study, made: Design, engine: LocalEngine, listener: Listener = lambda event: None) -> Recipe:
    """Train what is missing of the sweep, and measure the recipe by it; without a sweep, the recipe as it was given.

    Raises:
        UserError: a process died, or too little of the sweep trained.
    """
    recipe, evidence = made.recipe, {}
    if made.sweep:
        engine.train(study, jobs(study, made.sweep, "sweep"), listener)
        recipe, evidence = recipes.measure(made.recipe, [study.record(config.id) for config in made.sweep])
    study.write("recipe.json", recipe.to_json() | {"evidence": evidence})
    return recipe


def climb(
    study: Study, made: Design, recipe: Recipe, engine: LocalEngine, listener: Listener = lambda event: None
) -> None:
    """Train what is missing of the rungs, by a recipe.

    Raises:
        UserError: a process died; what was recorded stays.
    """
    chosen = rungs(made, recipe)
    engine.train(study, jobs(study, chosen, "ladder"), listener)
    for config in chosen:  # a run of the sweep that happened to hit the recipe is a rung as well
        record = study.record(config.id)
        if record.kind == "sweep":
            study.save(replace(record, kind="ladder"), study.curve(config.id))


def rungs(made: Design, recipe: Recipe) -> list[RunConfig]:
    """The rungs of a design by a recipe."""
    return [recipe.run(rung.model, rung.data, rung.train.tokens, rung.train.seed) for rung in made.rungs]


def jobs(study: Study, configs: Sequence[RunConfig], kind: str) -> list[Job]:
    """Runs that are not recorded yet, those of a trunk together; their relative cost from their FLOPs."""
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in configs:
        if study.record(config.id) is None:
            trunks[config.trunk].append(config)
    # A step costs about as much as 64 k parameters' arithmetic before it has done any.
    cost = lambda group: max(config.tokens * (config.model.flops_per_token + 4e5) for config in group)
    return [Job(tuple(group), kind, cost(group)) for group in trunks.values()]


def trunk_costs(speed: Throughput, configs: Sequence[RunConfig]) -> dict[str, float]:
    """Expected seconds that each run adds to its trunk, by run id."""
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in configs:
        trunks[config.trunk].append(config)
    added: dict[str, float] = {}
    for group in trunks.values():
        ordered = sorted(group, key=lambda config: config.train.tokens)
        added |= zip((c.id for c in ordered), speed.trunk_seconds(ordered, HELD_OUT_TOKENS), strict=True)
    return added


def _fill(config: StudyConfig, data: DataConfig, recipe: Recipe, speed: Speed, top: int) -> Design | None:
    """The ladder up to ``WIDTHS[top]`` that fills the minutes; None if even the shortest does not fit."""
    available = 60 * config.minutes - FIXED_SECONDS

    def timed(flops: float) -> tuple[float, Design]:
        made = _with_seconds(_ladder(config, data, recipe, top, flops), speed)
        return made.ladder_seconds + made.target_seconds, made

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


def _ladder(config: StudyConfig, data: DataConfig, recipe: Recipe, top: int, flops: float) -> Design:
    """The longest run of every size takes ``flops``: the smaller, the more tokens.

    So the ladder reaches about as far in tokens as the plan will, and as far in size, though never in both at once;
    the best ratio of the two lies inside. A grid of equal tokens leaves the law to guess either.
    """
    configs = []
    for width in WIDTHS[top - SIZES + 1 : top + 1]:
        model = shape(width, config.context)
        longest = max(flops / model.flops_per_token, LEAST_TOKENS / LENGTHS[0])
        configs += [recipe.run(model, data, _round(length * longest), config.seed) for length in LENGTHS]
    return Design(_sweep(config, recipe, data, configs), tuple(configs), recipe)


def _sweep(config: StudyConfig, recipe: Recipe, data: DataConfig, rungs: Sequence[RunConfig]) -> tuple[RunConfig, ...]:
    """The sweep of a ladder: its second smallest size, at its shortest length and half of that.

    The smallest is narrower than the rate carries over from: its best rate is the lower (docs/log.md).
    """
    if not config.sweep:
        return ()
    models = sorted({rung.num_params: rung.model for rung in rungs}.items())
    model = models[min(1, len(models) - 1)][1]
    shortest = min(rung.train.tokens for rung in rungs if rung.model == model)
    return tuple(recipes.sweep(recipe, model, data, (shortest // 2, shortest), config.seed))


def _with_seconds(made: Design, speed: Speed) -> Design:
    """The design with the time that its ladder and its target will take."""
    total = 0.0
    for configs in (made.sweep, made.rungs):
        costs = trunk_costs(speed.ladder, configs)
        trunks: dict[str, float] = defaultdict(float)
        for config in configs:
            trunks[config.trunk] += costs[config.id]
        total += _makespan(list(trunks.values()), speed.workers)
    # The law will choose the target's size; the second widest of the ladder is near what it chose in trials. (Not the
    # rung of most FLOPs: all sizes have nearly the same, and rounding would pick now one width, now another.)
    models = sorted({rung.num_params: rung.model for rung in made.rungs}.items())
    model = models[max(0, len(models) - 2)][1]
    tokens = round(made.target_flops / model.flops_per_token)
    target = made.recipe.run(model, made.largest.data, tokens, 0)
    seconds = speed.target.trunk_seconds([target], HELD_OUT_TOKENS)[0]
    return Design(made.sweep, made.rungs, made.recipe, total, seconds)


def _makespan(seconds: list[float], workers: int) -> float:
    """When the last of these ends, handed out longest first."""
    free = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        free[free.index(min(free))] += duration
    return max(free)


def _round(tokens: float) -> int:
    """Three significant digits: a person reads these."""
    return int(float(f"{tokens:.3g}"))


def describe_cost(made: Design) -> str:
    """One line: how long the ladder takes, and what its largest process keeps in memory."""
    seconds = "not measured" if made.ladder_seconds is None else format_seconds(made.ladder_seconds)
    memory = PROCESS_BYTES + max(memory_bytes(rung) for rung in made.rungs)
    return f"ladder {seconds}, about {memory / 1e9:.1f} GB of memory a process"

"""Which runs: a ladder of sizes and lengths whose cost is known before it is spent.

A ladder is climbed in two stages. The *sweep* trains the smallest size at several rates and batches and so measures
the recipe; the *rungs* are then trained by that recipe, and they alone make the law. Everything that decides a run is
written to the study before the run starts, so the same command after a crash asks for the same runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import DataConfig, RunConfig, StudyConfig
from ..errors import UserError
from ..quantities import format_seconds
from . import recipe as recipes
from .cost import PROCESS_BYTES, Throughput, memory_bytes
from .engine import Job, Listener, LocalEngine, compiler
from .recipe import Recipe, shape
from .store import Study

TARGET_RATIO = 8.0  # the plan's FLOPs over those of the largest rung
HELD_OUT_TOKENS = 512 * 128
FIXED_SECONDS = 24.0  # starting processes, reading text, measuring speed, fitting, the report
BF16_GAIN = 1.1  # how many times faster BF16 must be to be used
BATCHED_GAIN = 1.2  # how many times faster models of one shape must be as one batched model to be trained so
TOGETHER = 3  # models of the sweep that step alike: the rate, its half and its double
SIZES = 5
LENGTHS = (0.35, 0.6, 1)  # lengths of a trunk over its longest; shorter ones are too short to tell of longer ones
# A ladder takes consecutive ones. Below 24, one rate no longer serves all widths (docs/log.md).
WIDTHS = (24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
LEAST_TOKENS = 40_000  # a shorter run says nothing of longer ones
RETRY_RATE = 0.5  # of its learning rate, for a run that diverged
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
    batched: bool = False  # trunks of the sweep that step alike are trained as one batched model

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


@dataclass(frozen=True)
class Speed:
    """Measured throughput: of the ladder's processes, one thread each and all at work, and of one on all cores.

    ``batched``: how many times more tokens a second ``TOGETHER`` tiny models see as one batched model.
    """

    ladder: Throughput
    target: Throughput
    workers: int
    precision: str = "fp32"
    compile: bool = False
    batched: float = 1.0

    def to_json(self) -> dict[str, Any]:
        parts = {"ladder": self.ladder.to_json(), "target": self.target.to_json()}
        way = {"precision": self.precision, "compile": self.compile, "batched": self.batched}
        return parts | {"workers": self.workers} | way

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Speed:
        parts = Throughput(**value["ladder"]), Throughput(**value["target"])
        ways = value["precision"], value["compile"], value["batched"]
        return cls(*parts, value["workers"], *ways)


def measure_speed(ladder: LocalEngine, target: LocalEngine, context: int, vocab_size: int = 256) -> Speed:
    """A few seconds of training steps at the shapes that may be trained, in the precision that is faster here.

    Compiled wherever there is a compiler, without asking the clock: a study begun again on a busy machine must find
    its runs. For the same reason BF16 has to be faster at the smallest width too, where it never is by chance.
    """
    data = DataConfig(source="", fingerprint="")

    def at(way: dict[str, Any], *shapes: tuple[int, int]) -> list[RunConfig]:
        recipes_ = [Recipe(batch_tokens=n * context, batch_exponent=0.0, **way) for _, n in shapes]
        return [
            recipe.run(shape(width, context, vocab_size), data, recipe.batch_tokens, 0)
            for recipe, (width, _) in zip(recipes_, shapes, strict=True)
        ]

    compile = compiler() is not None
    ways = [{"precision": precision, "compile": compile} for precision in ("fp32", "bf16")]
    full, half = (ladder.measure(at(way, (16, 2), (64, 8))) for way in ways)
    way = ways[all(low < high / BF16_GAIN for low, high in zip(half, full, strict=True))]
    small = at(way, (16, 2), (16, 8), (32, 4), (64, 2), (64, 8))
    large = at(way, (64, 4), (64, 8), (128, 4), (128, 8))
    tiny = at(way, (32, 2))
    (alone,), (together,) = ladder.measure(tiny), ladder.measure(tiny, TOGETHER)
    return Speed(
        ladder=Throughput.fit(small, ladder.measure(small)),
        target=Throughput.fit(large, target.measure(large)),
        workers=ladder.workers,
        batched=TOGETHER * alone / together,
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
            recipe.run(shape(width, config.context, data.vocab_size), data, tokens, config.seed)
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
            f"{data.source}: {train_tokens} tokens of training text are too few for this ladder; "
            f"give {needed * data.bytes_per_token / 1e6:.1f} MB or more, or fewer --minutes"
        )
    return best


def tune(study: Study, made: Design, engine: LocalEngine, listener: Listener = lambda event: None) -> Recipe:
    """Train what is missing of the sweep, and measure the recipe by it; without a sweep, the recipe as it was given.

    Raises:
        UserError: a process died, or too little of the sweep trained.
    """
    recipe, evidence = made.recipe, {}
    if made.sweep:
        engine.train(study, jobs(study, made.sweep, "sweep", made.batched), listener)
        recipe, evidence = recipes.measure(made.recipe, [study.record(config.id) for config in made.sweep])
    study.write("recipe.json", recipe.to_json() | {"evidence": evidence})
    return recipe


def climb(
    study: Study, made: Design, recipe: Recipe, engine: LocalEngine, listener: Listener = lambda event: None
) -> None:
    """Train what is missing of the rungs, by a recipe; those that diverge again, as often as the study asks for.

    Raises:
        UserError: a process died; what was recorded stays.
    """
    chosen = rungs(made, recipe)
    engine.train(study, jobs(study, chosen, "ladder"), listener)
    retry_of: dict[str, str] = {}
    again = chosen
    for _ in range(study.settings().get("study", {}).get("retries", 0)):
        again = [retry for config in again if (retry := _retry(study, config, retry_of)) is not None]
        engine.train(study, jobs(study, again, "ladder", retry_of=retry_of), listener)
    for config in chosen:  # a run of the sweep that happened to hit the recipe is a rung as well
        record = study.record(config.id)
        if record.kind == "sweep":
            study.save(replace(record, kind="ladder"), study.curve(config.id))


def _retry(study: Study, config: RunConfig, retry_of: dict[str, str]) -> RunConfig | None:
    """The next attempt of a run that diverged, at ``RETRY_RATE`` of its rate; noted in ``retry_of``."""
    if study.record(config.id).status != "diverged":
        return None
    train = config.train.model_copy(update={"lr": config.train.lr * RETRY_RATE})
    retry = config.model_copy(update={"train": train})
    retry_of[retry.id] = config.id
    return retry


def rungs(made: Design, recipe: Recipe) -> list[RunConfig]:
    """The rungs of a design by a recipe."""
    return [recipe.run(rung.model, rung.data, rung.train.tokens, rung.train.seed) for rung in made.rungs]


def jobs(
    study: Study,
    configs: Sequence[RunConfig],
    kind: str,
    batched: bool = False,
    retry_of: Mapping[str, str] | None = None,
) -> list[Job]:
    """Runs that are not recorded yet, those of a trunk together; their relative cost from their FLOPs.

    With ``batched``, trunks that step alike are one job. Such a job has all their runs or none: what was trained
    beside a run decides its rounding, so a job that a crash cut short must be the same again.
    """
    missing = lambda group: [config for config in group if study.record(config.id) is None]
    # A step costs about as much as 64 k parameters' arithmetic before it has done any.
    cost = lambda group: max(config.tokens * (config.model.flops_per_token + 4e5) for config in group)
    made = []
    for trunks in groups(configs, batched):
        left = [runs for runs in map(missing, trunks) if runs]
        if left:
            runs = left[0] if len(trunks) == 1 else [config for runs in trunks for config in runs]
            made.append(Job(tuple(runs), kind, sum(map(cost, left)), retry_of or {}))
    return made


def groups(configs: Sequence[RunConfig], batched: bool) -> list[list[list[RunConfig]]]:
    """The trunks of these runs, each with its runs; in groups of those that step alike, or each a group by itself."""
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in configs:
        trunks[config.trunk].append(config)
    alike: dict[Any, list[list[RunConfig]]] = defaultdict(list)
    for trunk, runs in trunks.items():
        lengths = sorted(config.train.tokens for config in runs)
        alike[step_shape(runs[0]), *lengths, "" if batched else trunk].append(runs)
    return list(alike.values())


def step_shape(config: RunConfig) -> str:
    """What runs must share to be trained as one batched model: everything but rate, seed and length."""
    train = config.train.model_dump(exclude={"lr", "seed", "tokens"})
    return repr((config.model, config.data.fingerprint, config.data.tokenizer, sorted(train.items())))


def trunk_costs(speed: Throughput, configs: Sequence[RunConfig]) -> dict[str, float]:
    """Expected seconds that each run adds to its trunk, by run id."""
    added: dict[str, float] = {}
    for (group,) in groups(configs, batched=False):
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
        model = shape(width, config.context, data.vocab_size)
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
    """The design with the time that its ladder and its target will take, and how the sweep is best trained."""
    one_by_one, together = (_seconds(made.sweep, speed, batched) for batched in (False, True))
    batched = speed.batched >= BATCHED_GAIN and together < one_by_one
    total = (together if batched else one_by_one) + _seconds(made.rungs, speed, batched=False)
    # The law will choose the target's size; the second widest of the ladder is near what it chose in trials. (Not the
    # rung of most FLOPs: all sizes have nearly the same, and rounding would pick now one width, now another.)
    models = sorted({rung.num_params: rung.model for rung in made.rungs}.items())
    model = models[max(0, len(models) - 2)][1]
    tokens = round(made.target_flops / model.flops_per_token)
    target = made.recipe.run(model, made.largest.data, tokens, 0)
    seconds = speed.target.trunk_seconds([target], HELD_OUT_TOKENS)[0]
    return Design(made.sweep, made.rungs, made.recipe, total, seconds, batched)


def _seconds(configs: Sequence[RunConfig], speed: Speed, batched: bool) -> float:
    """When the last of these runs ends."""
    costs = trunk_costs(speed.ladder, configs)
    jobs_ = []
    for trunks in groups(configs, batched):
        gain = speed.batched if len(trunks) > 1 else 1.0
        jobs_.append(sum(costs[config.id] for runs in trunks for config in runs) / gain)
    return _makespan(jobs_, speed.workers)


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

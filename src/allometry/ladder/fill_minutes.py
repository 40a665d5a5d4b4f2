"""The design of a ladder that fills so many minutes, its target included."""

from __future__ import annotations

import math

from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.task import TextConfig
from ..errors import UserError
from .design import SWEEP_LENGTHS, Design, grid_design, trunk_flops, with_seconds
from .recipe import TEXT_TIMESCALE, Recipe
from .shape import BYTES, least_width, shape, shape_near
from .speed import Speed
from .sweep import sweep_runs

FIXED_SECONDS = 36.0  # starting processes, reading text, measuring speed, fitting, the report
# Widths of the first rungs over that of the best size at the target: sizes from an eighth to twice the best one.
WIDTHS_OVER_BEST = (0.35, 0.6, 1.0, 1.35)
# Narrower models leave the law of the others: with subwords they cannot copy (docs/log.md). For a target of fewer FLOPs
# there are not four sizes wide enough around the best one.
LEAST_WIDTH, LEAST_TARGET = 16, 7e11
LEAST_WIDTH_OF_SUBWORDS, LEAST_TARGET_OF_SUBWORDS = 40, 5e12
# All FLOPs of the ladder over those of its largest rung: at 8 times the largest rung, 42 % of the study's compute.
LADDER_RUNGS = 5.9
FIRST_SHARE = 0.4  # FLOPs of the longest first rungs over those of the largest later one
FIRST_LENGTHS = (0.45, 1.0)  # lengths of a trunk's runs over its longest
LATER_LENGTHS = (0.18, 0.42, 1.0)
# Passes of the smallest ladder's target over a text too short for the ``epochs`` of its study: the interval is as wide
# as that makes it.
MOST_EPOCHS = 8.0
MOST_RATIO = 300.0  # tokens a parameter: tiny models trained long tell the law in tokens, and this is long enough
SWEEP_SHARE = 0.08  # FLOPs of a sweep's longest run over those of the largest rung
LEAST_TOKENS = 65_000  # shorter runs have hardly begun: their losses bend every law (docs/log.md)
# The best size at a budget in FLOPs, as earlier studies found it (docs/log.md): where the ladder's sizes are centred.
BEST_SIZE = (132_000.0, 4e12, 0.48)


def make_design(config: StudyConfig, task: TextConfig, train_tokens: int, speed: Speed | None) -> Design:
    """The ladder that a study asks for; with ``minutes``, the largest that fits them, plan and target included.

    A short text makes it smaller: the target reads it ``config.epochs`` times, and only the smallest one more often.

    ``train_tokens`` is the length of the training data; ``speed`` may be None when the study names widths and tokens.

    Raises:
        UserError: the minutes are too few, or the corpus is too short for any ladder; names the least that is needed.
    """
    way = {} if speed is None else {"precision": speed.precision, "compile": speed.compile}
    way |= {"weight_decay_timescale": TEXT_TIMESCALE} if config.task == "text" else {}
    recipe = Recipe(lr=config.lr, batch_tokens=config.batch_tokens, **way | config.training)
    if config.minutes is None:
        return grid_design(config, task, recipe, speed)
    if speed is None:
        raise ValueError("a study of minutes needs the machine's speed")
    design = _largest_that_fits(config, task, recipe, speed, config.epochs * train_tokens)
    if design is not None:
        return design
    least = with_seconds(_ladder(config, task, recipe, 1.0), speed)
    needed = _target_tokens(config, task, least) / MOST_EPOCHS
    if FIXED_SECONDS + least.total_seconds > 60 * config.minutes:
        minutes = math.ceil((FIXED_SECONDS + least.total_seconds) / 6) / 10  # rounded up: the advice must hold
        tokens = max(rung.tokens for rung in least.rungs)
        raise UserError(
            f"--minutes {config.minutes:g} is too few for any ladder on this machine; the least is {minutes:.1f}, "
            f"which pays for runs of up to {tokens} tokens and predicts with a wide interval"
        )
    if train_tokens < needed:
        megabytes = math.ceil(needed * task.bytes_per_token / 1e5) / 10  # rounded up, as the minutes
        raise UserError(
            f"{task.source}: {train_tokens} tokens of training text are too few for any ladder; "
            f"give {megabytes:.1f} MB or more"
        )
    return least


def _largest_that_fits(
    config: StudyConfig, task: TextConfig, recipe: Recipe, speed: Speed, most_tokens: float
) -> Design | None:
    """The ladder of the most FLOPs that fits the minutes, with its target; None if even the shortest does not."""
    available = 60 * (config.minutes or 0.0) - FIXED_SECONDS
    low, high, best = 1.0, 1e24, None  # of FLOPs, in the logarithm
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        trial = with_seconds(_ladder(config, task, recipe, middle), speed)
        if trial.total_seconds <= available and _target_tokens(config, task, trial) <= most_tokens:
            low, best = middle, trial
        else:
            high = middle
    return best


def _target_tokens(config: StudyConfig, task: TextConfig, design: Design) -> float:
    """Tokens of the target, if its size is the one that earlier studies found best."""
    return design.target_flops / _best_model(config, task, design.target_flops).flops_per_token


def _ladder(config: StudyConfig, task: TextConfig, recipe: Recipe, flops: float) -> Design:
    """The ladder whose largest rung takes ``flops``, more where runs would else be too short to say anything.

    The first rungs of all sizes take the same FLOPs: the smaller, the more tokens. So they reach about as far in
    tokens as the plan will, and as far in size, though never in both at once; the best ratio of the two lies inside.
    """
    least = LEAST_TARGET if _of_bytes(task) else LEAST_TARGET_OF_SUBWORDS
    models = _models(config, task, max(least, config.target_ratio * flops))
    first = max(FIRST_SHARE * flops, LEAST_TOKENS * models[-1].flops_per_token)
    flops = first / FIRST_SHARE
    longest = {model: min(first / model.flops_per_token, MOST_RATIO * model.num_params) for model in models}
    rungs = [
        recipe.run(model, task, whole_tokens(length * longest[model]), config.seed)
        for model in models
        for length in FIRST_LENGTHS
        if length == 1 or length * longest[model] >= LEAST_TOKENS
    ]
    sweep = _sweep(config, task, recipe, models, SWEEP_SHARE * flops)
    later = max(0.0, LADDER_RUNGS * flops - trunk_flops(rungs) - (trunk_flops(sweep) if sweep else 0.0))
    return Design(tuple(sweep), tuple(rungs), recipe, config.target_ratio, flops, later)


def _best_model(config: StudyConfig, task: TextConfig, target_flops: float) -> DecoderConfig:
    """The model that earlier studies found best for so many FLOPs."""
    size, budget, exponent = BEST_SIZE
    return shape_near(size * (target_flops / budget) ** exponent, config.context, task.vocab_size, config.decoder)


def _models(config: StudyConfig, task: TextConfig, target_flops: float) -> list[DecoderConfig]:
    """Four sizes around the one that earlier studies found best for the target's FLOPs."""
    best = _best_model(config, task, target_flops)
    over_largest = [factor / WIDTHS_OVER_BEST[-1] for factor in WIDTHS_OVER_BEST]
    largest = WIDTHS_OVER_BEST[-1] * best.width
    # Where the smallest would be too narrow, all of them move together.
    closer = min(1.0, math.log(_least_width(task) / largest) / math.log(over_largest[0]))
    widths = sorted({whole_width(config, task, largest * ratio**closer) for ratio in over_largest})
    while len(widths) < 3:  # where heads are wide, neighbouring widths are far apart
        widths.append(least_width(config.decoder, widths[-1] + 1))
    return [shape(width, config.context, task.vocab_size, config.decoder) for width in widths]


def whole_width(config: StudyConfig, task: TextConfig, width: float) -> int:
    """The width nearest to one, in steps of 8 that the options of the decoder allow: of an eighth for wide models."""
    step = 8 * 2 ** max(0, math.floor(math.log2(width / 64)))
    return least_width(config.decoder, max(_least_width(task), step * round(width / step)))


def _least_width(task: TextConfig) -> int:
    return LEAST_WIDTH if _of_bytes(task) else LEAST_WIDTH_OF_SUBWORDS


def _of_bytes(task: TextConfig) -> bool:
    return task.vocab_size <= BYTES


def _sweep(
    config: StudyConfig, task: TextConfig, recipe: Recipe, models: list[DecoderConfig], flops: float
) -> list[RunConfig]:
    """The sweep of a ladder, of its second size, whose best learning rate and batch are those of the others."""
    if not config.sweep:
        return []
    model = models[1]
    tokens = max(flops / model.flops_per_token, LEAST_TOKENS / 1.5)
    return sweep_runs(recipe, model, task, [whole_tokens(share * tokens) for share in SWEEP_LENGTHS], config.seed)


def whole_tokens(tokens: float) -> int:
    """Three significant digits: a person reads these."""
    return int(float(f"{tokens:.3g}"))

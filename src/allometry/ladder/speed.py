"""How fast this machine trains, measured in a few seconds before anything is designed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.model import DecoderOptions
from ..config.run import RunConfig
from ..config.task import TextConfig
from ..runs.cost import Throughput
from ..runs.engines.contract import LadderEngine
from ..runs.machine import compiler
from .recipe import Recipe
from .shape import PLAIN, least_width, shape

BF16_GAIN = 1.5  # how many times faster BF16 must be to be used, at the smallest width too: never by chance
BATCHED_GAIN = 1.2  # how many times faster models of one shape must be as one batched model to be trained so
MODELS_PER_BATCHED_STEP = 3  # of the sweep: the learning rate, its half and its double


@dataclass(frozen=True)
class Speed:
    """Measured throughput: of the ladder's processes, one thread each and all busy, and of one process on all cores.

    ``batched``: how many times more tokens a second ``MODELS_PER_BATCHED_STEP`` tiny models see as one batched model.
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


def measure_runs(ladder: LadderEngine, target: LadderEngine, runs: Sequence[RunConfig]) -> Speed:
    """Time steps of a ladder's own smallest and largest models, where no other shapes are known to measure."""
    by_size = sorted({run.model: run for run in runs}.values(), key=lambda run: run.model.num_params_total)
    chosen = [
        by_size[place].with_train(batch_tokens=rows * by_size[place].model.row_tokens, batch_exponent=0.0)
        for place in (0, len(by_size) // 2, -1)
        for rows in (4, 64)
    ]
    seconds = ladder.measure(chosen), target.measure(chosen[2:])
    return Speed(Throughput.fit(chosen, seconds[0]), Throughput.fit(chosen[2:], seconds[1]), ladder.workers)


def measure_speed(
    ladder: LadderEngine,
    target: LadderEngine,
    context: int,
    vocab_size: int = 256,
    options: DecoderOptions = PLAIN,
) -> Speed:
    """Time a few seconds of training steps at the shapes that may be trained, in the precision that is faster here.

    Runs are compiled wherever there is a compiler, whatever the clock shows: a study begun again on a busy machine must
    find its runs. For the same reason BF16 has to be faster at the smallest width too, where it never is by chance.
    """
    task = TextConfig(source="", fingerprint="")

    def at(way: dict[str, Any], *shapes: tuple[int, int]) -> list[RunConfig]:
        recipes = [Recipe(batch_tokens=n * context, batch_exponent=0.0, **way) for _, n in shapes]
        return [
            recipe.run(shape(least_width(options, width), context, vocab_size, options), task, recipe.batch_tokens, 0)
            for recipe, (width, _) in zip(recipes, shapes, strict=True)
        ]

    plain = shape(least_width(options, 16), context, vocab_size, options).plain  # the kernels serve no other
    compile = plain and compiler() is not None
    ways = [{"precision": precision, "compile": compile} for precision in ("fp32", "bf16")]
    full, half = (ladder.measure(at(way, (16, 2), (64, 8))) for way in ways)
    way = ways[all(low < high / BF16_GAIN for low, high in zip(half, full, strict=True))]
    small = at(way, (16, 2), (16, 8), (32, 4), (64, 2), (64, 8))
    large = at(way, (64, 4), (64, 8), (128, 4), (128, 8))
    tiny = at(way, (32, 2))
    (alone,), (together,) = ladder.measure(tiny), ladder.measure(tiny, MODELS_PER_BATCHED_STEP) if plain else [math.inf]
    return Speed(
        ladder=Throughput.fit(small, ladder.measure(small)),
        target=Throughput.fit(large, target.measure(large)),
        workers=ladder.workers,
        batched=MODELS_PER_BATCHED_STEP * alone / together,
        **way,
    )

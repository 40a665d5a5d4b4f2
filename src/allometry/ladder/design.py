"""Which runs: a ladder of sizes and lengths whose cost is known before it is spent.

A ladder that fills minutes is trained in stages. The *sweep* trains one small size at several learning rates and
batches and so measures the recipe. The *first rungs* are four sizes around the one that is expected to be best at the
target, none of them long. The *later rungs* are chosen by what the earlier ones have shown (:mod:`.stages`), as far as
the time set aside for them goes. A ladder whose widths and tokens are given has its grid and nothing later.

Everything that decides a run is written to the study before the run starts, so the same command after a crash asks for
the same runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config.model import DecoderConfig, ModelConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.task import TaskConfig, TextConfig
from ..quantities import format_seconds
from ..runs.cost import PROCESS_BYTES, memory_bytes
from ..runs.machine import compiler
from .expected_seconds import ladder_seconds, sweep_seconds, target_seconds
from .recipe import Recipe
from .shape import shape
from .speed import Speed
from .sweep import sweep_runs

SWEEP_LENGTHS = (0.5, 1.0)
PLAIN_RATE = 0.002  # of Adam, for small models in the standard parametrization


@dataclass(frozen=True)
class Design:
    """The runs of a ladder by what is known before the sweep, and the seconds that they are expected to take.

    ``rungs`` use the recipe that the sweep will correct: batch and learning rate will change, sizes and tokens will
    not. ``ladder_seconds`` and ``target_seconds`` are None when no speed was measured.

    Attributes:
        sweep: runs that measure the recipe.
        rungs: the first rungs; all of them where ``top_flops`` is None.
        recipe: the one before the sweep.
        target_ratio: the target's FLOPs over those of the largest rung.
        top_flops: FLOPs of the largest rung that is to be trained later; None: there are no later rungs.
        later_flops: FLOPs set aside for later rungs.
        ladder_seconds: of sweep, first and later rungs.
        target_seconds: of the planned run.
        batched: trunks of the sweep that step alike are trained as one batched model.
    """

    sweep: tuple[RunConfig, ...]
    rungs: tuple[RunConfig, ...]
    recipe: Recipe
    target_ratio: float = 8.0
    top_flops: float | None = None
    later_flops: float = 0.0
    ladder_seconds: float | None = None
    target_seconds: float | None = None
    batched: bool = False

    @property
    def total_seconds(self) -> float:
        """Seconds that ladder and target will take together; 0 for what is not known."""
        return (self.ladder_seconds or 0.0) + (self.target_seconds or 0.0)

    @property
    def largest_flops(self) -> float:
        """FLOPs of the largest rung, of those to come too."""
        return max(self.top_flops or 0.0, *(rung.flops for rung in self.rungs))

    @property
    def target_flops(self) -> float:
        """The budget of the plan that the ladder is to predict."""
        return self.target_ratio * self.largest_flops

    def rungs_by(self, recipe: Recipe) -> list[RunConfig]:
        """The first rungs as they are trained by a recipe: sizes and tokens stay, batch and rate follow it."""
        return [recipe.run(rung.model, rung.task, rung.train.tokens, rung.train.seed) for rung in self.rungs]

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": [config.to_dict() for config in self.sweep],
            "rungs": [config.to_dict() for config in self.rungs],
            "recipe": self.recipe.to_json(),
            "target_ratio": self.target_ratio,
            "top_flops": self.top_flops,
            "later_flops": self.later_flops,
            "ladder_seconds": self.ladder_seconds,
            "target_seconds": self.target_seconds,
            "batched": self.batched,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Design:
        parse = lambda key: tuple(RunConfig.parse(config, f"ladder.json: {key}") for config in value[key])
        plain = ("target_ratio", "top_flops", "later_flops", "ladder_seconds", "target_seconds", "batched")
        return cls(
            sweep=parse("sweep"),
            rungs=parse("rungs"),
            recipe=Recipe(**value["recipe"]),
            **{name: value[name] for name in plain},
        )


def grid_design(config: StudyConfig, task: TextConfig, recipe: Recipe, speed: Speed | None) -> Design:
    """Every width of a study at every length, with every seed."""
    models = [
        shape(width, config.context, task.vocab_size, config.decoder) for width in sorted(set(config.widths or ()))
    ]
    design = _grid(config, task, recipe, models)
    return design if speed is None else with_seconds(design, speed)


def design_members(config: StudyConfig, task: TaskConfig, members: Mapping[int, ModelConfig]) -> Design:
    """Every member of a family, by width, at every length: the ladder of any family and task, without its seconds.

    The first learning rate is the study's; without one, 0.002 for modules that are trained as they are. A warmup takes
    a tenth of the shortest run at most.
    """
    rate = config.lr if "lr" in config.model_fields_set else PLAIN_RATE if _plain(config) else config.lr
    recipe = Recipe(lr=rate, batch_tokens=config.batch_tokens)
    recipe = replace(recipe, warmup_tokens=min(recipe.warmup_tokens, min(config.tokens or ()) // 10))
    plain = all(isinstance(model, DecoderConfig) and model.plain for model in members.values())
    recipe = replace(recipe, compile=plain and compiler() is not None)
    recipe = replace(recipe, **config.training)
    return _grid(config, task, recipe, [members[width] for width in sorted(set(config.widths or ()))])


def _plain(config: StudyConfig) -> bool:
    return config.family != "decoder" and config.parametrization == "sp"


def _grid(config: StudyConfig, task: TaskConfig, recipe: Recipe, models: Sequence[ModelConfig]) -> Design:
    """Every model at every length, with every seed; the sweep of the second smallest."""
    rungs = [
        recipe.run(model, task, tokens, config.seed + repeat)
        for model in models
        for tokens in sorted(set(config.tokens or ()))
        for repeat in range(config.repeats)
    ]
    swept = sorted(models, key=lambda model: model.num_params)[min(1, len(models) - 1)]
    shortest = min(config.tokens or ())
    lengths = [max(1, round(share * shortest)) for share in SWEEP_LENGTHS]
    sweep = sweep_runs(recipe, swept, task, lengths, config.seed) if config.sweep else []
    return Design(tuple(sweep), tuple(rungs), recipe, config.target_ratio)


def with_seconds(design: Design, speed: Speed) -> Design:
    """The design with the time that its ladder and its target will take, and how the sweep is best trained."""
    swept, batched = sweep_seconds(design.sweep, speed)
    first = ladder_seconds(design.rungs, speed)
    # Later rungs are expected to be as fast as the first ones, whose sizes are the same.
    later = design.later_flops / trunk_flops(design.rungs) * first
    target = target_seconds(target_run(design), speed)
    return replace(design, ladder_seconds=swept + first + later, target_seconds=target, batched=batched)


def target_run(design: Design) -> RunConfig:
    """A run as large as the target, of the second widest size: the law will choose another one near it."""
    models = sorted({rung.num_params: rung.model for rung in design.rungs}.items())
    model = models[max(0, len(models) - 2)][1]
    tokens = round(design.target_flops / model.flops_per_token)
    return design.recipe.run(model, design.rungs[0].task, tokens, 0)


def trunk_flops(configs: tuple[RunConfig, ...] | list[RunConfig]) -> float:
    """FLOPs of runs whose trunks are trained once: the longest of each, and the decay of the others."""
    longest: dict[str, RunConfig] = {}
    for config in sorted(configs, key=lambda config: config.tokens):
        longest[config.trunk] = config
    decays = sum(config.train.decay * config.flops for config in configs if longest[config.trunk] is not config)
    return sum(config.flops for config in longest.values()) + decays


def describe_cost(design: Design) -> str:
    """One line: how long the ladder takes, and how much memory its largest process needs."""
    seconds = "not measured" if design.ladder_seconds is None else format_seconds(design.ladder_seconds)
    memory = PROCESS_BYTES + max(memory_bytes(rung) for rung in design.rungs)
    return f"ladder {seconds}, about {memory / 1e9:.1f} GB of memory a process"

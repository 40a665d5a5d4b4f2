"""The later rungs: chosen when the earlier ones have ended, and written down before they are trained.

``stages.json`` of a study holds what was decided, in order. A study that goes on after a crash finds its decisions
there, trains what is missing of them, and only then decides anything new.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..runs.study import Study
from .design import Design
from .fill_minutes import LATER_LENGTHS, MOST_RATIO, whole_tokens, whole_width
from .recipe import Recipe
from .shape import shape

FILE = "stages.json"
LENGTH_STEPS = (1.0, 0.5, 0.25)  # FLOPs of a candidate's longest run over those of the largest rung
WIDER = 1.25  # width of the one size beyond the first rungs, over the widest of them
LEAST_TOKENS = 100_000  # of the shortest run of a later trunk


@dataclass(frozen=True)
class LadderStage:
    """Rungs that were decided on together, and why; ``top_flops`` is what the largest rung may take from then on.

    A stage without runs says that the ladder is complete.
    """

    runs: tuple[RunConfig, ...]
    top_flops: float
    reason: str

    def to_json(self) -> dict[str, Any]:
        runs = [config.to_dict() for config in self.runs]
        return {"runs": runs, "top_flops": self.top_flops, "reason": self.reason}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LadderStage:
        runs = tuple(RunConfig.parse(config, f"{FILE}: runs") for config in value["runs"])
        return cls(runs, float(value["top_flops"]), str(value["reason"]))


def read_stages(study: Study) -> list[LadderStage]:
    """What was decided so far."""
    return [LadderStage.from_json(value) for value in (study.read(FILE) or {}).get("stages", [])]


def write_stage(study: Study, stage: LadderStage) -> None:
    """Add a decision to those of the study."""
    stages = [*read_stages(study), stage]
    study.write(FILE, {"stages": [one.to_json() for one in stages]})


def candidate_trunks(
    config: StudyConfig, design: Design, recipe: Recipe, top_flops: float, taken: Sequence[RunConfig]
) -> list[list[RunConfig]]:
    """The trunks that a later stage may choose from, each the runs of one model that share it, the shortest first.

    Sizes are those of the first rungs, those between them and one beyond; longest runs take ``top_flops``, a half or a
    quarter of it. A size that was trained before gets a seed of its own, so that its noise is averaged.
    """
    task = design.rungs[0].text
    first = sorted({rung.model.width for rung in design.rungs})
    between = [whole_width(config, task, math.sqrt(small * large)) for small, large in itertools.pairwise(first)]
    wider = whole_width(config, task, WIDER * first[-1])
    models = [
        shape(width, config.context, task.vocab_size, config.decoder) for width in sorted({*first, *between, wider})
    ]
    for shares in (LATER_LENGTHS, LATER_LENGTHS[1:]):  # a large vocabulary leaves tokens for two lengths only
        trunks = []
        for model, step in itertools.product(models, LENGTH_STEPS):
            longest = step * top_flops / model.flops_per_token
            if shares[0] * longest < LEAST_TOKENS or longest > MOST_RATIO * model.num_params:
                continue
            seed = next_seed(taken, model, config.seed)
            lengths = [whole_tokens(share * longest) for share in shares]
            trunks.append([recipe.run(model, task, tokens, seed) for tokens in lengths])
        if trunks:
            return trunks
    return []


def next_seed(taken: Sequence[RunConfig], model: ModelConfig, first: int) -> int:
    """The least seed from ``first`` on with which no rung of this model was trained."""
    used = {config.train.seed for config in taken if config.model == model}
    return next(seed for seed in itertools.count(first) if seed not in used)

"""Group runs that share a trunk or can be trained as one batched model; the cost that each run adds to its trunk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ..config.run import RunConfig
from ..config.task import HELD_OUT_WINDOWS
from .cost import Throughput

HELD_OUT_TOKENS = HELD_OUT_WINDOWS * 128


def groups(configs: Sequence[RunConfig], batched: bool) -> list[list[list[RunConfig]]]:
    """Group runs by trunk: a list of groups, each a list of trunks, each a list of runs.

    With ``batched``, trunks that can be trained as one batched model form a group; without it, each trunk does.
    """
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in configs:
        trunks[config.trunk].append(config)
    alike: dict[Any, list[list[RunConfig]]] = defaultdict(list)
    for trunk, runs in trunks.items():
        lengths = sorted(config.train.tokens for config in runs)
        together = batched and runs[0].stackable
        alike[step_shape(runs[0]), *lengths, "" if together else trunk].append(runs)
    return list(alike.values())


def step_shape(config: RunConfig) -> str:
    """What runs must have in common to be trained as one batched model: all but learning rate, seed and length."""
    train = config.train.model_dump(exclude={"lr", "seed", "tokens"})
    return repr((config.model, sorted(config.task.identity().items()), sorted(train.items())))


def trunk_costs(speed: Throughput, configs: Sequence[RunConfig]) -> dict[str, float]:
    """The seconds that each run is expected to add to its trunk, by run id."""
    added: dict[str, float] = {}
    for (group,) in groups(configs, batched=False):
        ordered = sorted(group, key=lambda config: config.train.tokens)
        added |= zip((c.id for c in ordered), speed.trunk_seconds(ordered, HELD_OUT_TOKENS), strict=True)
    return added

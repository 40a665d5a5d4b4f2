"""How long runs are expected to take, by the machine's measured speed."""

from __future__ import annotations

from collections.abc import Sequence

from ..config.run import RunConfig
from ..runs.trunks import HELD_OUT_TOKENS, groups, trunk_costs
from .speed import BATCHED_GAIN, Speed


def ladder_seconds(configs: Sequence[RunConfig], speed: Speed, batched: bool = False) -> float:
    """When the last of these runs of a ladder ends; with ``batched``, trunks that step alike are one job."""
    costs = trunk_costs(speed.ladder, configs)
    jobs = []
    for trunks in groups(configs, batched):
        gain = speed.batched if len(trunks) > 1 else 1.0
        jobs.append(sum(costs[config.id] for runs in trunks for config in runs) / gain)
    return _makespan(jobs, speed.workers)


def sweep_seconds(configs: Sequence[RunConfig], speed: Speed) -> tuple[float, bool]:
    """When the last run of a sweep ends, and whether it is faster with the trunks that step alike as one model."""
    one_by_one, together = (ladder_seconds(configs, speed, batched) for batched in (False, True))
    batched = speed.batched >= BATCHED_GAIN and together < one_by_one
    return (together if batched else one_by_one), batched


def target_seconds(config: RunConfig, speed: Speed) -> float:
    """How long the planned run takes, by the process that has the whole machine."""
    return speed.target.trunk_seconds([config], HELD_OUT_TOKENS)[0]


def _makespan(seconds: list[float], workers: int) -> float:
    """When the last of these ends, handed out longest first."""
    free = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        free[free.index(min(free))] += duration
    return max(free)

"""What of a step fits into memory. It changes rounding only, so it is no part of a run's identity; records hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...config.run import RunConfig
from ...runs.cost import MEMORY_SHARE, PROCESS_BYTES, memory_share
from ..families import Family, family_of
from .member import Member


@dataclass(frozen=True)
class StepLimits:
    """How many rows a step holds at once, and whether activations are computed twice so that so many fit."""

    rows: int
    recomputes: bool = False


def step_limits(member: Member) -> StepLimits:
    """What fits into the memory of the member's device; where not even one row fits, its model recomputes."""
    config, memory = member.config, memory_of(member.device)
    family = family_of(config.model)
    recomputes = family.memory_bytes(config, 1) > memory
    if recomputes:
        family.recompute(member.model)
    return StepLimits(most_rows(family, config, memory), recomputes)


def most_rows(family: Family, config: RunConfig, memory: float) -> int:
    """How many rows a step may hold at once in so many bytes: a power of two, as batches are; at least 1."""
    batch = config.schedule.stages[-1].batch
    while batch > 1 and family.memory_bytes(config, batch) > memory:
        batch //= 2
    return batch


def memory_of(device: torch.device) -> float:
    """Bytes for a training: of a device's own memory, or this process's share of the machine's."""
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    return memory_share() - PROCESS_BYTES


def savings(config: RunConfig, limits: StepLimits, processes: int = 1) -> dict[str, Any]:
    """For the record, how memory was saved: pieces of the largest batch of a process, activations computed twice."""
    pieces = math.ceil(math.ceil(config.schedule.stages[-1].batch / processes) / limits.rows)
    cut = {"pieces_of_a_batch": pieces} if pieces > 1 else {}
    return cut | ({"activations_recomputed": True} if limits.recomputes else {})

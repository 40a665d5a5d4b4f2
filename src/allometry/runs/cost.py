"""What a run will cost before it is run: seconds from a few measured steps, memory from the shapes."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.model import DecoderConfig
from ..config.run import RunConfig

MEMORY_VARIABLE = "ALLOMETRY_MEMORY"  # bytes for this process, as its starter divides them
MEMORY_SHARE = 0.8  # of the machine's memory for training; the rest is the system's, and the estimate's error
PROCESS_BYTES = 450e6  # Python and PyTorch, before any model
EVAL_TOKENS = 4096  # that an evaluation takes at a time, or one window if that is longer
HELD_OUT_SHARE = 1 / 3  # of the cost of a training token: an evaluation has a forward pass only


@dataclass(frozen=True)
class Throughput:
    """Seconds of a training step as ``overhead + per_activation·activations + per_flop·flops``.

    Small models are held up by the overhead of each operation, wide ones by arithmetic, those between by memory
    traffic; three coefficients, all at least 0, fitted to measured steps by relative error.
    """

    overhead: float
    per_activation: float
    per_flop: float

    @classmethod
    def fit(cls, configs: Sequence[RunConfig], seconds: Sequence[float]) -> Throughput:
        """From measured steps of at least one configuration."""
        from scipy.optimize import nnls

        rows = np.array([cls._features(config.model, config.train.batch_tokens) for config in configs])
        times = np.asarray(seconds, float)
        weighted = rows / times[:, None]
        size = weighted.max(axis=0)
        coefficients, _ = nnls(weighted / size, np.ones(len(times)))
        return cls(*map(float, coefficients / size))

    @staticmethod
    def _features(model: DecoderConfig, batch_tokens: int) -> tuple[float, float, float]:
        activations = batch_tokens * (model.layers * (6 * model.width + 3 * model.hidden) + 2 * model.vocab_size)
        return float(model.layers), float(activations), model.flops_per_token * batch_tokens

    def step_seconds(self, model: DecoderConfig, batch_tokens: int) -> float:
        features = self._features(model, batch_tokens)
        return float(np.dot(features, (self.overhead, self.per_activation, self.per_flop)))

    def seconds_between(self, config: RunConfig, first: int, last: int) -> float:
        """Seconds of the steps ``first`` to ``last − 1`` of a run, batch by batch of its schedule."""
        stages = config.schedule.stages
        ends = [stage.first_step for stage in stages[1:]] + [config.schedule.steps]
        return sum(
            max(0, min(last, end) - max(first, stage.first_step))
            * self.step_seconds(config.model, stage.batch * config.model.context)
            for stage, end in zip(stages, ends, strict=True)
        )

    def trunk_seconds(self, configs: Sequence[RunConfig], held_out_tokens: int) -> list[float]:
        """Seconds that each run of a trunk adds, shortest first, its evaluation included."""
        added, before = [], 0
        for config in sorted(configs, key=lambda config: config.train.tokens):
            batch = 32 * config.model.context
            evaluation = HELD_OUT_SHARE * held_out_tokens / batch * self.step_seconds(config.model, batch)
            added.append(self.seconds_between(config, before, config.schedule.steps) + evaluation)
            before = config.schedule.decay_start
        return added

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def memory_bytes(config: RunConfig, most_sequences: int | None = None) -> float:
    """Bytes of the largest step: weights, gradients and two moments, and the activations kept for backward.

    With ``most_sequences``, of a step whose batch is cut into pieces of at most so many. Compiled kernels keep their
    working memory, that for evaluation too; without them it is autograd's. Against the growth of the resident set
    over contexts from 128 to 4096, widths from 64 to 256: -5 to -1 % compiled without evaluation, +9 to +17 % eager
    (``benchmarks/growth.py``).
    """
    model, batch = config.model, config.schedule.stages[-1].batch
    tokens = min(batch, most_sequences or batch) * model.context
    states = 16 * model.num_params_total
    if not config.train.compile:
        per_token = model.layers * (14 * model.width + 6 * model.hidden) + 4 * model.vocab_size
        return states + 4.0 * tokens * per_token
    layer = 7 * model.width + 3 * model.hidden
    common = 4 * model.width + model.hidden + model.vocab_size
    evaluated = max(EVAL_TOKENS, model.context)
    entries = tokens * (model.layers * layer + common) + evaluated * (layer + common - model.width - model.hidden)
    if config.train.precision == "bf16":  # and a copy of the weights for the GEMMs
        return states + 2 * model.num_params_total + 2.0 * entries
    return states + 4.0 * entries


def most_sequences(config: RunConfig, memory: float) -> int:
    """How many sequences a step may hold at once in so many bytes: a power of two, as batches are; at least 1."""
    batch = config.schedule.stages[-1].batch
    while batch > 1 and memory_bytes(config, batch) > memory:
        batch //= 2
    return batch


def memory_share() -> float:
    """Bytes that this process may use: what its starter says, or its share of the machine's memory were it alone.

    Of the whole memory and not of what is free now, so that a run that goes on later is cut into the same pieces.
    """
    said = os.environ.get(MEMORY_VARIABLE)
    return float(said) if said else machine_memory() * MEMORY_SHARE


def machine_memory() -> float:
    """Bytes of memory of this machine, or of the container if that has fewer."""
    sizes = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        sizes.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):
            sizes.append(float(Path(path).read_text()))
    return min(sizes, default=math.inf)

"""The cost of a run before it is trained: seconds from a few measured steps, memory from the shapes."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.model import DecoderConfig, ModelConfig, ModuleConfig
from ..config.run import RunConfig
from ..config.task import EVALUATED_TOKENS
from .machine import cores

MEMORY_VARIABLE = "ALLOMETRY_MEMORY"  # bytes for this process, set by the process that starts several
MEMORY_SHARE = 0.8  # share of the machine's memory for training; the rest is for the system and the estimate's error
PROCESS_BYTES = 450e6  # Python and PyTorch, before any model
HELD_OUT_SHARE = 1 / 3  # cost of a held-out token over that of a training token: it has a forward pass only


@dataclass(frozen=True)
class Throughput:
    """Seconds of a training step: ``overhead·layers + per_activation·activations + per_flop·flops``.

    Of a module of the user's: ``overhead + per_activation·parameters + per_flop·flops``.

    The overhead of each operation limits small models, arithmetic limits wide ones, memory traffic those between. The
    three coefficients, all at least 0, are fitted to measured steps by relative error.
    """

    overhead: float
    per_activation: float
    per_flop: float

    @classmethod
    def fit(cls, configs: Sequence[RunConfig], seconds: Sequence[float]) -> Throughput:
        """Fit the coefficients to measured steps of one or more configurations."""
        from scipy.optimize import nnls

        rows = np.array([cls._features(config.model, config.train.batch_tokens) for config in configs])
        times = np.asarray(seconds, float)
        weighted = rows / times[:, None]
        size = weighted.max(axis=0)
        coefficients, _ = nnls(weighted / size, np.ones(len(times)))
        return cls(*map(float, coefficients / size))

    @staticmethod
    def _features(model: ModelConfig, batch_tokens: int) -> tuple[float, float, float]:
        if not isinstance(model, DecoderConfig):  # of a module, its parameters stand for the memory traffic
            return 1.0, float(model.num_params_total), model.flops_per_token * batch_tokens
        layer = 4 * model.width + 2 * model.kv_width + model.up_width + model.hidden
        activations = batch_tokens * (model.layers * layer + 2 * model.vocab_size)
        return float(model.layers), float(activations), model.flops_per_token * batch_tokens

    def step_seconds(self, model: ModelConfig, batch_tokens: int) -> float:
        features = self._features(model, batch_tokens)
        return float(np.dot(features, (self.overhead, self.per_activation, self.per_flop)))

    def seconds_between(self, config: RunConfig, first: int, last: int) -> float:
        """Seconds of the steps ``first`` to ``last − 1`` of a run, with the batches of its schedule."""
        stages = config.schedule.stages
        ends = [stage.first_step for stage in stages[1:]] + [config.schedule.steps]
        return sum(
            max(0, min(last, end) - max(first, stage.first_step))
            * self.step_seconds(config.model, stage.batch * config.model.row_tokens)
            for stage, end in zip(stages, ends, strict=True)
        )

    def trunk_seconds(self, configs: Sequence[RunConfig], held_out_tokens: int) -> list[float]:
        """Seconds that each run of a trunk adds, including its evaluation; the shortest run first."""
        added, before = [], 0
        for config in sorted(configs, key=lambda config: config.train.tokens):
            batch = 32 * config.model.row_tokens
            units = config.task.train_tokens
            held_out = min(held_out_tokens, units // 8) if units else held_out_tokens
            evaluation = HELD_OUT_SHARE * held_out / batch * self.step_seconds(config.model, batch)
            added.append(self.seconds_between(config, before, config.schedule.steps) + evaluation)
            before = config.schedule.decay_start
        return added

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def memory_bytes(config: RunConfig, most_rows: int | None = None) -> float:
    """Bytes of the largest step: weights, gradients, two moments, and the activations kept for the backward pass.

    With ``most_rows``, the batch is cut into pieces of at most that many rows. Compiled kernels keep their
    working memory, including that for evaluation; without them, autograd's memory is counted. Compared with the
    growth of the resident set: ``benchmarks/growth.py``.
    """
    model, batch = config.model, config.schedule.stages[-1].batch
    rows = min(batch, most_rows or batch)
    if isinstance(model, ModuleConfig):  # counted when the member was made
        return 16 * model.num_params_total + rows * model.row_bytes
    model = config.decoder
    tokens, states = rows * model.context, 16 * model.num_params_total
    if not (config.train.compile and model.plain):
        layer = 12 * model.width + 2 * model.kv_width + 2 * model.up_width + 2 * model.hidden
        per_token = model.layers * layer + 4 * model.vocab_size
        return states + 4.0 * tokens * per_token
    half = config.train.precision == "bf16"
    whole = 4.0 * _whole_step_entries(model, rows, half)
    return states + (max(whole, _bytes_between_gemms(model, rows)) if half and model.width >= 128 else whole)


def _bytes_between_gemms(model: DecoderConfig, rows: int) -> float:
    """Working memory of ``lm/compiled/between_gemms.py``: wide models in BF16 on processors with a matrix unit."""
    layer = 7 * model.width + 3 * model.hidden
    common = 4 * model.width + model.hidden + model.vocab_size
    evaluated = max(EVALUATED_TOKENS, model.context)
    entries = rows * model.context * (model.layers * layer + common)
    entries += evaluated * (layer + common - model.width - model.hidden)
    return 2.0 * (model.num_params_total + entries)  # and a copy of the weights for the GEMMs


def _whole_step_entries(model: DecoderConfig, rows: int, half: bool) -> int:
    """Floats of working memory of ``lm/compiled/cpp/decoder.h``: of sequences under way, sums, embedded tokens."""
    panel = 16 if model.context <= 32 else 64
    places = math.ceil(model.context / panel) * panel
    up = lambda size: math.ceil(size / 16) * 16  # whole vectors
    layer = 6 * model.width + 2 * model.hidden + 2 * model.heads + 3
    widest = (2 if half else 1) * up(max(3 * model.width, 2 * model.hidden, model.vocab_size))
    shared = 3 * model.width + model.hidden + model.vocab_size + widest + 4 * up(model.head_dim) + min(64, 2 * panel)
    groups = min(8 if model.num_params_matmul < 8e6 else 4, rows)
    trained = min(groups, cores()) * places * (model.layers * layer + shared)
    evaluated = min(8, cores()) * places * (layer + shared) + max(EVALUATED_TOKENS, model.context)
    copies = 2 if half else 0  # of the weights in BF16, to train and to evaluate by
    weights = (groups + copies) * model.num_params_matmul  # and the sums of gradients
    return trained + evaluated + weights + rows * model.context * (up(model.width) + 1)


def memory_share() -> float:
    """Bytes that this process may use: ``MEMORY_VARIABLE`` if it is set, else the share of the machine's memory.

    The share is taken of all memory and not of what is free now, so that a run that continues later is cut into the
    same pieces.
    """
    given = os.environ.get(MEMORY_VARIABLE)
    return float(given) if given else machine_memory() * MEMORY_SHARE


def machine_memory() -> float:
    """Bytes of memory of this machine, or of its container if that has less."""
    sizes = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        sizes.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):
            sizes.append(float(Path(path).read_text()))
    return min(sizes, default=math.inf)

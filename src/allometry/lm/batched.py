"""Train several trunks of one shape as one batched model: the sweep's, which differ in their rate, or seeds.

Every trunk sees the text in its own order and has its own optimiser, loss, branches and records; only the dispatch of
operations is shared. Each reaches the loss of a training of its own but for rounding. One checkpoint holds them all,
so a training that was interrupted ends, to the bit, where an undisturbed one of the same trunks does.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import UserError
from ..runs.corpus import Corpus
from ..runs.ladder import step_shape
from ..runs.record import RunRecord
from ..runs.store import Study
from . import checkpoint
from .data import held_out_windows
from .stacked import Stack
from .train import HELD_OUT_WINDOWS, Interrupted, Progress, _record, save_weights
from .trunk import SMOOTHING, Trunk, evaluate


class TrunkGroup:
    """Trunks that step together. One whose loss is no longer finite stands still; the others do not feel it."""

    def __init__(self, configs: Sequence[RunConfig], corpus: Corpus):
        self.trunks = [Trunk(config, corpus) for config in configs]
        self.stack = Stack([trunk.model for trunk in self.trunks])
        self.diverged = [False] * len(configs)

    @property
    def step(self) -> int:
        return max(trunk.step for trunk in self.trunks)

    def advance(self, configs: Sequence[RunConfig], until: int, after_step: Callable[[], None]) -> None:
        """Train all trunks on to step ``until``, each along the schedule of its run, or until none is left."""
        while self.step < until and not all(self.diverged):
            begin, step = time.perf_counter(), self.step
            pieces = [
                trunk.windows.batch(*config.schedule.batch_at(step))
                for trunk, config in zip(self.trunks, configs, strict=True)
            ]
            losses = self.stack.losses(*(torch.stack(part) for part in zip(*pieces, strict=True)))
            losses.sum().backward()
            for trunk, config in zip(self.trunks, configs, strict=True):
                trunk.optimizer.set_schedule(config.schedule.rate_at(step))
                trunk.optimizer.step()
            self.stack.zero_grad()
            values = losses.detach().mean(1).tolist()
            seconds = (time.perf_counter() - begin) / (len(self.trunks) - sum(self.diverged))
            for i, (trunk, config) in enumerate(zip(self.trunks, configs, strict=True)):
                if not self.diverged[i]:
                    self.diverged[i] = not math.isfinite(values[i])
                    _account(trunk, config, until, values[i], seconds)
            after_step()

    def capture(self) -> tuple[dict[str, Tensor], dict]:
        """As :meth:`Trunk.capture`, for all of them."""
        states = [trunk.capture() for trunk in self.trunks]
        for (_, meta), diverged in zip(states, self.diverged, strict=True):
            meta["smooth"] = None if diverged else meta["smooth"]  # JSON has no NaN
        tensors = {f"{i}.{name}": value for i, (state, _) in enumerate(states) for name, value in state.items()}
        return tensors, {"trunks": [meta for _, meta in states], "diverged": [*self.diverged], "step": self.step}

    def restore(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Go back to a captured state."""
        states: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            number, own = name.split(".", 1)
            states[number][own] = value
        for i, trunk in enumerate(self.trunks):
            trunk.restore(states[str(i)], meta["trunks"][i])
            trunk.smooth = math.nan if meta["diverged"][i] else trunk.smooth
        self.diverged = [*meta["diverged"]]


def _account(trunk: Trunk, config: RunConfig, until: int, loss: float, seconds: float) -> None:
    """What :meth:`Trunk.advance` notes of a step."""
    trunk.step += 1
    trunk.smooth = loss if trunk.smooth is None else trunk.smooth + SMOOTHING * (loss - trunk.smooth)
    trunk.seconds += seconds
    if math.isfinite(loss) and (trunk.step % trunk.curve_every == 0 or trunk.step == until):
        trunk.curve.append([config.schedule.tokens_before(trunk.step), round(trunk.smooth, 5)])


def train_batched(
    configs: Sequence[RunConfig],
    corpus: Corpus,
    study: Study,
    *,
    kind: str,
    report: Callable[[Progress], None] = lambda progress: None,
    recorded: Callable[[RunRecord], None] = lambda record: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 10.0,
) -> None:
    """As :func:`~allometry.lm.train.train_trunk`, for the runs of several trunks that step alike.

    Give all runs of the trunks, those that have a record too: which trunks are trained together decides the rounding.

    Raises:
        Interrupted: ``stop()`` became true; the trunks are saved.
        UserError: the runs differ in more than tokens, rate and seed, or not in each trunk alike.
    """
    trunks = _by_trunk(configs)
    columns = [list(column) for column in zip(*trunks.values(), strict=True)]  # runs of one length, of each trunk
    todo = [column for column in columns if any(study.record(config.id) is None for config in column)]
    if not todo:
        return
    group = TrunkGroup(todo[-1], corpus)
    path = study.trunk_path(group_id(trunks))
    if path.exists():
        tensors, meta = checkpoint.read(path)
        if meta["step"] <= todo[0][0].schedule.decay_start:
            group.restore(tensors, meta)
    evaluation = held_out_windows(corpus.held_out, todo[0][0].model.context, HELD_OUT_WINDOWS)
    watch = _Watch(group, path, report, stop, checkpoint_seconds)
    for column in todo:
        pairs = list(zip(column, group.trunks, strict=True))
        begin = [(config.schedule.tokens_before(trunk.step), trunk.seconds) for config, trunk in pairs]
        watch.runs, watch.on_trunk = column, True
        group.advance(column, column[0].schedule.decay_start, watch)
        watch.save()
        tensors, meta = group.capture()
        watch.on_trunk = False
        group.advance(column, column[0].schedule.steps, watch)
        for i, (config, trunk) in enumerate(pairs):
            if study.record(config.id) is not None:
                continue
            loss = (math.nan, math.nan) if group.diverged[i] else evaluate(trunk.model, evaluation)
            tokens, seconds = begin[i]
            spent = config.schedule.tokens_before(trunk.step) - tokens
            record = _record(config, kind, loss, trunk, spent, trunk.seconds - seconds)
            record = replace(record, environment=record.environment | {"trained_together": len(trunks)})
            if record.status == "finished":
                save_weights(study.weights_path(config.id), trunk.model, config)
            study.save(record, trunk.curve)
            recorded(record)
        for state, trunk in zip(meta["trunks"], group.trunks, strict=True):
            state["seconds"] = trunk.seconds
        group.restore(tensors, meta)
    path.unlink(missing_ok=True)


def group_id(trunks: Sequence[str]) -> str:
    """The identity of trunks that are trained together."""
    return hashlib.sha256(" ".join(sorted(trunks)).encode()).hexdigest()[:12]


def _by_trunk(configs: Sequence[RunConfig]) -> dict[str, list[RunConfig]]:
    """The runs of each trunk, the shortest first, trunks in the order of their ids."""
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in sorted(configs, key=lambda config: (config.trunk, config.train.tokens)):
        trunks[config.trunk].append(config)
    alike = {tuple((step_shape(c), c.train.tokens) for c in group) for group in trunks.values()}
    if len(alike) != 1:
        raise UserError("trunks that are trained together may differ in rate and seed only")
    return dict(trunks)


class _Watch:
    """What happens between steps, as for a single trunk: progress, a checkpoint, a wish to stop."""

    def __init__(self, group: TrunkGroup, path, report, stop, checkpoint_seconds: float):
        self.group, self.path, self.report, self.stop = group, path, report, stop
        self.checkpoint_seconds = checkpoint_seconds
        self.runs: Sequence[RunConfig] = ()
        self.on_trunk = True
        self.told = self.saved = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if self.stop():
            if self.on_trunk:  # a fall under way is begun again from its branch point, which is saved already
                self.save()
            raise Interrupted
        if self.on_trunk and now - self.saved > self.checkpoint_seconds:
            self.save()
        if now - self.told > 0.4:
            self.told = now
            for config, trunk in zip(self.runs, self.group.trunks, strict=True):
                tokens = config.schedule.tokens_before(trunk.step)
                self.report(Progress(config.id, tokens, trunk.smooth, tokens / trunk.seconds))

    def save(self) -> None:
        checkpoint.write(self.path, *self.group.capture())
        self.saved = time.monotonic()

"""Train several trunks of one shape as one batched model: the sweep's, which differ in their rate, or seeds.

Every trunk sees the text in its own order and has its own optimiser, loss, branches and records; only the dispatch of
operations is shared. Each reaches the loss of a training of its own but for rounding. One state on the disk holds them
all, so a training that was interrupted ends, to the bit, where an undisturbed one of the same trunks does. It is saved
on the common trunk: the runs so trained are short, and a fall that was cut short is begun again.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...config.run import RunConfig
from ...data.corpus import Corpus
from ...errors import UserError
from ...runs import saved_states
from ...runs.claims import Claim, Fenced
from ...runs.hooks import SILENT, Hooks, Interrupted, Progress
from ...runs.job import claim_name
from ...runs.study import Study
from ...runs.trunks import step_shape
from .. import checkpoint
from .. import device as devices
from ..batches import held_out_windows
from .health import Spikes
from .stacked_models import Stack
from .train_trunk import HELD_OUT_WINDOWS, record_of, save_weights
from .trunk import SMOOTHING, Trunk, evaluate


class TrunkGroup:
    """Trunks that step together. One that diverges stands still from there; the others do not feel it."""

    def __init__(self, configs: Sequence[RunConfig], corpus: Corpus):
        self.trunks = [Trunk(config, corpus) for config in configs]
        self.stack = Stack([trunk.model for trunk in self.trunks])
        self.spikes = [Spikes() for _ in configs]
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
            sides = (torch.stack(part) for part in zip(*pieces, strict=True))
            values = self.stack.backward(*(devices.put(side, self.trunks[0].device) for side in sides))
            for trunk, config in zip(self.trunks, configs, strict=True):
                trunk.optimizer.set_schedule(config.schedule.lr_factor_at(step))
                trunk.optimizer.step()
            self.stack.zero_grad()
            seconds = (time.perf_counter() - begin) / (len(self.trunks) - sum(self.diverged))
            for i, (trunk, config) in enumerate(zip(self.trunks, configs, strict=True)):
                if not self.diverged[i]:
                    _account(trunk, config, until, values[i], seconds)
                    rising = self.spikes[i].see(trunk.step, trunk.smooth)
                    self.diverged[i] = rising or not math.isfinite(values[i])
            after_step()

    def capture(self) -> tuple[dict[str, Tensor], dict]:
        """As :meth:`Trunk.capture`, for all of them."""
        states = [trunk.capture() for trunk in self.trunks]
        for (_, meta), diverged in zip(states, self.diverged, strict=True):
            meta["smooth"] = None if diverged else meta["smooth"]  # JSON has no NaN
        tensors = {f"{i}.{name}": value for i, (state, _) in enumerate(states) for name, value in state.items()}
        each = {"trunks": [meta for _, meta in states], "diverged": [*self.diverged]}
        return tensors, each | {"spikes": [spikes.state() for spikes in self.spikes], "step": self.step}

    def restore(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Go back to a captured state."""
        states: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            number, own = name.split(".", 1)
            states[number][own] = value
        for i, trunk in enumerate(self.trunks):
            trunk.restore(states[str(i)], meta["trunks"][i])
            trunk.smooth = math.nan if meta["diverged"][i] else trunk.smooth
            self.spikes[i].restore(meta["spikes"][i])
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
    hooks: Hooks = SILENT,
    checkpoint_seconds: float = 10.0,
    follows: int | None = None,
    retry_of: Mapping[str, str] | None = None,
) -> None:
    """As :func:`~allometry.lm.training.train_trunk.train_trunk`, for the runs of several trunks that step alike.

    Give all runs of the trunks, those that have a record too: which trunks are trained together decides the rounding.

    Raises:
        Interrupted: ``hooks.should_stop()`` became true; the trunks are saved.
        Taken, Fenced: as there, for all trunks as one.
        UserError: the runs differ in more than tokens, rate and seed, or not in each trunk alike.
    """
    columns = [list(column) for column in zip(*_by_trunk(configs).values(), strict=True)]  # runs of one length
    missing = lambda: [column for column in columns if any(study.record(config.id) is None for config in column)]
    if not missing():
        return
    with study.claim(claim_name(configs), follows).kept() as claim:
        todo = missing()  # whoever was at it before may have recorded some meanwhile
        if todo:
            _Training(todo, corpus, study, claim, hooks, checkpoint_seconds).run(kind, retry_of or {})


def _by_trunk(configs: Sequence[RunConfig]) -> dict[str, list[RunConfig]]:
    """The runs of each trunk, the shortest first, trunks in the order of their ids."""
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in sorted(configs, key=lambda config: (config.trunk, config.train.tokens)):
        trunks[config.trunk].append(config)
    alike = {tuple((step_shape(c), c.train.tokens) for c in group) for group in trunks.values()}
    if len(alike) != 1:
        raise UserError("trunks that are trained together may differ in rate and seed only")
    return dict(trunks)


class _Training:
    """The columns of runs one after another, and what happens between steps."""

    def __init__(
        self,
        todo: list[list[RunConfig]],
        corpus: Corpus,
        study: Study,
        claim: Claim,
        hooks: Hooks,
        checkpoint_seconds: float,
    ):
        self.todo, self.study, self.claim, self.hooks = todo, study, claim, hooks
        self.checkpoint_seconds = checkpoint_seconds
        self.group = TrunkGroup(todo[-1], corpus)
        self.evaluation = held_out_windows(corpus.held_out, todo[0][0].model.context, HELD_OUT_WINDOWS)
        self.path = study.trunk_path(claim_name(todo[0]))
        self.now = todo[0]
        self.told = self.saved = time.monotonic()
        say = lambda text: self._log("note", text=text) or hooks.note(todo[0][0].id, text)
        state = checkpoint.load_state(self.path, say, 0, todo[0][0].schedule.decay_start, claim)
        if state is not None:
            self.group.restore(*state)
        self.saved_step = self.group.step
        self._log("started" if state is None else "resumed")

    def run(self, kind: str, retry_of: Mapping[str, str]) -> None:
        group = self.group
        for column in self.todo:
            self.now = column
            begin = [
                (c.schedule.tokens_before(trunk.step), trunk.seconds)
                for c, trunk in zip(column, group.trunks, strict=True)
            ]
            group.advance(column, column[0].schedule.decay_start, self._after_step)
            tensors, meta = group.capture()
            self._save(tensors, meta)
            group.advance(column, column[0].schedule.steps, self._after_step)
            for i, config in enumerate(column):
                if self.study.record(config.id) is None:
                    self._record(i, config, kind, *begin[i], retry_of.get(config.id, ""))
            for state, trunk in zip(meta["trunks"], group.trunks, strict=True):
                state["seconds"] = trunk.seconds
            group.restore(tensors, meta)
        with self.claim:
            saved_states.delete(self.path)

    def _record(self, i: int, config: RunConfig, kind: str, tokens: int, seconds: float, retry_of: str) -> None:
        group, trunk = self.group, self.group.trunks[i]
        loss = (math.nan, math.nan) if group.diverged[i] else evaluate(trunk.model, self.evaluation)
        reason = "the training loss is not finite, or far above its least" if group.diverged[i] else ""
        if group.spikes[i].up and not reason:
            reason = "the training loss ended far above its least"
        spent = config.schedule.tokens_before(trunk.step) - tokens
        record = record_of(config, kind, loss, trunk, spent, trunk.seconds - seconds, reason)
        together = record.environment | {"trained_together": len(group.trunks)}
        record = replace(record, environment=together, retry_of=retry_of)
        if record.status == "finished":
            save_weights(self.study.weights_path(config.id), trunk.model, config, self.claim)
        self.study.save(record, trunk.curve, self.claim)
        with self.claim:
            self.study.log(config.id, record.status, attempt=self.claim.attempt, step=trunk.step)
        self.hooks.recorded(record)

    def _after_step(self) -> None:
        now, group = time.monotonic(), self.group
        if self.claim.lost:
            raise Fenced
        on_trunk = group.step <= self.now[0].schedule.decay_start
        stop = self.hooks.should_stop()
        if on_trunk and (stop or now - self.saved > self.checkpoint_seconds):
            self._save(*group.capture())
        if stop:
            self._log("interrupted")
            raise Interrupted
        if now - self.told > 0.4:
            self.told = now
            for config, trunk in zip(self.now, group.trunks, strict=True):
                tokens = config.schedule.tokens_before(trunk.step)
                self.hooks.report(Progress(config.id, tokens, trunk.smooth, tokens / trunk.seconds))

    def _save(self, tensors: dict[str, Tensor], meta: dict) -> None:
        if meta["step"] > self.saved_step:
            checkpoint.save_state(self.path, tensors, meta, self.claim)
            self.saved_step = meta["step"]
        self.saved = time.monotonic()

    def _log(self, event: str, **values) -> None:
        with self.claim:
            for config in self.now:
                self.study.log(config.id, event, attempt=self.claim.attempt, step=self.group.step, **values)

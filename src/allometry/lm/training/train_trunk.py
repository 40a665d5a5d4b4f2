"""Train the runs of one trunk: those that share everything but their length.

The learning rate of warmup–stable–decay does not depend on a run's length until it falls, and the order of the text
is a function of seed and step. So one long trunk serves every length: at each, the state is set aside, the fall is
run to its end, the result recorded, and the trunk goes on from where it stood. Each result is, to the bit, what a
run of that length alone would have reached, however often it was interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ...config.run import RunConfig
from ...data.corpus import Corpus
from ...errors import UserError
from ...runs import saved_states
from ...runs.claims import Claim, Fenced
from ...runs.hooks import SILENT, Hooks, Interrupted, Progress
from ...runs.job import claim_name
from ...runs.record import RunRecord, environment, now
from ...runs.study import Study
from .. import checkpoint
from .. import device as devices
from ..batches import held_out_windows
from ..decoder import LanguageModel
from .health import SEQUENCES, SPIKE_NATS, SPIKE_STEPS, Spikes, scale_warning
from .trunk import Diverged, Trunk, evaluate

HELD_OUT_WINDOWS = 512
AUDITED_STEPS = 300  # an audit of scales costs as much as twenty steps of a small model: none for shorter trunks
SAVING_SHARE = 0.02  # of the time, at most, is spent saving


def train_trunk(
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
    """Train every run in ``configs`` that has no record yet, and record each as soon as it ends.

    Goes on from the newest good state that was saved; ``hooks.note`` reports those that are damaged. A run whose
    loss stops being finite, rises and stays high (:mod:`.divergence`), or ends no better than guessing, is recorded
    as diverged; so are the longer ones when it was their common trunk that diverged. ``follows`` is the attempt that
    this one may follow, as an engine has found out; ``retry_of`` says which diverged run each run is a retry of.

    Raises:
        Interrupted: ``hooks.should_stop()`` became true; the trunk is saved.
        Taken: another process is at this trunk.
        Fenced: another process has taken it over; nothing was written since.
        UserError: the runs do not share a trunk, or the text is too short.
    """
    if len({config.trunk for config in configs}) != 1:
        raise UserError("runs of one trunk may differ in their tokens only")
    if not _unrecorded(configs, study):
        return
    with study.claim(claim_name(configs), follows).kept() as claim:
        todo = _unrecorded(configs, study)  # whoever was at it before may have recorded some meanwhile
        if todo:
            _Training(todo, corpus, study, claim, hooks, checkpoint_seconds).run(kind, retry_of or {})


def _unrecorded(configs: Sequence[RunConfig], study: Study) -> list[RunConfig]:
    """Those to train, in the order in which they leave the trunk."""
    todo = [config for config in configs if study.record(config.id) is None]
    return sorted(todo, key=lambda config: (config.schedule.decay_start, config.train.tokens))


class _Training:
    """The runs of a trunk one after another, and what happens between steps.

    States of the common trunk are saved under the trunk's name; those of a run's fall, and those of a run that starts
    behind what a longer one has saved of the trunk, under the run's own.
    """

    def __init__(
        self, todo: list[RunConfig], corpus: Corpus, study: Study, claim: Claim, hooks: Hooks, checkpoint_seconds: float
    ):
        self.todo, self.corpus, self.study, self.claim, self.hooks = todo, corpus, study, claim, hooks
        self.checkpoint_seconds = checkpoint_seconds
        self.evaluation = held_out_windows(corpus.held_out, todo[0].model.context, HELD_OUT_WINDOWS)
        self.trunk, self.spikes = Trunk(todo[-1], corpus), Spikes()
        self.trunk_path = study.trunk_path(todo[0].trunk)
        self.trunk_saved = max(checkpoint.steps(self.trunk_path), default=0)
        self.branch: tuple[dict, dict] | None = None  # the trunk's state while a run falls
        self.run_now = todo[0]
        self.told = self.saved = time.monotonic()
        self.pause = checkpoint_seconds

    def run(self, kind: str, retry_of: Mapping[str, str]) -> None:
        for position, config in enumerate(self.todo):
            begin_tokens, begin_seconds = self._begin(config)
            if kind != "sweep":
                self._audit(config)
            reason, loss = "", (math.nan, math.nan)
            try:
                loss = self._train(config)
                if self.spikes.up:
                    reason = f"the training loss ended more than {SPIKE_NATS} nats above its least"
            except Diverged as error:
                reason = str(error) or f"the training loss is not finite at step {self.trunk.step}"
            spent = config.schedule.tokens_before(self.trunk.step) - begin_tokens
            seconds = self.trunk.seconds - begin_seconds
            self._record(config, kind, loss, reason, spent, seconds, retry_of)
            if reason and self.branch is None and self.trunk.step <= config.schedule.decay_start:
                for longer in self.todo[position + 1 :]:  # it was the trunk that diverged
                    self._record(longer, kind, loss, reason, 0, 0.0, retry_of)
                break
            self._leave()
        with self.claim:
            saved_states.delete(self.trunk_path, upto=checkpoint.name_of(self.todo[-1].schedule.decay_start))

    def _begin(self, config: RunConfig) -> tuple[int, float]:
        """Go to the furthest state that serves this run; the tokens and seconds from which it is counted."""
        self.run_now = config
        schedule, trunk = config.schedule, self.trunk
        say = lambda text: self._note(config, text)
        states = [
            checkpoint.load_state(path, say, trunk.step, upto, self.claim)
            for path, upto in (
                (self.study.state_path(config.id), schedule.steps),
                (self.trunk_path, schedule.decay_start),
            )
        ]
        best = max((state for state in states if state), key=lambda state: state[1]["step"], default=None)
        if best is not None:
            self._restore(*best)
        self.begun = {"run": config.id, "tokens": schedule.tokens_before(trunk.step), "seconds": trunk.seconds}
        if best is not None and best[1]["begin"]["run"] == config.id:
            self.begun = best[1]["begin"]
        self._log(config, "started" if best is None else "resumed", step=trunk.step)
        return self.begun["tokens"], self.begun["seconds"]

    def _audit(self, config: RunConfig) -> None:
        """Before the first step of a long trunk, whether the model's tensors are at a healthy scale."""
        if self.trunk.step == 0 and self.todo[-1].schedule.steps >= AUDITED_STEPS:
            warning = scale_warning(self.trunk.model, self.trunk.windows.batch(0, SEQUENCES))
            if warning:
                self._note(config, warning)

    def _train(self, config: RunConfig) -> tuple[float, float]:
        """To the end of a run: its loss and the standard error of that."""
        fall = config.schedule.decay_start
        self.branch = None
        if self.trunk.step <= fall:
            self.trunk.advance(config, fall, self._after_step)
            self.branch = self._capture()
        self.trunk.advance(config, config.schedule.steps, self._after_step)
        return evaluate(self.trunk.model, self.evaluation)

    def _leave(self) -> None:
        """Back to where the run left the trunk; to its beginning where that is not known."""
        if self.branch is None:
            self.trunk, self.spikes = Trunk(self.todo[-1], self.corpus), Spikes()
            return
        tensors, meta = self.branch
        self._restore(tensors, meta | {"seconds": self.trunk.seconds})
        self.branch = None

    def _after_step(self) -> None:
        trunk, now = self.trunk, time.monotonic()
        if self.claim.lost:
            raise Fenced
        if self.hooks.should_stop():
            self._save()
            self._log(self.run_now, "interrupted", step=trunk.step)
            raise Interrupted
        if self.spikes.see(trunk.step, trunk.smooth):
            raise Diverged(f"the training loss stayed {SPIKE_NATS} nats above its least for {SPIKE_STEPS} steps")
        if now - self.saved > self.pause:
            self._save()
        if now - self.told > 0.4:
            self.told = now
            tokens = self.run_now.schedule.tokens_before(trunk.step)
            self.hooks.report(Progress(self.run_now.id, tokens, trunk.smooth, tokens / trunk.seconds))

    def _save(self) -> None:
        """Save where the run stands, and first, once, where it left the trunk."""
        begin = time.monotonic()
        on_trunk = self.trunk.step <= self.run_now.schedule.decay_start
        shared = self._capture() if on_trunk else self.branch
        try:
            if shared is not None and shared[1]["step"] > self.trunk_saved:
                checkpoint.save_state(self.trunk_path, *shared, self.claim)
                self.trunk_saved = shared[1]["step"]
            elif on_trunk:
                checkpoint.save_state(self.study.state_path(self.run_now.id), *shared, self.claim)
            if not on_trunk:
                checkpoint.save_state(self.study.state_path(self.run_now.id), *self._capture(), self.claim)
        except OSError:
            with self.claim:  # who took it over tidied up what was being written here
                raise
        self.saved = time.monotonic()
        self.pause = max(self.checkpoint_seconds, (self.saved - begin) / SAVING_SHARE)

    def _capture(self) -> tuple[dict, dict]:
        tensors, meta = self.trunk.capture()
        return tensors, meta | {"spikes": self.spikes.state(), "begin": self.begun}

    def _restore(self, tensors: dict, meta: dict) -> None:
        self.trunk.restore(tensors, meta)
        self.spikes.restore(meta["spikes"])

    def _record(
        self,
        config: RunConfig,
        kind: str,
        loss: tuple[float, float],
        reason: str,
        spent: int,
        seconds: float,
        retry_of: Mapping[str, str],
    ) -> None:
        """Write what came of a run, its record last."""
        notes = [event["text"] for event in self.study.attempts(config.id) if event.get("event") == "note"]
        record = record_of(config, kind, loss, self.trunk, spent, seconds, reason)
        record = replace(
            record, note="; ".join(filter(None, [record.note, *notes])), retry_of=retry_of.get(config.id, "")
        )
        if record.status == "finished":
            save_weights(self.study.weights_path(config.id), self.trunk.model, config, self.claim)
        self.study.save(record, self.trunk.curve, self.claim)
        self._log(config, record.status, step=self.trunk.step)
        with self.claim:
            saved_states.delete(self.study.state_path(config.id))
        self.hooks.recorded(record)

    def _note(self, config: RunConfig, text: str) -> None:
        self._log(config, "note", text=text)
        self.hooks.note(config.id, text)

    def _log(self, config: RunConfig, event: str, **values) -> None:
        with self.claim:
            self.study.log(config.id, event, attempt=self.claim.attempt, **values)


def record_of(
    config: RunConfig,
    kind: str,
    loss: tuple[float, float],
    trunk: Trunk,
    spent: int,
    seconds: float,
    reason: str = "",
) -> RunRecord:
    """The record of a run that cost ``spent`` tokens and ``seconds`` beyond the shorter ones of its trunk.

    ``reason`` says why it has diverged, if it has; one no better than guessing has as well.
    """
    value, error = loss
    guessing = math.log(config.model.vocab_size)
    if not reason and not value < guessing:
        reason = f"loss {value:.4g} is no better than guessing ({guessing:.2f})"
    return RunRecord(
        config=config,
        kind=kind,
        status="diverged" if reason else "finished",
        loss=value if math.isfinite(value) else None,
        loss_se=error if math.isfinite(error) else None,
        train_loss=trunk.smooth if math.isfinite(trunk.smooth) else None,
        seconds=round(seconds, 3),
        flops_spent=spent * config.model.flops_per_token,
        tokens_per_second=round(spent / seconds, 1) if seconds else 0.0,
        finished_at=now(),
        environment=environment(torch.get_num_threads()) | {"device": devices.describe(trunk.device)} | trunk.cut(),
        note=reason,
    )


def save_weights(path, model: LanguageModel, config: RunConfig, allowed=None) -> None:
    """The weights of a run, its configuration beside them; ``allowed`` is entered for the rename."""
    tensors = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    checkpoint.write(path, tensors, {"config": config.to_dict()}, allowed)

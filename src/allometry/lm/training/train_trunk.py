"""Train the runs of one trunk: those that share everything but their length.

The learning rate of warmup–stable–decay does not depend on a run's length until it decays, and the order of the data
is a function of seed and step. So one long trunk serves every length: at each, the state is set aside, the decay is
run to its end, the result recorded, and the trunk goes on from where it stood. Each result is, to the bit, what a
run of that length alone would have reached, however often it was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...config.run import RunConfig
from ...errors import UserError
from ...runs import saved_states
from ...runs.claims import Claim
from ...runs.hooks import SILENT, Hooks
from ...runs.job import Job
from ...runs.study import Study
from ...tasks.contract import OpenTask, Score
from .. import checkpoint
from .. import device as devices
from ..decoder import without_kernels
from .between_steps import SAVE_SECONDS, BetweenSteps
from .gradients import Pieces
from .health import ROWS, scale_warning
from .member import Member
from .step_memory import savings
from .training_step import advance
from .write_record import UNSCORED, RecordWriter, weights_of

AUDITED_STEPS = 300  # an audit of scales costs as much as twenty steps of a small model: none for shorter trunks

State = tuple[dict[str, Any], dict[str, Any]]  # tensors and a JSON value


def train_trunk(
    job: Job,
    open_task: OpenTask,
    study: Study,
    hooks: Hooks = SILENT,
    *,
    follows: int | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Train every run of a trunk that has no record yet, and record each as soon as it ends.

    Goes on from the newest good state that was saved; ``hooks.note`` reports those that are damaged. A run whose
    loss stops being finite, rises and stays high (:mod:`.health`), or ends no better than guessing, is recorded
    as diverged; so are the longer ones when it was their common trunk that diverged. The other arguments, and what it
    raises: see :meth:`allometry.trainers.contract.Trainer.train`.

    Raises:
        UserError: the runs do not share a trunk, or there are too few data.
    """
    if len({config.trunk for config in job.configs}) != 1:
        raise UserError("runs of one trunk may differ in their tokens only")
    if not _unrecorded(job.configs, study):
        return
    with study.claim(job.claim, follows).kept() as claim:
        todo = _unrecorded(job.configs, study)  # whoever was at it before may have recorded some meanwhile
        if todo:
            _TrunkTraining(todo, open_task, study, claim, RecordWriter(job, study, claim, hooks), save_seconds).run()


def _unrecorded(configs: Sequence[RunConfig], study: Study) -> list[RunConfig]:
    """Those to train, in the order in which they leave the trunk."""
    todo = [config for config in configs if study.record(config.id) is None]
    return sorted(todo, key=lambda config: (config.schedule.decay_start, config.train.tokens))


class _TrunkTraining:
    """The runs of a trunk one after another.

    States of the common trunk are saved under the trunk's name; those of a run's decay, and those of a run that starts
    behind what a longer one has saved of the trunk, under the run's own.
    """

    def __init__(
        self,
        todo: list[RunConfig],
        open_task: OpenTask,
        study: Study,
        claim: Claim,
        records: RecordWriter,
        save_seconds: float,
    ):
        self.todo, self.study, self.claim, self.records = todo, study, claim, records
        self.task = open_task(todo[-1])
        self._begin_anew()
        self.trunk_path = study.trunk_path(todo[0].trunk)
        self.trunk_saved = max(checkpoint.steps(self.trunk_path), default=0)
        self.branch: State | None = None  # the trunk's state while a run decays
        log = lambda event: self.records.log(self.run_now, event, step=self.member.meter.step)
        self.between = BetweenSteps(claim, records.hooks, self._save, log, save_seconds)

    def run(self) -> None:
        for position, config in enumerate(self.todo):
            self._begin(config)
            if self.records.job.kind != "sweep":
                self._audit(config)
            meter = self.member.meter
            scores = self._train(config)
            reason = meter.fault()
            self._record(config, scores, reason)
            on_trunk = self.branch is None and meter.step <= config.schedule.decay_start
            if reason and on_trunk:
                for longer in self.todo[position + 1 :]:  # it was the trunk that diverged
                    self._record(longer, scores, reason, (0, 0.0))
                break
            self._leave()
        with self.claim:
            saved_states.delete(self.trunk_path, upto=checkpoint.name_of(self.todo[-1].schedule.decay_start))

    def _begin_anew(self) -> None:
        self.member = Member.fresh(self.todo[-1], self.task, devices.mine())
        self.gradients = Pieces(self.member)

    def _begin(self, config: RunConfig) -> None:
        """Go to the furthest state that serves this run, and count its cost from there."""
        self.run_now, meter = config, self.member.meter
        self.between.running = [(config, meter)]
        note = lambda text: self.records.note(config, text)
        states = [
            checkpoint.load_state(path, note, meter.step, upto, self.claim)
            for path, upto in (
                (self.study.state_path(config.id), config.schedule.steps),
                (self.trunk_path, config.schedule.decay_start),
            )
        ]
        best = max((state for state in states if state), key=lambda state: state[1]["step"], default=None)
        if best is not None:
            self.member.restore(*best)
        meter.begin(config)
        self.records.log(config, "started" if best is None else "resumed", step=meter.step)

    def _audit(self, config: RunConfig) -> None:
        """Before the first step: are there kernels; in a long trunk, are the model's tensors at a healthy scale?"""
        if self.member.meter.step == 0 and (why := without_kernels(config)):
            self.records.note(config, why)
        if self.member.meter.step == 0 and self.todo[-1].schedule.steps >= AUDITED_STEPS:
            warning = scale_warning(self.member.model, self.task.batch(0, ROWS))
            if warning:
                self.records.note(config, warning)

    def _train(self, config: RunConfig) -> Mapping[str, Score]:
        """To the end of a run; its scores."""
        member, decay_start = self.member, config.schedule.decay_start
        self.branch = None
        if member.meter.step <= decay_start:
            advance([member], [config], self.gradients, decay_start, self.between)
            self.branch = None if member.meter.diverged else member.capture()
        advance([member], [config], self.gradients, config.schedule.steps, self.between)
        return UNSCORED if member.meter.diverged else self.task.evaluate(member.model)

    def _leave(self) -> None:
        """Back to where the run left the trunk; to its beginning where that is not known."""
        if self.branch is None:
            self._begin_anew()
            return
        tensors, meta = self.branch
        self.member.restore(tensors, meta | {"seconds": self.member.meter.seconds})
        self.branch = None

    def _save(self) -> None:
        """Save where the run stands, and first, once, where it left the trunk."""
        on_trunk = self.member.meter.step <= self.run_now.schedule.decay_start
        shared = self.member.capture() if on_trunk else self.branch
        own_path = self.study.state_path(self.run_now.id)
        if shared is not None and shared[1]["step"] > self.trunk_saved:
            checkpoint.save_state(self.trunk_path, *shared, self.claim)
            self.trunk_saved = shared[1]["step"]
        elif shared is not None and on_trunk:
            checkpoint.save_state(own_path, *shared, self.claim)
        if not on_trunk:
            checkpoint.save_state(own_path, *self.member.capture(), self.claim)

    def _record(
        self, config: RunConfig, scores: Mapping[str, Score], reason: str, spent: tuple[int, float] | None = None
    ) -> None:
        saved = savings(self.todo[-1], self.gradients.limits)
        self.records.record(config, self.member, scores, weights_of(self.member.model), reason, spent, saved)

"""Train several trunks of one shape as one batched model: the sweep's, which differ in learning rate, or seeds.

Every trunk sees the data in its own order and has its own optimiser, loss, branches and records; only the dispatch of
operations is shared. Each reaches the loss of a training of its own: by compiled kernels to the bit, by the layers but
for rounding. One state on the disk holds them all, so a training that was interrupted ends, to the bit, where an
undisturbed one of the same trunks does. It is saved on the common trunk: the runs so trained are short, and a decay
that was cut short is begun again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...config.run import RunConfig
from ...errors import UserError
from ...runs import saved_states
from ...runs.claims import Claim
from ...runs.hooks import SILENT, Hooks
from ...runs.job import Job
from ...runs.study import Study
from ...runs.trunks import step_shape
from ...tasks.contract import OpenTask
from .. import checkpoint
from .. import device as devices
from .between_steps import SAVE_SECONDS, BetweenSteps
from .gradients import Stacked
from .member import Member
from .training_step import advance
from .write_record import UNSCORED, RecordWriter, weights_of


def train_batched(
    job: Job,
    open_task: OpenTask,
    study: Study,
    hooks: Hooks = SILENT,
    *,
    follows: int | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """As :func:`~allometry.lm.training.train_trunk.train_trunk`, for the runs of several trunks that step alike.

    Give all runs of the trunks, those that have a record too: which trunks are trained together decides the rounding.

    Raises:
        UserError: the runs differ in more than tokens, learning rate and seed, or not in each trunk alike.
    """
    columns = [list(column) for column in zip(*_by_trunk(job.configs).values(), strict=True)]  # runs of one length
    missing = lambda: [column for column in columns if any(study.record(config.id) is None for config in column)]
    if not missing():
        return
    with study.claim(job.claim, follows).kept() as claim:
        todo = missing()  # whoever was at it before may have recorded some meanwhile
        if todo:
            records = RecordWriter(job, study, claim, hooks, {"trained_together": len(todo[0])})
            _BatchedTraining(todo, open_task, study, claim, records, save_seconds).run()


def _by_trunk(configs: Sequence[RunConfig]) -> dict[str, list[RunConfig]]:
    """The runs of each trunk, the shortest first, trunks in the order of their ids."""
    trunks: dict[str, list[RunConfig]] = defaultdict(list)
    for config in sorted(configs, key=lambda config: (config.trunk, config.train.tokens)):
        trunks[config.trunk].append(config)
    alike = {tuple((step_shape(c), c.train.tokens) for c in group) for group in trunks.values()}
    if len(alike) != 1:
        raise UserError("trunks that are trained together may differ in rate and seed only")
    return dict(trunks)


class _BatchedTraining:
    """The columns of runs one after another: of each column, one run of every trunk."""

    def __init__(
        self,
        todo: list[list[RunConfig]],
        open_task: OpenTask,
        study: Study,
        claim: Claim,
        records: RecordWriter,
        save_seconds: float,
    ):
        self.todo, self.study, self.claim, self.records = todo, study, claim, records
        self.members = [Member.fresh(config, open_task(config), devices.mine()) for config in todo[-1]]
        self.gradients = Stacked(self.members)
        self.column = todo[0]
        self.path = study.trunk_path(records.job.claim)
        self.between = BetweenSteps(claim, records.hooks, self._save, self._log, save_seconds)
        state = checkpoint.load_state(self.path, self._note, 0, todo[0][0].schedule.decay_start, claim)
        if state is not None:
            self._restore(*state)
        self.saved_step = self._step
        self.first_event = "started" if state is None else "resumed"

    def run(self) -> None:
        event = self.first_event
        for column in self.todo:
            self._begin(column)
            self._log(event)
            event = "started"  # the longer runs leave the common trunk here
            schedule = column[0].schedule
            advance(self.members, column, self.gradients, schedule.decay_start, self.between)
            self.between.save()
            tensors, meta = self._capture()
            advance(self.members, column, self.gradients, schedule.steps, self.between)
            for config, member in zip(column, self.members, strict=True):
                if self.study.record(config.id) is None:
                    self._record(config, member)
            for state, member in zip(meta["members"], self.members, strict=True):
                state["seconds"] = member.meter.seconds
            self._restore(tensors, meta)
        with self.claim:
            saved_states.delete(self.path)

    def _begin(self, column: list[RunConfig]) -> None:
        self.column = column
        self.between.running = [(config, member.meter) for config, member in zip(column, self.members, strict=True)]
        for config, member in zip(column, self.members, strict=True):
            member.meter.begin(config)

    def _record(self, config: RunConfig, member: Member) -> None:
        scores = UNSCORED if member.meter.diverged else member.task.evaluate(member.model)
        self.records.record(config, member, scores, weights_of(member.model), member.meter.fault())

    @property
    def _step(self) -> int:
        return max(member.meter.step for member in self.members)

    def _capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As :meth:`Member.capture`, for all of them."""
        states = [member.capture() for member in self.members]
        tensors = {f"{i}.{name}": value for i, (state, _) in enumerate(states) for name, value in state.items()}
        return tensors, {"members": [meta for _, meta in states], "step": self._step}

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        states: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            number, own = name.split(".", 1)
            states[number][own] = value
        for i, member in enumerate(self.members):
            member.restore(states[str(i)], meta["members"][i])

    def _save(self) -> None:
        """Save where the trunks stand, unless their runs decay, or it is saved already."""
        if self.saved_step < self._step <= self.column[0].schedule.decay_start:
            checkpoint.save_state(self.path, *self._capture(), self.claim)
            self.saved_step = self._step

    def _note(self, text: str) -> None:
        """A sentence for the records of all, and once for the user."""
        first, *others = self.column
        self.records.note(first, text)
        for config in others:
            self.records.log(config, "note", text=text)

    def _log(self, event: str) -> None:
        for config in self.column:
            self.records.log(config, event, step=self._step)

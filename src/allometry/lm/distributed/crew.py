"""One run by several processes, started by torchrun: the same batches, losses and files as by one.

    torchrun --nproc-per-node 8 -m allometry train plan.json

Process r of k takes its rows of each step's batch, which is fixed in tokens whatever k is. Every gradient carries the
factor of the whole batch (:func:`allometry.nn.functional.accumulation`) and the processes' gradients are summed, not
averaged, so that they are those of one process. Each process has the whole model (DDP) where it fits into memory,
and a shard of it (FSDP) where it does not.

Process 0 runs the command and writes study, record and weights; the others :func:`follow`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ...config.run import RunConfig
from ...errors import UserError
from ...runs import saved_states
from ...runs.claims import Claim, Taken, take_when_free
from ...runs.engines.contract import silent
from ...runs.hooks import EventHandler, Hooks, Interrupted
from ...runs.job import Job
from ...runs.study import Study
from ...tasks.catalog import task_named
from ...tasks.contract import Score, Task
from .. import checkpoint
from .. import device as devices
from ..training.step_memory import savings
from ..training.training_step import advance
from ..training.write_record import UNSCORED, RecordWriter
from .sharded_training import BetweenSharedSteps, SharedGradients
from .world import PATIENCE, Stray, Told, World

PARALLEL = ("auto", "ddp", "fsdp")
PREPARING = 7 * 86400.0  # seconds that the others wait while process 0 reads the text
INTERRUPTED = 130


class Crew:
    """The engine of a command that torchrun started, in its process 0: trains a run by all processes together."""

    workers = 1

    def __init__(self, world: World, parallel: str):
        self.world, self.parallel = world, parallel
        self.stopped = _Stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send the others home with the status that this process will end with."""
        status = 0 if kind is None else INTERRUPTED if kind is KeyboardInterrupt else 2
        if kind is Stray:  # they notice themselves; who notices first tells the user
            if not self.world.first_to_speak():
                sys.exit(2)
            return
        self.world.share(lambda: {"end": status})
        if not status:
            self.world.leave()
        self.world.part()

    def train(self, study: Study, jobs: Sequence[Job], on_event: EventHandler = silent) -> None:
        """Train the jobs' runs, one after another.

        Raises:
            UserError: they cannot be trained so, or a process is gone. KeyboardInterrupt: asked to stop; all is saved.
        """
        for each in jobs:
            for config in each.configs:
                if study.record(config.id) is not None:
                    continue
                if config.trainer.name != "built_in":
                    raise UserError(f"trainer {config.trainer.name}: only the built-in one trains under torchrun")
                if config.model.family == "module":
                    raise UserError(
                        f"family {config.model.family}: a module is trained in one process, without torchrun"
                    )
                job = replace(each, configs=(config,))
                message = {"study": str(study.path.resolve()), "parallel": self.parallel} | job.to_json()
                self.world.share(lambda message=message: message)
                try:
                    train_run(self.world, study, job, self.parallel, Hooks.to(on_event, self.stopped))
                except Interrupted:
                    raise KeyboardInterrupt from None


def enlist(device: str, parallel: str, patience: float = PATIENCE) -> Crew:
    """The crew, in process 0; the other processes follow it and never return from here."""
    if parallel not in PARALLEL:
        raise UserError(f"--parallel {parallel}: unknown; there are {', '.join(PARALLEL)}")
    try:
        world = World.join(device, patience)
    except Told as error:
        if os.environ["RANK"] != "0":
            sys.exit(2)
        raise error
    torch.set_num_threads(devices.threads_for(world.here))
    if world.rank == 0:
        return Crew(world, parallel)
    status = _follow(world)
    sys.stderr.flush()
    os._exit(status)  # connections that broke would hold up an orderly end


def _follow(world: World) -> int:
    """Do as process 0 does, until it says that all is done; the exit status."""
    stopped = _Stop()
    try:
        while "end" not in (message := world.share(dict, PREPARING)):
            study, hooks = Study(Path(message["study"])), Hooks(should_stop=stopped)
            try:
                train_run(world, study, Job.from_json(message), message["parallel"], hooks)
            except (Interrupted, Told):
                continue  # process 0 tells the user, and then how to end
        if not message["end"]:
            world.leave()
        world.part()
        return message["end"]
    except UserError as error:
        if not isinstance(error, Stray) or world.first_to_speak():
            print(f"allometry: process {world.rank}: {error}", file=sys.stderr, flush=True)
        return 2


class _Stop:
    """Whether this process was asked to stop, by Ctrl-C or SIGTERM; the second time it ends at once."""

    def __init__(self):
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.requested


def train_run(world: World, study: Study, job: Job, parallel: str, hooks: Hooks) -> None:
    """Train the one run of a job with all processes; process 0 records it.

    Raises:
        UserError: it cannot be trained so, or a process is gone. Interrupted: one was asked to stop; all is saved.
    """
    [config] = job.configs
    with world.watching(), _claimed(world, study, job.claim, lambda text: hooks.note(config.id, text)) as claim:
        task = world.agree(lambda: _task(study, config, world))
        largest = config.schedule.stages[-1].batch
        if world.size > largest:
            raise Told(f"{world.size} processes for batches of at most {largest} sequences; start {largest} at most")
        world.agree(lambda: devices.check_precision(world.device, config.train.precision))
        gradients = SharedGradients(world, config, task, parallel)
        member = gradients.member
        where = {"processes": world.size, "parallel": gradients.parallel}
        records = RecordWriter(job, study, claim, hooks, where) if claim else None
        log = lambda event: records and records.log(config, event, step=member.meter.step, processes=world.size)
        between = BetweenSharedSteps(gradients, study, claim, hooks, log)
        log("resumed" if between.resume() else "started")
        gradients.wishes = between.wishes
        after_step = lambda: between.obey(*gradients.granted)
        advance([member], [config], gradients, config.schedule.steps, after_step)
        scores = UNSCORED if member.meter.diverged else task.evaluate(gradients.whole, world)
        weights = gradients.weights()
        world.share(lambda: _record(records, gradients, scores, weights))


def _record(
    records: RecordWriter | None,
    gradients: SharedGradients,
    scores: Mapping[str, Score],
    weights: Mapping[str, Tensor],
) -> None:
    """In process 0: what came of the run; then the states of its trunk go."""
    assert records is not None  # process 0 holds the claim
    member, config = gradients.member, gradients.member.config
    saved = savings(config, gradients.limits, gradients.world.size)
    records.record(config, member, scores, weights, member.meter.fault(), savings=saved)
    with records.claim:
        upto = checkpoint.name_of(config.schedule.decay_start)
        saved_states.delete(records.study.trunk_path(config.trunk), upto=upto)


@contextmanager
def _claimed(world: World, study: Study, trunk: str, say: Callable[[str], None]) -> Iterator[Claim | None]:
    """In process 0 the claim on a trunk, which beats while the block runs; one left by another machine is watched."""
    held: list[Claim] = []

    def take() -> None:
        if not study.settings_path.is_file():
            raise UserError(f"{study.path}: no study there")
        try:
            held.append(take_when_free(study.claims_path, trunk, say))
        except Taken:
            raise UserError(f"{study.path}: another process is training this run; wait for it") from None

    world.share(take)
    with held[0].kept() if held else nullcontext() as claim:
        yield claim


def _task(study: Study, config: RunConfig, world: World) -> Task:
    """The run's task on the data that this process sees in the study; process 0 checks every byte."""
    if not study.settings_path.is_file():
        raise UserError(f"process {world.rank} sees no study at {study.path}; it must lie where all machines see it")
    return task_named(config.task.name).open(study.corpus_path, verify=world.rank == 0)(config)

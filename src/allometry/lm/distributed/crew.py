"""One run by several processes, started by torchrun: the same batches, losses and files as by one.

    torchrun --nproc-per-node 8 -m allometry train plan.json

Process r of k takes its rows of each step's batch, which is fixed in tokens whatever k is. Every gradient carries the
factor of the whole batch (:func:`allometry.nn.functional.accumulation`) and the processes' gradients are summed, not
averaged, so that they are those of one process. Each process has the whole model (DDP) where it fits into memory,
and a shard of it (FSDP) where it does not.

Process 0 runs the command and writes study, record and weights; the others :func:`follow`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from ...config.run import RunConfig
from ...data.corpus import Corpus, load_corpus
from ...errors import UserError
from ...runs.claims import Claim, Taken
from ...runs.engines.contract import silent
from ...runs.hooks import Interrupted, Listener
from ...runs.job import Job
from ...runs.study import Study
from .. import device as devices
from ..batches import held_out_windows
from ..training.health import SPIKE_NATS
from ..training.train_trunk import HELD_OUT_WINDOWS
from ..training.trunk import Diverged
from .sharded_training import Training, _Watch
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

    def __enter__(self) -> Crew:
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

    def train(self, study: Study, jobs: Sequence[Job], listener: Listener = silent) -> None:
        """Train the jobs' runs, one after another.

        Raises:
            UserError: they cannot be trained so, or a process is gone. KeyboardInterrupt: asked to stop; all is saved.
        """
        for job in jobs:
            for config in job.configs:
                message = {"study": str(study.path.resolve()), "kind": job.kind, "config": config.to_dict()}
                self.world.share(lambda message=message: message | {"parallel": self.parallel})
                try:
                    train_run(self.world, study, config, job.kind, self.parallel, listener, self.stopped)
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
        while "end" not in (job := world.share(dict, PREPARING)):
            study, config = Study(Path(job["study"])), RunConfig.parse(job["config"])
            try:
                train_run(world, study, config, job["kind"], job["parallel"], lambda event: None, stopped)
            except (Interrupted, Told):
                continue  # process 0 tells the user, and then how to end
        if not job["end"]:
            world.leave()
        world.part()
        return job["end"]
    except UserError as error:
        if not isinstance(error, Stray) or world.first_to_speak():
            print(f"allometry: process {world.rank}: {error}", file=sys.stderr, flush=True)
        return 2


class _Stop:
    """Whether this process was asked to stop, by Ctrl-C or SIGTERM; the second time it ends at once."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self.asked


def train_run(
    world: World, study: Study, config: RunConfig, kind: str, parallel: str, listener: Listener, stop
) -> None:
    """Train one run with all processes; process 0 records it.

    Raises:
        UserError: it cannot be trained so, or a process is gone. Interrupted: one was asked to stop; all is saved.
    """
    with world.watching(), _claimed(world, study, config.trunk) as claim:
        corpus = world.agree(lambda: _corpus(study, config, world))
        largest = config.schedule.stages[-1].batch
        if world.size > largest:
            raise Told(f"{world.size} processes for batches of at most {largest} sequences; start {largest} at most")
        world.agree(lambda: devices.check_precision(world.device, config.train.precision))
        training = Training(world, config, corpus, parallel)
        watch = _Watch(world, study, training, claim, listener, stop)
        watch.resume()
        reason, loss = "", (math.nan, math.nan)
        try:
            training.advance(watch)
            loss = training.evaluate(held_out_windows(corpus.held_out, config.model.context, HELD_OUT_WINDOWS))
            if training.spikes.up:
                reason = f"the training loss ended more than {SPIKE_NATS} nats above its least"
        except Diverged as error:
            reason = str(error)
        weights = training.weights()
        world.share(lambda: watch.record(kind, loss, reason, weights))


@contextmanager
def _claimed(world: World, study: Study, trunk: str) -> Iterator[Claim | None]:
    """In process 0 the claim on a trunk, which beats while the block runs."""
    held: list[Claim] = []

    def take() -> None:
        if not study.settings_path.is_file():
            raise UserError(f"{study.path}: no study there")
        try:
            held.append(study.claim(trunk))
        except Taken:
            raise UserError(f"{study.path}: another process is training this run; wait for it") from None

    world.share(take)
    with held[0].kept() if held else nullcontext() as claim:
        yield claim


def _corpus(study: Study, config: RunConfig, world: World) -> Corpus:
    """The study's text as this process sees it; process 0 checks every byte."""
    if not study.settings_path.is_file():
        raise UserError(f"process {world.rank} sees no study at {study.path}; it must lie where all machines see it")
    corpus = load_corpus(study.corpus_path, verify=world.rank == 0)
    if config.task.fingerprint != corpus.fingerprint:
        raise UserError(f"{study.path}: run {config.id} was planned for other text than this study holds")
    return corpus

"""One process of several: trains what a file says, watched by tests/lm/test_distributed.py.

Each scenario is a study, a configuration and how the model is spread; ``save_every`` steps the state is saved,
after ``stop_after`` steps the crew is asked to stop, after ``leave_after`` it is left as a crash would leave it, and
after ``die_after`` process 1 is killed. Process 0 writes what it saw to ``seen``.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from unittest import mock

import torch

from allometry.cli import app
from allometry.config.run import RunConfig
from allometry.lm.distributed import crew as distributed
from allometry.lm.distributed import sharded_training
from allometry.runs.hooks import SILENT, Interrupted
from allometry.runs.job import Job
from allometry.runs.study import Study

torch.set_num_threads(1)


class Left(Exception):
    """As if all were killed at once: nothing is saved, nothing is tidied up."""


class Watched(sharded_training.BetweenSharedSteps):
    """Saves by the count of steps and not by the clock, and notes the smoothed loss and the optimiser's rates."""

    scenario: dict
    seen: list[float]

    def wishes(self):
        done = self.member.meter.step + 1
        stop, save = done == self.scenario.get("stop_after"), done % self.scenario.get("save_every", 10**9) == 0
        return float(stop), float(save), 0.0

    def obey(self, *wishes):
        meter = self.member.meter
        self.seen.append((meter.step, meter.smooth))
        super().obey(*wishes)
        if meter.step == self.scenario.get("leave_after"):
            raise Left
        if meter.step == self.scenario.get("die_after") and self.world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if meter.step == 1 and self.world.rank == 0:
            values = rates(self.member.model, self.member.optimizer)
            Path(self.scenario["seen"] + ".rates").write_text(json.dumps(values))


def rates(model, optimizer) -> dict[str, list[float]]:
    """The rate at its peak and the decay of every parameter, by name."""
    groups = {id(p): [g["peak_lr"], g["weight_decay"]] for g in optimizer.param_groups for p in g["params"]}
    return {name: groups[id(parameter)] for name, parameter in model.named_parameters()}


def run(world, scenario: dict) -> None:
    Watched.scenario, Watched.seen = scenario, []
    distributed.BetweenSharedSteps = Watched
    study, config = Study(Path(scenario["study"])), RunConfig.parse(scenario["config"])
    with contextlib.suppress(Left, Interrupted):
        distributed.train_run(world, study, Job((config,), "run"), scenario["parallel"], SILENT)
    if world.rank == 0:
        Path(scenario["seen"]).write_text(json.dumps(Watched.seen))


def main(path: str, patience: float) -> None:
    """Train the scenarios of a file, one after another."""
    try:
        world = distributed.World.join("cpu", patience)
        for scenario in json.loads(Path(path).read_text()):
            run(world, scenario)
        world.leave()
    except distributed.UserError as error:
        print(f"process {os.environ['RANK']}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(2)


def command(arguments: list[str]) -> None:
    """The command line, as it is started by torchrun."""
    sys.argv = ["allometry", *arguments]
    app.main()


def begin(target: str, arguments: tuple, environment: dict[str, str], out: str, err: str) -> None:
    """In a new process: its environment and its output, then ``target`` of this file."""
    os.environ.update(environment)
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    globals()[target](*arguments)


def launch(folder: Path, target: str, *arguments, size: int = 2) -> tuple[list[int], list[str], list[str]]:
    """Processes as torchrun starts them, without its own report: exit codes, standard outputs, standard errors.

    They are forked from a process that has imported everything, which costs seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    files = [(str(folder / f"out-{rank}"), str(folder / f"err-{rank}")) for rank in range(size)]
    processes = [
        context.Process(
            target=begin,
            args=(target, arguments, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, *files[rank]),
        )
        for rank in range(size)
    ]
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        for process in processes:  # the first starts the one that they are forked from, which does not know our path
            process.start()
    for process in processes:
        process.join(150)
        process.kill()
    out, err = ([Path(pair[side]).read_text() for pair in files] for side in (0, 1))
    return [process.exitcode for process in processes], out, err

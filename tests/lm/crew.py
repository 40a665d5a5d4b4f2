"""One process of several: trains what its first argument says, watched by tests/lm/test_distributed.py.

Each scenario is a study, a configuration and how the model is spread; ``save_every`` steps the state is saved,
after ``stop_after`` steps the crew is asked to stop, after ``leave_after`` it is left as a crash would leave it, and
after ``die_after`` process 1 is killed. Process 0 writes what it saw to ``seen``.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from allometry.config import RunConfig
from allometry.lm import distributed
from allometry.lm.train import Interrupted
from allometry.runs.store import Study


class Left(Exception):
    """As if all were killed at once: nothing is saved, nothing is tidied up."""


class Watched(distributed._Watch):
    """Saves by the count of steps and not by the clock, and notes the smoothed loss and the optimiser's rates."""

    scenario: dict
    seen: list[float]

    def wishes(self):
        done = self.training.step + 1
        stop, save = done == self.scenario.get("stop_after"), done % self.scenario.get("save_every", 10**9) == 0
        return float(stop), float(save), 0.0

    def __call__(self, *wishes):
        training = self.training
        self.seen.append((training.step, training.smooth))
        super().__call__(*wishes)
        if training.step == self.scenario.get("leave_after"):
            raise Left
        if training.step == self.scenario.get("die_after") and self.world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if training.step == 1 and self.world.rank == 0:
            found = rates(training.model, training.optimizer)
            Path(self.scenario["seen"] + ".rates").write_text(json.dumps(found))


def rates(model, optimizer) -> dict[str, list[float]]:
    """The rate at its peak and the decay of every parameter, by name."""
    found = {id(p): [g["peak_lr"], g["weight_decay"]] for g in optimizer.param_groups for p in g["params"]}
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def run(world, scenario: dict) -> None:
    Watched.scenario, Watched.seen = scenario, []
    distributed._Watch = Watched
    study, config = Study(Path(scenario["study"])), RunConfig.parse(scenario["config"])
    with contextlib.suppress(Left, Interrupted):
        distributed.train_run(world, study, config, "run", scenario["parallel"], lambda event: None, lambda: False)
    if world.rank == 0:
        Path(scenario["seen"]).write_text(json.dumps(Watched.seen))


def main() -> None:
    scenarios, patience = json.loads(Path(sys.argv[1]).read_text()), float(sys.argv[2])
    try:
        world = distributed.World.join("cpu", patience)
        for scenario in scenarios:
            run(world, scenario)
        world.leave()
    except distributed.UserError as error:
        print(f"process {os.environ['RANK']}: {type(error).__name__}: {error}", file=sys.stderr)
        os._exit(2)


if __name__ == "__main__":
    main()

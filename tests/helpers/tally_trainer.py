"""A trainer that is not ours: it counts tokens. A package of its own brings it; no test imports this file.

It imports no torch. Its state is a number in a file; the loss falls with the tokens counted.
"""

import os
import sys
import time
from typing import Literal

from allometry.config.training import TrainerConfig
from allometry.files import write_json
from allometry.runs.hooks import SILENT, Hooks, Interrupted, Progress
from allometry.runs.record import RunRecord, environment, now

SAVE_STEPS = 5


class TallyConfig(TrainerConfig, kind="tally"):
    name: Literal["tally"] = "tally"
    version: int = 1


class Tally:
    def train(self, job, study, hooks: Hooks = SILENT, follows=None) -> None:
        missing = lambda: [config for config in job.configs if study.record(config.id) is None]
        if not missing():
            return
        with study.claim(job.claim, follows).kept() as claim:
            for config in missing():
                self._count(config, job, study, hooks, claim)

    def _count(self, config, job, study, hooks, claim) -> None:
        begun = study.read(f"runs/{config.id}/tally.json") or 0
        with claim:
            study.log(config.id, "resumed" if begun else "started", step=begun)
        for step in range(begun + 1, config.schedule.steps + 1):
            stop = hooks.should_stop()
            if stop or step % SAVE_STEPS == 0:
                with claim:
                    write_json(study.run_path(config.id) / "tally.json", step)
            if stop:
                raise Interrupted
            time.sleep(0.002)
            hooks.report(Progress(config.id, config.schedule.tokens_before(step), 4.0, 1e4))
        loss = 10.0 / config.tokens**0.1
        record = RunRecord(
            run=config,
            kind=job.kind,
            status="finished",
            loss=loss,
            loss_se=0.01,
            train_loss=loss,
            seconds=1.0,
            flops_spent=config.flops,
            tokens_per_second=float(config.tokens),
            finished_at=now(),
            environment=environment(1) | {"imported_torch": "torch" in sys.modules, "pid": os.getpid()},
            retry_of=job.retry_of.get(config.id, ""),
        )
        study.save(record, [[config.tokens, loss]], claim)
        with claim:
            study.log(config.id, "finished", step=config.schedule.steps)
        hooks.recorded(record)

    def measure(self, configs, models=1) -> list[float]:
        return []

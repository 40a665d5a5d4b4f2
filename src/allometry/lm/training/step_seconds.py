"""How long a training step takes on this machine, measured on the very shapes that will be trained."""

from __future__ import annotations

import statistics
import time

from ...config.run import RunConfig
from ...tasks.catalog import task_named
from .. import device as devices
from .gradients import Gradients, Pieces, Stacked
from .member import Member


def step_seconds(config: RunConfig, models: int = 1, budget: float = 0.35) -> float:
    """Seconds of one training step of ``config``, from about ``budget`` seconds of steps on random data.

    With several ``models``, of all of them trained as one batched model (:mod:`allometry.lm.training.train_batched`).
    The lower quartile: what else the machine does meanwhile can only add time.
    """
    device = devices.mine()
    devices.check_precision(device, config.train.precision)
    task = task_named(config.task.name).stand_in(config)
    members = [Member.fresh(config, task, device) for _ in range(models)]
    gradients: Gradients = Pieces(members[0]) if models == 1 else Stacked(members)
    places = [(0, max(1, config.train.batch_tokens // config.model.row_tokens))] * models
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 6 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        gradients.backward(places)
        for member in members:
            member.optimizer.step()
        gradients.clear()
        devices.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times[2:], n=4)[0]

"""How long a training step takes on this machine, measured on the very shapes that will be trained."""

from __future__ import annotations

import statistics
import time

import torch

from ... import nn
from ...config.run import RunConfig
from .. import device as devices
from ..decoder import build
from .stacked_models import Stack


def step_seconds(config: RunConfig, models: int = 1, budget: float = 0.35) -> float:
    """Seconds of one training step of ``config``, from about ``budget`` seconds of steps on random tokens.

    With several ``models``, of all of them trained as one batched model (:mod:`allometry.lm.training.batched`).
    The lower quartile: what else the machine does meanwhile can only add time.
    """
    device = devices.mine()
    devices.check_precision(device, config.train.precision)
    train = config.train
    members = [build(config.model, 0, train.precision, train.compile).to(device) for _ in range(models)]
    optimizers = [nn.AdamW(model, 1e-3) for model in members]
    shape = (max(1, train.batch_tokens // config.model.context), config.model.context)
    tokens = torch.randint(config.model.vocab_size, (models, *shape)).to(device)
    if models == 1:
        gradients = lambda: members[0].loss(tokens[0], tokens[0]).backward()
        clear = lambda: optimizers[0].zero_grad(set_to_none=True)
    else:
        stack = Stack(members)
        gradients, clear = lambda: stack.backward(tokens, tokens), stack.zero_grad
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 6 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        gradients()
        for optimizer in optimizers:
            optimizer.step()
        clear()
        devices.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times[2:], n=4)[0]

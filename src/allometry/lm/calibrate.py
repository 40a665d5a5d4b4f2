"""How long a training step takes on this machine, measured on the very shapes that will be trained."""

from __future__ import annotations

import statistics
import time

import torch

from .. import nn
from ..config import RunConfig
from . import device as devices
from .model import build


def step_seconds(config: RunConfig, budget: float = 0.35) -> float:
    """Seconds of one training step of ``config``, from about ``budget`` seconds of steps on random tokens.

    The lower quartile: what else the machine does meanwhile can only add time.
    """
    device = devices.mine()
    devices.check_precision(device, config.train.precision)
    model = build(config.model, 0, config.train.precision).to(device)
    optimizer = nn.AdamW(model, 1e-3)
    shape = (max(1, config.train.batch_tokens // config.model.context), config.model.context)
    tokens = torch.randint(config.model.vocab_size, shape).to(device)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 6 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        model.loss(tokens, tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        devices.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.quantiles(times[2:], n=4)[0]

"""A run trained by several processes: how they share its model, its batches and what happens between steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ...config.run import RunConfig
from ...runs.claims import Claim, Fenced
from ...runs.hooks import Hooks
from ...runs.study import Study
from ...tasks.contract import Task
from .. import device as devices
from ..families import Family, family_of
from ..training.between_steps import BetweenSteps
from ..training.gradients import backward_in_pieces, shares
from ..training.member import Member
from ..training.step_memory import StepLimits
from . import sharded_state
from .world import FENCED, Told, World

USABLE = 0.8  # of the free memory: buffers and fragmentation are in no estimate

Wishes = tuple[float, float, float]


class SharedGradients:
    """The gradients of one model whose batches the processes share.

    Each has the whole model (DDP) or a shard of it (FSDP). ``wishes`` is what this process wants to happen after the
    step (:meth:`.BetweenSteps.wishes`); it is added up together with the loss, and ``granted`` is the sum.
    """

    def __init__(self, world: World, config: RunConfig, task: Task, parallel: str):
        self.world = world
        family, train = family_of(config.model), config.train
        self.parallel, rows = _fit_memory(world, family, config, parallel)
        self.limits = StepLimits(rows)
        model = family.build(config.model, train.seed, train.precision).to(world.device)
        self.whole = _spread(world, model, family.blocks(model), self.parallel)
        self.member = Member(config, task, model)
        self.wishes: Callable[[], Wishes] = lambda: (0.0, 0.0, 0.0)
        self.granted: Wishes = (0.0, 0.0, 0.0)

    def backward(self, places: Sequence[tuple[int, int]]) -> list[float]:
        [(first, rows)] = places
        loss, *granted = self.world.total(self.part(first, rows), *self.wishes())
        self.granted = granted[0], granted[1], granted[2]
        return [loss]

    def part(self, first: int, rows: int) -> float:
        """The gradients of this process's part of a batch of ``rows`` from ``first`` on; its part of the mean loss.

        A process whose part is empty, as the batch is still small, takes a row that counts for nothing, since the
        others cannot go on without it.
        """
        begin, end = shares(rows, self.world.size)[self.world.rank]
        parts = -(-math.ceil(rows / self.world.size) // self.limits.rows)
        pieces = [(first + begin + left, right - left) for left, right in shares(end - begin, parts)]
        apart = self.whole.no_sync if isinstance(self.whole, DistributedDataParallel) else nullcontext
        return backward_in_pieces(self.member.task, self.whole, pieces, rows, apart)

    def clear(self) -> None:
        self.member.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor]:
        """All weights whole, in process 0; nothing elsewhere."""
        whole = {}
        for name, parameter in self.member.model.named_parameters():
            tensor = parameter.detach()
            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.world.rank == 0:
                whole[name] = tensor.cpu()
        return whole


class BetweenSharedSteps(BetweenSteps):
    """As one process does, at the same step in all; process 0 decides when to save, and logs and reports."""

    def __init__(self, gradients: SharedGradients, study: Study, claim: Claim | None, hooks: Hooks, log: Callable):
        self.world, self.member, self.study = gradients.world, gradients.member, study
        super().__init__(claim, hooks, self._save_shards, log)
        self.running = [(self.member.config, self.member.meter)]

    def wishes(self) -> Wishes:
        stop, due, lost = super().wishes()
        return stop, due if self.world.rank == 0 else 0.0, lost

    def obey(self, stop: float, save: float, lost: float) -> None:
        try:
            super().obey(stop, save, lost)
        except Fenced:
            raise Told(FENCED) from None

    def resume(self) -> bool:
        """Go on from the furthest good state, if there is one, whichever number of processes wrote it."""
        member, config = self.member, self.member.config
        places = [
            (self.study.state_path(config.id), config.schedule.steps),
            (self.study.trunk_path(config.trunk), config.schedule.decay_start),
        ]
        note = lambda text: self.hooks.note(config.id, text)
        meta = sharded_state.load(self.world, places, member.model, member.optimizer, note, self.claim)
        if meta is not None:
            member.meter.restore(meta)
        member.meter.begin(config)
        return meta is not None

    def _save_shards(self) -> None:
        """The state, under the trunk's name before the decay and under the run's own in it, as one process does."""
        config, meter = self.member.config, self.member.meter
        if meter.step == config.schedule.steps:
            return
        on_trunk = meter.step <= config.schedule.decay_start
        parent = self.study.trunk_path(config.trunk) if on_trunk else self.study.state_path(config.id)
        tensors = self.member.model, self.member.optimizer
        sharded_state.save(self.world, parent, *tensors, meter.capture(), self.claim)


def _spread(world: World, model: torch.nn.Module, blocks: Sequence[torch.nn.Module], parallel: str) -> torch.nn.Module:
    """Put the model under DDP or FSDP, whose sums over processes are to be sums; the module to call."""
    if parallel == "ddp":
        ids = [world.device] if world.device.type == "cuda" else None
        whole = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        whole.register_comm_hook(None, _sum)
        return whole
    # Of views that a module returns: nothing here changes one in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return model


def _sum(_, bucket):
    """DDP's averaging replaced by a sum. (DDP refuses annotations that are text, as all of this file's are.)"""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None  # this process belongs to the group
    return work.get_future().then(lambda future: future.value()[0])


def _fit_memory(world: World, family: Family, config: RunConfig, parallel: str) -> tuple[str, int]:
    """DDP where each process has memory for the whole model, else FSDP; and the rows of one call that fit as well."""
    states, rows = 16.0 * config.model.num_params_total, config.schedule.stages[-1].batch
    by_layers = config.with_train(compile=False)  # compiled kernels, which keep less, are not used here
    a_row = (family.memory_bytes(by_layers) - states) / rows
    free = USABLE * world.least(devices.free_bytes(world.device, world.here) or math.inf)
    if parallel == "auto":
        parallel = "ddp" if states + a_row <= free else "fsdp"
    room = free - (states if parallel == "ddp" else states / world.size)
    return parallel, int(max(1, min(rows, room // a_row)))

"""A run trained by several processes, step by step: shares of the batch, saved states, watching."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ... import nn
from ...config.run import RunConfig
from ...data.corpus import Corpus
from ...runs import saved_states
from ...runs.claims import Claim
from ...runs.cost import EVAL_TOKENS, memory_bytes
from ...runs.hooks import Interrupted, Listener, Progress
from ...runs.study import Study
from .. import checkpoint
from .. import device as devices
from ..batches import Windows
from ..checkpoint import name_of
from ..decoder import build
from ..training.health import SPIKE_NATS, SPIKE_STEPS, Spikes
from ..training.train_trunk import SAVING_SHARE, record_of
from ..training.trunk import CURVE_POINTS, SMOOTHING, Diverged
from . import sharded_state as shards
from .world import Told, World

USABLE = 0.8  # of the free memory: buffers and fragmentation are in no estimate
SAVING_SECONDS = 10.0  # at least so long between two saves


class Training:
    """A run under way in all processes: this one's part of the model, and the place in the text."""

    def __init__(self, world: World, config: RunConfig, corpus: Corpus, parallel: str):
        self.world, self.config, self.device = world, config, world.device
        train = config.train
        self.parallel, self.rows_per_call = _fit_memory(world, config, parallel)
        self.model = build(config.model, train.seed, train.precision).to(world.device)
        self.whole: torch.nn.Module = self._spread()
        betas = (train.beta1, train.beta2)
        self.optimizer = nn.AdamW(self.model, train.lr, betas=betas, weight_decay=train.weight_decay)
        self.windows = Windows(corpus.train, config.model.context, train.seed)
        self.curve_every = max(1, config.schedule.steps // CURVE_POINTS)
        self.step, self.smooth, self.curve, self.seconds = 0, None, [], 0.0
        self.spikes = Spikes()

    def _spread(self) -> torch.nn.Module:
        """Put the model under DDP or FSDP, whose sums over processes are to be sums; what is to be called."""
        if self.parallel == "ddp":
            ids = [self.world.device] if self.world.device.type == "cuda" else None
            whole = DistributedDataParallel(self.model, device_ids=ids, gradient_as_bucket_view=True)
            whole.register_comm_hook(None, _sum)
            return whole
        # Of views that a module returns: nothing here changes one in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        for block in self.model.stack.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return self.model

    def advance(self, after_step: _Watch) -> None:
        """Train to the run's end.

        Raises:
            Diverged: the loss is not finite, or has risen and stays high.
        """
        schedule = self.config.schedule
        while self.step < schedule.steps:
            begin = time.perf_counter()
            self.optimizer.set_schedule(schedule.lr_factor_at(self.step))
            part = self.gradients(*schedule.batch_at(self.step))
            value, *wishes = self.world.total(part, *after_step.wishes())
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.smooth = value if self.smooth is None else self.smooth + SMOOTHING * (value - self.smooth)
            self.seconds += time.perf_counter() - begin
            if not math.isfinite(value):
                raise Diverged(f"the training loss is not finite at step {self.step}")
            if self.spikes.see(self.step, self.smooth):
                raise Diverged(f"the training loss stayed {SPIKE_NATS} nats above its least for {SPIKE_STEPS} steps")
            if self.step % self.curve_every == 0 or self.step == schedule.steps:
                self.curve.append([schedule.tokens_before(self.step), round(self.smooth, 5)])
            after_step(*wishes)

    def gradients(self, first: int, total: int) -> float:
        """Gradients of a batch of ``total`` windows from ``first`` on; this process's part of the mean loss.

        A process whose part is empty, as the batch is still small, takes a window that counts for nothing, since the
        others cannot go on without it.
        """
        part, (begin, end) = 0.0, shares(total, self.world.size)[self.world.rank]
        pieces = shares(end - begin, -(-math.ceil(total / self.world.size) // self.rows_per_call))
        for number, (left, right) in enumerate(pieces):
            rows = right - left
            inputs, targets = self._windows(first + begin + left, max(1, rows))
            alone = self.parallel == "ddp" and number < len(pieces) - 1
            with nn.accumulation(total / max(1, rows)), self.whole.no_sync() if alone else nullcontext():
                loss = nn.functional.cross_entropy(self.whole(inputs).flatten(0, 1), targets.flatten())
                (loss if rows else 0.0 * loss).backward()
            part += rows / total * loss.item()
        return part

    def evaluate(self, windows: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """Mean held-out loss in nats a token and its standard error over windows; each process takes some of them."""
        rows = max(1, EVAL_TOKENS // windows[0].shape[1])
        batches = list(zip(*(side.split(rows) for side in windows), strict=True))
        found = torch.zeros(len(batches), rows, dtype=torch.float64, device=self.world.device)
        for number in range(-(-len(batches) // self.world.size)):
            mine = number * self.world.size + self.world.rank
            inputs, targets = (devices.put(side, self.world.device) for side in batches[min(mine, len(batches) - 1)])
            with torch.no_grad():
                logits = self.whole(inputs).flatten(0, 1)
                each = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="none")
            if mine < len(batches):
                found[mine, : len(inputs)] = each.view(targets.shape).mean(1)
        dist.all_reduce(found)
        losses = found.flatten()[: len(windows[0])]
        return losses.mean().item(), losses.std(correction=0).item() / math.sqrt(len(losses))

    def weights(self) -> dict[str, Tensor]:
        """All weights whole, in process 0; nothing elsewhere."""
        whole = {}
        for name, parameter in self.model.named_parameters():
            tensor = parameter.detach()
            tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if self.world.rank == 0:
                whole[name] = tensor.cpu()
        return whole

    def cut(self) -> dict[str, int]:
        """Into how many pieces a process's part of the largest batch was cut; nothing if it was not."""
        part = math.ceil(self.config.schedule.stages[-1].batch / self.world.size)
        parts = math.ceil(part / self.rows_per_call)
        return {"pieces_of_a_batch": parts} if parts > 1 else {}

    def meta(self) -> dict[str, Any]:
        """What the next step depends on besides tensors."""
        values = {"step": self.step, "smooth": self.smooth, "curve": self.curve, "seconds": self.seconds}
        return values | {"spikes": self.spikes.state()}

    def restore(self, meta: dict[str, Any]) -> None:
        """Go on from there; the tensors are back already."""
        names = ("step", "smooth", "curve", "seconds")
        self.step, self.smooth, self.curve, self.seconds = (meta[name] for name in names)
        self.spikes.restore(meta["spikes"])

    def _windows(self, first: int, rows: int) -> Iterator[Tensor]:
        return (devices.put(side, self.world.device) for side in self.windows.batch(first, rows))


class _Watch:
    """What happens between steps: progress is told, the state saved, a wish to stop obeyed; by all at the same step."""

    def __init__(self, world: World, study: Study, training: Training, claim: Claim | None, listener: Listener, stop):
        self.world, self.study, self.training, self.claim = world, study, training, claim
        self.listener, self.stop = listener, stop
        self.config = training.config
        self.told, self.saved, self.pause = 0.0, time.monotonic(), SAVING_SECONDS
        self.begun = {"run": self.config.id, "tokens": 0, "seconds": 0.0}

    def wishes(self) -> tuple[float, float, float]:
        """Whether this process wants to stop, and to save, and has lost the claim; summed over all."""
        due = self.world.rank == 0 and time.monotonic() - self.saved > self.pause
        return float(self.stop()), float(due), float(self.claim is not None and self.claim.lost)

    def __call__(self, stop: float, save: float, lost: float) -> None:
        training, now = self.training, time.monotonic()
        if lost:
            raise Told("this training stood still, and another has taken it over; all is left to that one")
        if (stop or save) and training.step < self.config.schedule.steps:
            self.save()
        if stop:
            self._log("interrupted")
            raise Interrupted
        if now - self.told > 0.4:
            self.told = now
            tokens = self.config.schedule.tokens_before(training.step)
            progress = Progress(self.config.id, tokens, training.smooth, tokens / training.seconds)
            self.listener({"event": "progress", **asdict(progress)})

    def save(self) -> None:
        """The state, under the trunk's name before the fall and under the run's own in it, as one process does."""
        begin, training = time.monotonic(), self.training
        on_trunk = training.step <= self.config.schedule.decay_start
        parent = self.study.trunk_path(self.config.trunk) if on_trunk else self.study.state_path(self.config.id)
        meta = training.meta() | {"begin": self.begun}
        shards.save(self.world, parent, training.model, training.optimizer, meta, self.claim)
        self.saved = time.monotonic()
        self.pause = max(SAVING_SECONDS, (self.saved - begin) / SAVING_SHARE)

    def resume(self) -> None:
        """Go on from the furthest good state, if there is one, whichever number of processes wrote it."""
        training, schedule = self.training, self.config.schedule
        places = [
            (self.study.state_path(self.config.id), schedule.steps),
            (self.study.trunk_path(self.config.trunk), schedule.decay_start),
        ]
        say = lambda text: self.listener({"event": "note", "id": self.config.id, "text": text})
        meta = shards.load(self.world, places, training.model, training.optimizer, say, self.claim)
        if meta:
            training.restore(meta)
            tokens = schedule.tokens_before(training.step)
            mine = meta["begin"]["run"] == self.config.id
            self.begun |= meta["begin"] if mine else {"tokens": tokens, "seconds": training.seconds}
        self._log("resumed" if meta else "started")

    def record(self, kind: str, loss: tuple[float, float], reason: str, weights: dict[str, Tensor]) -> None:
        """In process 0: weights, then the record, then the states go."""
        training, config, study, claim = self.training, self.config, self.study, self.claim
        spent = config.schedule.tokens_before(training.step) - self.begun["tokens"]
        seconds = training.seconds - self.begun["seconds"]
        notes = [event["text"] for event in study.attempts(config.id) if event.get("event") == "note"]
        record = record_of(config, kind, loss, training, spent, seconds, reason)
        where = record.environment | {"processes": self.world.size, "parallel": training.parallel}
        record = replace(record, environment=where, note="; ".join(filter(None, [record.note, *notes])))
        if record.status == "finished":
            checkpoint.write(study.weights_path(config.id), weights, {"config": config.to_dict()}, claim)
        study.save(record, training.curve, claim)
        self._log(record.status)
        with claim:
            saved_states.delete(study.state_path(config.id))
            saved_states.delete(study.trunk_path(config.trunk), upto=name_of(config.schedule.decay_start))
        self.listener({"event": "recorded", "id": config.id})

    def _log(self, event: str) -> None:
        if self.claim is not None:
            with self.claim:
                values = {"attempt": self.claim.attempt, "step": self.training.step, "processes": self.world.size}
                self.study.log(self.config.id, event, **values)


def shares(rows: int, parts: int) -> list[tuple[int, int]]:
    """Cut ``rows`` into consecutive parts as even as can be: begin and end of each."""
    ends = [rows * part // parts for part in range(parts + 1)]
    return list(pairwise(ends))


def _sum(_, bucket):
    """DDP's averaging replaced by a sum. (DDP refuses annotations that are text, as all of this file's are.)"""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def _fit_memory(world: World, config: RunConfig, parallel: str) -> tuple[str, int]:
    """DDP where each process has memory for the whole model, else FSDP; and the rows of one call that fit beside."""
    states, rows = 16.0 * config.model.num_params_total, config.schedule.stages[-1].batch
    by_layers = config.model_copy(update={"train": config.train.model_copy(update={"compile": False})})
    a_row = (memory_bytes(by_layers) - states) / rows  # compiled kernels, which keep less, are not used here
    free = USABLE * world.least(devices.free_bytes(world.device, world.here) or math.inf)
    if parallel == "auto":
        parallel = "ddp" if states + a_row <= free else "fsdp"
    room = free - (states if parallel == "ddp" else states / world.size)
    return parallel, int(max(1, min(rows, room // a_row)))

"""The processes of one training, as torchrun started them: who they are, what they agree on, how they learn of a loss.

Whatever must be the same everywhere is decided by process 0 and sent to the others as JSON, and a mistake that any of
them finds ends all of them with one line. What the file system must not see twice, process 0 alone writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ...errors import UserError
from ...runs.claims import Fenced
from .. import device as devices

PATIENCE = 600.0  # seconds that a process waits for another before it gives up
_LOST = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "connection refused", "socket")
FENCED = "this training stood still, and another has taken it over; all is left to that one"
T = TypeVar("T")


class Told(UserError):
    """A mistake that process 0 tells the user of; the others end without a word."""


class Stray(UserError):
    """Another process of this training is gone, or does not answer."""


class World:
    """This process among its like. ``rank`` of ``size`` in all, ``place`` of ``here`` on this machine."""

    def __init__(
        self,
        store: dist.Store,  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
        rank: int,
        size: int,
        place: int,
        here: int,
        patience: float,
    ):
        self.store, self.rank, self.size, self.place, self.here = store, rank, size, place, here
        self.patience = patience
        self.device = devices.CPU
        self._exchanges = 0

    @classmethod
    def join(cls, device: str = "auto", patience: float = PATIENCE) -> World:
        """Meet the others, by the environment that torchrun gives.

        Raises:
            UserError: they do not come, the environment is not torchrun's, or there are fewer devices than processes.
        """
        try:
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            place, here = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
        except (KeyError, ValueError):
            raise UserError("RANK and WORLD_SIZE must be numbers; start the training by torchrun") from None
        if not 0 <= rank < size:
            raise UserError(f"process {rank} of {size}: RANK must be below WORLD_SIZE; start the training by torchrun")
        try:
            store = next(iter(rendezvous("env://", rank, size, timeout=timedelta(seconds=patience))))[0]
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the {size} processes of this training did not find each other: {_first(error)}") from None
        store.set_timeout(timedelta(seconds=patience))
        prefixed = dist.PrefixStore("allometry", store)  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
        world = cls(prefixed, rank, size, place, here, patience)
        world.device = world.agree(lambda: devices.pick(device, place, here))
        devices.start(world.device)
        dist.init_process_group(
            "nccl" if world.device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=patience),
        )
        return world

    def leave(self) -> None:
        """Part in peace, when all is done."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def part(self, seconds: float = 10.0) -> None:
        """The last word; process 0, which keeps what they share, waits so long for that of the others."""
        with contextlib.suppress(RuntimeError):
            self.store.set(f"parted/{self.rank}", "")
            if self.rank == 0:
                self.store.wait([f"parted/{rank}" for rank in range(self.size)], timedelta(seconds=seconds))

    def share(self, work: Callable[[], Any], patience: float | None = None) -> Any:
        """What ``work()`` gives in process 0, a JSON value, in every process, which wait for it so long.

        Raises:
            UserError: it raised one, or an OSError, there.
        """
        key = self._key()
        if self.rank == 0:
            try:
                answer = {"value": work()}
            except (UserError, OSError) as error:
                answer = {"fault": str(error)}
            except Fenced:
                answer = {"fault": FENCED}
            self._set(key, json.dumps(answer))
        answer = json.loads(self._get(key, 0, patience))
        if "fault" in answer:
            raise Told(answer["fault"])
        return answer["value"]

    def agree(self, work: Callable[[], T]) -> T:
        """What ``work()`` gives here, once it has succeeded in every process.

        Raises:
            UserError: it raised one, or an OSError, in some process.
        """
        key, results, fault = self._key(), [], ""
        try:
            results.append(work())
        except (UserError, OSError) as error:
            fault = str(error)
        self._set(f"{key}/{self.rank}", fault)
        verdict = lambda: next(filter(None, (self._get(f"{key}/{rank}", rank) for rank in range(self.size))), "")
        if first_fault := self.share(verdict):
            raise Told(first_fault)
        return results[0]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors, in place."""
        dist.all_reduce(values)
        return values

    def least(self, value: float) -> float:
        """The least of all processes' values."""
        return self.total(value, op=dist.ReduceOp.MIN)[0]

    def total(self, *values: float, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> list[float]:
        """Each of the values summed over all processes."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums, op)
        return sums.tolist()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What PyTorch says when another process is gone becomes one line.

        Raises:
            Stray: so it is.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            raise UserError(
                f"process {self.rank}: the memory of {devices.describe(self.device)} does not suffice; start more "
                "processes, or give --parallel fsdp; what was saved is gone on from"
            ) from None
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in _LOST):
                raise
            raise Stray(
                f"a process of this training is gone or stands still ({_first(error)}); the same command goes on from "
                "the last state that was saved"
            ) from None

    def first_to_speak(self) -> bool:
        """Whether no other process has reported to the user yet that one is gone."""
        try:
            return self.store.add("spoken", 1) == 1
        except RuntimeError:  # it was process 0, which kept the store
            return True

    def _key(self) -> str:
        self._exchanges += 1
        return str(self._exchanges)

    def _set(self, key: str, text: str) -> None:
        with self.watching():
            self.store.set(key, text)

    def _get(self, key: str, rank: int, patience: float | None = None) -> str:
        patience = patience or self.patience
        try:
            self.store.wait([key], timedelta(seconds=patience))
            return self.store.get(key).decode()
        except RuntimeError:
            raise Stray(
                f"process {rank} of {self.size} is gone, or has not answered for {patience:g} s; the same "
                "command goes on from the last state that was saved"
            ) from None


def _first(error: Exception) -> str:
    """The first sentence of what PyTorch says, without its source files."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^\[[^]]*\] ", "", line).partition(". ")[0][:160]

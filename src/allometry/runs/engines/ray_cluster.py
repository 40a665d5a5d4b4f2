"""Train jobs on a Ray cluster: each worker is an actor that holds its share of a node, a core or a GPU.

An actor starts the same training process as :mod:`allometry.runs.engines.local` does and passes jobs in and events
out, so a run on a cluster is a run anywhere: same study folder, which all nodes must see, same records, same claims.
What a node was training when it died is gone on with by another; should that node still be at work, its claim stands
or it is refused (:mod:`allometry.runs.claims`), whatever Ray believes.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from ...config.run import RunConfig
from ...errors import UserError
from ..hooks import EventHandler
from ..job import Job
from ..study import Study
from .contract import silent
from .job_queue import JobQueue, Turn
from .worker_process import start_worker

_LOOK_SECONDS = 0.5  # between looks at the study and at actors that are still to be placed
_PLACED_SECONDS = 60.0  # that a worker has to be placed before speed is measured without it
_SAVING_SECONDS = 60.0


class Relay:
    """What runs on a node: a training process, and the way in and out of it."""

    def __init__(self, threads: int, device: str, trainer: str):
        self._process = start_worker(threads, device, trainer=trainer)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ready(self) -> bool:
        """Answers as soon as the actor has its place."""
        return True

    def send(self, message: str) -> None:
        """Hand a job to the training process."""
        assert self._process.stdin is not None
        self._process.stdin.write(message + "\n")
        self._process.stdin.flush()

    def events(self) -> list[str | None]:
        """Its output since the last call, after at most a second; None when it has ended."""
        lines: list[str | None] = []
        try:
            lines.append(self._lines.get(timeout=1.0))
            while True:
                lines.append(self._lines.get_nowait())
        except queue.Empty:
            return lines

    def leave(self) -> None:
        """Let it save its training and end."""
        assert self._process.stdin is not None
        self._process.terminate()
        self._process.stdin.close()
        try:
            self._process.wait(_SAVING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


class RayEngine:
    """Workers on the Ray cluster that is running. Use as a context manager: leaving it stops them, training saved.

    Each holds ``threads`` cores and ``gpus`` of a GPU (a whole number, or a fraction below one); there are as many as
    the cluster's nodes have room for, or ``workers``. Those with GPUs train on them: Ray shows each its own alone.
    Each loads ``trainer`` when it starts, and any other when a job needs it.
    """

    def __init__(self, workers: int | None = None, threads: int = 1, gpus: float = 0.0, trainer: str = "built_in"):
        self.most_workers, self.threads, self.gpus, self.trainer = workers, threads, gpus, trainer
        self.workers = 0  # until the cluster shows its nodes
        self.device = "cuda" if gpus else "cpu"
        self._events: queue.Queue[tuple[_Slot, Any, dict[str, Any] | None]] = queue.Queue()
        self._slots: list[_Slot] = []

    def __enter__(self) -> Self:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError("--engine ray needs Ray: pip install 'allometry[ray]'") from None
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError):
                raise UserError(
                    "no Ray cluster answers; start one (ray start --head) or name it by RAY_ADDRESS"
                ) from None
        self._ray = ray
        room = sum(self._room(node["Resources"]) for node in ray.nodes() if node["Alive"])
        self.workers = min(room, self.most_workers or room)
        if not self.workers:
            need = f"{self.threads} cores" + (f" and {self.gpus:g} GPU" if self.gpus else "")
            raise UserError(f"no node of the Ray cluster has {need}, which a worker takes")
        self._slots = [_Slot(self) for _ in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        leaving = [slot.relay.leave.remote() for slot in self._slots if slot.placed]
        if leaving:
            self._ray.wait(leaving, num_returns=len(leaving), timeout=_SAVING_SECONDS)
        for slot in self._slots:
            slot.end()
        if self._ours:
            self._ray.shutdown()

    def train(self, study: Study, jobs: Sequence[Job], on_event: EventHandler = silent) -> None:
        """See :meth:`.contract.Engine.train`."""
        study = Study(study.path.resolve())
        jobs_left = JobQueue(study, jobs, on_event)
        at_work: dict[_Slot, Turn] = {}
        looked = 0.0
        while jobs_left.open:
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                for slot in [slot for slot, turn in at_work.items() if jobs_left.stalled(turn)]:
                    slot.end()
                    jobs_left.died(at_work.pop(slot), "it stood still")
                    slot.begin()
                for slot in self._slots:
                    if slot not in at_work and slot.ready() and (turn := jobs_left.take()):
                        at_work[slot] = turn
                        slot.send(turn.message(study))
            try:
                slot, relay, event = self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if relay is not slot.relay:
                continue  # the last words of one that was given up
            if event is None:
                if slot in at_work:
                    jobs_left.died(at_work.pop(slot), "its node or its process is gone")
                slot.begin()
            elif event["event"] == "failed":
                raise UserError(event["message"])
            elif event["event"] == "done":
                turn = at_work.pop(slot)
                jobs_left.taken(turn) if event["result"] == "taken" else jobs_left.done(turn)
                looked = 0.0
            else:
                jobs_left.pass_on(event)

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        """See :meth:`.contract.LadderEngine.measure`; of the workers that are placed within a minute."""
        deadline = time.monotonic() + _PLACED_SECONDS
        while not all(slot.ready() for slot in self._slots) and time.monotonic() < deadline:
            time.sleep(0.1)
        busy = {slot for slot in self._slots if slot.placed}
        for slot in busy:
            slot.send({"measure": [config.to_dict() for config in configs], "models": models})
        results = []
        while busy:
            slot, relay, event = self._events.get()
            if event is None and relay is slot.relay:
                slot.begin()
                busy.discard(slot)
            elif event is not None and event["event"] == "failed":
                raise UserError(event["message"])
            elif event is not None and event["event"] == "done":
                results.append(event["result"])
                busy.discard(slot)
        if not results:
            raise UserError("no worker of the Ray cluster stayed up while its speed was measured")
        return [max(times) for times in zip(*results, strict=True)]

    def _room(self, resources: dict[str, float]) -> int:
        """How many workers a node has room for."""
        room = int(resources.get("CPU", 0) // self.threads)
        if not self.gpus:
            return room
        a_gpu = int(1 // self.gpus) if self.gpus < 1 else 1 / self.gpus
        return min(room, int(resources.get("GPU", 0) * a_gpu))


class _Slot:
    """A worker's place in the engine: its actor of the moment."""

    def __init__(self, engine: RayEngine):
        self.engine = engine
        self.begin()

    def begin(self) -> None:
        """A new actor; it may be long until the cluster has room for it."""
        engine, ray = self.engine, self.engine._ray
        actor = ray.remote(num_cpus=engine.threads, num_gpus=engine.gpus, max_restarts=0, max_concurrency=4)(Relay)
        self.relay = actor.remote(engine.threads, engine.device, engine.trainer)
        self.placed = False
        self._placement = self.relay.ready.remote()
        threading.Thread(target=self._listen, args=(self.relay,), daemon=True).start()

    def ready(self) -> bool:
        """Whether it is up."""
        if not self.placed:
            self.placed = bool(self.engine._ray.wait([self._placement], timeout=0)[0])
        return self.placed

    def send(self, message: dict[str, Any]) -> None:
        self.relay.send.remote(json.dumps(message))

    def end(self) -> None:
        """Give it up at once."""
        self.engine._ray.kill(self.relay)

    def _listen(self, relay: Any) -> None:
        put = lambda event: self.engine._events.put((self, relay, event))
        try:
            while True:
                for line in self.engine._ray.get(relay.events.remote()):
                    put(None if line is None else json.loads(line))
                    if line is None:
                        return
        except Exception:  # whatever Ray calls it: the actor is gone, or the driver leaves
            put(None)

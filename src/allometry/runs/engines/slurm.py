"""Train jobs on Slurm, by submitit: each job of the ladder is a job of the cluster, which trains it and ends.

The study's folder must be one that all nodes see. A job reports by the study's records and by a JSON file of its own;
of what submitit keeps in its log folder, its own pickles among them, nothing is read back here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ...config.run import RunConfig
from ...errors import UserError
from ...files import write_json
from ..hooks import EventHandler
from ..job import Job
from ..study import Study
from .contract import silent
from .job_queue import JobQueue, Turn
from .worker_process import start_worker

_LOOK_SECONDS = 1.0
MINUTES = 24 * 60  # of a job; one that is cut off has saved, and is handed in again
LOGS = "slurm"  # in the study: what submitit writes


def serve(message: dict[str, Any], events: str, threads: int, device: str) -> None:
    """What a job of the cluster runs: a training process with one message; its events go to a file, the last wins."""
    process = start_worker(threads, device)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.close()
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] != "recorded":
            write_json(Path(events), event)
    process.wait()


class SlurmEngine:
    """Jobs of a Slurm cluster. Use as a context manager: leaving it cancels what still runs, its training saved.

    At most ``workers`` at a time, of ``threads`` cores and ``gpus`` GPUs each; ``options`` go to submitit
    (``slurm_partition``, ``timeout_min``, …), ``cluster`` is "slurm", or "local" for processes on this machine.
    """

    def __init__(
        self,
        workers: int = 8,
        threads: int = 1,
        gpus: int = 0,
        *,
        cluster: str = "slurm",
        options: dict[str, Any] | None = None,
    ):
        self.workers, self.threads, self.gpus = workers, threads, gpus
        self.cluster, self.options = cluster, options or {}
        self._running: list[Any] = []
        self._count = 0

    def __enter__(self) -> Self:
        try:
            import submitit  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError("--engine slurm needs submitit: pip install 'allometry[slurm]'") from None
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError("--engine slurm: this machine has no sbatch; run the command where jobs are submitted")
        self._submitit = submitit
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._running:
            job.cancel(check=False)  # Slurm sends SIGTERM first, and the training process saves
        self._running = []

    def train(self, study: Study, jobs: Sequence[Job], on_event: EventHandler = silent) -> None:
        """See :meth:`.contract.Engine.train`."""
        study = Study(study.path.resolve())
        jobs_left = JobQueue(study, jobs, on_event)
        at_work: dict[Any, tuple[Turn, Path]] = {}
        reported = {config.id for job in jobs for config in job.configs if study.record(config.id) is not None}
        while jobs_left.open:
            while len(at_work) < self.workers and (turn := jobs_left.take()):
                job, events = self._submit(study, turn.message(study), turn.job.claim)
                at_work[job] = turn, events
            time.sleep(_LOOK_SECONDS)
            for job, (turn, events) in [*at_work.items()]:
                ended = job.done()
                event = _last(events)
                self._pass_on(jobs_left, turn, event, reported)
                if not ended:
                    continue
                del at_work[job]
                self._running.remove(job)
                if event.get("event") == "failed":
                    raise UserError(event["message"])
                if event.get("event") == "done":
                    jobs_left.taken(turn) if event["result"] == "taken" else jobs_left.done(turn)
                else:
                    jobs_left.died(turn, f"job {job.job_id} ended as {job.state}")

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        """See :meth:`.contract.LadderEngine.measure`; in a job of its own."""
        import tempfile

        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".allometry-") as folder:
            message = {"measure": [config.to_dict() for config in configs], "models": models}
            job, events = self._submit(Study(Path(folder)), message, "measure")
            while not job.done():
                time.sleep(_LOOK_SECONDS)
            self._running.remove(job)
            event = _last(events)
        if event.get("event") != "done":
            raise UserError(f"job {job.job_id} that was to measure the speed ended as {job.state}")
        return event["result"]

    def _submit(self, study: Study, message: dict[str, Any], name: str) -> tuple[Any, Path]:
        logs = study.path / LOGS
        self._count += 1
        events = logs / f"{name}-{time.time_ns()}-{self._count}.json"
        executor = self._submitit.AutoExecutor(folder=logs / "%j", cluster=self.cluster)
        share = {"cpus_per_task": self.threads, "gpus_per_node": self.gpus or None, "timeout_min": MINUTES}
        executor.update_parameters(**{"name": f"allometry-{name}"} | share | self.options)
        job = executor.submit(serve, message, str(events), self.threads, "cuda" if self.gpus else "cpu")
        self._running.append(job)
        return job, events

    def _pass_on(self, jobs_left: JobQueue, turn: Turn, event: dict[str, Any], reported: set[str]) -> None:
        """Pass on what a job has reported and recorded since the last look."""
        for config in turn.job.configs:
            record = jobs_left.study.run_path(config.id) / "record.json"
            if config.id not in reported and record.exists():
                reported.add(config.id)
                jobs_left.pass_on({"event": "recorded", "id": config.id})
        if event.get("event") in ("progress", "note"):
            jobs_left.pass_on(event)


def _last(events: Path) -> dict[str, Any]:
    """The last event of a job; empty before the first."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(events.read_bytes())
    return {}

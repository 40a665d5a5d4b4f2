"""The trainer that starts a program of the user's for each run, and records what came of it.

    runs/<id>/out/               the program's folder ({out}); a fresh one for each attempt, unless it can resume
    runs/<id>/output-000001.log  what attempt 1 printed, kept

The program is started without a shell. It is ended when it takes too long, when this process is asked to stop, and
when another process has taken the run over; on Linux the system ends it when this process dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arithmetic import evaluate
from ..config.run import RunConfig
from ..config.script import ScriptConfig, ScriptCounts, ScriptModelConfig, steps_of
from ..errors import UserError
from ..quantities import clean, format_seconds
from ..runs.claims import Claim, Fenced
from ..runs.hooks import SILENT, Hooks, Interrupted
from ..runs.job import Job
from ..runs.record import RunRecord, environment, now
from ..runs.study import Study
from .script_result import ScriptResult, read_result

LOOK_SECONDS = 0.1  # between looks whether the program has ended
LEAVE_SECONDS = 20.0  # that a program has to save when it is asked to leave
TOKENS_OFF = 0.25  # a result of so many more or fewer units than asked for is that of another run
TAIL = 200  # characters of the program's last words in a message


class Script:
    """Starts programs. See :class:`.contract.Trainer`."""

    def train(self, job: Job, study: Study, hooks: Hooks = SILENT, follows: int | None = None) -> None:
        missing = lambda: [config for config in job.configs if study.record(config.id) is None]
        if not missing():
            return
        with study.claim(job.claim, follows).kept() as claim:
            for config in missing():
                Program(config, job, study, hooks, claim).run()

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        return []  # a program has no step of its own to time: short runs are timed as a whole


@dataclass
class Program:
    """One run of a program: its attempts until it has ended well, and its record."""

    config: RunConfig
    job: Job
    study: Study
    hooks: Hooks
    claim: Claim

    def __post_init__(self) -> None:
        trainer, model = self.config.trainer, self.config.model
        assert isinstance(trainer, ScriptConfig)
        assert isinstance(model, ScriptModelConfig)
        self.script, self.model = trainer, model
        self.folder = self.study.run_path(self.config.id).absolute()
        self.out = self.folder / "out"

    def run(self) -> None:
        """Start the program, again where it fails and may, and record what came of it.

        Raises:
            UserError: it failed, took too long, or left no result of this run.
            Interrupted, Fenced: see :class:`.contract.Trainer`.
        """
        for left in reversed(range(self.script.retries + 1)):
            try:
                self._attempt()
                return
            except UserError as error:
                self._log("failed", text=str(error))
                if not left:
                    raise
                self.hooks.note(self.config.id, f"{error}; started again")

    def _attempt(self) -> None:
        output = self._prepare()
        places = self._places()
        command = self.script.arguments(places, self.goes_on)
        self._log("resumed" if self.goes_on else "started", step=0, output=output.name)
        begun, clock = time.time(), time.monotonic()
        process = self._start(command, places, output)
        try:
            self._wait(process, clock)
        finally:
            _end(process, 0.0)
        seconds = time.monotonic() - clock
        if process.returncode:
            raise UserError(f"{self._name()}: {_status(process.returncode)}{_last_words(output)}; see {output}")
        path = None if self.script.result == "stdout" else Path(self.script.fill(self.script.result, places))
        try:
            result = read_result(self.script, path, output, begun)
        except UserError as error:
            raise UserError(f"{self._name()}: {error}; see {output}") from None
        self._check(result, places)
        self._record(result, seconds, places)

    def _prepare(self) -> Path:
        """The folder of the run and the file of its output; what an earlier attempt left stays only if it is used."""
        with self.claim:
            self.folder.mkdir(parents=True, exist_ok=True)
            can_resume = "{resume}" in self.script.command
            self.goes_on = can_resume and self.out.is_dir() and any(self.out.iterdir())
            if self.out.exists() and not self.goes_on:
                shutil.rmtree(self.out)
            self.out.mkdir(exist_ok=True)
        count = len(list(self.folder.glob("output-*.log")))
        return self.folder / f"output-{count + 1:06d}.log"

    def _places(self) -> dict[str, str | int | float]:
        """What every placeholder becomes."""
        train = self.config.train
        numbers = {
            "width": self.model.width,
            "tokens": train.tokens,
            "steps": steps_of(train),
            "batch_tokens": train.batch_tokens,
            "lr": train.lr,
            "seed": train.seed,
        }
        return self.script.calculate(numbers) | {"out": str(self.out)}

    def _start(self, command: list[str], places: dict[str, Any], output: Path) -> subprocess.Popen[bytes]:
        given = {name: self.script.fill(value, places) for name, value in self.script.environment.items()}
        folder = self.script.folder or None
        if folder and not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; the program is to run there")
        try:
            with open(output, "wb") as file:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=os.environ | device_variables() | given,
                    start_new_session=True,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
        except OSError as error:
            raise UserError(f"{command[0]}: cannot be started: {error.strerror or error}") from None

    def _wait(self, process: subprocess.Popen[bytes], begun: float) -> None:
        limit = math.inf if self.script.minutes is None else 60 * self.script.minutes
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                return
            if self.hooks.should_stop():
                _end(process, LEAVE_SECONDS)
                self._log("interrupted", step=0)
                raise Interrupted
            if self.claim.lost:
                _end(process, 0.0)
                raise Fenced
            if time.monotonic() - begun > limit:
                _end(process, LEAVE_SECONDS)
                raise UserError(f"{self._name()}: ended after {format_seconds(limit)}, the limit of one run (minutes)")

    def _check(self, result: ScriptResult, places: dict[str, Any]) -> None:
        """Refuse the result of another run.

        Raises:
            UserError: the result names another width or seed, or far more or fewer units.
        """
        for name in ("width", "seed"):
            value = result.plain.get(name)
            if isinstance(value, int | float) and float(value) != float(places[name]):
                raise UserError(f"{self._name()}: its result is of another run: {name} {value:g}, not {places[name]}")
        if result.tokens is not None and abs(result.tokens / self.config.train.tokens - 1) > TOKENS_OFF:
            raise UserError(
                f"{self._name()}: its result is of {result.tokens:g} units, and it was asked for "
                f"{self.config.train.tokens}; what `tokens` counts there is named by result_tokens"
            )

    def _record(self, result: ScriptResult, seconds: float, places: dict[str, Any]) -> None:
        counts = self._counts(result, places)
        model = self.model.model_copy(update={"counts": counts})
        trainer = self.script.model_copy(update={"folder": ""})  # a record names no folder of this machine
        config = RunConfig(model=model, task=self.config.task, train=self.config.train, trainer=trainer)
        finite = math.isfinite(result.loss)
        curve = list(result.curve)
        train_loss = next((p["train_loss"] for p in reversed(curve) if "train_loss" in p), None)
        record = RunRecord(
            run=config,
            kind=self.job.kind,
            status="finished" if finite else "diverged",
            loss=result.loss if finite else None,
            loss_se=clean(result.loss_se),
            train_loss=train_loss,
            seconds=round(seconds, 3),
            flops_spent=config.flops,
            tokens_per_second=round(config.tokens / seconds, 1),
            finished_at=now(),
            environment=environment(int(os.environ.get("OMP_NUM_THREADS", "1"))) | self._programs(),
            note="" if finite else f"the loss in its result is {result.loss}",
            retry_of=self.job.retry_of.get(config.id, ""),
            scores=result.scores,
        )
        self.study.save(record, curve, self.claim)
        self._log(record.status, step=config.steps)
        self.hooks.recorded(record)

    def _counts(self, result: ScriptResult, places: dict[str, Any]) -> ScriptCounts:
        size = result.num_params
        if self.script.count is not None:
            numbers = {name: value for name, value in places.items() if isinstance(value, int | float)}
            size = evaluate(self.script.count, numbers, "trainer: count")
        if size is None:
            known = ", ".join(sorted(result.plain)[:12]) or "nothing"
            raise UserError(
                f"{self._name()}: its result does not say how many parameters the model has (it has: {known}); name "
                'the key by num_params, or give count, as count = "12 * layers * width**2"'
            )
        tokens = round(result.tokens or self.config.train.tokens)
        try:
            return ScriptCounts.parse(
                {"num_params": round(size), "flops": result.flops, "tokens": tokens}, self._name()
            )
        except (ValueError, OverflowError):
            raise UserError(f"{self._name()}: {size} is no number of parameters") from None

    def _programs(self) -> dict[str, str]:
        """The files that the command names, by their content: a ladder whose program changed on its way can be seen."""
        folder, digests = Path(self.script.folder or "."), {}
        for word in shlex.split(self.script.command):
            path = folder / word
            with contextlib.suppress(OSError, ValueError):
                if path.is_file() and path.stat().st_size < 1 << 20 and not Path(word).is_absolute():
                    digests[word] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return {"programs": " ".join(f"{name}:{digest}" for name, digest in digests.items())} if digests else {}

    def _name(self) -> str:
        train = self.config.train
        return f"run {self.config.id} (width {self.model.width}, {train.tokens} units, lr {train.lr:g})"

    def _log(self, event: str, **values: Any) -> None:
        with self.claim:
            self.study.log(self.config.id, event, attempt=self.claim.attempt, **values)


def device_variables() -> dict[str, str]:
    """The devices that a program sees: that of this worker, or those that a cluster has left it, or none."""
    if os.environ.get("ALLOMETRY_DEVICE", "cpu") != "cuda":
        return {"CUDA_VISIBLE_DEVICES": ""}
    place = os.environ.get("ALLOMETRY_PLACE")
    if place is None:
        return {}
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": visible[int(place) % len(visible)] if visible else place}


def _die_with_parent() -> None:
    """In the program, before it begins: the system shall end it when the process that started it dies."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    """End a program and what it has started: asked first where there is patience, then killed."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        if number == signal.SIGTERM and not patience:
            continue
        with contextlib.suppress(OSError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def _status(code: int) -> str:
    """How a program ended, in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the program was ended by {signal.Signals(-code).name}"
    return f"the program ended with status {code}"


def _last_words(output: Path) -> str:
    """The last line that a program printed, as part of a sentence."""
    with contextlib.suppress(OSError), open(output, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return f", its last line: {lines[-1][:TAIL]}"
    return ", and printed nothing"

"""Progress and records told to a tracker as well: TensorBoard, Weights & Biases, MLflow.

The study's own files are the truth. What a tracker gets is a copy: one that fails is left out, aloud and once, and
training goes on. All lie under ``trackers/`` in the study unless the tracker's own environment variables say otherwise
(``WANDB_MODE``, ``MLFLOW_TRACKING_URI``); nothing is sent anywhere by default.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..config.run import RunConfig
from ..errors import UserError
from ..files import write_json
from .record import RunRecord
from .study import Study

Say = Callable[[str], None]
TAG = "allometry.run"  # by which MLflow finds a run again


class TensorBoard:
    """Event files in a folder for each run; the step is the tokens seen."""

    library = "tensorboardX"

    def __init__(self, module: Any, folder: Path, name: str):
        self.module, self.folder = module, folder
        self.writers: dict[str, Any] = {}

    def point(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        writer = self._writer(config)
        for name, value in values.items():
            writer.add_scalar(name, value, int(tokens))

    def end(self, record: RunRecord, summary: dict[str, float]) -> None:
        self.point(record.config, record.config.tokens, summary)
        writer = self._writer(record.config)
        writer.add_text("record", f"```json\n{json.dumps(record.to_json(), indent=1)}\n```", record.config.tokens)
        writer.close()
        del self.writers[record.id]

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()

    def _writer(self, config: RunConfig) -> Any:
        if config.id not in self.writers:
            self.writers[config.id] = self.module.SummaryWriter(str(self.folder / config.id))
        return self.writers[config.id]


class WandB:
    """A run for each run, offline; ``wandb sync`` sends them."""

    library = "wandb"

    def __init__(self, module: Any, folder: Path, name: str):
        self.module, self.folder, self.name = module, folder, name
        self.runs: dict[str, Any] = {}

    def point(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        self._run(config).log({"tokens": tokens, **values})

    def end(self, record: RunRecord, summary: dict[str, float]) -> None:
        run = self._run(record.config)
        run.summary.update({**summary, "status": record.status, "note": record.note})
        run.finish(exit_code=0 if record.status == "finished" else 1)
        del self.runs[record.id]

    def close(self) -> None:
        for run in self.runs.values():
            run.finish(exit_code=1)

    def _run(self, config: RunConfig) -> Any:
        if config.id not in self.runs:
            self.folder.mkdir(parents=True, exist_ok=True)
            run = self.module.init(
                project=self.name,
                id=config.id,
                name=config.id,
                dir=str(self.folder),
                mode=os.environ.get("WANDB_MODE", "offline"),
                resume="allow",
                reinit="create_new",  # several runs are under way at once
                config=config.to_dict(),
                settings=self.module.Settings(silent=True),
            )
            run.define_metric("*", step_metric="tokens")
            self.runs[config.id] = run
        return self.runs[config.id]


class MLflow:
    """A run for each run, in an SQLite file; an experiment for the study."""

    library = "mlflow"

    def __init__(self, module: Any, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self.client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=address)
        found = self.client.get_experiment_by_name(name)
        place = (folder / "artifacts").resolve().as_uri()
        self.experiment = found.experiment_id if found else self.client.create_experiment(name, artifact_location=place)
        self.runs: dict[str, str] = {}

    def point(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        run = self._run(config)
        for name, value in values.items():
            self.client.log_metric(run, name, value, step=int(tokens))

    def end(self, record: RunRecord, summary: dict[str, float]) -> None:
        self.point(record.config, record.config.tokens, summary)
        run = self._run(record.config)
        self.client.set_tag(run, "note", record.note)
        self.client.set_terminated(run, "FINISHED" if record.status == "finished" else "FAILED")
        del self.runs[record.id]

    def close(self) -> None:
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")

    def _run(self, config: RunConfig) -> str:
        if config.id not in self.runs:
            there = self.client.search_runs([self.experiment], f"tags.`{TAG}` = '{config.id}'", max_results=1)
            run = there[0] if there else self.client.create_run(self.experiment, tags={TAG: config.id})
            if not there:
                for part, values in config.to_dict().items():
                    for name, value in values.items():
                        self.client.log_param(run.info.run_id, f"{part}.{name}", value)
            self.runs[config.id] = run.info.run_id
        return self.runs[config.id]


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


class Trackers:
    """The trackers of a study; hears what its board hears. Use as a context manager.

    Raises:
        UserError: as :func:`modules`.
    """

    def __init__(self, study: Study, names: Iterable[str], say: Say):
        self.study, self.say = study, say
        self.trackers: dict[str, Any] = {}
        folder, title = study.path / "trackers", study.path.resolve().name
        for name, module in import_trackers(names).items():
            self._try(name, lambda n=name, x=module: self.trackers.update({n: TRACKERS[n](x, folder / n, title)}))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(lambda tracker: tracker.close())

    def progress(self, config: RunConfig, event: dict[str, Any]) -> None:
        """A reading of a run under way."""
        values = {"train_loss": event["loss"], "tokens_per_second": event["tokens_per_second"]}
        self._tell(lambda tracker: tracker.point(config, event["tokens"], values))

    def ended(self, record: RunRecord) -> None:
        """A run is recorded."""
        values = {
            "loss": record.loss,
            "bits_per_byte": record.bits_per_byte,
            "seconds": record.seconds,
            "flops": record.config.flops,
            "flops_spent": record.flops_spent,
        }
        summary = {name: value for name, value in values.items() if value is not None}
        for name in list(self.trackers):
            self._try(name, lambda name=name: self._end(name, record, summary))

    def catch_up(self, record: RunRecord) -> None:
        """A run that was recorded before: its whole curve, for the trackers that have not heard how it ended."""
        waiting = [name for name in self.trackers if record.id not in self._told(name)]
        for name in waiting:
            self._try(name, lambda name=name: self._replay(name, record))
        if waiting:
            self.ended(record)

    def _replay(self, name: str, record: RunRecord) -> None:
        for tokens, loss in self.study.curve(record.id):
            self.trackers[name].point(record.config, tokens, {"train_loss": loss})

    def _end(self, name: str, record: RunRecord, summary: dict[str, float]) -> None:
        told = self._told(name)
        if record.id not in told:
            self.trackers[name].end(record, summary)
            write_json(self._told_path(name), [*told, record.id])

    def _told(self, name: str) -> list[str]:
        return self.study.read(f"trackers/{name}.json") or []

    def _told_path(self, name: str) -> Path:
        return self.study.path / "trackers" / f"{name}.json"

    def _tell(self, what: Callable[[Any], None]) -> None:
        for name in list(self.trackers):
            self._try(name, lambda name=name: what(self.trackers[name]))

    def _try(self, name: str, what: Callable[[], None]) -> None:
        """Do it; a tracker that raises, whatever it raises, is heard of no more."""
        try:
            what()
        except Exception as error:
            self.trackers.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self.say(f"--tracker {name} failed ({reason}) and is left out; the study's own files are not touched by it")


def import_trackers(names: Iterable[str]) -> dict[str, Any]:
    """The libraries of trackers by name.

    Raises:
        UserError: there is no tracker of that name, or its library is not installed.
    """
    found = {}
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--tracker {name}: no such tracker; there are {', '.join(TRACKERS)}")
        try:
            found[name] = importlib.import_module(TRACKERS[name].library)
        except ImportError:
            needed = TRACKERS[name].library
            raise UserError(f"--tracker {name}: needs {needed}; `pip install 'allometry[{name}]'`") from None
    return found

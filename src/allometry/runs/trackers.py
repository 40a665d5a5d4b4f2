"""Log progress and records to experiment trackers as well: TensorBoard, Weights & Biases, MLflow.

The study's own files are authoritative; a tracker receives a copy. If a tracker fails, one line reports it, nothing
more is sent to it, and training continues. All files are under ``trackers/`` in the study unless the tracker's own
environment variables (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``) set another place; by default nothing is sent anywhere.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from ..config.run import RunConfig
from ..errors import UserError
from .record import RunRecord
from .study import Study

Say = Callable[[str], None]
TAG = "allometry.run"  # the tag by which MLflow finds a run again


class Tracker(Protocol):
    """One experiment tracker. It may raise any exception; :class:`Trackers` then stops using it.

    It is created from the imported ``library``, a folder for its files, and the study's name.
    """

    library: str

    def __init__(self, module: Any, folder: Path, name: str): ...

    def log(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        """Log values of a run after ``tokens`` tokens."""
        ...

    def finish(self, record: RunRecord, summary: dict[str, float]) -> None:
        """Log the results of a run that ended, and close the run."""
        ...

    def close(self) -> None:
        """Close the runs that are still open."""
        ...


class TensorBoard:
    """Event files, in a folder for each run; the step is the number of tokens seen."""

    library = "tensorboardX"

    def __init__(self, module: Any, folder: Path, name: str):
        self.module, self.folder = module, folder
        self.writers: dict[str, Any] = {}

    def log(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        writer = self._writer(config)
        for name, value in values.items():
            writer.add_scalar(name, value, int(tokens))

    def finish(self, record: RunRecord, summary: dict[str, float]) -> None:
        self.log(record.config, record.config.tokens, summary)
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
    """A W&B run for each run, offline; ``wandb sync`` uploads them."""

    library = "wandb"

    def __init__(self, module: Any, folder: Path, name: str):
        self.module, self.folder, self.name = module, folder, name
        self.runs: dict[str, Any] = {}

    def log(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        self._run(config).log({"tokens": tokens, **values})

    def finish(self, record: RunRecord, summary: dict[str, float]) -> None:
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
                reinit="create_new",  # several runs may be open at once
                config=config.to_dict(),
                settings=self.module.Settings(silent=True),
            )
            run.define_metric("*", step_metric="tokens")
            self.runs[config.id] = run
        return self.runs[config.id]


class MLflow:
    """An MLflow run for each run, in an SQLite file; the study is an experiment."""

    library = "mlflow"

    def __init__(self, module: Any, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self.client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=address)
        self.experiment = self._experiment(name, (folder / "artifacts").resolve().as_uri())
        self.runs: dict[str, str] = {}

    def log(self, config: RunConfig, tokens: float, values: dict[str, float]) -> None:
        run = self._run(config)
        for name, value in values.items():
            self.client.log_metric(run, name, value, step=int(tokens))

    def finish(self, record: RunRecord, summary: dict[str, float]) -> None:
        self.log(record.config, record.config.tokens, summary)
        run = self._run(record.config)
        self.client.set_tag(run, "note", record.note)
        self.client.set_terminated(run, "FINISHED" if record.status == "finished" else "FAILED")
        del self.runs[record.id]

    def close(self) -> None:
        for run in self.runs.values():
            self.client.set_terminated(run, "KILLED")

    def _experiment(self, name: str, artifacts: str) -> str:
        if experiment := self.client.get_experiment_by_name(name):
            return experiment.experiment_id
        return self.client.create_experiment(name, artifact_location=artifacts)

    def _run(self, config: RunConfig) -> str:
        if config.id not in self.runs:
            existing = self.client.search_runs([self.experiment], f"tags.`{TAG}` = '{config.id}'", max_results=1)
            run = existing[0] if existing else self.client.create_run(self.experiment, tags={TAG: config.id})
            if not existing:
                for part, values in config.to_dict().items():
                    for name, value in values.items():
                        self.client.log_param(run.info.run_id, f"{part}.{name}", value)
            self.runs[config.id] = run.info.run_id
        return self.runs[config.id]


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


class Trackers:
    """The trackers of one study: they receive progress and records. Use as a context manager.

    ``say`` receives a line when a tracker fails.

    Raises:
        UserError: as :func:`import_trackers`.
    """

    def __init__(self, study: Study, names: Iterable[str], say: Say):
        self.study, self.say = study, say
        self.trackers: dict[str, Tracker] = {}
        for name, module in import_trackers(names).items():
            self._try(name, lambda name=name, module=module: self._open(name, module))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self._try_all(lambda tracker: tracker.close())

    def progress(self, config: RunConfig, event: dict[str, Any]) -> None:
        """Log the progress of a run: ``event`` has its tokens, loss and tokens per second."""
        values = {"train_loss": event["loss"], "tokens_per_second": event["tokens_per_second"]}
        self._try_all(lambda tracker: tracker.log(config, event["tokens"], values))

    def ended(self, record: RunRecord) -> None:
        """Log the results of a run that has just been recorded."""
        values = {
            "loss": record.loss,
            "bits_per_byte": record.bits_per_byte,
            "seconds": record.seconds,
            "flops": record.flops,
            "flops_spent": record.flops_spent,
        }
        summary = {name: value for name, value in values.items() if value is not None}
        for name in list(self.trackers):
            self._try(name, lambda name=name: self._finish(name, record, summary))

    def catch_up(self, record: RunRecord) -> None:
        """Log the whole curve and the results of an earlier run to the trackers that do not have them."""
        behind = [name for name in self.trackers if record.id not in self._finished(name)]
        for name in behind:
            self._try(name, lambda name=name: self._log_curve(name, record))
        if behind:
            self.ended(record)

    def _open(self, name: str, module: Any) -> None:
        folder = self.study.path / "trackers" / name
        self.trackers[name] = TRACKERS[name](module, folder, self.study.path.resolve().name)

    def _log_curve(self, name: str, record: RunRecord) -> None:
        for tokens, loss in self.study.curve(record.id):
            self.trackers[name].log(record.config, tokens, {"train_loss": loss})

    def _finish(self, name: str, record: RunRecord, summary: dict[str, float]) -> None:
        finished = self._finished(name)
        if record.id not in finished:
            self.trackers[name].finish(record, summary)
            self.study.write(f"trackers/{name}.json", [*finished, record.id])

    def _finished(self, name: str) -> list[str]:
        """The runs whose results a tracker has."""
        return self.study.read(f"trackers/{name}.json") or []

    def _try_all(self, action: Callable[[Tracker], None]) -> None:
        for name in list(self.trackers):
            self._try(name, lambda name=name: action(self.trackers[name]))

    def _try(self, name: str, action: Callable[[], None]) -> None:
        """Run ``action``; if it raises any exception, report that and stop using the tracker."""
        try:
            action()
        except Exception as error:
            self.trackers.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self.say(f"--tracker {name} failed ({reason}) and is no longer used; the study's own files are complete")


def import_trackers(names: Iterable[str]) -> dict[str, Any]:
    """Import the library of each tracker that is named: name → module.

    Raises:
        UserError: there is no tracker of that name, or its library is not installed.
    """
    modules = {}
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--tracker {name}: no such tracker; there are {', '.join(TRACKERS)}")
        library = TRACKERS[name].library
        try:
            modules[name] = importlib.import_module(library)
        except ImportError:
            raise UserError(f"--tracker {name}: needs {library}; `pip install 'allometry[{name}]'`") from None
    return modules

"""Trackers: what is logged to a tracker, and that the failure of one does not affect the others."""

import importlib.util
import json
import re
import sys
import types

import pytest

from allometry.errors import UserError
from allometry.runs.study import Study
from allometry.runs.trackers import Trackers, import_trackers
from helpers.builders import record, run_config

CURVE = [(1000, 3.0), (2000, 2.5), (3000, 2.4)]


@pytest.fixture
def study(tmp_path):
    return Study.create(tmp_path / "s", {"study": {}})


@pytest.fixture
def logged(monkeypatch):
    """What is logged to a tensorboardX that only collects it."""
    entries = []

    class SummaryWriter:
        def __init__(self, folder):
            self.run = folder.rpartition("/")[2]

        def add_scalar(self, name, value, step):
            entries.append((self.run, name, value, step))

        def add_text(self, name, text, step):
            entries.append((self.run, name, text, step))

        def close(self):
            entries.append((self.run, "closed"))

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    return entries


def progress(config, tokens=1000, loss=3.0):
    return {"id": config.id, "tokens": tokens, "loss": loss, "tokens_per_second": 5e4}


def test_progress_and_results_are_logged_by_tokens(study, logged):
    config = run_config()
    ended = record(config)
    with Trackers(study, ["tensorboard"], pytest.fail) as trackers:
        trackers.progress(config, progress(config))
        trackers.ended(ended)
    assert (config.id, "train_loss", 3.0, 1000) in logged
    assert (config.id, "loss", ended.loss, config.tokens) in logged
    assert (config.id, "bits_per_byte", ended.bits_per_byte, config.tokens) in logged
    text = next(entry[2] for entry in logged if entry[1] == "record")
    assert json.loads(text.strip("`json\n")) == ended.to_json()
    assert logged[-1] == (config.id, "closed")


def test_an_earlier_run_is_logged_once_with_its_whole_curve(study, logged):
    ended = record(run_config())
    study.save(ended, CURVE)
    for _ in range(2):
        with Trackers(study, ["tensorboard"], pytest.fail) as trackers:
            trackers.catch_up(ended)
    assert [
        (step, value) for _, name, value, step in (e for e in logged if len(e) == 4) if name == "train_loss"
    ] == CURVE
    assert sum(entry[1] == "loss" for entry in logged) == 1


def test_a_tracker_that_fails_is_reported_once_and_the_others_continue(study, logged, monkeypatch):
    def broken(**_):
        raise OSError("no space left\non device")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=broken, Settings=dict))
    config, lines = run_config(), []
    with Trackers(study, ["wandb", "tensorboard"], lines.append) as trackers:
        for tokens in (1000, 2000):
            trackers.progress(config, progress(config, tokens))
        trackers.ended(record(config))
    assert len(lines) == 1
    assert "--tracker wandb failed (no space left) and is no longer used" in lines[0]
    assert sum(entry[1] == "train_loss" for entry in logged) == 2


def test_a_tracker_that_is_unknown_or_not_installed(monkeypatch):
    with pytest.raises(UserError, match="no such tracker; there are tensorboard, wandb, mlflow"):
        import_trackers(["visdom"])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"needs mlflow; `pip install 'allometry\[mlflow\]'`"):
        import_trackers(["mlflow"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_the_real_tracker_keeps_what_is_logged(study, name, monkeypatch):
    """Where its library is installed: two runs at once, and one that was recorded earlier."""
    library = {"tensorboard": "tensorboardX"}.get(name, name)
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before, one, other = (record(run_config(seed=seed)) for seed in range(3))
    study.save(before, CURVE)
    with Trackers(study, [name], pytest.fail) as trackers:
        trackers.catch_up(before)
        for tokens in (1000, 2000):
            for ended in (one, other):
                trackers.progress(ended.config, progress(ended.config, tokens))
        trackers.ended(one)
        trackers.ended(other)
    assert READERS[name](study) == {
        before.id: [3.0, 2.5, 2.4],
        one.id: [3.0, 3.0],
        other.id: [3.0, 3.0],
    }


def _from_tensorboard(study):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = {}
    for folder in (study.path / "trackers" / "tensorboard").iterdir():
        events = EventAccumulator(str(folder)).Reload()
        curves[folder.name] = [pytest.approx(event.value) for event in events.Scalars("train_loss")]
        assert len(events.Scalars("loss")) == 1
    return curves


def _from_wandb(study):
    """W&B's offline files are for `wandb sync` only, but the values can be seen in them: in history and summary."""
    curves = {}
    for folder in (study.path / "trackers" / "wandb" / "wandb").glob("offline-run-*"):
        content = next(folder.glob("*.wandb")).read_bytes()
        curves[folder.name.rpartition("-")[2]] = [
            pytest.approx(float(value)) for value in re.findall(rb"train_loss[^0-9.]{1,6}([0-9.]+)", content)[::2]
        ]
    return curves


def _from_mlflow(study):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{study.path.resolve()}/trackers/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("s").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["train.lr"] for run in runs} == {"0.5"}
    return {
        run.data.tags["allometry.run"]: [m.value for m in client.get_metric_history(run.info.run_id, "train_loss")]
        for run in runs
    }


READERS = {"tensorboard": _from_tensorboard, "wandb": _from_wandb, "mlflow": _from_mlflow}

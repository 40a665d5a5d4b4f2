"""Trackers: what a tracker is told, and that one which fails takes nothing with it."""

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
def told(monkeypatch):
    """A tensorboardX that only listens."""
    heard = []

    class SummaryWriter:
        def __init__(self, folder):
            self.run = folder.rpartition("/")[2]

        def add_scalar(self, name, value, step):
            heard.append((self.run, name, value, step))

        def add_text(self, name, text, step):
            heard.append((self.run, name, text, step))

        def close(self):
            heard.append((self.run, "closed"))

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    return heard


def reading(config, tokens=1000, loss=3.0):
    return {"id": config.id, "tokens": tokens, "loss": loss, "tokens_per_second": 5e4}


def test_readings_and_the_end_are_told_by_tokens(study, told):
    config = run_config()
    ended = record(config)
    with Trackers(study, ["tensorboard"], pytest.fail) as trackers:
        trackers.progress(config, reading(config))
        trackers.ended(ended)
    assert (config.id, "train_loss", 3.0, 1000) in told
    assert (config.id, "loss", ended.loss, config.tokens) in told
    assert (config.id, "bits_per_byte", ended.bits_per_byte, config.tokens) in told
    text = next(entry[2] for entry in told if entry[1] == "record")
    assert json.loads(text.strip("`json\n")) == ended.to_json()
    assert told[-1] == (config.id, "closed")


def test_a_run_recorded_before_is_told_once_with_its_whole_curve(study, told):
    ended = record(run_config())
    study.save(ended, CURVE)
    for _ in range(2):
        with Trackers(study, ["tensorboard"], pytest.fail) as trackers:
            trackers.catch_up(ended)
    assert [(step, value) for _, name, value, step in (e for e in told if len(e) == 4) if name == "train_loss"] == CURVE
    assert sum(entry[1] == "loss" for entry in told) == 1


def test_a_tracker_that_fails_is_said_once_and_the_others_go_on(study, told, monkeypatch):
    def broken(**_):
        raise OSError("no space left\non device")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=broken, Settings=dict))
    config, said = run_config(), []
    with Trackers(study, ["wandb", "tensorboard"], said.append) as trackers:
        for tokens in (1000, 2000):
            trackers.progress(config, reading(config, tokens))
        trackers.ended(record(config))
    assert len(said) == 1
    assert "--tracker wandb failed (no space left) and is left out" in said[0]
    assert sum(entry[1] == "train_loss" for entry in told) == 2


def test_a_tracker_that_is_none_or_not_installed(monkeypatch):
    with pytest.raises(UserError, match="no such tracker; there are tensorboard, wandb, mlflow"):
        import_trackers(["visdom"])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"needs mlflow; `pip install 'allometry\[mlflow\]'`"):
        import_trackers(["mlflow"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_the_real_tracker_keeps_what_it_is_told(study, name, monkeypatch):
    """Where its library is installed: two runs under way at once, and one recorded before."""
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
                trackers.progress(ended.config, reading(ended.config, tokens))
        trackers.ended(one)
        trackers.ended(other)
    assert READERS[name](study) == {
        before.id: [3.0, 2.5, 2.4],
        one.id: [3.0, 3.0],
        other.id: [3.0, 3.0],
    }


def _from_tensorboard(study):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (study.path / "trackers" / "tensorboard").iterdir():
        events = EventAccumulator(str(folder)).Reload()
        found[folder.name] = [pytest.approx(event.value) for event in events.Scalars("train_loss")]
        assert len(events.Scalars("loss")) == 1
    return found


def _from_wandb(study):
    """Its offline files are for `wandb sync` alone; that they hold the readings can be seen: in history and summary."""
    found = {}
    for folder in (study.path / "trackers" / "wandb" / "wandb").glob("offline-run-*"):
        content = next(folder.glob("*.wandb")).read_bytes()
        found[folder.name.rpartition("-")[2]] = [
            pytest.approx(float(value)) for value in re.findall(rb"train_loss[^0-9.]{1,6}([0-9.]+)", content)[::2]
        ]
    return found


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

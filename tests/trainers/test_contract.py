"""What every trainer keeps: it records each run once, goes on after an interruption, and writes under its claim alone.

The built-in one alone and with several models as one, and one that only an installed package declares.
"""

import importlib
import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest

import helpers
from allometry.config.run import RunConfig
from allometry.config.training import TrainerConfig
from allometry.data.corpus import save_corpus
from allometry.errors import UserError
from allometry.runs import claims
from allometry.runs.claims import Fenced, Taken
from allometry.runs.engines.local import LocalEngine
from allometry.runs.hooks import Hooks, Interrupted
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.trainers.catalog import trainer_named
from helpers import trials

LENGTHS = (1_600, 2_400)


def install(folder: Path) -> Path:
    """A folder of the module path in which the other trainer is an installed package."""
    declared = folder / "tally-1.0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: tally\nVersion: 1.0\n")
    (declared / "entry_points.txt").write_text("[allometry.trainers]\ntally = tally_trainer:Tally\n")
    shutil.copy(Path(helpers.__file__).parent / "tally_trainer.py", folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The package with the other trainer, for this process and for those that it starts."""
    folder = str(install(tmp_path_factory.mktemp("site")))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH", "")))))
        importlib.invalidate_caches()
        yield
        sys.modules.pop("tally_trainer", None)
        TrainerConfig.kinds.pop("tally", None)


def alone():
    return trials.configs(*LENGTHS)


def batched():
    return [config for lr in (0.2, 0.3) for config in trials.configs(*LENGTHS, lr=lr)]


def other():
    return [RunConfig.parse(config.to_dict() | {"trainer": {"name": "tally"}}) for config in trials.configs(*LENGTHS)]


@pytest.fixture(params=[alone, batched, other], ids=["built in", "several as one", "another"])
def job(request):
    configs = request.param()
    return Job(tuple(configs), "ladder", retry_of={configs[0].id: "earlier"})


@pytest.fixture
def trainer(job):
    return trainer_named(job.trainer)


def study_at(path) -> Study:
    study = trials.study(path)
    if not study.corpus_path.exists():
        save_corpus(trials.TEXT, study.corpus_path)
    return study


@pytest.fixture
def study(tmp_path):
    return study_at(tmp_path / "s")


def losses(study, job):
    return [study.record(config.id).loss for config in job.configs]


def ends(study, job):
    events = [event["event"] for config in job.configs for event in study.attempts(config.id)]
    return events.count("finished")


def test_every_run_is_recorded_once_as_it_ends(trainer, job, study):
    recorded = []
    trainer.train(job, study, Hooks(recorded=recorded.append))
    assert sorted(record.id for record in recorded) == sorted(config.id for config in job.configs)
    assert recorded == [study.record(record.id) for record in recorded]
    assert all(record.status == "finished" and record.kind == "ladder" for record in recorded)
    assert {record.retry_of for record in recorded} == {"", "earlier"}
    assert all(study.curve(config.id) for config in job.configs)
    assert list(study.claims_path.glob("*.json"))
    trainer.train(job, study, Hooks(recorded=recorded.append))
    assert len(recorded) == ends(study, job) == len(job.configs)


@pytest.mark.parametrize("after", [1, 30, 60])
def test_interrupted_it_goes_on_and_ends_where_an_undisturbed_one_does(trainer, job, study, tmp_path, after):
    calm, count = study_at(tmp_path / "calm"), itertools.count(1)
    trainer.train(job, calm)
    with pytest.raises(Interrupted):
        trainer.train(job, study, Hooks(should_stop=lambda: next(count) >= after))
    trainer_named(job.trainer).train(job, study)  # another process would
    assert losses(study, job) == losses(calm, job)
    assert ends(study, job) == len(job.configs)
    events = [event for config in job.configs for event in study.attempts(config.id)]
    assert any(event["event"] == "resumed" and event["step"] > 0 for event in events)


def test_a_job_that_another_process_has_claimed_is_left_alone(trainer, job, study):
    with study.claim(job.claim).kept(), pytest.raises(Taken):
        trainer.train(job, study)
    assert study.records() == []


def test_one_that_was_taken_over_writes_nothing_any_more(trainer, job, study):
    count, before = itertools.count(1), {}

    def taken_over():
        if next(count) == 20:
            claims.take(study.claims_path, job.claim, follows=1)
            before.update({path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()})
        return False

    with pytest.raises(Fenced):
        trainer.train(job, study, Hooks(should_stop=taken_over))
    assert study.records() == []
    assert before == {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}


def test_measured_steps_take_time(trainer, job):
    assert all(seconds > 0 for seconds in trainer.measure(job.configs[:1]))


def test_an_engine_starts_it_by_name(job, study):
    events = []
    with LocalEngine(workers=1, trainer=job.trainer) as engine:
        engine.train(study, [job], events.append)
    assert len(study.records()) == len(job.configs)
    assert sorted(event["id"] for event in events if event["event"] == "recorded") == sorted(c.id for c in job.configs)
    assert any(event["event"] == "progress" for event in events) or job.trainer == "built_in"  # that one is quick


def test_a_worker_imports_torch_only_for_a_trainer_that_does(study):
    job = Job(tuple(other()), "ladder")
    with LocalEngine(workers=1, trainer="") as engine:
        engine.train(study, [job])
    records = [study.record(config.id) for config in job.configs]
    assert [record.environment["imported_torch"] for record in records] == [False, False]
    assert os.getpid() not in {record.environment["pid"] for record in records}


def test_an_unknown_trainer_is_one_line():
    with pytest.raises(UserError, match=r"robot: not one of the trainers \(built_in, script\)"):
        trainer_named("robot")
    with pytest.raises(UserError, match="unknown name 'robot'"):
        RunConfig.parse(trials.configs()[0].to_dict() | {"trainer": {"name": "robot"}})

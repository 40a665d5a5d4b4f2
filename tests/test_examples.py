"""The files of ``examples/`` run as a reader runs them, each in an empty folder, and come out as their pages say."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

from allometry.ladder.script_ladder import probe_runs
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.trainers.catalog import trainer_named
from allometry.workflow import read_script_study

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Run an example; its variables."""
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_table_to_plan_predicts_what_its_law_gives(run_example, capsys):
    ran = run_example("table_to_plan.py")
    truth = 1.8 + 480 / 200e6**0.35 + 1100 / 4e9**0.33
    assert ran["prediction"].low < truth < ran["prediction"].high
    assert ran["prediction"].value == pytest.approx(truth, rel=0.01)
    assert ran["plan"].flops_exact == pytest.approx(5e18, rel=0.01)
    assert "predicted loss" in capsys.readouterr().out


def test_unit_scaling_learns_and_is_healthy(run_example):
    ran = run_example("unit_scaling.py")
    assert ran["losses"][0] > 4
    assert ran["losses"][-1] < 0.1
    assert ran["audit"].ok


def test_own_law_finds_the_constants_that_made_its_runs(run_example):
    fit = run_example("own_law.py")["fit"]
    assert fit.values == pytest.approx({"E": 2, "A": 3e5, "alpha": 0.2}, rel=1e-6)


def test_own_module_has_a_law_a_plan_and_an_outcome_with_its_accuracy(run_example, capsys):
    ran = run_example("own_module.py")
    rungs, plan, outcome = ran["study"].records("ladder"), ran["plan"], ran["outcome"]
    assert len(rungs) == 12
    assert len({record.num_params for record in rungs}) == 4
    assert all(record.status == "finished" for record in rungs)
    assert plan.model["family"] == "module"
    assert plan.flops_exact == pytest.approx(4 * max(record.flops for record in rungs), rel=0.05)
    target = ran["study"].record(outcome.run)
    assert outcome.actual == target.loss
    assert target.scores["accuracy"].value > max(record.scores["accuracy"].value for record in rungs) - 0.05
    assert (ran["study"].path / "family" / "model.py").is_file()
    ran["workflow"].train_ladder(ran["config"], "study")  # all of it is there
    assert len(ran["study"].records("ladder")) == 12
    assert "accuracy" in capsys.readouterr().out


def test_text_to_outcome_predicts_what_comes_out(run_example):
    ran = run_example("text_to_outcome.py")
    assert len(ran["study"].records("ladder")) == 9
    assert ran["outcome"].inside
    assert Path("study/outcome.json").is_file()


def test_own_loop_is_recorded_and_its_law_predicts(run_example):
    ran = run_example("own_loop.py")
    assert ran["prediction"].low < ran["actual"] < ran["prediction"].high
    assert len(Study.open(Path("own_loop")).records("ladder")) == 16


LIBRARIES = {"nano_gpt": "torch", "digits": "sklearn", "run_clm": "transformers"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_program_is_started_as_its_study_says(tmp_path, name):
    """One short run; the whole study of each is described in the pages."""
    pytest.importorskip(LIBRARIES[name], reason=f"{LIBRARIES[name]} is not installed")
    if name == "run_clm":
        pytest.importorskip("accelerate", reason="accelerate is not installed")
    folder = shutil.copytree(EXAMPLES / "programs", tmp_path / "programs")
    (folder / "text.txt").write_text((EXAMPLES / "programs" / "run_clm.py").read_text() * 20)
    config = read_script_study(folder / f"{name}.toml")
    trainer = config.trainer.model_copy(
        update={"command": config.trainer.command.replace("python ", f"{sys.executable} ", 1)}
    )
    config = config.model_copy(update={"trainer": trainer, "probe_tokens": config.batch_tokens * 2})
    [run, *_] = probe_runs(config, config.widths)
    study = Study.create(tmp_path / "s", {})
    trainer_named("script").train(Job((run,), "probe"), study)
    record = study.ended(run.id)
    assert record.status == "finished"
    assert 0 < record.loss < 7
    assert record.num_params > 100
    assert set(record.scores) == set(config.trainer.scores)


def test_every_program_is_tried_here():
    assert {path.stem for path in (EXAMPLES / "programs").glob("*.py")} == set(LIBRARIES)


def test_every_example_is_tried_here():
    tried = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'run_example("{path.name}")' in tried

"""The files of ``examples/`` run as a reader runs them, each in an empty folder, and come out as their pages say."""

import runpy
from pathlib import Path

import pytest

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


def test_text_to_outcome_predicts_what_comes_out(run_example):
    ran = run_example("text_to_outcome.py")
    assert len(ran["study"].records("ladder")) == 9
    assert ran["outcome"].inside
    assert Path("study/outcome.json").is_file()


def test_every_example_is_tried_here():
    tried = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'run_example("{path.name}")' in tried

"""A dozen lines of a notebook do what ``allometry quickstart`` does, with the same records, and print nothing."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from allometry import workflow
from allometry.cli.app import main
from allometry.config.run import RunConfig
from allometry.data.corpus import read_corpus
from allometry.ladder import fill_minutes, stages
from allometry.ladder.speed import Speed
from allometry.ladder.stages import read_stages
from allometry.planning import Plan
from allometry.runs.cost import Throughput
from allometry.runs.study import Study
from allometry.workflow import main_job, prepare
from helpers.builders import drawn_words

MINUTES = 3.6
# So slow that a ladder of a few minutes is trained in seconds.
SLOW = Speed(Throughput(0.03, 1e-8, 1.5e-11), Throughput(0.03, 5e-9, 1e-11), workers=2)


@pytest.fixture(scope="module")
def patched():
    """The machine's speed as a constant, and the least ladder a few thousand tokens long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "measure_speed", lambda *_: SLOW)
        patch.setattr(fill_minutes, "LEAST_TARGET", 1e9)
        patch.setattr(fill_minutes, "LEAST_TOKENS", 4_000)
        patch.setattr(stages, "LEAST_TOKENS", 2_000)
        patch.setattr(main_job, "SAMPLE_TOKENS", 5)
        yield patch


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return drawn_words(tmp_path_factory.mktemp("text") / "words.txt", 6000)


@pytest.fixture(scope="module")
def by_command(patched, text, tmp_path_factory):
    """The study of the command line."""
    out = tmp_path_factory.mktemp("command") / "study"
    patched.setattr(sys, "argv", f"allometry quickstart --data {text} --minutes {MINUTES} --out {out} --yes".split())
    main()
    return Study(out)


@pytest.fixture(scope="module")
def events():
    return []


@pytest.fixture(scope="module")
def by_library(patched, text, tmp_path_factory, events):
    """The study of a notebook, and its outcome."""
    out = tmp_path_factory.mktemp("library") / "study"
    outcome = workflow.quickstart(text, minutes=MINUTES, out=out, listener=events.append)
    return Study(out), outcome


def results(study):
    """What must not depend on who asked: every run with its kind and its loss, and the prediction."""
    runs = {record.id: (record.kind, record.status, record.loss) for record in study.records()}
    plan = Plan.load(study.path / "plan.json")
    outcome = {name: value for name, value in study.read("outcome.json").items() if name != "seconds"}
    return runs, study.read("recipe.json"), study.read("fit.json"), replace(plan, created=""), outcome


def test_a_notebook_gets_the_records_of_the_command_line(by_command, by_library):
    study, outcome = by_library
    assert results(study) == results(by_command)
    assert outcome == workflow.Outcome.from_json(study.read("outcome.json"))
    # Whether a training is saved on the way depends on how long it takes.
    names = lambda folder: {path.name for path in folder.path.iterdir()} - {"trunks"}
    assert names(study) == names(by_command)
    assert {"sweep", "ladder", "target"} == {record.kind for record in study.records()}


def test_the_listener_receives_every_run_law_and_plan(by_library, events):
    study, _ = by_library
    stages = [stage for stage in read_stages(study) if stage.runs]
    assert stages
    titles = ["sweep", *["ladder"] * (1 + len(stages)), "target"]
    assert [event.title for event in events if isinstance(event, workflow.RunsToCome)] == titles
    assert [event.title for event in events if isinstance(event, workflow.RunsEnded)] == titles
    reasons = [event.text for event in events if isinstance(event, workflow.Note) and "next rungs" in event.text]
    assert reasons == [f"next rungs: {stage.reason}" for stage in stages]
    recorded = [event.record for event in events if isinstance(event, workflow.Recorded)]
    assert {record.id for record in recorded} == {record.id for record in study.records()}
    (fitted,) = (event for event in events if isinstance(event, workflow.Fitted))
    (planned,) = (event for event in events if isinstance(event, workflow.Planned))
    assert json.loads(json.dumps(fitted.predictor.to_json())) == study.read("fit.json")
    assert planned.plan == Plan.load(study.path / "plan.json")


def test_a_ladder_that_was_cut_short_goes_on_with_its_decisions(patched, text, by_library, tmp_path):
    """Without the runs of the later stages, and all that came after them, the same command trains the same again."""
    study, outcome = by_library
    copy = Study(shutil.copytree(study.path, tmp_path / "study"))
    decided = copy.read("stages.json")["stages"]
    later = [RunConfig.parse(run, "run").id for stage in decided for run in stage["runs"]]
    for run in [*later, outcome.run]:
        shutil.rmtree(copy.run_path(run))
    for name in ("fit.json", "plan.json", "outcome.json", "report.html", "sample.json"):
        (copy.path / name).unlink()
    shutil.rmtree(copy.path / "trunks", ignore_errors=True)
    copy.write("stages.json", {"stages": decided[:1]})  # the crash came before the second decision
    again = workflow.quickstart(text, minutes=MINUTES, out=copy.path)
    assert copy.read("stages.json")["stages"] == decided
    assert (again.predicted, again.actual) == (outcome.predicted, outcome.actual)


def test_step_by_step_everything_is_found_again(patched, text, by_library, capfd):
    """Nothing is printed either, by the engine's processes neither."""
    study, outcome = by_library
    stamps = {path: path.stat().st_mtime_ns for path in study.path.glob("runs/*/record.json")}
    config = workflow.StudyConfig(data=str(text), minutes=MINUTES)
    with workflow.open_study(config, study.path) as session:
        assert session.cost().num_recorded == len(stamps)
        recipe = session.run_sweep()
        rungs = session.train_rungs(recipe)
        forecast = session.fit()
        plan = session.plan(forecast)
        record = session.train(plan)
    assert workflow.conclude(session.study, plan, record) == outcome
    assert [rung.id for rung in rungs] == [rung.id for rung in study.records("ladder")]
    assert stamps == {path: path.stat().st_mtime_ns for path in study.path.glob("runs/*/record.json")}
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_confirmation_that_raises_trains_nothing(patched, text, tmp_path):
    class TooExpensive(Exception):
        pass

    def confirm(cost):
        assert cost.design.ladder_seconds + cost.design.target_seconds <= 60 * MINUTES
        raise TooExpensive

    with pytest.raises(TooExpensive):
        workflow.quickstart(text, minutes=MINUTES, out=tmp_path / "study", confirm=confirm)
    assert Study(tmp_path / "study").records() == []


def test_a_speed_that_is_given_is_not_measured(patched, text, tmp_path):
    """The design is that of the given machine: a short text's ladder takes twice as long on one half as fast."""
    noted = read_corpus(str(text)).notes
    assert noted
    config, half = workflow.StudyConfig(data=str(text), minutes=30), Speed.from_json(SLOW.to_json())
    half = replace(half, ladder=Throughput(0.06, 2e-8, 3e-11), target=Throughput(0.06, 1e-8, 2e-11))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "measure_speed", lambda *_: pytest.fail("measured"))
        seconds = []
        for speed in (SLOW, half):
            heard = []
            with workflow.open_study(config, tmp_path / "study", speed=speed, listener=heard.append) as session:
                assert session.speed == speed
                said = [event.text for event in heard if isinstance(event, workflow.Note)]
                assert not any("measuring" in line for line in said)
                assert [line for line in said if line.startswith("note: ")] == [f"note: {one}" for one in noted]
                seconds.append(session.design.total_seconds)
    assert seconds[1] > 1.5 * seconds[0]


def test_importing_it_costs_little():
    heavy = ("torch", "scipy", "matplotlib", "rich", "typer", "jinja2", "pyarrow")
    code = f"import sys, allometry.workflow; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

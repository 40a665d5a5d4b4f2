"""The whole of a study on modules of the user's and images: ladder, law, plan with its scores, the planned run."""

from pathlib import Path

import numpy as np
import pytest

import helpers
from allometry import workflow
from allometry.errors import UserError
from allometry.runs.study import Study
from allometry.workflow import Note, StudyConfig

NETS = Path(helpers.__file__).parent / "small_net.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four classes of stripes in noise: a task that larger models do better."""
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=3000)
    phase = rng.random(3000) * 6
    grid = np.arange(8)[None, :, None] * np.cos(y * 0.8)[:, None, None] + np.arange(8) * np.sin(y * 0.8)[:, None, None]
    x = 0.5 + 0.2 * np.sin(2 * grid + phase[:, None, None]) + 0.15 * rng.standard_normal((3000, 8, 8))
    path = tmp_path_factory.mktemp("images") / "stripes.npz"
    np.savez(path, x=np.clip(x, 0, 1).astype(np.float32), y=y)
    return path


def config(images, **changes):
    given = {"task": "images", "data": str(images), "family": f"{NETS}:mlp", "widths": [4, 8, 16], "sweep": False}
    given |= {"tokens": [10_000, 15_000, 20_000], "lr": 0.005, "batch_tokens": 256}
    return StudyConfig.parse(given | changes, "study.toml")


def test_a_ladder_of_modules_gives_a_law_a_plan_and_an_outcome(images, tmp_path):
    out, heard = tmp_path / "study", []
    study = workflow.train_ladder(config(images), out, listener=heard.append)
    rungs = study.records("ladder")
    assert len(rungs) == 9
    assert all(record.status == "finished" and 0 <= record.scores["accuracy"].value <= 1 for record in rungs)
    assert len({record.num_params for record in rungs}) == 3
    notes = " ".join(event.text for event in heard if isinstance(event, Note))
    assert "coordinate check" in notes
    workflow.fit_runs(out)
    plan = workflow.plan(out, flops=4 * max(record.flops for record in rungs))
    assert plan.model["family"] == "module"
    assert plan.model["width"] > 8
    assert plan.flops_exact == pytest.approx(4 * max(record.flops for record in rungs), rel=0.05)
    outcome = workflow.train_plan(out)
    assert outcome.actual == Study.open(out).record(outcome.run).loss
    again = []
    workflow.train_ladder(config(images), out, listener=again.append)  # all of it is there
    assert len(study.records("ladder")) == 9


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "chess"}, r"task 'chess': unknown; there are text, images, audio"),
        (
            {"family": "decoder", "widths": [8, 16]},
            r'task images: the built-in decoder reads tokens; give family = "model.py:Net"',
        ),
        ({"family": f"{NETS}:ignores_width"}, "it ignores the width"),
        ({"fields": {"depth": 3}}, "mlp takes no 'depth'"),
        ({"data": "nowhere"}, "no images; images are read from `digits`"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(images, tmp_path, changes, says):
    out = tmp_path / "study"
    with pytest.raises(UserError, match=says) as caught, workflow.open_study(config(images, **changes), out):
        pass
    assert "\n" not in str(caught.value)
    assert not (out / "runs").exists() or not any((out / "runs").iterdir())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"family": "model"}, "write the file and the function in it, as model.py:Net"),
        ({"minutes": 3, "widths": None, "tokens": None}, "minutes: only for the built-in decoder on text or audio"),
        ({"widths": [0, 4]}, "each 1 or more"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(images, changes, says):
    with pytest.raises(UserError, match=says):
        config(images, **changes)

"""Studies of modules and tasks that cannot be trained. (One that can is examples/own_module.py.)"""

from pathlib import Path

import numpy as np
import pytest

import helpers
from allometry import workflow
from allometry.errors import UserError
from allometry.workflow import StudyConfig

NETS = Path(helpers.__file__).parent / "small_net.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    x, y = rng.random((600, 8, 8)), rng.integers(4, size=600)
    path = tmp_path_factory.mktemp("images") / "stripes.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


def config(images, **changes):
    given = {"task": "images", "data": str(images), "family": f"{NETS}:mlp", "widths": [4, 8, 16], "sweep": False}
    given |= {"tokens": [10_000, 15_000, 20_000], "lr": 0.005, "batch_tokens": 256}
    return StudyConfig.parse(given | changes, "study.toml")


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


def test_quickstart_takes_a_study_of_any_task(images, tmp_path):
    seen = []

    def stop(cost):
        seen.append(cost)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.quickstart_study(config(images), out=tmp_path / "s", confirm=stop)
    assert len(seen[0].runs) == 9
    with pytest.raises(UserError, match="would tell no law: all 3 runs have one token count"):
        workflow.quickstart_study(config(images, tokens=[10_000]), out=tmp_path / "t")
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "t").exists()

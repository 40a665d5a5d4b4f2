"""What others put into a study: pickles are never opened, names lead nowhere outside."""

import ast
import os
import pickle
from pathlib import Path

import pytest

import allometry
from allometry.cli.app import main
from allometry.data.corpus import load_corpus
from allometry.errors import UserError
from allometry.lm.generate import load_model
from allometry.runs import saved_states
from allometry.runs.study import Study
from helpers import trials
from helpers.builders import record, run_config


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickles_in_the_place_of_any_file_are_not_opened(tmp_path):
    where, trap = trials.study(tmp_path / "s"), tmp_path / "sprung"
    trials.go_on(where, 1_600)
    [found] = where.records()
    trunk = where.trunk_path(trials.configs(3_200)[0].trunk)
    with saved_states.writing(trunk, "step-00000001") as folder:  # sealed by the one who planted it
        for name in ("state.safetensors", "state.json", ".metadata", "state.pt", "state.pkl", "state.npy"):
            (folder / name).write_bytes(pickle.dumps(Payload(trap)))
    assert saved_states.newest(trunk) is not None
    with pytest.raises(UserError, match="no state of a training"):
        trials.go_on(where, 3_200)
    assert not trap.exists()
    for path in [*where.path.rglob("*.safetensors"), *where.path.rglob("*.json*"), *where.path.rglob("*.bin")]:
        path.write_bytes(pickle.dumps(Payload(trap)))
    where.corpus_path.mkdir()
    (where.corpus_path / "manifest.json").write_bytes(pickle.dumps(Payload(trap)))
    for attempt in (
        lambda: where.record(found.id),
        lambda: load_model(where, found),
        lambda: load_corpus(where.corpus_path),
        lambda: where.settings(),
    ):
        with pytest.raises(UserError):
            attempt()
    assert not trap.exists()
    pickle.loads(pickle.dumps(Payload(trap)))
    assert trap.exists()  # the trap works


def test_nothing_in_the_package_unpickles():
    for path in Path(allometry.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
                assert not {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"} & set(names), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True" or options.get("allow_pickle") == "False", path


NAMES = ["../x", "/tmp/allometry-x", "a\0b", "x" * 300, "../" * 40 + "tmp/x", "a/../../x"]


def listing(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_runs_lead_nowhere_outside(tmp_path, name):
    where = trials.study(tmp_path / "deep" / "s")
    where.save(record(run_config()), [])
    before = listing(tmp_path)
    with pytest.raises(UserError):
        where.find(name)
    value = where.read(f"runs/{where.records()[0].id}/record.json")
    where.write("runs/planted/record.json", value | {"id": name})
    with pytest.raises(UserError, match="its configuration was changed"):
        where.records()
    assert [path for path in listing(tmp_path) if path not in before] == [
        Path("deep/s/runs/planted"),
        Path("deep/s/runs/planted/record.json"),
    ]


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/x"])
def test_folders_that_cannot_be_are_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("text.txt").write_text("some words\n" * 20_000)
    Path("study.toml").write_text('data = "text.txt"\nwidths = [16, 24]\ntokens = [20_000]\nsweep = false\n')
    for arguments in (["ladder", "study.toml", "--out", name], ["report", name], ["generate", f"{name}/3f"]):
        monkeypatch.setattr("sys.argv", ["allometry", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code == 2
        assert out == ""
        assert len([line for line in err.splitlines() if line.startswith("allometry:")]) == 1
        assert "Traceback" not in err
    assert sorted(os.listdir()) == ["file", "study.toml", "text.txt"]


def test_a_study_is_opened_by_its_settings_alone(tmp_path):
    (tmp_path / "study.json").write_bytes(pickle.dumps(Payload(tmp_path / "sprung")))
    with pytest.raises(UserError, match="not readable"):
        Study.open(tmp_path).settings()
    assert not (tmp_path / "sprung").exists()

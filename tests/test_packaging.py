"""The wheel in bare environments: each holds what one extra brings, and no more.

``make test`` builds the wheel, unpacks it into virtual environments and links into them the libraries that its metadata
ask for, as they are installed here. ``make extras`` has pip install the same wheel (``ALLOMETRY_EXTRAS=pip``).
"""

import csv
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "allometry"
WITH_TORCH = {"nn", "tasks", "lm", "trainers"}
BY_PIP = os.environ.get("ALLOMETRY_EXTRAS") == "pip"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_what_pages_are_made_of(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("templates", "scripts"):
        files = [path for path in (SOURCE / "report" / folder).iterdir() if path.is_file()]
        assert files
        assert {f"allometry/report/{folder}/{path.name}" for path in files} <= names


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """Python of an environment without any extra."""
    return environment(tmp_path_factory.mktemp("bare"), wheel, "")


@pytest.fixture(scope="module")
def with_nn(wheel, tmp_path_factory) -> Path:
    return environment(tmp_path_factory.mktemp("nn"), wheel, "nn")


@pytest.fixture(scope="module")
def with_train(wheel, tmp_path_factory) -> Path:
    return environment(tmp_path_factory.mktemp("train"), wheel, "train")


def environment(folder: Path, wheel: Path, extra: str) -> Path:
    """A virtual environment with the wheel and what it requires with this extra; its Python."""
    venv.EnvBuilder(with_pip=BY_PIP).create(folder)
    python = folder / "bin" / "python"
    if BY_PIP:
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        torch = [f"torch=={metadata.version('torch')}"] if extra else []  # the build of this machine, not CUDA's
        run([*pip, "-c", "constraints.txt", *torch, f"{wheel}[{extra}]" if extra else str(wheel)], ROOT)
        return python
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (own,) = metadata.distributions(path=[str(site)])
    for name in sorted(required(own, {extra})):
        link(metadata.distribution(name), site)
    return python


def required(own: metadata.Distribution, extras: set[str]) -> set[str]:
    """Names of all distributions that one with these extras needs, directly or not."""
    names: set[str] = set()
    waiting = [(own, extras)]
    while waiting:
        distribution, extras = waiting.pop()
        for text in distribution.requires or []:
            need = Requirement(text)
            if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                continue
            if need.name == own.name:
                waiting.append((own, need.extras))
            elif need.name not in names:
                names.add(need.name)
                waiting.append((metadata.distribution(need.name), need.extras))
    return names


def link(distribution: metadata.Distribution, site: Path) -> None:
    tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def run(command: list[str], folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    apart = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=apart, capture_output=True, text=True)
    assert done.returncode == status, (command, done.stdout, done.stderr)
    return done


def allometry(python: Path, arguments: str, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run([str(python), "-m", "allometry", *arguments.split()], folder, status)


def write_table(path: Path) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["params", "tokens", "loss"])
        for n in (1e6, 2e6, 4e6, 8e6, 16e6):
            for d in (20e6, 40e6, 80e6, 160e6):
                table.writerow([n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28])
    return path


def test_everything_that_is_read_at_run_time_is_inside(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("allometry/")}
    files = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert inside == {f"allometry/{path.relative_to(SOURCE).as_posix()}" for path in files}
    assert "allometry/py.typed" in inside
    assert {Path(name).suffix for name in inside} >= {".py", ".cpp", ".h"}


def test_laws_and_plans_work_without_torch(bare, tmp_path):
    table = write_table(tmp_path / "runs.csv")
    run([str(bare), "-c", "import importlib.util as u; assert not u.find_spec('torch')"], tmp_path)
    code = "from allometry import laws; print(laws.fit('chinchilla', laws.Observations.read('runs.csv')).values['E'])"
    assert float(run([str(bare), "-c", code], tmp_path).stdout) == pytest.approx(1.7, rel=1e-3)
    allometry(bare, f"fit {table} -o fit.json", tmp_path)
    assert "loss" in allometry(bare, "predict fit.json --params 32M --tokens 320M", tmp_path).stdout
    assert "predicted loss" in allometry(bare, "plan fit.json --flops 1e17", tmp_path).stdout
    allometry(bare, "scale --params 100 --batch 200 --lr 0.01 --factor 2", tmp_path)


def test_every_room_without_torch_imports_without_it(bare, tmp_path):
    names = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("allometry", *path.relative_to(SOURCE).with_suffix("").parts)
        if parts[1] not in {*WITH_TORCH, "__main__"}:
            names.append(".".join(parts).removesuffix(".__init__"))
    assert "allometry.workflow.outcome" in names
    run([str(bare), "-c", "\n".join(f"import {name}" for name in names)], tmp_path)


def test_a_command_that_needs_torch_names_the_extra_in_one_line(bare, tmp_path):
    (tmp_path / "a.txt").write_text("text " * 2000)
    (tmp_path / "study.toml").write_text('data = "a.txt"\nwidths = [16, 24]\ntokens = [20_000, 40_000]\n')
    (tmp_path / "run.toml").write_text(
        'data = "a.txt"\n[model]\nwidth = 16\nlayers = 1\nhead_dim = 16\nhidden = 32\ncontext = 32\n'
        "[train]\ntokens = 2000\nbatch_tokens = 64\nlr = 0.5\n"
    )
    (tmp_path / "model.py").write_text("import torch\ndef make(): pass\n")
    before = sorted(tmp_path.rglob("*"))
    expected = "allometry: torch is not installed: pip install 'allometry[train]'"
    for arguments in ("quickstart --data a.txt --yes", "ladder study.toml --dry-run", "train run.toml"):
        done = allometry(bare, arguments, tmp_path, status=2)
        assert done.stderr.splitlines() == [expected]
        assert sorted(tmp_path.rglob("*")) == before  # nothing prepared, nothing written
    done = allometry(bare, "audit model.py:make", tmp_path, status=2)
    assert done.stderr.splitlines()[-1] == expected
    assert "Traceback" not in done.stderr
    done = run([str(bare), "-c", "import allometry.nn"], tmp_path, status=1)
    assert "pip install 'allometry[nn]'" in done.stderr.splitlines()[-1]


def test_nn_works_with_its_extra_alone(with_nn, tmp_path):
    run([str(with_nn), "-c", "import importlib.util as u; assert not u.find_spec('safetensors')"], tmp_path)
    code = "import torch; from allometry import nn; print(nn.Linear(64, 64)(torch.randn(256, 64)).std().item())"
    assert float(run([str(with_nn), "-c", code], tmp_path).stdout) == pytest.approx(1, abs=0.1)


def test_a_ladder_is_costed_with_the_extra_for_training(with_train, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {number} of a text" for number in range(5000)))
    study = (
        'data = "a.txt"\ncontext = 32\nwidths = [16, 24, 32]\ntokens = [20_000, 40_000, 80_000]\nbatch_tokens = 256\n'
    )
    (tmp_path / "study.toml").write_text(study)
    done = allometry(with_train, "ladder study.toml --dry-run", tmp_path)
    assert done.stdout.count("\nladder ") == 9  # three widths, three lengths

"""The notebooks of ``examples/notebooks`` run from their first cell to their last, and what they claim holds."""

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SCRIPT = runpy.run_path(str(FOLDER / "run.py"))
RUN = SCRIPT["run_notebook"]


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Run a notebook: what it printed, its variables, and what its cells ended with."""
    monkeypatch.chdir(tmp_path)  # the paths in its variables are relative

    def run(name):
        notebook, variables = RUN(FOLDER / f"{name}.ipynb", tmp_path)
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        printed = "".join("".join(output.get("text", [])) for output in outputs)
        shown = [output["data"] for output in outputs if "data" in output]
        return printed, variables, shown

    return run


def test_the_smallest_case(ran):
    printed, variables, _ = ran("0_smallest_case")
    assert printed.count("same path: True") == 5  # of β three, of γ two
    assert printed.count("SGD same path True, Adam True") == 2
    edges = [line for line in printed.splitlines() if "edge" in line]
    assert len(edges) == 4
    for line in edges:
        below, above = (float(part.split()[-1]) for part in line.split("ends at")[1].split(", above at"))
        assert below < 0.1 < above
    steps = variables["steps_needed"]
    assert steps(8192, 8192**-0.5, 0.1) == steps(2, 2**-0.5, 0.1)
    assert steps(512, 1.0, 0.1) == "diverges"
    assert "as FP16: 0; times γ = 1024, as FP16, and divided again: 1e-08" in printed
    for line in printed.splitlines():
        if line.startswith("width"):
            assert all(0.9 < float(part.split()[-1]) < 1.1 for part in line.split(": ", 1)[1].split(", "))


def test_my_text_to_a_plan(ran):
    printed, variables, shown = ran("1_text_to_plan")
    assert len(variables["study"].records("ladder")) == 9
    assert variables["outcome"].predicted == variables["plan"].loss
    assert abs(variables["outcome"].relative_error) < 0.1
    assert sum("text/html" in data for data in shown) == 4
    assert "predicted" in printed


def test_my_table_to_a_budget(ran):
    _, variables, shown = ran("2_table_to_budget")
    assert variables["prediction"].low < variables["truth"] < variables["prediction"].high
    assert variables["plan"].flops_exact == pytest.approx(5e18, rel=0.01)
    assert variables["hours"].seconds == pytest.approx(1800, rel=0.02)
    assert sum("text/html" in data for data in shown) == 4


def test_my_model_in_the_ladder(ran):
    _, variables, shown = ran("3_my_model")
    assert variables["plan"].model["family"] == "module"
    assert abs(variables["outcome"].relative_error) < 0.3
    assert variables["accuracy"] > 0.5
    assert sum("text/html" in data for data in shown) == 3


def test_unit_scaling_and_fp8(ran):
    printed, variables, _ = ran("4_unit_scaling_and_fp8")
    assert variables["audit"].ok
    assert not variables["report"].ok
    lines = [line for line in printed.splitlines() if line.startswith("width")]
    by_width = [[float(part.split(": ")[1]) for part in line.split(": ", 1)[1].split(", ")] for line in lines]
    assert len(by_width) == 3
    assert all(slow > middle >= fast for slow, middle, fast in by_width)  # the order of the rates is that of any width
    assert max(row[0] for row in by_width) < 1.15 * min(row[0] for row in by_width)
    assert variables["eight"] == pytest.approx(variables["full"], abs=0.15)


def test_fine_tuning_samples(ran):
    _, variables, _ = ran("5_fine_tuning_samples")
    assert variables["plan"].samples > 1600
    assert variables["predicted"].low < variables["actual"] < variables["predicted"].high
    assert variables["actual"] == pytest.approx(variables["goal"], rel=0.1)


def test_every_notebook_is_tried_and_has_a_kernel():
    tried = Path(__file__).read_text()
    assert len(NOTEBOOKS) == 6
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text())
        assert f'ran("{path.stem}")' in tried
        assert "find_spec" in "".join(notebook["cells"][1]["source"])
        assert notebook["nbformat"] == 4
        identities = [cell["id"] for cell in notebook["cells"]]
        assert len(set(identities)) == len(identities)
        assert len(path.read_text()) < 150_000


def test_buttons_name_the_one_address_of_the_repository_or_none():
    addressed, as_text = SCRIPT["addressed"], SCRIPT["as_text"]
    for path in NOTEBOOKS:
        text = path.read_text()
        assert as_text(addressed(json.loads(text), path.stem)) == text
        published = addressed(json.loads(text), path.stem, "https://github.com/me/mine")
        first, install = ("".join(cell["source"]) for cell in published["cells"][:2])
        button = f"https://colab.research.google.com/github/me/mine/blob/main/examples/notebooks/{path.name}"
        assert first.split("\n")[2].endswith(f"]({button})")
        assert "@ git+https://github.com/me/mine" in install
        assert as_text(addressed(published, path.stem, "")).count("me/mine") == 0
        if not SCRIPT["REPOSITORY"]:
            assert as_text(addressed(published, path.stem, "")) == text
            assert "colab" not in text.lower()

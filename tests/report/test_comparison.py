"""Studies side by side: the page names the crossing that the laws have, and what makes losses hard to compare."""

import shutil

import pytest

from allometry import laws, planning
from allometry.errors import UserError
from allometry.quantities import format_flops
from allometry.report import write_comparison
from allometry.runs.study import Study
from helpers.pages import read
from helpers.studies import cut


@pytest.fixture(scope="module")
def other(study, tmp_path_factory):
    """The same runs with another law: one of them overtakes."""
    copy = cut(study, tmp_path_factory.mktemp("other") / "other", "fit")
    fit = laws.fit("power", laws.Observations.from_records(copy.rows()), bootstrap=40)
    copy.write("fit.json", fit.to_json())
    return copy


def test_the_page_says_which_overtakes_which_and_where(study, other, contents, tmp_path):
    page = read(write_comparison([study, other], tmp_path / "page.html"))
    each = planning.overtaking(contents.predictor, laws.load(other.path / "fit.json"))
    assert study.path.name in page.words["h1"]
    assert other.path.name in page.words["h1"]
    if each.flops is not None:
        assert f"up to {format_flops(each.flops)} FLOPs" in page.words["p"]
    else:
        assert "and still at" in page.words["p"]
    assert f"In {each.share:.0%} of the draws" in page.words["p"]
    assert "different held-out text" not in page.words["main"]
    assert len(page.all("figure")) == 1
    budgets = [row for row in page.cells if row[:2] and row[1] in (study.path.name, other.path.name)]
    assert len(budgets) >= 6


def test_other_text_is_said_and_three_are_compared_in_pairs(study, other, tmp_path):
    third = Study(shutil.copytree(other.path, tmp_path / "third"))
    manifest = third.path / "corpus" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0123456789abcdef", "fedcba9876543210"))
    page = read(write_comparison([study, other, third], tmp_path / "page.html"))
    assert "different held-out text" in page.words["main"]
    assert page.words["p"].count("of the draws of both laws") == 3


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(study, other, tmp_path):
    target = tmp_path / "page.html"
    with pytest.raises(UserError, match="two or more different"):
        write_comparison([study, study], target)
    without = cut(study, tmp_path / "without", "runs")
    with pytest.raises(UserError, match="no law yet"):
        write_comparison([study, without], target)
    assert not target.exists()

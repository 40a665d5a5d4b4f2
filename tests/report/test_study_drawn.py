"""Drawing: SVG that parses, holds no text of the study, and is the same on every run."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib.figure
import pytest

from allometry.report.pictures import canvas, evidence, loss_curves, study_drawn

PICTURES = {
    "loss_by_compute": loss_curves.loss_by_compute,
    "size_curves": loss_curves.size_curves,
    "training_curves": loss_curves.training_curves,
    "sweep": evidence.sweep,
    "backtest": evidence.backtest,
    "isoflop": evidence.isoflop,
}


@pytest.mark.parametrize("name", PICTURES)
def test_svg_parses_and_stands_alone(contents, name):
    svg = getattr(study_drawn, name)(PICTURES[name](contents)).as_file()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "image", "foreignObject", "text", "a"}
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)


def test_same_data_same_bytes_whatever_the_users_settings(contents):
    data = loss_curves.size_curves(contents)
    first = study_drawn.size_curves(data).as_file()
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "none", "axes.facecolor": "black"}):
        assert study_drawn.size_curves(data).as_file() == first
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("kept", [1, 2])
def test_one_run_is_enough_to_draw(contents, kept):
    few = replace(contents, records=tuple(contents.finished("ladder")[:kept]), predictor=None, plan=None, outcome=None)
    for name in ("loss_by_compute", "size_curves", "training_curves"):
        assert getattr(study_drawn, name)(PICTURES[name](few)).as_file().startswith("<?xml")


def test_an_interval_that_reaches_down_to_zero_can_be_drawn():
    axes = matplotlib.figure.Figure().add_subplot()
    canvas.limit(axes, [2.0, 0.0, 4.0, float("inf")])
    low, high = axes.get_ylim()
    assert 1.5 < low < 2
    assert 4 < high < 5


def test_sizes_have_colours_of_their_own():
    colours = canvas.size_colours([1e5, 2e5, 1e6, 3e6, 1e7])
    assert len(set(colours.values())) == 5
    assert canvas.size_colours([]) == {}


def test_labels_move_apart_and_keep_their_order():
    moved = canvas.apart([10.0, 11.0, 10.5, 50.0], gap=10)
    assert moved[0] < moved[2] < moved[1] < moved[3]
    assert min(b - a for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False)) == pytest.approx(10, abs=1e-3)
    assert moved[3] == 50.0

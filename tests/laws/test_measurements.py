"""Tables of any inputs: what is read, and what is refused in one line that says what to do."""

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError

FRAME = {
    "experts": [1, 2, 4, 8, 1, 2, 4, 8],
    "size": ["1M", 1e6, 1e6, 1e6, 1e8, 1e8, 1e8, 1e8],
    "model": ["a", "a", "b", "b", "a", "a", "b", "b"],
    "seed": [0.0] * 8,
    "loss": [-3.0, -3.1, -3.2, -3.3, -4.0, -4.1, -4.2, -4.3],
}
READ = {"target": "loss", "inputs": ["experts", "size"]}


def refusal(frame=FRAME, **options):
    """The one line with which a table is refused."""
    with pytest.raises(UserError) as caught:
        laws.Observations.read(frame, **(READ | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(**columns):
    return FRAME | columns


def test_a_negative_target_written_counts_and_groups_are_read():
    runs = laws.Observations.read(FRAME, **READ, group=["model"], cost="6*experts")
    assert runs.values.tolist() == FRAME["loss"]
    assert runs.points[:, 1].tolist() == [1e6] * 4 + [1e8] * 4
    assert runs.group_names == ("a", "b")
    assert runs.cost.tolist() == [6.0 * experts for experts in FRAME["experts"]]


def test_frames_of_every_kind_hold_the_same_runs():
    rows = [dict(zip(FRAME, row, strict=True)) for row in zip(*FRAME.values(), strict=True)]
    arrays = {name: np.array(values, dtype=object) for name, values in FRAME.items()}
    expected = laws.Observations.read(FRAME, **READ).points
    for frame in (rows, arrays):
        assert (laws.Observations.read(frame, **READ).points == expected).all()


def test_a_pandas_or_polars_frame_is_read():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert len(laws.Observations.read(pandas.DataFrame(FRAME), **READ)) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "losses"}, "no column 'losses'"),
        ({"inputs": ["experts", "model"]}, "not a number"),
        ({"inputs": ["experts", "experts"]}, "named more than once"),
        ({"inputs": ["seed"]}, "the same in every run"),
        ({"target": "seed"}, "nothing to predict"),
        ({"cost": "0*experts"}, "more than zero"),
        ({"cost": "6*N"}, "no column 'N'"),
        ({"cost": "experts > 2"}, "only numbers, names and arithmetic"),
        ({"cost": ["much"] * 8}, "cost is no row of numbers"),
        ({"cost": [1.0, 2.0]}, "cost has 2 entries"),
        ({"group": ["family"]}, "no column 'family'"),
    ],
)
def test_wrong_input_is_refused_in_one_line(options, words):
    assert words in refusal(**options)


def test_proportions_that_do_not_add_up_are_refused():
    generator = np.random.default_rng(0)
    shares = generator.dirichlet([1, 1, 1], size=12)
    frame = {name: shares[:, place] for place, name in enumerate("abc")} | {"loss": 3 - shares[:, 0]}
    runs = laws.Observations.read(frame, target="loss", inputs=list("abc"))
    assert runs.are_shares
    wrong = frame | {"a": np.where(np.arange(12) == 5, 0.9, frame["a"])}
    assert "add up to one" in refusal(wrong, inputs=list("abc"))
    forecast = laws.forecast(runs)
    with pytest.raises(UserError, match="must add up to one"):
        forecast.predict(a=0.5, b=0.1, c=0.1)


def test_what_stands_in_the_way_is_noted():
    together = changed(twice=[2.0 * experts for experts in FRAME["experts"]])
    notes = laws.Observations.read(together, target="loss", inputs=["experts", "twice", "size", "seed"]).notes
    assert any("would part them" in note and "experts = 1" in note for note in notes)
    assert any("seed is 0 in every run" in note for note in notes)
    blank = changed(experts=[None, *FRAME["experts"][1:]])
    assert any("left out 1 of 8 runs" in note for note in laws.Observations.read(blank, **READ).notes)
    alone = laws.Observations.read(changed(model=["a"] * 7 + ["b"]), **READ, group="model")
    assert any("1 group of one run (b)" in note for note in alone.notes)


def test_an_input_that_follows_from_two_others_is_noted_with_a_run_that_parts_them():
    size, tokens = (axis.ravel() for axis in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    frame = {"size": size, "tokens": tokens, "flops": 6 * size * tokens, "rate": [1e-3, 2e-3, 5e-4] * 3}
    frame["loss"] = 2 + 400 / size**0.34 + 1000 / tokens**0.3
    runs = laws.Observations.read(frame, target="loss", inputs=["size", "tokens", "flops", "rate"])
    note = next(note for note in runs.notes if "each follows from the others" in note)
    assert note.startswith("of size, tokens, flops each")
    # With that run the three are told apart.
    cells = dict(
        cell.split(" = ") for cell in note.split("a run with ")[1].removesuffix(" would part them").split(", ")
    )
    more = {name: [*column, float(cells.get(name, 1e-3))] for name, column in frame.items() if name != "loss"}
    more = laws.Observations.read(more | {"loss": [*frame["loss"], 2.5]}, target="loss", inputs=list(more))
    assert not any("told apart" in note for note in more.notes)
    free = laws.Observations.read(frame, target="loss", inputs=["size", "tokens", "rate"])
    assert not any("told apart" in note for note in free.notes)


def test_proportions_in_percent():
    shares = 100 * np.random.default_rng(0).dirichlet([1, 1, 1], size=12)
    frame = {name: shares[:, place] for place, name in enumerate("abc")} | {"loss": 3 - shares[:, 0] / 100}
    runs = laws.Observations.read(frame, target="loss", inputs=list("abc"))
    assert any("add up to 100 in every run" in note for note in runs.notes)
    wrong = frame | {"a": np.where(np.arange(12) == 5, 99.0, frame["a"])}
    assert "add up to 100 in most runs" in refusal(wrong, inputs=list("abc"))


@pytest.mark.parametrize("labels", [["a"] * 29 + ["b"], [f"model {number}" for number in range(30)]])
def test_groups_of_one_run_have_a_law(labels):
    size, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e10, 5)))
    frame = {"size": size, "tokens": tokens, "model": labels, "loss": 1.7 + 400 / size**0.34 + 1000 / tokens**0.3}
    runs = laws.Observations.read(frame, target="loss", inputs=["size", "tokens"], group="model")
    predicted = laws.forecast(runs).predict(size=2e9, tokens=2e10, model=labels[0])
    assert predicted.low <= 1.7 + 400 / 2e9**0.34 + 1000 / 2e10**0.3 <= predicted.high


def test_points_of_another_kind_are_refused():
    forecast = laws.forecast(laws.Observations.read(FRAME, **READ, group="model"))
    for point, words in (
        ({"experts": 2, "size": 1e7}, "give model too"),
        ({"experts": 2, "size": 1e7, "model": "c"}, "no run of group 'c'"),
        ({"experts": 0, "size": 1e7, "model": "a"}, "must be above zero"),
        ({"experts": float("nan"), "size": 1e7, "model": "a"}, "not finite"),
    ):
        with pytest.raises(UserError, match=words):
            forecast.predict(point)

"""Curves: read from every arrangement of files, put in order aloud, thinned without bending, brought to their ends."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.errors import UserError
from allometry.laws import Observations
from allometry.laws.tables.curves import Curves
from allometry.runs.study import Study
from helpers.builders import record, run_config
from helpers.ladders import SHARED, shared


def long(steps=1000, runs=("a", "b"), decay=True):
    """A frame of runs whose loss falls as a power of the step and whose rate falls over the last fifth."""
    step = np.arange(1.0, steps + 1)
    lr = 3e-4 * np.minimum(1, (steps - step) / (0.2 * steps)) if decay else np.full(steps, 3e-4)
    columns = {"run": [], "step": [], "train_loss": [], "lr": []}
    for number, run in enumerate(runs):
        columns["run"] += [run] * steps
        columns["step"] += step.tolist()
        columns["train_loss"] += (2 + number + step**-0.5).tolist()
        columns["lr"] += lr.tolist()
    return columns


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_one_long_table_holds_several_runs(tmp_path):
    curves = Curves.read(long())
    assert curves.names == ("a", "b")
    assert len(curves) == 2000
    step, lr, loss = curves.by_run()["b"]
    assert (step[0], lr[0], loss[0]) == (1.0, 3e-4, 4.0)
    assert np.isnan(curves.tokens).all()
    assert "columns taken: run = 'run', step = 'step', loss = 'train_loss', lr = 'lr'" in curves.notes[0]


def test_files_of_one_run_each_are_called_after_the_files(tmp_path):
    text = "Step,Loss,learning_rate\n1,4,0.1\n2,3,0.1\n"
    one, two = write(tmp_path / "x" / "lr_0.1.csv", text), write(tmp_path / "x" / "lr_0.2.csv", text)
    (tmp_path / "x" / "lr_0.3.csv.gz").write_bytes(gzip.compress(text.encode()))
    write(tmp_path / "x" / "README.md", "nothing")
    assert Curves.read(one).names == ("lr_0.1",)
    assert Curves.read([two, one]).names == ("lr_0.2", "lr_0.1")
    assert Curves.read(tmp_path).names == ("lr_0.1", "lr_0.2", "lr_0.3")
    same = write(tmp_path / "y" / "lr_0.1.csv", text)
    assert Curves.read([one, same]).names == ("x/lr_0.1", "y/lr_0.1")
    with pytest.raises(UserError, match="comes from more than one source; rename one"):
        Curves.read([one, str(one)])


def test_other_formats_are_read_alike(tmp_path):
    rows = [{"step": 1, "loss": 4.0, "lr": 0.1, "note": "x"}, {"step": 2, "loss": 3.0, "lr": 0.1}]
    lines = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.table({"step": [1, 2], "loss": [4.0, 3.0], "vec": [[1], [2]]}), tmp_path / "b.parquet")
    for source in (lines, rows, tmp_path / "b.parquet"):
        curves = Curves.read(source)
        assert (curves.step.tolist(), curves.loss.tolist()) == ([1, 2], [4, 3])


def test_published_curves_are_read_by_their_folder():
    shared("multipowerlaw/csv_100/cosine_24000.csv")
    curves = Curves.read(SHARED / "data" / "multipowerlaw" / "csv_100")
    assert len(curves.names) == 9
    step, lr, loss = curves.by_run()["wsdcon_3"]
    assert (step[0], lr[0], loss[0]) == (2176, 3e-4, 3.7666)
    assert lr[-1] == pytest.approx(3e-5, rel=1e-12)
    assert len(Curves.read(SHARED / "data" / "multipowerlaw").names) == 27


def test_a_study_has_its_curves_with_the_rates_of_their_schedules(tmp_path):
    study = Study.create(tmp_path / "study", {"data": "x"})
    config = run_config(lr=0.5)
    schedule = config.schedule
    points = [[schedule.tokens_before(step), 3 - step / schedule.steps] for step in (10, 100, schedule.steps)]
    study.save(record(config), points)
    curves = Curves.read(tmp_path / "study")
    assert curves.names == (config.id,)
    assert curves.step.tolist() == [10, 100, schedule.steps]
    assert curves.lr.tolist() == [0.5 * schedule.lr_factor_at(step - 1) for step in (10, 100, schedule.steps)]
    assert curves.tokens[-1] == config.tokens
    observations = Observations.read(tmp_path / "study", curves=tmp_path / "study")
    assert observations.curves.names == observations.labels
    final = Observations.from_curves(observations.curves, share=0)
    assert final.num_params.tolist() == [config.num_params]
    assert final.loss.tolist() == [2.0]


def test_points_come_in_order_and_what_goes_is_said():
    """A log that was written out of order, resumed at step 3, diverged once and gave the rate now and then."""
    nan = float("nan")
    rows = [("b", 1, 4.0, nan), ("a", 2, 3.5, 0.2), ("a", 1, 4.0, 0.1), ("a", 3, 9.0, 0.3), ("a", 3, 3.0, 0.3)]
    rows += [("a", 5, 2.0, 0.5), ("a", 4, 2.5, nan), ("a", 6, nan, 0.6), ("b", 2, float("inf"), nan)]
    curves = Curves.read(dict(zip(("run", "step", "loss", "lr"), map(list, zip(*rows, strict=True)), strict=True)))
    step, lr, loss = curves.by_run()["a"]
    assert step.tolist() == [1, 2, 3, 4, 5]
    assert loss.tolist() == [4, 3.5, 3, 2.5, 2]
    assert lr == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert np.isnan(curves.by_run()["b"][1]).all()
    notes = " / ".join(curves.notes)
    assert "1 of 9 points left out, an infinite loss" in notes
    assert "1 of 9 points left out, no loss or no step" in notes
    assert "1 point left out, a later one has the same step" in notes
    assert "lr filled between its neighbours at 1 point" in notes


def test_tokens_stand_for_steps_where_there_are_none():
    curves = Curves.read({"tokens": [1e6, 2e6], "loss": [4.0, 3.0]})
    assert curves.step.tolist() == curves.tokens.tolist() == [1e6, 2e6]
    assert any("no column of steps; tokens stand for them" in note for note in curves.notes)


@given(
    st.integers(2, 400), st.integers(2, 60), st.sampled_from(["constant", "decay", "jump", "unknown"]), st.integers(0)
)
@settings(max_examples=80, deadline=None)
def test_thinning_gives_means_of_stretches_that_cover_the_curve(points, most, schedule, seed):
    """Steps are consecutive, so the middle of a stretch tells where it ends."""
    generator = np.random.default_rng(seed)
    step, loss = np.arange(1.0, points + 1), generator.uniform(2, 4, points)
    lr = {
        "constant": np.full(points, 1e-3),
        "decay": np.linspace(1e-3, 0, points),
        "jump": np.where(step < points / 2, 1e-3, 1e-4),
        "unknown": np.full(points, np.nan),
    }[schedule]
    thin = Curves.read({"step": step, "loss": loss, "lr": lr}).thin(most)
    assert len(thin) == points if points <= most else 2 <= len(thin) <= most
    low = 0
    for middle, mean_loss, mean_lr in zip(thin.step, thin.loss, thin.lr, strict=True):
        high = round(2 * middle) - low - 1
        assert mean_loss == pytest.approx(loss[low:high].mean(), rel=1e-12)
        assert mean_lr == pytest.approx(lr[low:high].mean(), rel=1e-9, nan_ok=True)
        low = high
    assert low == points


def test_thinning_keeps_the_shape_of_decay_and_start():
    """Read back by straight lines, a thinned curve of 200 points is the curve to 0.2 %, its rate to 1 % of the peak."""
    curves = Curves.read(long(steps=50_000))
    thin = curves.thin(200).by_run()
    for name, (step, lr, loss) in curves.by_run().items():
        some, rate, level = thin[name]
        inside = (step >= some[0]) & (step <= some[-1])
        assert np.abs(np.interp(step, some, level) / loss - 1)[inside].max() < 2e-3
        assert np.abs(np.interp(step, some, rate) - lr)[inside].max() < 0.01 * 3e-4


def test_a_jump_of_the_rate_stays_between_two_points():
    step = np.arange(1.0, 10_001)
    lr = np.where(step <= 7321, 3e-4, 9e-5)
    thin = Curves.read({"step": step, "loss": 2 + step**-0.5, "lr": lr}).thin(50)
    assert set(thin.lr.round(12)) == {3e-4, 9e-5}
    assert thin.step[thin.lr > 2e-4].max() < 7321.5 < thin.step[thin.lr < 2e-4].min()


def test_ends_of_curves_are_observations_with_the_curves_beside_them():
    curves = Curves.read(long(steps=1000))
    ends = Observations.from_curves(curves, num_params={"a": 1e6, "b": 2e6}, tokens=1e9, share=0.1, counted="total")
    assert ends.labels == ("a", "b")
    assert ends.num_params.tolist() == [1e6, 2e6]
    assert ends.counted == "total"
    expected = 2 + np.mean(np.arange(900.0, 1001) ** -0.5)
    assert ends.loss == pytest.approx([expected, expected + 1])
    assert ends.column("steps").tolist() == [1000, 1000]
    assert ends.column("lr").tolist() == [3e-4, 3e-4]
    assert ends.curves is curves
    with pytest.raises(UserError, match="num_params of run 'b' is not known; give num_params="):
        Observations.from_curves(curves, num_params={"a": 1e6}, tokens=1e9)
    with pytest.raises(UserError, match="tokens of run 'a' is not known"):
        Observations.from_curves(curves, num_params=1e6)


def test_sizes_and_tokens_of_the_table_are_used():
    table = long() | {"params": [1e6] * 1000 + [4e6] * 1000, "tokens": list(range(512, 512_001, 512)) * 2}
    ends = Observations.from_curves(Curves.read(table))
    assert ends.num_params.tolist() == [1e6, 4e6]
    assert ends.tokens.tolist() == [512_000.0, 512_000.0]


def test_where_keeps_points_and_drops_empty_runs():
    curves = Curves.read(long())
    kept = curves.where((curves.run == 1) & (curves.step > 500))
    assert kept.names == ("b",)
    assert set(kept.run) == {0}
    assert kept.step.min() == 501


def test_a_number_for_each_row_is_no_run():
    assert Curves.read({"id": [1, 2, 3], "step": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}).names == ("run",)


def test_columns_may_be_named():
    table = {"k": [1, 2], "a_loss": [3.0, 2.0], "b_loss": [4.0, 3.0], "which": ["x", "y"]}
    curves = Curves.read(table, columns={"step": "k", "loss": "b_loss", "run": "which"})
    assert curves.names == ("x", "y")
    assert curves.loss.tolist() == [4.0, 3.0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"step": [1, 2], "acc": [1, 2]}, "a curve needs columns step (or tokens) and loss; found: step, acc"),
        ({"loss": [1, 2]}, "a curve needs columns step (or tokens) and loss"),
        ({"step": [1, 2], "x_loss": [1, 2], "y_loss": [1, 2]}, "several columns could be the loss (x_loss, y_loss)"),
        ({"step": [1, 2], "loss": ["3", "three"]}, "row 2: loss is 'three', not a number"),
        ({"step": [1, 2], "loss": [3, -1]}, "row 2: loss is -1; it must be above zero"),
        ({"step": [-1, 2], "loss": [3, 3]}, "row 1: step is -1; it must be zero or more"),
        ({"step": [1, 2], "loss": [3, 3], "lr": [0.1, -0.1]}, "row 2: lr is -0.1; it must be zero or more"),
        ({"step": [1, 2], "loss": [float("nan")] * 2}, "no point has a finite loss"),
    ],
)
def test_wrong_curves_are_refused_in_one_line(table, words):
    with pytest.raises(UserError) as caught:
        Curves.read(table)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(UserError, match="neither a study nor a folder with CSV, JSONL or Parquet files"):
        Curves.read(tmp_path)
    with pytest.raises(UserError, match="no field 'time' of a curve"):
        Curves.read(long(), columns={"time": "step"})
    with pytest.raises(UserError, match="no column 'k' for step; found: run, step"):
        Curves.read(long(), columns={"step": "k"})
    with pytest.raises(UserError, match="give at least 2"):
        Curves.read(long()).thin(1)
    Study.create(tmp_path / "study", {"data": "x"})
    with pytest.raises(UserError, match="no curves in this study yet"):
        Curves.read(tmp_path / "study")

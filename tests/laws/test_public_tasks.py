"""The interface over every public task: any inputs, groups, several targets, negative ones, sizes and tokens."""

import csv

import numpy as np
import pytest

from allometry import laws
from helpers.ladders import SHARED

# table: targets, inputs (None: sizes and tokens by their names), groups
TASKS = {
    "parallel": (["loss"], ["num_params", "parallel_size"], "group"),
    "moe": (["loss_validation"], ["num_experts", "dense_parameter_count"], None),
    "vocab": (["unigram_normalized_loss"], ["non_vocab_parameters", "vocab_size", "num_characters"], None),
    "domain_mixture": (
        ["loss_domain_1", "loss_domain_4"],
        [f"proportion_domain_{number}" for number in range(1, 6)],
        "group",
    ),
    "data_constrained": (["loss"], ["unique_tokens", "params", "tokens"], None),
    "lr_bsz": (["lm_loss"], ["lr", "bsz", "data_size", "non_embedding_param_size"], None),
    "sparsity": (["loss"], ["P", "N_active"], ["group"]),
    "farseer": (["loss"], ["N", "D"], None),
    "farseer by its names": (["loss"], None, None),
    "sft": (["loss"], ["samples"], ["model", "dataset"]),
}
# The interface does not need every row.
MOST_ROWS = 60


def columns_of(task):
    """The rows of a table as columns, a part of them drawn so that every group keeps some."""
    if task == "sft":
        path = SHARED / "data" / "sft" / "sft_train.csv"
        if not path.is_file():
            pytest.skip(f"no shared table at {path}")
        with path.open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row["model"] in ("gpt2", "Bert")]
            rows = rows or list(csv.DictReader(path.open(newline="", encoding="utf-8")))[:60]
        return {name: [row[name] for row in rows] for name in rows[0]}
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads the shared tables")
    path = SHARED / "data" / "scalebench" / f"{task.split()[0]}_scaling_law__train.parquet"
    if not path.is_file():
        pytest.skip(f"no shared table at {path}")
    table = parquet.read_table(path)
    rows = np.sort(np.random.default_rng(0).permutation(table.num_rows)[:MOST_ROWS])
    return {name: [table[name][int(row)].as_py() for row in rows] for name in table.column_names}


@pytest.mark.parametrize("task", TASKS)
def test_a_frame_with_the_tables_own_columns_is_predicted_row_by_row(task):
    targets, inputs, group = TASKS[task]
    frame = columns_of(task)
    names = list(inputs or ["N", "D"]) + ([group] if isinstance(group, str) else list(group or []))
    order = np.random.default_rng(1).permutation(len(frame[names[0]]))[:20]
    asked = {name: [frame[name][row] for row in order] for name in names}
    options = {} if inputs is None else {"inputs": inputs, "group": group}
    for target in targets:
        forecast = laws.forecast(laws.Observations.read(frame, target=target, **options))
        prediction = forecast.predict(asked, level=0.9)
        assert prediction.value.shape == (20,)
        assert np.isfinite([prediction.value, prediction.low, prediction.high]).all()
        assert (prediction.low <= prediction.value).all()
        assert (prediction.value <= prediction.high).all()
        # In the order of the frame: backwards gives the same backwards, one row the same as among others.
        backwards = forecast.predict({name: values[::-1] for name, values in asked.items()}, level=0.9)
        np.testing.assert_allclose(backwards.value[::-1], prediction.value, rtol=1e-9)
        one = forecast.predict({name: values[3] for name, values in asked.items()}, level=0.9)
        np.testing.assert_allclose([one.value, one.low], [prediction.value[3], prediction.low[3]], rtol=1e-9)
        actual = np.array([float(frame[target][row]) for row in order])
        assert np.corrcoef(actual, prediction.value)[0, 1] > 0.8
        assert forecast.summary()

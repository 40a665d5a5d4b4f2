"""Frames to predict for: sizes and tokens by the columns, units and derivations of the fitted table."""

import numpy as np
import pytest

from allometry import laws, planning
from allometry.errors import UserError
from allometry.laws.tables.frames import sizes_and_tokens

SIZES, TOKENS = np.array([1e7, 2e7, 4e7, 8e7]), np.array([2e9, 1e9, 4e9, 3e9])
LOSS = 1.7 + 400 / SIZES**0.34 + 1000 / TOKENS**0.3


def read_back(table, frame, **options):
    """N, D and the shape of a frame to predict for, by the columns of a table that was read."""
    runs = laws.Observations.read(table, **options)
    assert runs.num_params == pytest.approx(SIZES)
    assert runs.tokens == pytest.approx(TOKENS)
    return sizes_and_tokens(frame, runs.columns, runs.counted)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ({"N": SIZES, "D": TOKENS}, {}),
        ({"params (M)": SIZES / 1e6, "tokens (B)": TOKENS / 1e9}, {}),
        ({"params": SIZES, "flops": 6 * SIZES * TOKENS}, {}),
        ({"params": SIZES / 1e6, "tokens": TOKENS, "flops": 6 * SIZES * TOKENS}, {}),
        ({"params": SIZES, "batch_tokens": [1e5] * 4, "steps": TOKENS / 1e5}, {}),
        ({"width_count": SIZES, "seen": TOKENS}, {"columns": {"num_params": "width_count", "tokens": "seen"}}),
        (
            {"in_millions": SIZES / 1e6, "seen": TOKENS},
            {"columns": {"num_params": "in_millions*1e6", "tokens": "seen"}},
        ),
    ],
)
def test_a_frame_is_read_as_the_table_was(table, options):
    frame = {name: np.asarray(values)[::-1] for name, values in table.items()}
    sizes, tokens, shape = read_back(table | {"loss": LOSS}, frame, **options)
    assert sizes == pytest.approx(SIZES[::-1])
    assert tokens == pytest.approx(TOKENS[::-1])
    assert shape == (4,)


def test_a_frame_needs_no_loss_no_status_and_drops_no_row():
    frame = {
        "N": SIZES, "D": TOKENS, "status": ["crashed"] * 4, "loss": [np.nan] * 4, "run": ["mean", "a", "b", "c"],
    }  # fmt: skip
    sizes, _, _ = read_back({"N": SIZES, "D": TOKENS, "loss": LOSS}, frame)
    assert sizes.tolist() == SIZES.tolist()


def test_one_point_has_no_shape_and_usual_names_do():
    sizes, tokens, shape = read_back({"N": SIZES, "D": TOKENS, "loss": LOSS}, {"num_params": "1.5B", "tokens": 3e10})
    assert (sizes.tolist(), tokens.tolist(), shape) == ([1.5e9], [3e10], ())


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"N": SIZES}, "no column for tokens"),
        (1e9, "tokens are missing"),
        ({"N": [1e9, -1.0], "D": [1e10, 1e10]}, "row 2: num_params"),
        ({"N": [1e9, 1e9], "D": [1e10, np.nan]}, "row 2: tokens"),
        ({"N": ["large"], "D": [1e10]}, "not a number"),
    ],
)
def test_what_is_missing_is_said_in_one_line(frame, words):
    with pytest.raises(UserError) as caught:
        read_back({"N": SIZES, "D": TOKENS, "loss": LOSS}, frame)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reader",
    [
        lambda runs: laws.fit("chinchilla", runs),
        laws.isoflop,
        lambda runs: laws.backtest(None, runs),
        lambda runs: planning.next_runs(runs, (1e9, 2e10), 1e20),
    ],
    ids=["fit", "isoflop", "backtest", "next_runs"],
)
def test_runs_of_named_inputs_are_refused_where_sizes_and_tokens_are_read(reader):
    runs = laws.Observations.read({"N": SIZES, "D": TOKENS, "loss": LOSS}, target="loss", inputs=["N", "D"])
    with pytest.raises(UserError, match=r"reads sizes and tokens, and this table was read with inputs=\['N', 'D'\]"):
        reader(runs)

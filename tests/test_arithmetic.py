"""Arithmetic that a user writes: its value, or one line that says why it has none."""

import numpy as np
import pytest

from allometry.arithmetic import evaluate, evaluate_rows
from allometry.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [("12 * width**2", 768), ("max(1, width // 3)", 2), ("-width**2 % 5", 1), ("(-width)**3", -512), ("4**0.5", 2)],
)
def test_values(text, value):
    assert evaluate(text, {"width": 8}, "params") == value


@pytest.mark.parametrize(
    "text",
    [
        "(-8)**0.5",
        "*".join(["10**29"] * 15),
        "1/0",
        "9**9**9",
        "1e300*1e300",
        "sqrt(-1)",
        "log(0)",
        "depth",
        "(",
        "min()",
    ],
)
def test_what_has_no_value_ends_in_one_line(text):
    with pytest.raises(UserError, match=r"^params: ") as caught:
        evaluate(text, {"width": 8}, "params")
    assert "\n" not in str(caught.value)


def test_columns_are_calculated_row_by_row():
    columns = {"N": np.array([1e6, 1e7]), "D": np.array([1e8, 1e9])}
    assert evaluate_rows("6*N*D", columns, "cost").tolist() == [6e14, 6e16]
    with pytest.raises(UserError, match="a root of a negative number"):
        evaluate_rows("N*(-8)**0.5", columns, "cost")

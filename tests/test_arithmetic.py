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


@pytest.mark.parametrize(
    "text",
    [
        "max(N, D, 3)",
        "min(N, 5)",
        "round(N / 3, 1)",
        "int(N / 3)",
        "ceil(N / 3)",
        "floor(N / 3)",
        "sqrt(N)",
        "log(N)",
        "log(N, 2)",
        "N // 3 % 2",
        "-N**2",
    ],
)
def test_every_function_takes_columns_too(text):
    columns = {"N": np.array([1.0, 4.0, 10.0]), "D": np.array([2.0, 2.0, 20.0])}
    rows = [evaluate(text, {"N": n, "D": d}, "cost") for n, d in zip(*columns.values(), strict=True)]
    np.testing.assert_allclose(evaluate_rows(text, columns, "cost"), rows)


def test_columns_are_calculated_row_by_row():
    columns = {"N": np.array([1e6, 1e7]), "D": np.array([1e8, 1e9])}
    assert evaluate_rows("6*N*D", columns, "cost").tolist() == [6e14, 6e16]
    with pytest.raises(UserError, match="cannot be calculated"):
        evaluate_rows("sqrt(N, D)", columns, "cost")
    assert columns["D"].tolist() == [1e8, 1e9]
    with pytest.raises(UserError, match="a root of a negative number"):
        evaluate_rows("N*(-8)**0.5", columns, "cost")

"""Numbers as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allometry.errors import UserError
from allometry.quantities import format_count, format_flops, format_seconds, parse_number, plural


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1.5B", 1.5e9),
        ("200M", 2e8),
        ("10k", 1e4),
        ("10K", 1e4),
        ("2T", 2e12),
        ("1_000", 1000),
        ("1,000,000", 1e6),
        (" 7 ", 7),
        (0.5, 0.5),
        (3, 3),
        ("1e3k", 1e6),
    ],
)
def test_numbers_are_read(text, value):
    assert parse_number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "k", "many", "1.5X", "1e9e", "0", "-3", "nan", "inf", "1e400", "--1", "1,5", "1,50B", True]
)
def test_what_is_no_positive_number_is_refused_by_name(text):
    with pytest.raises(UserError, match=r"^tokens: ") as caught:
        parse_number(text, "tokens")
    assert "\n" not in str(caught.value)


@given(st.floats(1, 1e17))
def test_a_written_count_reads_back_to_three_digits(value):
    assert parse_number(format_count(value)) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1_234_567, "1.23M"), (999_999, "1M"), (999.6, "1k"), (12, "12"), (1.5e9, "1.5B"), (2e15, "2000T")),
        *((3.2e16, "3.2e+16"), (0, "0")),
    ],
)
def test_counts_are_short(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.4, "8 s"),
        (119.4, "119 s"),
        (119.6, "2 min 00 s"),
        (125, "2 min 05 s"),
        (7199.7, "2 h 00 min"),
        (11_400, "3 h 10 min"),
        (352_800, "4 d 02 h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_seconds_are_written_as_people_write_them(seconds, text):
    assert format_seconds(seconds) == text


def test_flops_are_scientific():
    assert format_flops(3.2e13) == "3.20e+13"


def test_one_thing_is_singular():
    assert [plural(count, "run") for count in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [plural(count, "near copy", "near copies") for count in (1, 3)] == ["1 near copy", "3 near copies"]


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("-1.5M", -1.5e6), ("-2", -2.0), ("0.25", 0.25)])
def test_a_number_may_be_zero_or_below_where_it_is_signed(text, value):
    assert parse_number(text, "x", signed=True) == value
    for wrong in ("abc", "inf", "nan", ""):
        with pytest.raises(UserError):
            parse_number(wrong, "x", signed=True)

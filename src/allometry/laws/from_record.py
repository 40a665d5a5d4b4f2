"""Records that were written as JSON and are read back: what is wrong with one ends in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ..errors import UserError

# What the package itself writes; none of it is a table of runs.
LAWS = ("fit", "forecast", "input_forecast", "forecasts", "isoflop", "curve_fit", "metric_fit", "chosen_forecast")
RECORDS = frozenset({*LAWS, "plan", "experts_plan", "samples_plan", "next_runs", "chosen_runs", "outcome"})

Given = ParamSpec("Given")
Read = TypeVar("Read")
# What a field that is missing, of another type or length, or infinite, raises.
MISSING = (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError)


def reads_record(what: str, remedy: str) -> Callable[[Callable[Given, Read]], Callable[Given, Read]]:
    """A ``from_json`` that refuses what is no such record: ``what`` it is not, and the ``remedy``.

    The function that it wraps raises UserError: not such a record.
    """

    def wrap(read: Callable[Given, Read]) -> Callable[Given, Read]:
        @wraps(read)
        def checked(*given: Given.args, **named: Given.kwargs) -> Read:
            try:
                return read(*given, **named)
            except UserError:  # a part of the record, which says better what is wrong
                raise
            except MISSING as error:
                wrong = f"{error.args[0]} is missing" if type(error) is KeyError else "its values are damaged"
                raise UserError(f"not {what} that this version reads: {wrong}; {remedy}") from None

        return checked

    return wrap

"""What is wrong with a value of a configuration, in plain words, and numbers as people write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ..errors import UserError
from ..quantities import parse_number

_NUMBERS = (int, float)
_WORDS = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": 'must be text in quotes, such as "stdlib"',
    "tuple_type": "must be a list, such as [16, 24]",
    "list_type": "must be a list, such as [16, 24]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "too_short": "must have {min_length} entries or more",
    "too_long": "must have {max_length} entries or fewer",
    "string_too_short": "must not be empty",
}
_MOST_SHOWN = 40  # characters of the value


def plain_words(error: Mapping[str, Any]) -> str:
    """One error of a validation in plain words, with the value that was given where it is short."""
    template = _WORDS.get(error["type"])
    if template is None:
        return str(error["msg"]).removeprefix("Value error, ")
    limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()}
    words = template.format_map({"min_length": "", "max_length": ""} | limits)
    if error["type"] == "missing":
        return words
    try:
        given = json.dumps(error["input"], ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return words
    given = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf", "null": "nothing"}.get(given, given)
    return f"{words}, not {given}" if len(given) <= _MOST_SHOWN else words


def number_from_text(name: str, value: Any, annotation: Any) -> Any:
    """The value of a field, in which texts such as "60k" or "1.5B" are numbers where the field takes numbers.

    Raises:
        UserError: such a text is no number, or true or false stands where a number belongs.
    """
    if not _takes_numbers(annotation):
        return value
    if isinstance(value, list | tuple):
        return [_number(name, each) for each in value]
    return _number(name, value)


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        raise UserError(f"{name}: must be a number, not {str(value).lower()}")
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        return parse_number(value, name)
    return value


def _takes_numbers(annotation: Any) -> bool:
    """Whether a field takes a number, or a list of numbers, and no text."""
    if get_origin(annotation) in (Union, UnionType):
        return all(kind is type(None) or _takes_numbers(kind) for kind in get_args(annotation))
    if get_origin(annotation) is tuple:
        return all(kind is Ellipsis or kind in _NUMBERS for kind in get_args(annotation))
    return annotation in _NUMBERS

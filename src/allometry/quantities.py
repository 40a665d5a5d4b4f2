"""Read and write numbers as people do: ``1.5B``, ``200M``, ``10k``, ``1e21``; a measured value with its error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from .errors import UserError

_SUFFIXES = {
    "": 1.0, "k": 1e3, "thousand": 1e3, "m": 1e6, "mn": 1e6, "mio": 1e6, "million": 1e6, "millions": 1e6,
    "b": 1e9, "bn": 1e9, "g": 1e9, "mrd": 1e9, "billion": 1e9, "billions": 1e9, "t": 1e12, "tn": 1e12,
    "trillion": 1e12, "trillions": 1e12,
}  # fmt: skip
_BYTES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# A number; then what it counts in and what it counts: ``1.5 billion tokens``, ``3×10^9``.
_WRITTEN = re.compile(
    r"([+-]?[\d.]+(?:e[+-]?\d+)?)\s*(?:[x×*]\s*10(?:\^|\*\*)(\d+))?\s*([a-z]*?)\s*(?:params?|parameters?|tokens?|flops?)?"
)
SIGNIFICANT_DIGITS = 12


@dataclass(frozen=True)
class Score:
    """A measured value and its standard error; NaN: the error is not known."""

    value: float
    error: float = math.nan

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From ``{"value": …, "error": …}``, where None stands for NaN."""
        return cls(*(math.nan if value[name] is None else float(value[name]) for name in ("value", "error")))


def parse_number(text: str | float, name: str = "number", *, signed: bool = False) -> float:
    """Read ``1e9``, ``1.5B``, ``200M``, ``10k``, ``3×10^9`` or ``2 billion`` as a positive finite float.

    Args:
        signed: also zero and numbers below it.

    Raises:
        UserError: the text is not a number, or not above zero unless it is ``signed``.
    """
    # A comma is removed only between groups of three digits; elsewhere it may be a decimal comma.
    raw = without_groups(str(text).strip().lstrip("~≈").strip().replace("_", ""))
    if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}\s*[a-zA-Z].*", str(text).strip()):  # 2,125M: 2.125M or 2125M?
        one, other = str(text).strip().replace(",", "."), str(text).strip().replace(",", "")
        raise UserError(f"{name}: {text!r} may be {one} or {other}; write one of them")
    written = _WRITTEN.fullmatch(raw.lower())
    try:
        if written is None:
            value = float(raw)
        else:
            value = float(written[1]) * 10.0 ** int(written[2] or 0) * _SUFFIXES[written[3]]
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"{name}: {text!r} is not a number; write 1e9, 1.5B, 200M or 10k") from None
    if not math.isfinite(value) or (value <= 0 and not signed):
        raise UserError(f"{name}: {text!r} must be a finite number{'' if signed else ' above zero'}")
    return value


def without_groups(text: str) -> str:
    """A number without what parts its groups of three digits: commas, apostrophes and blanks; also India's groups."""
    if re.fullmatch(r"\d{1,2}(,\d{2})+,\d{3}", text):
        return text.replace(",", "")
    return re.sub(r"(?<=\d)[,'’ \u00a0\u2009\u202f](?=\d{3}(\D|$))", "", text)


def parse_bytes(text: str | float, name: str = "bytes") -> float:
    """Read ``80e9``, ``80G``, ``80GB`` (of 10^9) or ``80GiB`` (of 2^30) as a positive finite number of bytes.

    Raises:
        UserError: the text is not a number of bytes, or not above zero.
    """
    written = re.fullmatch(r"(.*?[\d.])\s*([kmgt]?i?)b?(?:ytes?)?", str(text).strip().lower())
    if written is None or written[2] not in _BYTES:
        raise UserError(f"{name}: {text!r} is not a number of bytes; write 80GB, 80GiB or 80e9")
    return parse_number(written[1], name) * _BYTES[written[2]]


def format_count(value: float) -> str:
    """A number with three significant digits and a suffix: 1234567 → ``1.23M``; from 10000T on, without: ``1e+16``."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 9999.5e12:
        return f"{value:.3g}"
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            scaled = value / factor
            return f"{scaled:.3g}{suffix}" if scaled < 999.5 else f"{scaled:.0f}{suffix}"
    return f"{value:.3g}"


def plural(count: int, noun: str, many: str = "") -> str:
    """A number of things: ``plural(1, "run")`` is ``1 run``, ``plural(2, "run")`` is ``2 runs``.

    Args:
        many: the plural of a noun that takes more than an ``s``.
    """
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def format_flops(value: float) -> str:
    """Floating-point operations in scientific form: ``3.2e+13``."""
    return f"{value:.2e}"


def format_seconds(value: float) -> str:
    """A duration in seconds as people write it: ``8 s``, ``2 min 05 s``, ``3 h 10 min``, ``4 d 02 h``."""
    if not math.isfinite(value):
        return "?"
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def format_bytes(value: float) -> str:
    """Bytes with three significant digits: ``13.5 GB``."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def clean(value: float | None) -> float | int | None:
    """A number for a file that people read: 12 significant digits, whole numbers as ``int``; None if not finite."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**63 else rounded


_KINDS: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}


def check_fields(kind: type, record: Mapping[str, Any]) -> None:
    """Check that the plain fields of a dataclass (numbers, texts, None where it may be) have their kind in a record.

    Raises:
        TypeError: names the first that has not.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"{record!r:.60} is no {kind.__name__}")
    for field in fields(kind):
        parts = [part.strip() for part in str(field.type).split("|")]
        if field.name not in record or not all(part in _KINDS or part == "None" for part in parts):
            continue
        value = record[field.name]
        allowed = tuple(one for part in parts if part != "None" for one in _KINDS[part])
        is_right = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        if not (is_right or (value is None and "None" in parts)):
            raise TypeError(f"{field.name} is {value!r:.60}, not {' or '.join(parts)}")


def check_numbers(name: str, record: Any) -> None:
    """Check that a record maps names to numbers.

    Raises:
        TypeError: it does not.
    """
    if not isinstance(record, Mapping) or not all(type(value) in (int, float) for value in record.values()):
        raise TypeError(f"{name} is {record!r:.60}, not numbers by name")


def require_positive(**numbers: float | None) -> None:
    """Check that each number that is given (not None) is finite and above zero.

    Raises:
        UserError: names the first number that is not.
    """
    for name, value in numbers.items():
        if value is None:
            continue
        if isinstance(value, bool | str) or not (math.isfinite(value) and value > 0):
            raise UserError(f"{name.replace('_', ' ')} must be a finite number above zero, not {value!r}")

"""Whether a file writes 2.125 or 2,125 for two and an eighth: all its numbers judge; refused where they differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ....errors import UserError

_NUMBER = re.compile(r"[+-]?\d[\d.,']*(?:[eE][+-]?\d+)?\s*[A-Za-z]{0,9}%?")
# Blanks between groups of three digits, which stand beside decimal commas in France and Switzerland.
_BLANKS = re.compile(r"(?<=\d)['’ \u00a0\u2009\u202f](?=\d{3}(\D|$))")
_CORE = re.compile(r"[+-]?(\d[\d.,]*)")
# Only a comma for decimals explains these: 2,5 0,125 1234,567 2.000.000 2.000,5 — and only a point these.
_COMMA = re.compile(r"\d+,\d{1,2}|\d+,\d{4,}|0\d*,\d+|\d{4,},\d+|[1-9]\d{0,2}(\.\d{3}){2,}|[1-9]\d{0,2}(\.\d{3})+,\d+")
_POINT = re.compile(
    r"\d+\.\d{1,2}|\d+\.\d{4,}|0\d*\.\d+|\d{4,}\.\d+|[1-9]\d{0,2}(,\d{3}){2,}|[1-9]\d{0,2}(,\d{3})+\.\d+"
)
# Both could be: 2,125 is two and an eighth, or two thousand one hundred and twenty-five.
_EITHER = re.compile(r"[1-9]\d{0,2},\d{3}")
_DOTTED = re.compile(r"[1-9]\d{0,2}\.\d{3}")
_WITH_COMMA = re.compile(r"([+-]?)((?:[1-9]\d{0,2}(?:\.\d{3})+|\d+)(?:,\d+)?)((?:[eE][+-]?\d+)?\s*[A-Za-z]{0,9}%?)")


def reads_decimal_commas(cells: Iterable[str | None], delimiter: str, path: Path | str) -> bool:
    """Whether the numbers of a file have decimal commas.

    In a file whose cells are separated by semicolons, 2,125 has a decimal comma unless another cell speaks against it:
    that is why the comma separates nothing.

    Raises:
        UserError: some cells need a decimal comma and others a decimal point, or 2,125M may be either.
    """
    evidence: dict[str, str] = {}
    cells = list(cells)
    if not any(cell and ("," in cell or cell.count(".") > 1) for cell in cells):
        return False
    for cell in cells:
        if cell is None or not ("," in cell or "." in cell) or not _NUMBER.fullmatch(text := _plain(cell)):
            continue
        core = _CORE.match(text).group(1).rstrip(".,")  # type: ignore[union-attr]
        if _COMMA.fullmatch(core):
            evidence.setdefault("comma", text)
        elif _POINT.fullmatch(core):
            evidence.setdefault("point", text)
        elif _EITHER.fullmatch(core):
            evidence.setdefault("scaled" if text[-1].isalpha() else "either", text)
        elif _DOTTED.fullmatch(core):
            evidence.setdefault("dotted", text)
        if "comma" in evidence and "point" in evidence:
            raise UserError(
                f"{path}: {evidence['comma']!r} has a decimal comma and {evidence['point']!r} a decimal point; "
                "write all numbers with points and without commas"
            )
    if "comma" in evidence or "point" in evidence or not ("either" in evidence or "scaled" in evidence):
        return "comma" in evidence
    unsure = "dotted" in evidence and delimiter == ";"
    if delimiter == ";" and not unsure:
        return True
    if "scaled" in evidence or unsure:
        text = evidence.get("scaled") or evidence["either"]
        raise UserError(
            f"{path}: {text!r} may be {text.replace(',', '.')} or {text.replace(',', '')}; write one of them"
        )
    return False


def _plain(cell: str) -> str:
    return _BLANKS.sub("", cell.strip())


def with_points(cell: str | None) -> str | None:
    """A number with a decimal comma as one with a decimal point; anything else unchanged."""
    if cell is None or (evidence := _WITH_COMMA.fullmatch(_plain(cell))) is None:
        return cell
    sign, number, rest = evidence.groups()
    return f"{sign}{number.replace('.', '').replace(',', '.')}{rest}"

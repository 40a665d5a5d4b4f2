"""The plain part of YAML: nested mappings of numbers and words. No tag is ever obeyed, so that no code can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UserError

MOST_BYTES = 1 << 22
WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a file of nested ``name: value``; lists, tags and long texts are left out.

    Raises:
        UserError: too large, or no text.
    """
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} holds more than {MOST_BYTES >> 20} MiB, which are no settings of a run")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None
    top: dict[str, Any] = {}
    open_mappings: list[tuple[int, dict[str, Any]]] = [(-1, top)]
    for line in lines:
        text = line.strip()
        name, colon, value = text.partition(":")
        if not colon or text.startswith(("#", "-", "!", "?")) or (value and not value.startswith(" ")):
            continue
        indent = len(line) - len(line.lstrip())
        while open_mappings[-1][0] >= indent:
            open_mappings.pop()
        name, value = name.strip().strip("'\""), value.split(" #")[0].strip()
        if value:
            open_mappings[-1][1][name] = _scalar(value)
        elif len(open_mappings) < 20:
            inner: dict[str, Any] = {}
            open_mappings[-1][1][name] = inner
            open_mappings.append((indent, inner))
    return top


def _scalar(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text.replace("_", "") if kind is int else text)
        except ValueError:
            continue
    return text.strip("'\"") if not text.startswith(("!", "&", "*", "[", "{", "|", ">")) else None

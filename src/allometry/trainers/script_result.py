"""What a program left: values and a curve from JSON, JSONL, CSV, or from what it printed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.script import ScriptConfig
from ..errors import UserError
from ..quantities import Score

LARGEST = 1 << 28  # bytes of a result
CLOCKS_DIFFER = 5.0  # seconds that a file's time may lie before the start, on a disk of another machine
_GROUP = re.compile(r"(?<!\\)\((?!\?)[^()]*\)")  # the first group of a pattern, without groups in it
_CURVE = {
    "train_loss": ("train_loss", "loss/train", "train/loss", "loss"),
    "step": ("step", "iter", "iteration"),
    "lr": ("lr", "learning_rate"),
}


@dataclass(frozen=True)
class ScriptResult:
    """What a program said of a run; NaN or None: not said. ``plain`` are all values of the result by key."""

    loss: float
    loss_se: float | None = None
    num_params: float | None = None
    flops: float | None = None
    tokens: float | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    curve: Sequence[Mapping[str, float]] = ()
    plain: Mapping[str, Any] = field(default_factory=dict)


def read_result(script: ScriptConfig, path: Path | None, output: Path, begun: float) -> ScriptResult:
    """The result of a program that has ended.

    Args:
        path: of the result; None: all is found in the output.
        output: what the program printed.
        begun: the time of its start, in seconds since the epoch: a result from before is that of another run.

    Raises:
        UserError: no result, an unreadable one, an older one, or one without a loss.
    """
    rows = [] if path is None else _rows(path, begun)
    plain: dict[str, Any] = {}
    for row in rows:
        plain |= {key: value for key, value in row.items() if value is not None and value != ""}
    printed = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    look = lambda name: _find(name, plain, printed)
    loss = look(script.loss)
    if loss is None:
        where = "what it printed" if path is None or "(" in script.loss else path.name
        known = f" (it has: {', '.join(sorted(plain)[:12])})" if plain else ""
        raise UserError(f"no {script.loss!r} in {where}{known}; name the loss by [trainer] loss")
    scores = {}
    for name in script.scores:
        value = look(name)
        if value is None:
            raise UserError(f"no score {name!r} in the result")
        scores[name.rpartition(".")[2]] = Score(value, _or_nan(look(f"{name}_se")))
    return ScriptResult(
        loss=loss,
        loss_se=look(script.loss_se),
        num_params=look(script.num_params),
        flops=look(script.flops),
        tokens=look(script.result_tokens),
        scores=scores,
        curve=_curve(rows, script.result_tokens, script.loss),
        plain=plain,
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _find(name: str, plain: Mapping[str, Any], printed: str) -> float | None:
    """A value by its key, or by a pattern on what was printed; None if it is not there.

    Raises:
        UserError: it is not a number, or the pattern is none.
    """
    if "(" in name:
        try:
            matches = list(re.finditer(name, printed))
        except re.error as error:
            raise UserError(f"{name!r} is not a pattern: {error}") from None
        if _ends_in_no_number(name, printed, matches[-1].start() if matches else -1):
            return math.nan
        if not matches:
            return None
        if not matches[-1].re.groups:
            raise UserError(f"{name!r} has no group; put the number into one: ([0-9.]+)")
        return _number(name, matches[-1][1])
    return _number(name, plain[name]) if name in plain else None


def _ends_in_no_number(name: str, printed: str, after: int) -> bool:
    """Whether the last value is NaN or infinite, which a pattern of digits passes over to find an older one."""
    try:
        pattern = re.compile(_GROUP.sub(lambda _: r"(?i:([-+]?(?:nan|inf(?:inity)?)\b))", name, count=1))
    except re.error:
        return False  # a group within the group
    return any(match.start() >= after for match in pattern.finditer(printed))


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):
        value = value.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", value.strip()) else value
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}: {str(value)[:60]!r} is not a number") from None


def _rows(path: Path, begun: float) -> list[dict[str, Any]]:
    """The rows of a result, their nested keys joined by dots; JSON with one object is one row."""
    try:
        status = path.stat()
        if status.st_size > LARGEST:
            raise UserError(f"{path.name} has {status.st_size} bytes: too many for a result")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"it wrote no result {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"its result {path.name} is not readable: {error}") from None
    if status.st_mtime < begun - CLOCKS_DIFFER:
        raise UserError(f"its result {path.name} was there before it began, so it is of another run")
    try:
        values = _parse(path.suffix, text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"its result {path.name} is not readable as {path.suffix[1:] or 'JSON'}: {error}") from None
    rows = [_flat(value) for value in values if isinstance(value, Mapping)]
    if not rows:
        raise UserError(f"its result {path.name} is empty")
    return rows


def _parse(suffix: str, text: str) -> list[Any]:
    if suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    if suffix in (".jsonl", ".ndjson"):
        lines = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # a line cut short, or words between
                lines.append(json.loads(line))
        return lines
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


def _flat(value: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping) and depth < 8:
            flat |= _flat(inner, f"{name}.", depth + 1)
        else:
            flat[name] = inner
    return flat


def _curve(rows: Sequence[Mapping[str, Any]], tokens: str, held_out: str) -> list[dict[str, float]]:
    """The points of the rows that say how many units were seen; only what is a finite number, in order.

    The key of the held-out loss is no training loss.
    """
    points: list[dict[str, float]] = []
    for row in rows if len(rows) > 1 else ():
        seen = _finite(row.get(tokens))
        if seen is None or (points and seen < points[-1]["tokens"]):
            continue
        point = {"tokens": seen}
        for name, keys in _CURVE.items():
            value = next(
                (number for key in keys if key != held_out and (number := _finite(row.get(key))) is not None), None
            )
            if value is not None:
                point[name] = value
        if len(point) > 1:
            points.append(point)
    return points


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

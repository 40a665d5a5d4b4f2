"""Fits and forecasts as JSON files."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UserError
from ..files import write_json
from .forecast import Forecast
from .result import Fit

KINDS: dict[str, type[Fit] | type[Forecast]] = {"fit": Fit, "forecast": Forecast}


def save(path: str | Path, result: Fit | Forecast) -> None:
    """Write a fit or a forecast so that ``load`` gives it back; an existing file is replaced in one step."""
    write_json(Path(path), result.to_json())


def load(path: str | Path) -> Fit | Forecast:
    """Read what ``save`` wrote: field "kind" says whether it is a fit or a forecast.

    Raises:
        UserError: no such file, not JSON, or neither a fit nor a forecast.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path} is not JSON; write it with allometry fit -o {path.name}") from None
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{path} is neither a fit nor a forecast (kind {kind!r}); write it with allometry fit")
    return KINDS[kind].from_json(data)

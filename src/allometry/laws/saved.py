"""All results of ``laws`` as JSON files; the field "kind" names the type."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..errors import UserError
from ..files import parse_json, write_json
from .along_a_run.curve_fit import CurveFit
from .any_inputs.input_forecast import InputForecast
from .any_inputs.several import Forecasts
from .base import Law
from .fitting.result import Fit
from .forecasting.forecast import Forecast
from .isoflop_slices.isoflop import IsoFlop
from .metrics import MetricFit

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
Result = Fit | Forecast | InputForecast | Forecasts | IsoFlop | CurveFit | MetricFit
KINDS: dict[str, type[Result]] = {
    "fit": Fit,
    "forecast": Forecast,
    "input_forecast": InputForecast,
    "forecasts": Forecasts,
    "isoflop": IsoFlop,
    "curve_fit": CurveFit,
    "metric_fit": MetricFit,
}


def save(path: str | Path, result: Result) -> None:
    """Write a result so that ``load`` gives it back; an existing file is replaced in one step."""
    write_json(Path(path), result.to_json())


def load(path: str | Path, form: Law | None = None) -> Result:
    """Read what ``save`` wrote; ``form`` is the law of a fit by a law of one's own.

    Raises:
        UserError: no such file, not JSON, or not something that ``save`` writes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: not JSON, so no fit; {_how_to_write(path)}") from None
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{path}: not a fit or forecast; {_how_to_write(path)}")
    try:
        return Fit.from_json(data, form) if kind == "fit" else KINDS[kind].from_json(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _how_to_write(path: Path) -> str:
    """The command that writes a fit, from this file where it is a table of runs."""
    source = shlex.quote(str(path)) if path.suffix in TABLES else "RUNS.csv"
    return f"`allometry fit {source} -o fit.json` writes one"

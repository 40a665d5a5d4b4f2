"""A fit or forecast from its file or its study, and the evidence for a prediction."""

from __future__ import annotations

from pathlib import Path

from .. import laws
from ..errors import UserError


def evidence(made: laws.Fit | laws.Forecast, given: dict[str, float]) -> list[str]:
    """How far outside the fitted runs a point lies, and what the backtest found at such distances."""
    found = []
    for name, word in (("num_params", "parameters"), ("tokens", "tokens")):
        if name not in given or name not in made.range:
            continue
        value, (low, high) = given[name], made.range[name]
        if not low <= value <= high:
            times = value / high if value > high else low / value
            where = "above the largest" if value > high else "below the smallest"
            found.append(f"{word}: {times:.3g}× {where} that was fitted")
    if isinstance(made, laws.Forecast):
        found += made.evidence(given["num_params"], given["tokens"]).split("\n")
    return found


def load_fit(source: Path) -> laws.Fit | laws.Forecast:
    """A fit or forecast, from its file or from the study that holds it."""
    path = source / "fit.json" if source.is_dir() else source
    if source.is_dir() and not path.exists():
        raise UserError(f"{source}: no fit.json in it; run `allometry fit {source}` first")
    return laws.load(path)

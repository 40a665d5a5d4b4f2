"""``fit`` and ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import laws
from ..errors import UserError
from ..files import write_json
from ..quantities import parse_number
from ..runs.store import Study
from .output import answer, answer_json, note


def fit(source: Path, *, names: list[str] | None, output: Path | None, as_json: bool) -> None:
    """One law asked for is fitted alone; several, or none named, make a forecast."""
    is_study = Study(source).settings_path.is_file()
    observations = laws.Observations.read(source)
    for text in observations.notes:
        note(f"note: {text}")
    made = laws.fit(names[0], observations) if names and len(names) == 1 else laws.forecast(observations, names)
    path = output or (source / "fit.json" if is_study else None)
    if path is not None:
        write_json(path, made.to_json())
        note(f"written to {path}")
    answer_json(made.to_json()) if as_json else answer(made.summary())


def predict(
    source: Path | None, *, params: str | None, tokens: str | None, level: float, carry: dict[str, Any], as_json: bool
) -> None:
    """By a fit, or from one measured model to another by a power law."""
    if params is None or tokens is None:
        raise UserError("--params and --tokens of the model to predict are needed: --params 1e9 --tokens 20e9")
    n, d = parse_number(params, "--params"), parse_number(tokens, "--tokens")
    if any(value is not None for value in carry.values()):
        _carry(source, n, d, carry, as_json)
        return
    if source is None:
        raise UserError("give a fit.json or a study, or --metric with --from-params, --from-tokens, --alpha, --beta")
    made = load_fit(source)
    prediction = made.predict(n, d, level=level)
    if as_json:
        value = {"num_params": n, "tokens": d, "loss": prediction.value, "low": prediction.low, "high": prediction.high}
        answer_json(value | {"level": level, "notes": range_notes(made, n, d)})
        return
    answer(f"loss {prediction.value:.4f} [{prediction.low:.4f}, {prediction.high:.4f}] {100 * level:g} %")
    for text in range_notes(made, n, d):
        note(f"note: {text}")


def _carry(source: Path | None, n: float, d: float, carry: dict[str, Any], as_json: bool) -> None:
    from .. import planning

    if source is not None and (carry["alpha"] is None or carry["beta"] is None):
        values = _power(source)
        carry = carry | {name: values[name] for name in ("alpha", "beta") if carry[name] is None}
    missing = [f"--{name.replace('_', '-')}" for name, value in carry.items() if value is None]
    if missing:
        raise UserError(f"to carry a measured value over, give {', '.join(missing)} too")
    value = planning.carry(
        carry["metric"],
        from_params=parse_number(carry["from_params"], "--from-params"),
        from_tokens=parse_number(carry["from_tokens"], "--from-tokens"),
        to_params=n,
        to_tokens=d,
        alpha=carry["alpha"],
        beta=carry["beta"],
    )
    if as_json:
        answer_json({"value": value, "num_params": n, "tokens": d, "alpha": carry["alpha"], "beta": carry["beta"]})
    else:
        answer(f"{value:.6g}")


def _power(source: Path) -> dict[str, float]:
    """The exponents of the power law in a fit or forecast."""
    made = load_fit(source)
    fits = getattr(made, "fits", None) or {made.law.name: made}
    if "power" not in fits:
        raise UserError(
            f"{source}: holds no fit of the power law; run `allometry fit … --law power`, or give --alpha and --beta"
        )
    return fits["power"].values


def load_fit(source: Path) -> laws.Fit | laws.Forecast:
    """A fit or forecast, from its file or from the study that holds it."""
    path = source / "fit.json" if source.is_dir() else source
    if source.is_dir() and not path.exists():
        raise UserError(f"{source}: no fit.json in it; run `allometry fit {source}` first")
    return laws.load(path)


def range_notes(made: laws.Fit | laws.Forecast, num_params: float, tokens: float) -> list[str]:
    """How far outside the fitted runs a point lies."""
    found = []
    for name, value, key in (("parameters", num_params, "num_params"), ("tokens", tokens, "tokens")):
        low, high = made.range[key]
        if not low <= value <= high:
            times = value / high if value > high else low / value
            where = "above the largest" if value > high else "below the smallest"
            found.append(f"{name}: {times:.3g}× {where} that was fitted")
    return found

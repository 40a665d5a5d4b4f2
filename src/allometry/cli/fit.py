"""``fit`` and ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import laws
from ..errors import UserError
from ..files import write_json
from ..quantities import parse_number
from ..runs.study import Study
from ..workflow.saved_fit import evidence, load_fit
from .output import answer, answer_json, note

FLAGS = {"num_params": "--params", "tokens": "--tokens", "batch_tokens": "--batch", "unique_tokens": "--unique"}


def fit(
    source: Path,
    table: dict[str, Any],
    *,
    names: list[str] | None,
    objective: str | None,
    delta: float | None,
    isoflop: bool,
    level: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """One law asked for is fitted alone; several, or none named, make a forecast; or the minima of the budgets."""
    single = names is not None and len(names) == 1
    if (objective or delta) and not single:
        raise UserError(
            "--objective and --delta are for one law: name it with --law, as --law chinchilla --objective huber"
        )
    if isoflop and names:
        raise UserError("--isoflop takes no --law: it reads the minima of the budgets themselves")
    observations = read(source, **table)
    if isoflop:
        made = laws.isoflop(observations)
    elif single:
        options = {key: value for key, value in (("objective", objective), ("delta", delta)) if value is not None}
        made = laws.fit(names[0], observations, **options)
    else:
        made = laws.forecast(observations, names)
    # What was taken, derived and left out stands in the summary; a machine's answer has it under "notes".
    for finding in observations.findings:
        note(f"note: {finding.text}")
    is_study = Study(source).settings_path.is_file()
    path = output or (source / "fit.json" if is_study and not isoflop and not table["columns"] else None)
    if path is not None:
        write_json(path, made.to_json())
        note(f"written to {path}")
    if as_json:
        answer_json(made.to_json())
    else:
        answer(made.summary(level=level) if single else made.summary())


def read(
    source: Path, columns: list[str] | None = None, where: list[str] | None = None, counted: str | None = None
) -> laws.Observations:
    """The runs of a study or a table, by the options of the command line."""
    chosen = {name: _column(value) for name, value in _pairs(columns, "--column").items()}
    return laws.Observations.read(
        source, columns=chosen or None, where=_pairs(where, "--where") or None, counted=counted
    )


def predict(
    source: Path | None, point: dict[str, str | None], *, level: float, carry: dict[str, Any], as_json: bool
) -> None:
    """By a fit, or from one measured model to another by a power law."""
    given = {name: parse_number(value, FLAGS[name]) for name, value in point.items() if value is not None}
    if any(value is not None for value in carry.values()):
        _carry(source, given, carry, as_json)
        return
    if source is None:
        raise UserError("give a fit.json or a study, or --metric with --from-params, --from-tokens, --alpha, --beta")
    made = load_fit(source)
    reads = made.law.inputs if isinstance(made, laws.Fit) else ("num_params", "tokens")
    if not given or ("num_params" in reads and "num_params" not in given):
        raise UserError("--params and --tokens of the model to predict are needed: --params 1e9 --tokens 20e9")
    if reads == ("num_params", "tokens"):
        if set(given) != set(reads):
            raise UserError(f"this fit predicts from --params and --tokens: give both, and not {_others(given, reads)}")
        prediction = made.predict(**given, level=level)
    else:
        prediction = made.predict(**given, level=level)
    said = evidence(made, given)
    if as_json:
        value = {"loss": prediction.value, "low": prediction.low, "high": prediction.high, "level": level}
        answer_json(given | value | {"notes": said})
        return
    answer(f"loss {prediction.value:.4f} [{prediction.low:.4f}, {prediction.high:.4f}] {100 * level:g} %")
    for text in said:
        note(f"note: {text}")


def _carry(source: Path | None, given: dict[str, float], carry: dict[str, Any], as_json: bool) -> None:
    from .. import planning

    if not {"num_params", "tokens"} <= set(given):
        raise UserError("--params and --tokens of the model to predict are needed: --params 1e9 --tokens 20e9")
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
        to_params=given["num_params"],
        to_tokens=given["tokens"],
        alpha=carry["alpha"],
        beta=carry["beta"],
    )
    if as_json:
        answer_json({"value": value, **given, "alpha": carry["alpha"], "beta": carry["beta"]})
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


def _others(given: dict[str, float], reads: tuple[str, ...]) -> str:
    stray = [FLAGS[name] for name in given if name not in reads]
    return " or ".join(stray) if stray else "one alone"


def _pairs(options: list[str] | None, flag: str) -> dict[str, str]:
    """``name=value`` of an option that may be repeated."""
    pairs = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not (equals and name and value):
            raise UserError(f"{flag} wants name=value, not {option!r}")
        pairs[name] = value
    return pairs


def _column(value: str) -> str | float:
    """A column's name, or a number that holds in every row."""
    try:
        return float(value)
    except ValueError:
        return value

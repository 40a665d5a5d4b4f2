"""``predict``: the loss of a model that is not trained yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from .terminal.command import the_same_with
from .terminal.options import Json, Level, pairs

FLAGS = {"num_params": "--params", "tokens": "--tokens", "batch_tokens": "--batch", "unique_tokens": "--unique"}
NEEDED = "--params and --tokens of the model to predict are needed: --params 1e9 --tokens 20e9"

EXAMPLES = (
    "allometry predict fit.json --params 1B --tokens 20B",
    "allometry predict quickstart --params 1M --tokens 20M",
    "allometry predict fit.json --at experts=64 --at params=1.3B",
    "allometry predict fit.json --params 1B --tokens 20B --metric 3.1 --from-params 10M --from-tokens 200M",
)


def predict(
    source: Annotated[Path | None, typer.Argument(help="fit.json, or a study that has one.")] = None,
    params: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Parameters, counted as the fit counts them: 1e9, 1.5B.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(metavar="NUMBER", help="Training tokens: 20e9, 20B.")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Tokens of a batch, for a law that reads it.")
    ] = None,
    unique: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Unique tokens, for a law of repeated data.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="For a law of any inputs: name=value, also of a group: experts=64, model=gpt2; repeat it."),
    ] = None,
    level: Level = 0.9,
    metric: Annotated[float | None, typer.Option(help="A measured value to carry over by a power law.")] = None,
    from_params: Annotated[str | None, typer.Option(metavar="NUMBER", help="Parameters of the measured model.")] = None,
    from_tokens: Annotated[str | None, typer.Option(metavar="NUMBER", help="Tokens of the measured model.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Exponent of parameters; a fit of the power law gives it.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Exponent of tokens.")] = None,
    json: Json = False,
) -> list[str] | None:
    """Predict the loss of a model that is not trained yet, by a fit or from one measured model."""
    from ..quantities import parse_number

    options = {"num_params": params, "tokens": tokens, "batch_tokens": batch, "unique_tokens": unique}
    point = {name: parse_number(value, FLAGS[name]) for name, value in options.items() if value is not None}
    measured = {"metric": metric, "from_params": from_params, "from_tokens": from_tokens, "alpha": alpha, "beta": beta}
    if any(value is not None for value in measured.values()):
        _carry_over(source, point, measured, as_json=json)
        return ["allometry", "quickstart", "--dry-run"]  # one measured model: a ladder tells more
    elif source is not None and (fitted := _of_inputs(source)) is not None:
        given = {name: value for name, value in options.items() if value is not None}
        given |= pairs(at, "--at")
        _by_inputs(fitted, given, level, as_json=json)
        return _with_twice(given)
    elif at:
        raise UserError("--at is for a law of any inputs: fit one with --target and --input, and write it with -o")
    elif source is None:
        raise UserError("give a fit.json or a study, or --metric with --from-params, --from-tokens, --alpha, --beta")
    else:
        _by_fit(source, point, level, as_json=json)
        if tokens is not None:
            return ["allometry", "plan", str(source), "--tokens", tokens, "--dry-run"]
        return _with_twice({name: value for name, value in options.items() if value is not None})
    return None


def _with_twice(given: dict[str, str]) -> list[str]:
    """The same question with the first number beyond one twice as large, else at another level."""
    from ..quantities import format_count, parse_number

    for name, text in given.items():
        try:
            value = 2 * parse_number(text, name, signed=True)
        except UserError:  # the cell of a group
            continue
        if value <= 2:  # a rate or a proportion, of which twice as much may be nonsense
            continue
        changed = {text: format_count(value), f"{name}={text}": f"{name}={value:.6g}".replace("e+", "e")}
        return [changed.get(part, part) for part in the_same_with()]
    return the_same_with("--level", "0.5")


def _of_inputs(source: Path) -> Any:
    """A forecast of any inputs, or of several targets; None where the source is something else."""
    from .. import workflow

    return workflow.load_forecast(source)


def _by_inputs(fitted: Any, point: dict[str, str], level: float, *, as_json: bool) -> None:
    """The predictions of a law of any inputs, one a line, each with its evidence."""
    from .. import workflow
    from .terminal.output import answer, answer_json, note

    parts = workflow.predict_inputs(fitted, point, level)
    if as_json:
        answer_json([_answered(one, point) for one in parts] if len(parts) > 1 else _answered(parts[0], point))
        return
    for text in dict.fromkeys(text for one in parts for text in one.cautions):
        answer(f"caution: {text}")
    for one in parts:
        value = one.prediction
        answer(f"{one.label} {value.value:.4f} [{value.low:.4f}, {value.high:.4f}] {100 * level:g} %")
    for text in dict.fromkeys(text for one in parts for text in one.notes):
        note(f"note: {text}", verbatim=True)


def _answered(one: Any, point: dict[str, str]) -> dict[str, Any]:
    """A prediction of a law of any inputs for a machine."""
    own = {"target": one.label, **one.prediction.to_json(), "at": point}
    return own | {"cautions": one.cautions, "notes": one.notes}


def _by_fit(source: Path, point: dict[str, float], level: float, *, as_json: bool) -> None:
    """The prediction of a fit, and the evidence for it."""
    from .. import laws, workflow
    from .terminal.output import answer, answer_json, note

    fit = workflow.load_fit(source)
    inputs = fit.law.inputs if isinstance(fit, laws.Fit) else ("num_params", "tokens")
    if not point or ("num_params" in inputs and "num_params" not in point):
        raise UserError(NEEDED)
    if inputs == ("num_params", "tokens") and set(point) != set(inputs):
        stray = " or ".join(FLAGS[name] for name in point if name not in inputs) or "one alone"
        raise UserError(f"this fit predicts from --params and --tokens: give both, and not {stray}")
    prediction, cautions = workflow.predict_run(source, fit, point, level)
    notes = workflow.evidence(fit, point)
    if as_json:
        value = {"loss": prediction.value, "low": prediction.low, "high": prediction.high, "level": level}
        answer_json(point | value | {"cautions": cautions, "notes": notes})
        return
    for text in cautions:
        answer(f"caution: {text}")
    answer(f"loss {prediction.value:.4f} [{prediction.low:.4f}, {prediction.high:.4f}] {100 * level:g} %")
    for text in notes:
        note(f"note: {text}")


def _carry_over(source: Path | None, point: dict[str, float], measured: dict[str, Any], *, as_json: bool) -> None:
    """A measured value carried to another model by a power law."""
    from .. import planning
    from ..quantities import parse_number
    from .terminal.output import answer, answer_json

    if not {"num_params", "tokens"} <= set(point):
        raise UserError(NEEDED)
    if source is not None and (measured["alpha"] is None or measured["beta"] is None):
        exponents = _power_law(source)
        measured = measured | {name: exponents[name] for name in ("alpha", "beta") if measured[name] is None}
    missing = [f"--{name.replace('_', '-')}" for name, value in measured.items() if value is None]
    if missing:
        raise UserError(f"to carry a measured value over, give {', '.join(missing)} too")
    value = planning.carry(
        measured["metric"],
        from_params=parse_number(measured["from_params"], "--from-params"),
        from_tokens=parse_number(measured["from_tokens"], "--from-tokens"),
        to_params=point["num_params"],
        to_tokens=point["tokens"],
        alpha=measured["alpha"],
        beta=measured["beta"],
    )
    if as_json:
        answer_json({"value": value, **point, "alpha": measured["alpha"], "beta": measured["beta"]})
    else:
        answer(f"{value:.6g}")


def _power_law(source: Path) -> dict[str, float]:
    """The constants of the power law in a fit or forecast."""
    from .. import laws, workflow

    saved = workflow.load_fit(source)
    fits = {saved.law.name: saved} if isinstance(saved, laws.Fit) else saved.fits
    if "power" not in fits:
        raise UserError(
            f"{source}: holds no fit of the power law; run `allometry fit … --law power`, or give --alpha and --beta"
        )
    return fits["power"].values

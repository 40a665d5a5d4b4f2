"""A plan by a law of named inputs: of experts for a budget, or of a fine-tuning's samples for a loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import laws, planning
from ..errors import UserError
from ..files import write_json
from ..laws.field_names import COUNTED, KNOWN, normalise
from ..quantities import parse_number
from .listener import Listener, Note, silent

# By which usual names a law's inputs are known, as far as a plan needs them.
SIZES = frozenset((*COUNTED["active"].split(), *KNOWN["num_params"], *COUNTED["non_embedding"].split()))
EXPERTS = frozenset(("numexperts", "experts", "nexperts", "expertcount", "numberofexperts"))
SAMPLES = frozenset(
    f"{before}{word}"
    for before in ("", "n", "num", "train", "training", "numtrain")
    for word in ("samples", "examples")
)


def plan_by_inputs(
    forecast: laws.InputForecast | laws.Forecasts,
    *,
    at: Mapping[str, str] | None = None,
    level: float = 0.9,
    output: Path | None = None,
    dry_run: bool = False,
    listener: Listener = silent,
    **amounts: Any,
) -> planning.ExpertsPlan | planning.SamplesPlan:
    """Active parameters, experts and tokens for a budget, or samples for a loss, by what the law reads.

    Args:
        forecast: a law of active parameters, tokens and experts, or one of samples, by their usual names.
        at: for a law of samples: its other inputs and groups, name → value.
        level: of the intervals.
        output: where to write the plan.
        dry_run: write nothing.
        listener: receives where it was written.
        **amounts: the fields of a ``planning.Budget``; of a law of samples only ``loss``.

    Raises:
        UserError: the law reads neither, or the budget is none for it.
    """
    if isinstance(forecast, laws.Forecasts):
        raise UserError("the file holds several laws: fit the one to plan by alone, and write it with -o")
    samples = next((name for name in forecast.inputs if normalise(name) in SAMPLES), None)
    if samples is not None:
        planned = _samples(forecast, samples, at or {}, level, amounts)
    else:
        if at:
            raise UserError("--at is for a law of samples: a plan of experts chooses every input")
        planned = planning.plan_experts(
            forecast, planning.Budget(**amounts), columns=_columns(forecast.inputs), level=level
        )
    if output is not None and not dry_run:
        write_json(output, planned.to_json())
        listener(Note(f"written to {output}"))
    return planned


def planned_point(
    forecast: laws.InputForecast, planned: planning.ExpertsPlan | planning.SamplesPlan
) -> dict[str, float]:
    """What a plan chose, by the names of the law's inputs."""
    if isinstance(planned, planning.SamplesPlan):
        name = next(name for name in forecast.inputs if normalise(name) in SAMPLES)
        return {name: planned.samples}
    best, columns = planned.best, _columns(forecast.inputs)
    return {
        columns["num_params"]: best.active,
        columns["tokens"]: best.tokens,
        columns["num_experts"]: float(best.num_experts),
    }


def _columns(inputs: tuple[str, ...]) -> dict[str, str]:
    """Which input is the active size, the tokens and the experts.

    Raises:
        UserError: one is missing.
    """
    wanted = {"num_params": SIZES, "tokens": frozenset(KNOWN["tokens"]), "num_experts": EXPERTS}
    columns = {
        field: next((name for name in inputs if normalise(name) in names), None) for field, names in wanted.items()
    }
    if set(inputs) == {columns["num_params"], columns["tokens"]}:
        raise UserError(
            f"a law of size and tokens that was fitted with --input ({', '.join(inputs)}) has no plan: fit without "
            "--input, as `allometry fit TABLE -o law.json`, and plan by that"
        )
    if None in columns.values() or set(columns.values()) != set(inputs):
        raise UserError(
            f"a law that reads {', '.join(inputs)} has no plan: there are plans by laws of model size and tokens, of "
            "active parameters, tokens and experts, and of samples; to ask this law, use "
            "`allometry predict FILE --at NAME=VALUE`"
        )
    return {field: str(name) for field, name in columns.items()}


def _samples(
    forecast: laws.InputForecast, samples: str, at: Mapping[str, str], level: float, amounts: dict[str, Any]
) -> planning.SamplesPlan:
    """Samples for a loss; the rest of the inputs as ``at`` says."""
    stray = sorted(set(amounts) - {"loss"})
    if stray or "loss" not in amounts:
        raise UserError("a law of samples plans for a loss: give --loss, and no other budget")
    groups = forecast.runs.group_columns
    given = {name: str(text) if name in groups else parse_number(text, name, signed=True) for name, text in at.items()}
    unknown = [name for name in given if name not in (*forecast.inputs, *groups)]
    missing = [name for name in (*forecast.inputs, *groups) if name not in given and name != samples]
    if unknown or missing:
        word = f"this law does not read {', '.join(unknown)}; " if unknown else ""
        rest = ", ".join(f"--at {name}=…" for name in missing) or f"it plans {samples}"
        raise UserError(f"{word}give {rest}" if missing else f"{word}{rest}")
    return planning.samples_for(forecast, amounts["loss"], samples=samples, at=given, level=level)

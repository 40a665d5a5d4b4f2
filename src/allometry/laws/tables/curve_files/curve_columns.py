"""Which column of a table of loss curves holds what: one row a step, one row a value, or a chart."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ....errors import UserError
from ...field_names import KNOWN, normalise

# Normalised names, the likeliest first.
NAMES = {
    "run": ["run", "runid", "runname", "label", "name", "series", "curve", "schedule", "experiment", "id"],
    "step": [*KNOWN["steps"], "trainstep"],
    "loss": [
        "loss",
        "trainloss",
        "trainingloss",
        "trainlossstep",
        "trainlossepoch",
        "lmloss",
        "lmlosstrain",
        "celoss",
        *KNOWN["loss"],
    ],
    "lr": [*KNOWN["lr"], "lr0", "trainlr", "trainlearningrate", "currentlr"],
    "tokens": KNOWN["tokens"],
    "num_params": KNOWN["num_params"],
}
# A rate for each optimiser or group, as Lightning and torchtitan log it: lr-AdamW, lr/group0.
RATES = re.compile(r"(lr|learning_rate)[-/_.]\S+", re.IGNORECASE)
# A chart of W&B: one column a run and a metric, and its least and largest value within a stretch of steps.
CHART = re.compile(r"(.+) - (\S.*?)(__MIN|__MAX)?")


def match_curve(names: list[str], chosen: Mapping[str, str], source: str) -> dict[str, str]:
    """Field → column."""
    shown = ", ".join(names[:40])
    for key, column in chosen.items():
        if key not in NAMES:
            raise UserError(f"columns: no field {key!r} of a curve; known are {', '.join(NAMES)}")
        if column not in names:
            raise UserError(f"{source}: no column {column!r} for {key}; found: {shown}")
    taken = {}
    for key, words in NAMES.items():
        matches = [name for word in words for name in names if normalise(name) == word]
        if key in chosen or matches:
            taken[key] = chosen.get(key) or matches[0]
    rates = [name for name in names if RATES.fullmatch(name)]
    if "lr" not in taken and rates:
        taken["lr"] = rates[0]
    values = {normalise(name): name for name in names}
    if "loss" not in taken and {"walltime", "value"} <= values.keys():  # a curve that TensorBoard exported
        taken["loss"] = values["value"]
    if "loss" not in taken:
        named = [name for name in names if "loss" in normalise(name)]
        if len(named) > 1:
            raise UserError(
                f"{source}: several columns could be the loss ({', '.join(named[:12])}); "
                f"say which, e.g. columns={{'loss': {named[0]!r}}}"
            )
        taken |= {"loss": named[0]} if named else {}
    if "loss" not in taken or not {"step", "tokens"} & set(taken):
        raise UserError(f"{source}: a curve needs columns step (or tokens) and loss; found: {shown}")
    return taken


def needed_of_curve(names: list[str], chosen: Mapping[str, str], source: str) -> list[str]:
    """The columns to read: those of a curve, and those of a few words that may tell runs apart."""
    if not chosen and (chart_columns(names) or metric_column(names)):
        return names
    taken = match_curve(names, chosen, source)
    return list(taken.values()) if "run" in taken else names


def metric_column(names: list[str]) -> str | None:
    """The column that names the metric of each row, in a table with one value a row; None in any other."""
    plain = {normalise(name): name for name in names}
    if not {"value", "step"} <= plain.keys() or "loss" in plain:
        return None
    return next((plain[word] for word in ("tag", "metric", "metricname", "key") if word in plain), None)


def chart_columns(names: list[str]) -> dict[str, str]:
    """Run → its column of losses, in a chart that was exported from W&B; empty for any other table."""
    filled = [(one, match) for one in names if (match := CHART.fullmatch(one)) and not match.group(3)]
    metrics = list(dict.fromkeys(match.group(2) for _, match in filled if "loss" in normalise(match.group(2))))
    if not metrics or any(normalise(name) == "loss" for name in names):
        return {}
    metric = next((one for one in metrics if "train" in normalise(one)), metrics[0])
    return {match.group(1): name for name, match in filled if match.group(2) == metric}

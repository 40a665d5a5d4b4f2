"""How plans and outcomes show themselves in a notebook: see :mod:`allometry.cards`.

The functions take the records as they are and import none of their modules, which call them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cards import Card, Chart
from ..cards.chart import Dot
from ..quantities import format_count, format_flops, format_seconds

WARNINGS = 3
POINTS = 41  # of the curve through three predictions


def plan_card(plan: Any) -> Card:
    """Of a ``Plan``: the model and its tokens, the loss to expect, and what another size would cost."""
    interval = "" if plan.low is None else f" [{plan.low:.4g}, {plan.high:.4g}] at {plan.level:.0%}"
    exact = plan.flops_exact or plan.flops
    time = "" if plan.seconds is None else f" It takes {format_seconds(plan.seconds)} by the speed that was given."
    return Card(
        f"Plan: {format_count(plan.num_params)} parameters on {format_count(plan.tokens)} tokens",
        "What to train for a budget, written down before the training, with the loss to expect.",
        f"Train {format_count(plan.num_params)} parameters on {format_count(plan.tokens)} tokens "
        f"({plan.tokens_per_param:.3g} a parameter, {format_flops(exact)} FLOPs), batch {format_count(plan.batch)} "
        f"tokens, learning rate {plan.lr:.3g} ({plan.rule}). Expect a loss of {plan.loss:.4g}{interval}.{time}",
        _sure(plan),
        "`workflow.train_plan(path)` or `allometry train plan.json` trains it and compares."
        if plan.run is not None
        else '`plan.save("plan.json")`, and train it with your own code; `allometry scale` compares other rules.',
        _sizes(plan),
        plan.cautions[:WARNINGS],
        plan.summary(),
    )


def _sure(plan: Any) -> str:
    parts = []
    if plan.low is None:
        parts.append("The law gives no interval.")
    else:
        parts.append(f"{plan.level:.0%} of such runs should end between {plan.low:.4g} and {plan.high:.4g}.")
    if plan.basin is not None:
        low, high = plan.basin.within_0_5_percent
        parts.append(f"Sizes from {format_count(low)} to {format_count(high)} are within 0.5 % of the best.")
    if plan.notes:
        parts.append(f"Note: {plan.notes[0]}.")
    return " ".join(parts)


def _sizes(plan: Any) -> str:
    """The loss of half, planned and double size for this budget, with the sizes that are nearly as good."""
    chart = Chart(
        f"model size (parameters) at {format_flops(plan.flops_exact or plan.flops)} FLOPs",
        "predicted loss",
        "Predicted loss of the planned size and of others for the same budget",
        form_x=lambda x: format_count(x),
        form_y=lambda y: f"{y:.4g}",
        log_y=False,
    )
    basin = plan.basin
    if basin is not None and basin.cost_of_half_size is not None and basin.cost_of_double_size is not None:
        for rise, (low, high) in (("0.5", basin.within_0_5_percent), ("0.1", basin.within_0_1_percent)):
            chart.span(low, high, f"within {rise} % of the best loss")
        octaves = np.linspace(-1, 1, POINTS)
        half, double = basin.cost_of_half_size, basin.cost_of_double_size
        rise = (half + double) / 2 * octaves**2 + (double - half) / 2 * octaves
        chart.line((plan.num_params * 2.0**octaves).tolist(), (plan.loss * (1 + rise)).tolist(), "other sizes")
        costs = ((0.5, half, "half"), (2.0, double, "twice"))
        chart.dots += [
            Dot(plan.num_params * factor, plan.loss * (1 + cost), f"{name} the size: loss {cost:+.2%}")
            for factor, cost, name in costs
        ]
        chart.target(plan.num_params, plan.loss, None, None, "planned")
    else:
        chart.target(plan.num_params, plan.loss, plan.low, plan.high, "planned")
    return chart.svg()


def outcome_card(outcome: Any) -> Card:
    """Of an ``Outcome``: the loss that was predicted, with its interval, and the one that came out."""
    where = {True: "inside the interval", False: "outside the interval", None: "without an interval"}[outcome.inside]
    side = "above" if outcome.predicted > outcome.actual else "below"
    reach = (
        "" if outcome.compute_ratio is None else f" It took {outcome.compute_ratio:.3g}× the largest rung's compute."
    )
    chart = Chart("", "held-out loss", "Predicted and actual loss", False, False, form_x=lambda x: "")
    chart.target(0.0, outcome.predicted, outcome.low, outcome.high, "predicted")
    chart.dots.append(Dot(0.15, outcome.actual, f"actual {outcome.actual:.4f}", 1.0))
    chart.line([-0.4, 0.55], [outcome.actual, outcome.actual], "actual")
    return Card(
        f"Predicted {outcome.predicted:.4f}, actual {outcome.actual:.4f}: {where}",
        "A plan's prediction, written before the training, against the loss of the trained model.",
        f"The prediction was {abs(outcome.relative_error):.2%} {side} the actual loss.{reach}",
        "One outcome proves little: an interval at "
        f"{outcome.level:.0%} misses one time in {round(1 / max(1 - outcome.level, 1e-9))}."
        + (f" The run's record says: {outcome.note}." if outcome.note else ""),
        "`allometry report STUDY` writes the page of the study.",
        chart.svg(),
        (),
        "\n".join(f"{name}: {value}" for name, value in outcome.to_json().items()),
    )

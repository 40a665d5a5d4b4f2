"""``scale``: a baseline at another size, by each published rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .terminal.command import the_same_with
from .terminal.options import Json

EXAMPLES = (
    "allometry scale --params 100M --batch 500k --lr 0.002 --factor 10",
    "allometry scale --params 100M --batch 500k --lr 0.002 --factor 10 --tokens 2B --rule step_law",
)


def scale(
    params: Annotated[str, typer.Option(metavar="NUMBER", help="Size of the baseline (model size M).")],
    batch: Annotated[str, typer.Option(metavar="NUMBER", help="Its batch B, in whatever unit.")],
    lr: Annotated[float, typer.Option(help="Its learning rate L.")],
    factor: Annotated[float, typer.Option(help="How many times larger the model is to be.")],
    tokens: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Tokens of the baseline; they grow with the size.")
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only these rules.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw, adam or sgd.")] = "adamw",
    json: Json = False,
) -> list[str]:
    """Scale a baseline to another size by each published rule, and compare."""
    from .. import planning
    from ..planning.batch_and_rate.settings import DEFAULT_RULE
    from ..quantities import parse_number
    from .terminal.output import answer, answer_json

    scaled = planning.carry_baseline(
        parse_number(params, "--params"),
        parse_number(batch, "--batch"),
        parse_number(str(lr), "--lr"),
        parse_number(str(factor), "--factor"),
        tokens=None if tokens is None else parse_number(tokens, "--tokens"),
        names=rule or None,
        optimizer=optimizer,
    )
    answer_json({name: one.to_json() for name, one in scaled.items()}) if json else answer(_table(scaled))
    if rule is None and DEFAULT_RULE in scaled:
        return the_same_with("--rule", DEFAULT_RULE)
    return ["allometry", "quickstart", "--dry-run"]  # rules are of other people's runs: measure


def _table(scaled: Mapping[str, Any]):
    """A rule in each row: what it gives, and the evidence for it."""
    from rich.markup import escape
    from rich.table import Table

    from ..quantities import format_count

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rule", "params", "batch", "lr"):
        table.add_column(name, no_wrap=True, justify="left" if name == "rule" else "right")
    table.add_column("source, and the evidence for or against it", overflow="fold")
    show = lambda value, form: "–" if value is None else form(value)
    for name, one in scaled.items():
        words = escape(" ".join(filter(None, (f"{one.source}.", one.note, one.evidence))))
        lr = show(one.lr, lambda x: f"{x:.4g}")
        table.add_row(name, show(one.params, format_count), show(one.batch, format_count), lr, words)
    return table

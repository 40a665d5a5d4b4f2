"""``fit``: laws from a table of runs or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Json, pairs


def fit(
    source: Annotated[
        Path, typer.Argument(help="A study, or a table of runs (CSV, TSV, JSONL, Parquet): parameters, tokens, loss.")
    ],
    law: Annotated[
        list[str] | None,
        typer.Option(help="chinchilla, skaling, power, kaplan, farseer, …; default: several, weighted by a backtest."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Which column holds a field: loss=c4_loss, num_params=size*1e6; lr=0.01, lr=none."),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only these rows: dataset=c4.")] = None,
    counted: Annotated[
        str | None, typer.Option(help="Which parameters to take: non_embedding, total or matmul.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="The column to predict; may be repeated.", rich_help_panel="Any inputs")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="A column to predict it from; repeat it.", rich_help_panel="Any inputs"),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="A column whose cells have constants of their own.", rich_help_panel="Any inputs"),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="A column: fit a law for each of its cells.", rich_help_panel="Any inputs")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help='What a run took: a column, or "6*N*D".', rich_help_panel="Any inputs")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="For a single law: huber (default), log_squares or squares.", rich_help_panel="One law"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Where huber turns linear; 0.001 by default.", rich_help_panel="One law")
    ] = None,
    isoflop: Annotated[
        bool, typer.Option("--isoflop", help="The best size for each budget, from the minima of the budgets run.")
    ] = False,
    level: Annotated[
        float | None, typer.Option(help="Level of the constants' intervals; 0.9 by default.", rich_help_panel="One law")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the fit; a study's: fit.json.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page that opens offline and answers for other budgets.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit scaling laws to a table of runs, test them on its largest runs, and weigh them."""
    from .. import laws, workflow
    from ..errors import UserError
    from ..laws.law_table import INPUTS as SIZES
    from ..report import check_page, write_law_page
    from ..workflow.listener import Note
    from .terminal.output import answer, answer_json, as_options
    from .terminal.progress import Terminal

    columns = {name: _column(value) for name, value in pairs(column, "--column").items()} or None
    if level is not None:
        laws.check_level(level)
        if law is None or len(law) != 1:
            raise UserError("--level is for the constants of one law: name it with --law, as --law chinchilla")
    others = target or inputs or group or by or cost or isoflop
    if html is not None and (others or any(form.inputs != SIZES for form in map(laws.LAWS.get, law or ()) if form)):
        check_page(None)
    rows, listener = pairs(where, "--where") or None, Terminal(as_json=json)
    if target or inputs or group or by or cost:
        if law or isoflop or objective or delta:
            raise UserError("--target, --input, --group, --by, --cost take no --law, --isoflop, --objective, --delta")
        fitted = workflow.fit_inputs(
            source,
            target or (),
            inputs or (),
            group or (),
            by=by,
            cost=cost,
            columns=columns,
            where=rows,
            counted=counted,
            output=output,
            listener=listener,
        )
    elif not isoflop:
        fitted = workflow.fit_runs(
            source,
            law,
            objective=objective,
            delta=delta,
            columns=columns,
            where=rows,
            counted=counted,
            output=output,
            listener=listener,
        )
    elif law:
        raise UserError("--isoflop takes no --law: it reads the minima of the budgets themselves")
    elif objective is not None or delta is not None:
        raise UserError("--isoflop takes no --objective and no --delta: they are for the fit of one law")
    else:
        fitted = workflow.fit_isoflop(
            source, columns=columns, where=rows, counted=counted, output=output, listener=listener
        )
    if html is not None:
        predictor = check_page(fitted)
        runs = predictor.runs if isinstance(predictor, laws.Forecast) else None
        if runs is None:
            runs = laws.Observations.read(source, columns=columns, where=rows, counted=counted)
        listener(Note(f"page written to {write_law_page(predictor, runs, html, source.resolve().name)}"))
    if json:
        answer_json(fitted.to_json())
    else:
        answer(as_options(fitted.summary(level=level or 0.9) if isinstance(fitted, laws.Fit) else fitted.summary()))


def _column(value: str) -> str | float | None:
    """A column's name, a number that holds in every row, or None for no column."""
    if value.lower() == "none":
        return None
    try:
        return float(value)
    except ValueError:
        return value

"""``fit``: laws from a table of runs or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.command import free_name, the_same_with, without_options
from .terminal.complete import law_names
from .terminal.options import Counted, Json, pairs

INPUTS, ONE = "A law of any inputs", "One law"
EXAMPLES = (
    "allometry fit quickstart",
    "allometry fit runs.csv -o fit.json --html page.html",
    "allometry fit runs.csv --law chinchilla --column loss=c4_loss --where dataset=c4",
    "allometry fit runs.csv --target accuracy --input experts --input params --group corpus -o fit.json",
)
Source = Annotated[
    Path, typer.Argument(help="A study, or a table of runs (CSV, TSV, JSONL, Parquet): parameters, tokens, loss.")
]
Law = Annotated[
    list[str] | None,
    typer.Option(
        help="chinchilla, skaling, power, kaplan, farseer, …; default: several, weighted by a backtest.",
        autocompletion=law_names,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Which column holds a field: loss=c4_loss, num_params=size*1e6; lr=0.01, lr=none."),
]
Where = Annotated[list[str] | None, typer.Option(help="Only these rows: dataset=c4.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="The column to predict; may be repeated.", rich_help_panel=INPUTS),
]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", help="A column to predict it from; repeat it.", rich_help_panel=INPUTS)
]
Groups = Annotated[
    list[str] | None,
    typer.Option("--group", help="A column whose cells have constants of their own.", rich_help_panel=INPUTS),
]
By = Annotated[str | None, typer.Option(help="A column: fit a law for each of its cells.", rich_help_panel=INPUTS)]
Cost = Annotated[str | None, typer.Option(help='What a run took: a column, or "6*N*D".', rich_help_panel=INPUTS)]
Objective = Annotated[str | None, typer.Option(help="huber (default), log_squares or squares.", rich_help_panel=ONE)]
Delta = Annotated[float | None, typer.Option(help="Where huber turns linear; 0.001 by default.", rich_help_panel=ONE)]
LevelOfConstants = Annotated[
    float | None, typer.Option(help="Level of the constants' intervals; 0.9 by default.", rich_help_panel=ONE)
]
Slices = Annotated[
    bool, typer.Option("--isoflop", help="The best size for each budget, from the minima of the budgets run.")
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the fit; a study's: fit.json.")]
Page = Annotated[
    Path | None, typer.Option("--html", help="Write a page that opens offline and answers for other budgets or inputs.")
]


def fit(
    source: Source,
    law: Law = None,
    column: Columns = None,
    where: Where = None,
    counted: Counted = None,
    target: Targets = None,
    inputs: Inputs = None,
    group: Groups = None,
    by: By = None,
    cost: Cost = None,
    objective: Objective = None,
    delta: Delta = None,
    isoflop: Slices = False,
    level: LevelOfConstants = None,
    output: Output = None,
    html: Page = None,
    json: Json = False,
) -> list[str] | None:
    """Fit scaling laws to a table of runs or a study, and weigh them by a test on the largest runs."""
    from ..files import check_replaceable
    from .terminal.output import answer, answer_json, as_options
    from .terminal.progress import Terminal

    of_inputs = {"targets": target or (), "inputs": inputs or (), "groups": group or (), "by": by, "cost": cost}
    of_one_law = {"objective": objective, "delta": delta}
    _check_choice(law, of_inputs, of_one_law, level, isoflop=isoflop)
    if html is not None:
        _check_page(law)
    for path in (output, html):
        if path is not None:
            check_replaceable(path)  # a fit may take minutes
    shared = {
        "columns": {name: _column(value) for name, value in pairs(column, "--column").items()} or None,
        "where": pairs(where, "--where") or None,
        "counted": counted,
        "output": output,
        "listener": Terminal(as_json=json),
    }
    fitted = _fitted(source, law, of_inputs, of_one_law, shared, isoflop=isoflop)
    if html is not None:
        _write_page(source, fitted, html, shared)
    answer_json(fitted.to_json()) if json else answer(as_options(_summary(fitted, level)))
    return _next(source, fitted, output)


def _check_choice(
    law: list[str] | None,
    of_inputs: dict[str, Any],
    of_one_law: dict[str, Any],
    level: float | None,
    *,
    isoflop: bool,
) -> None:
    """Refuse options that belong to different kinds of fit."""
    from .. import laws
    from ..errors import UserError

    single = [f"--{name}" for name, value in of_one_law.items() if value is not None]
    if law is not None and (twice := sorted({name for name in law if law.count(name) > 1})):
        raise UserError(f"--law {twice[0]} is given twice; give each law once")
    for name in law or ():
        laws.law(name)  # before a long table is read
    if level is not None:
        laws.check_level(level)
        if law is None or len(law) != 1:
            raise UserError("--level is for the constants of one law: name it with --law, as --law chinchilla")
    if any(of_inputs.values()) and (law or isoflop or single):
        raise UserError("--target, --input, --group, --by, --cost take no --law, --isoflop, --objective, --delta")
    if isoflop and law:
        raise UserError("--isoflop takes no --law: it reads the minima of the budgets themselves")
    if isoflop and single:
        raise UserError("--isoflop takes no --objective and no --delta: they are for the fit of one law")


def _fitted(
    source: Path,
    law: list[str] | None,
    of_inputs: dict[str, Any],
    of_one_law: dict[str, Any],
    shared: dict[str, Any],
    *,
    isoflop: bool,
) -> Any:
    """The fit of the kind that the options ask for."""
    from .. import workflow

    if any(of_inputs.values()):
        named = (of_inputs[name] for name in ("targets", "inputs", "groups"))
        return workflow.fit_inputs(source, *named, by=of_inputs["by"], cost=of_inputs["cost"], **shared)
    if isoflop:
        return workflow.fit_isoflop(source, **shared)
    return workflow.fit_runs(source, law, **of_one_law, **shared)


def _check_page(law: list[str] | None) -> None:
    """Refuse a page of what has none, before anything is fitted."""
    from .. import laws
    from ..laws.law_table import INPUTS as SIZES
    from ..report import check_page

    if any(form.inputs != SIZES for form in map(laws.LAWS.get, law or ()) if form):
        check_page(None)


def _write_page(source: Path, fitted: Any, html: Path, shared: dict[str, Any]) -> None:
    """The page of a law that answers for other budgets or inputs, with the runs that it was fitted to."""
    from .. import laws
    from ..report import check_page, write_inputs_page, write_isoflop_page, write_law_page
    from .terminal.output import as_options, note

    name = source.resolve().name
    if isinstance(fitted, laws.InputForecast | laws.Forecasts):
        note(f"page written to {write_inputs_page(fitted, html, name, as_options)}")
        return
    if isinstance(fitted, laws.IsoFlop):
        note(f"page written to {write_isoflop_page(fitted, html, name, as_options)}")
        return
    predictor = check_page(fitted)
    if isinstance(predictor, laws.Forecast):
        runs = predictor.runs
    else:
        runs = laws.Observations.read(source, **{name: shared[name] for name in ("columns", "where", "counted")})
    note(f"page written to {write_law_page(predictor, runs, html, name, as_options)}")


def _summary(fitted: Any, level: float | None) -> str:
    from .. import laws

    return fitted.summary(level=level or 0.9) if isinstance(fitted, laws.Fit) else fitted.summary()


def _next(source: Path, fitted: Any, output: Path | None) -> list[str] | None:
    """What follows: a file of the fit, then a plan for ten times the compute, or a prediction."""
    from .. import laws

    if isinstance(fitted, laws.IsoFlop):
        same = [part for part in the_same_with() if part != "--isoflop"]
        return without_options(same, "--html", "-o", "--output")  # its files hold this answer
    own = source.is_dir() and output is None  # the study keeps it
    if not own and output is None:
        return the_same_with("-o", free_name("fit.json"))
    place = str(source if own else output)
    first = fitted.parts[0].forecast if isinstance(fitted, laws.Forecasts) else fitted
    if isinstance(first, laws.InputForecast):
        return ["allometry", "predict", place, *_last_run(first.runs)]
    if not {"num_params", "tokens"} <= set(first.range):
        return None
    if first is not fitted:
        sizes = (f"{2 * first.range[name][1]:.3g}" for name in ("num_params", "tokens"))
        return [
            "allometry",
            "predict",
            place,
            *(part for pair in zip(("--params", "--tokens"), sizes, strict=True) for part in pair),
        ]
    if own and (source / "calibration.json").is_file():  # it knows its own speed
        return ["allometry", "plan", place, "--hours", "1"]
    return ["allometry", "plan", place, "--flops", f"{10 * first.range['flops'][1]:.1e}".replace("e+", "e")]


def _last_run(runs: Any) -> list[str]:
    """Options of ``predict`` for the last run of a table."""
    point = {name: f"{value:.6g}".replace("e+", "e") for name, value in zip(runs.inputs, runs.points[-1], strict=True)}
    point |= runs.cells_of(runs.group[-1])
    return [part for name, value in point.items() for part in ("--at", f"{name}={value}")]


def _column(value: str) -> str | float | None:
    """A column's name, a number that holds in every row, or None for no column."""
    if value.lower() == "none":
        return None
    try:
        return float(value)
    except ValueError:
        return value

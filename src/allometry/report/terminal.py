"""Tables for the terminal, by Rich."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from .. import laws
from ..planning import Plan
from ..runs.study import Study
from . import law_tables, tables
from .cells import ReportTable

_STYLES = {"diverged": "red", "target": "bold", "": ""}


def runs_table(study: Study) -> Table:
    """The runs of a study."""
    return to_rich(tables.runs(study.records()))


def fit_table(predictor: laws.Fit | laws.Forecast) -> Table:
    """The laws of a fit or forecast."""
    return to_rich(law_tables.law_weights(predictor))


def plan_table(plan: Plan) -> Table:
    """A plan."""
    return to_rich(law_tables.plan(plan))


def to_rich(table: ReportTable) -> Table:
    """A table for Rich. Brackets in cells are text, not markup."""
    rich_table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in table.columns:
        rich_table.add_column(Text(name), justify="left" if name in table.words else "right")
    for row in table.rows:
        rich_table.add_row(*(Text(cell.text) for cell in row.cells), style=_STYLES[row.mark])
    return rich_table

"""A page for the minima of budgets: the valleys, the best sizes through them, and the best size of a budget to ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import laws
from ..files import replace_file
from ..laws.isoflop_slices.isoflop import QUANTITIES
from ..laws.isoflop_slices.isoflop_table import isoflop_table
from ..laws.law_table import LEVELS
from ..quantities import format_count, format_flops, plural
from . import cells, sentences
from .cells import NONE, ReportCell, ReportTable, row
from .html import Picture, rendered
from .question import BEYOND, as_json, machines

LEVEL = 0.9
MOST_ROWS = 200  # of the table of runs


def write_isoflop_page(
    isoflop: laws.IsoFlop, path: Path | str, source: str, wording: Callable[[str], str] = str
) -> Path:
    """Write the page of an IsoFLOP analysis; the old file stays until the new one is complete.

    Args:
        isoflop: what ``laws.isoflop`` returns.
        source: the name of the table, for people.
        wording: of the notes; the command line names its options instead of arguments.

    Raises:
        OSError: the page cannot be written there.
    """
    replace_file(Path(path), render_isoflop(isoflop, source, wording).encode("utf-8"))
    return Path(path)


def render_isoflop(isoflop: laws.IsoFlop, source: str, wording: Callable[[str], str] = str) -> str:
    """The page as text."""
    num_runs = sum(len(one.labels) for one in isoflop.budgets)
    return rendered(
        "isoflop.html.j2",
        ("ground.js", "isoflop_law.js", "form_parts.js", "curve.js", "budget_form.js", "ask_isoflop.js"),
        question=as_json(question(isoflop)),
        source=source,
        verdict=_verdict(isoflop),
        cautions=[wording(note) for note in isoflop.notes],
        pictures={"isoflop": _picture(isoflop)},
        tables={"frontier": _frontier(isoflop), "budgets": _budgets(isoflop), "runs": _runs(isoflop)},
        law_notes=_law_notes(isoflop),
        left_out=f"The first {MOST_ROWS} of {num_runs} runs." if num_runs > MOST_ROWS else "",
    )


def question(isoflop: laws.IsoFlop) -> dict[str, Any]:
    """What the page is told: the table, the minima to draw, machines, where to begin."""
    table = isoflop_table(isoflop)
    least, most = table["range"]
    return {
        "table": table,
        "minima": [{"flops": s.flops, "num_params": s.num_params, "loss": s.loss} for s in isoflop.accepted],
        "machines": machines(),
        "start": {"flops": BEYOND * most, "flops_range": [least / 10, 1e4 * most], "level": LEVELS.index(LEVEL)},
    }


def _verdict(isoflop: laws.IsoFlop) -> str:
    """The analysis in one paragraph."""
    accepted = isoflop.accepted
    span = " to ".join(format_flops(ends(one.flops for one in accepted)) for ends in (min, max))
    flops = BEYOND * max(one.flops for one in accepted)
    size, tokens, loss = (getattr(isoflop, name)(flops, LEVEL) for name in (*QUANTITIES, "loss"))
    low, high = isoflop.intervals_at(LEVEL)["num_params"]
    interval = " to ".join(format_count(float(end)) for end in (size.low, size.high))
    return (
        f"{len(accepted)} of {plural(len(isoflop.budgets), 'budget')} of compute ({span} FLOPs) have a best size "
        f"between the sizes that were run. Through them the best size grows as C^{isoflop.exponents['num_params']:.3f} "
        f"[{low:.3f}, {high:.3f}] and the tokens as C^{isoflop.exponents['tokens']:.3f}. With ten times the largest of "
        f"these budgets the best size is {format_count(float(size.value))} parameters ({LEVEL:.0%} interval "
        f"{interval}) on {format_count(float(tokens.value))} tokens, with a loss of {float(loss.value):.4g}."
    )


def _law_notes(isoflop: laws.IsoFlop) -> list[str]:
    counted = "an unknown count of" if isoflop.counted == "unknown" else isoflop.counted.replace("_", "-")
    lines = [
        f"N is {counted} parameters, C the compute of the table.",
        f"A run's noise is {isoflop.sigma:.2%} of its loss.",
    ]
    if isoflop.scatter:
        lines.append(f"The minima scatter by {isoflop.scatter:.1%} in N* beyond that noise; the intervals hold it.")
    if isoflop.reach != float("inf"):
        lines.append(f"Runs {isoflop.reach:.1%} above the best of their budget count half.")
    return lines


def _picture(isoflop: laws.IsoFlop) -> Picture:
    from .pictures import law_drawn
    from .pictures.inline_svg import on_page

    return Picture(*sentences.VALLEYS, on_page(law_drawn.isoflop(isoflop), "isoflop", ". ".join(sentences.VALLEYS)))


def _frontier(isoflop: laws.IsoFlop) -> ReportTable:
    """The power laws with their intervals."""
    exponents, coefficients = (isoflop.intervals_at(LEVEL, of) for of in ("exponents", "coefficients"))
    span = lambda pair: ReportCell(f"{pair[0]:.4g} to {pair[1]:.4g}", f"{pair[0]!r} to {pair[1]!r}")
    rows = [
        row(
            f"{symbol} = k·C^a",
            cells.number(isoflop.exponents[name]),
            span(exponents[name]),
            cells.number(isoflop.coefficients[name]),
            span(coefficients[name]),
        )
        for name, symbol in QUANTITIES.items()
    ]
    interval = f"{LEVEL:.0%} interval"
    return ReportTable(("best", "a", interval, "k", f"its {interval}"), tuple(rows), frozenset({"best"}))


def _budgets(isoflop: laws.IsoFlop) -> ReportTable:
    """A row for each budget: its minimum with its interval, or why it has none."""
    rows = []
    for one in isoflop.budgets:
        head = cells.flops(one.flops), str(len(one.labels))
        if one.refused:
            rows.append(row(*head, *[NONE] * 5, one.refused))
            continue
        ratio = one.tokens / one.num_params
        rows.append(
            row(
                *head,
                cells.count(one.num_params),
                cells.span((one.low, one.high)),
                cells.count(one.tokens),
                ReportCell(f"{ratio:.3g}", repr(ratio)),
                cells.loss(one.loss),
                "",
            )
        )
    columns = (
        "budget (FLOPs)",
        "runs",
        "best size",
        "90% interval",
        "tokens",
        "tokens per parameter",
        "loss",
        "no minimum",
    )
    return ReportTable(columns, tuple(rows), frozenset({"no minimum"}))


def _runs(isoflop: laws.IsoFlop) -> ReportTable:
    """The runs of the budgets, budget by budget."""
    rows = [
        row(label, cells.flops(one.flops), cells.count(float(size)), cells.loss(float(loss)))
        for one in isoflop.budgets
        for label, size, loss in zip(one.labels, one.run_params, one.run_loss, strict=True)
    ]
    return ReportTable(("run", "budget (FLOPs)", "params", "loss"), tuple(rows[:MOST_ROWS]), frozenset({"run"}))

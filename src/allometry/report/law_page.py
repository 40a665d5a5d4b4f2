"""A page for the law of anybody's table of runs: what it says, how well it predicted, and the law to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import laws, planning
from ..errors import UserError
from ..files import replace_file
from ..laws.law_table import has_table
from ..quantities import format_count, format_flops, plural
from . import cells, law_tables, sentences
from .cells import ReportTable, row
from .html import Picture, rendered
from .question import BEYOND, LAW_SCRIPTS, PageSettings, Predictor, question
from .study_contents import weights_of

MOST_ROWS = 200  # of the table of runs
LEVEL = 0.9
FEWEST_FOR_SURFACE = 12
MOST_FOR_SWEEPS = 5000  # runs; no table of more is a few sweeps


def check_page(predictor: object) -> Predictor:
    """A law of model size and tokens, about which a page can be written.

    Raises:
        UserError: another law.
    """
    if not isinstance(predictor, laws.Fit | laws.Forecast) or not has_table(predictor):
        raise UserError(
            "a page is made of laws of model size and tokens, of any inputs that --target and --input name, or of "
            "--isoflop: leave out --html, or fit without --law of other inputs"
        )
    return predictor


def write_law_page(
    predictor: Predictor, runs: laws.Observations, path: Path | str, source: str, wording: Callable[[str], str] = str
) -> Path:
    """Write the page of a law and of the runs that it was fitted to; the old file stays until the new one is complete.

    Args:
        predictor: a fit or forecast for which ``check_page`` passes.
        runs: these runs.
        source: the name of the table, for people.
        wording: of the notes; the command line names its options instead of arguments.

    Raises:
        UserError: a law of other inputs than size and tokens.
        OSError: the page cannot be written there.
    """
    replace_file(Path(path), render_law(check_page(predictor), runs, source, wording).encode("utf-8"))
    return Path(path)


def render_law(predictor: Predictor, runs: laws.Observations, source: str, wording: Callable[[str], str] = str) -> str:
    """The page as text."""
    return rendered(
        "law.html.j2",
        LAW_SCRIPTS,
        question=question(predictor, settings=PageSettings.published(), level=LEVEL),
        unaskable=False,
        unit="",
        source=source,
        verdict=_verdict(predictor, runs),
        cautions=[wording(note) for note in predictor.notes],
        pictures=_pictures(predictor, runs),
        tables={
            "laws": law_tables.law_weights(predictor),
            "constants": law_tables.constants(predictor),
            "runs": _runs(runs),
        },
        law_notes=[line for line in sentences.law_notes(predictor) if line not in predictor.notes],
        left_out=f"The {MOST_ROWS} runs of most compute, of {len(runs)}." if len(runs) > MOST_ROWS else "",
    )


def _verdict(predictor: Predictor, runs: laws.Observations) -> str:
    """The law in one paragraph."""
    spans = {name: predictor.range[name] for name in ("num_params", "tokens", "flops")}
    counts = {name: " to ".join(map(format_count, spans[name])) for name in ("num_params", "tokens")}
    best = next(iter(weights_of(predictor)))
    words = f"The law {best} was fitted to them."
    if isinstance(predictor, laws.Forecast):
        several = len(predictor.fits) > 1
        words = f"{'Of the laws fitted to them ' if several else ''}{best} has the weight {predictor.weights[best]:.2f}"
        scores = dict(predictor.backtest.ranking())
        tested = f"; together they predicted held-out runs {scores['forecast']:.2%} off" if "forecast" in scores else ""
        words += f"{tested}."
    return (
        f"{plural(len(runs), 'run')} of {counts['num_params']} parameters on {counts['tokens']} tokens "
        f"({' to '.join(map(format_flops, spans['flops']))} FLOPs). {words} {_ten_times(predictor)}"
    )


def _ten_times(predictor: Predictor) -> str:
    """What ten times the compute of the largest run would buy."""
    try:
        best = planning.optimal(predictor, BEYOND * predictor.range["flops"][1], level=LEVEL)
    except UserError as error:
        return f"Ten times the compute of the largest run cannot be answered: {error}."
    interval = "" if best.low is None else f" [{best.low:.4g}, {best.high:.4g}] ({LEVEL:.0%} interval)"
    return (
        f"With ten times the compute of the largest run it expects a loss of {best.loss:.4g}{interval}, of "
        f"{format_count(best.num_params)} parameters on {format_count(best.tokens)} tokens."
        + (" That size is no optimum of the law, which has none here." if best.at_edge else "")
    )


def _pictures(predictor: Predictor, runs: laws.Observations) -> dict[str, Picture]:
    """Every picture for which the runs have data."""
    from .pictures import evidence, law_data, law_drawn, study_drawn
    from .pictures.inline_svg import on_page

    drawings = {"frontier": law_drawn.frontier(law_data.frontier(predictor, runs, LEVEL))}
    if len(runs) <= MOST_FOR_SWEEPS:
        if valleys := _if_possible(lambda: laws.isoflop(runs)):
            drawings["isoflop"] = law_drawn.isoflop(valleys)
        if surface := _if_possible(lambda: _surface(runs)):
            drawings["surface"] = law_drawn.surface(surface)
    if isinstance(predictor, laws.Forecast):
        if errors := evidence.law_errors(predictor):
            drawings["backtest"] = study_drawn.backtest(errors)
        if held := law_data.backtest_calibration(predictor):
            drawings["calibration"] = law_drawn.calibration(held)
    captions = sentences.law_captions(f"{LEVEL:.0%}", min(len(runs), law_data.MOST_POINTS) < len(runs))
    return {
        name: Picture(*captions[name], on_page(drawn, name, ". ".join(captions[name])))
        for name, drawn in drawings.items()
    }


def _surface(runs: laws.Observations) -> Any:
    """The surface of learning rate and batch where most of its runs are; None without a sweep.

    Raises:
        UserError: the runs determine no surface.
    """
    from .pictures import law_data

    if not {"lr", "batch_tokens"} <= set(runs.extra) or len(runs) < FEWEST_FOR_SURFACE:
        return None
    lr, batch = runs.column("lr"), runs.column("batch_tokens")
    if not all(np.all(np.isfinite(x) & (x > 0)) and np.ptp(np.log(x)) > 0.5 for x in (lr, batch)):
        return None
    places, counts = np.unique(np.stack([runs.num_params, runs.tokens]), axis=1, return_counts=True)
    size, tokens = places[:, np.flatnonzero(counts == counts.max())[-1]]
    return law_data.surface_slice(planning.surface(runs), runs, float(size), float(tokens), LEVEL)


def _if_possible(result: Callable[[], Any]) -> Any:
    """A result, or None where the runs do not give it."""
    try:
        return result()
    except UserError:
        return None


def _runs(runs: laws.Observations) -> ReportTable:
    """The runs of most compute, the largest first."""
    order = np.argsort(-runs.flops, kind="stable")[:MOST_ROWS]
    columns: Mapping[str, Callable[[int], Any]] = {
        "run": lambda i: runs.labels[i],
        "params": lambda i: cells.count(float(runs.num_params[i])),
        "tokens": lambda i: cells.count(float(runs.tokens[i])),
        "FLOPs": lambda i: cells.flops(float(runs.flops[i])),
        "loss": lambda i: cells.loss(float(runs.loss[i])),
    }
    rows = tuple(row(*(cell(int(i)) for cell in columns.values())) for i in order)
    return ReportTable(tuple(columns), rows, frozenset({"run"}))

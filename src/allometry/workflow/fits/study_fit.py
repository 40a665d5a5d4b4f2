"""Fit the runs of a study or a table, and read a fit back with the evidence for what it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ... import laws, planning
from ...errors import UserError
from ...files import write_json
from ...planning.optimum.repeated_data import early_end_cautions
from ...runs.study import COLLECTION, Study
from ..listener import Listener, Note, silent
from ..own_ladder.ladder_forecast import fit_ladder, own_ladder
from .repeated_units import repeated_units


def fit_runs(
    source: Path | str,
    names: Sequence[str] | None = None,
    *,
    objective: str | None = None,
    delta: float | None = None,
    columns: Mapping[str, str | float | None] | None = None,
    where: Mapping[str, str] | None = None,
    counted: str | None = None,
    output: Path | None = None,
    listener: Listener = silent,
) -> laws.Fit | laws.Forecast:
    """Fit the runs of a study, or of a table, and write the fit.

    Args:
        source: a study, or a table of runs.
        names: the laws; one is fitted alone, several (by default those of ``laws.forecast``) are weighed by a backtest.
        objective: of a single law: "huber" (the default), "log_squares" or "squares".
        delta: where huber turns linear.
        columns: field → column that holds it, or the number that holds in every row.
        where: column → value that a row must have.
        counted: which parameters to take: "non_embedding", "total" or "matmul".
        output: where to write the fit; by default ``fit.json`` in a study, and nowhere for a table.
        listener: receives what is remarkable about the runs, and where the fit was written.

    Raises:
        UserError: the source cannot be read or holds too few runs, or an option does not fit the others.
    """
    is_study = Study(Path(source)).settings_path.is_file()
    single = names[0] if names is not None and len(names) == 1 else None
    if (objective is not None or delta is not None) and single is None:
        raise UserError(
            "--objective and --delta are for one law: name it with --law, as --law chinchilla --objective huber"
        )
    observations = laws.Observations.read(source, columns=columns, where=where, counted=counted)
    with _findings_noted(observations, listener, counted_here=is_study and not _is_collected(source)):
        if single is not None:
            options: dict[str, Any] = {"objective": objective, "delta": delta}
            fit = laws.fit(single, observations, **{key: value for key, value in options.items() if value is not None})
        else:
            own = own_ladder(source) if names is None and not (columns or where or counted) else []
            if not own and is_study and names is None:
                observations = observations.past_initial_phase()
            fit = fit_ladder(own)[0] if own else laws.forecast(observations, names)
    if output is None and not columns and is_study:
        output = Path(source) / "fit.json"
    _write(fit, output, listener)
    return fit


def fit_isoflop(
    source: Path | str,
    *,
    columns: Mapping[str, str | float | None] | None = None,
    where: Mapping[str, str] | None = None,
    counted: str | None = None,
    output: Path | None = None,
    listener: Listener = silent,
) -> laws.IsoFlop:
    """The best size for each budget that was run, from the minima of the budgets; arguments as :func:`fit_runs`.

    Raises:
        UserError: the source cannot be read, or its runs have no minima.
    """
    observations = laws.Observations.read(source, columns=columns, where=where, counted=counted)
    with _findings_noted(observations, listener):
        isoflop = laws.isoflop(observations)
    _write(isoflop, output, listener)
    return isoflop


def _is_collected(source: Path | str) -> bool:
    """Whether the runs of a study were trained and counted elsewhere."""
    return Study(Path(source)).settings() == COLLECTION


@contextmanager
def _findings_noted(
    observations: laws.Observations, listener: Listener, *, counted_here: bool = False
) -> Iterator[None]:
    """Note what looks wrong in runs that are fitted within; what the refusal of a fit says is not noted too.

    ``counted_here``: sizes and units are those of our own runs, so that none can be in another unit, however small.
    """
    refusal = ""
    try:
        yield
    except UserError as error:
        refusal = str(error)
        raise
    finally:
        for finding in observations.findings:
            if finding.text not in refusal and not (counted_here and finding.kind == "impossible"):
                listener(Note(f"note: {finding.text}"))


def _write(fit: laws.Fit | laws.Forecast | laws.IsoFlop, output: Path | None, listener: Listener) -> None:
    if output is not None:
        write_json(output, fit.to_json())
        listener(Note(f"written to {output}"))


def load_fit(source: Path | str) -> laws.Fit | laws.Forecast:
    """A fit or forecast, from its file or from the study that holds it.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    source = Path(source)
    path = source / "fit.json" if source.is_dir() else source
    if source.is_dir() and not path.exists():
        raise UserError(f"{source}: no fit.json in it; run `allometry fit {source}` first")
    fit = laws.load(path)
    if not isinstance(fit, laws.Fit | laws.Forecast):
        raise UserError(f"{path}: holds no law of model size and tokens; write one with `allometry fit`")
    return fit


def predict_run(
    source: Path | str, fit: laws.Fit | laws.Forecast, point: Mapping[str, float], level: float
) -> tuple[laws.Prediction, list[str]]:
    """A loss by a fit, and what questions it; of a study whose units are few, with what reading them again costs.

    Raises:
        UserError: the point lies so far beyond the runs that no prediction means anything, or lacks an input.
    """
    questions = cautions(fit, point)
    study = study_of(Path(source))
    data = None if study is None else repeated_units(study)
    if data is None or set(point) != {"num_params", "tokens"} or not (again := data.sentence(point["tokens"])):
        return fit.predict(**point, level=level), questions
    return data.law(fit).predict(**point, level=level), [*questions, again]


def study_of(source: Path) -> Study | None:
    """The study that a fit belongs to: the folder itself, or the one that its file lies in."""
    study = Study(source if source.is_dir() else source.parent)
    return study if study.settings_path.is_file() else None


def cautions(fit: laws.Fit | laws.Forecast, point: Mapping[str, float]) -> list[str]:
    """What questions a prediction itself: that it lies far beyond all that was ever tested, or that runs end early.

    Raises:
        UserError: it lies so far beyond that no prediction means anything.
    """
    covered = planning.FittedRange.by(fit)
    if covered is None or not {"num_params", "tokens"} <= set(point):
        return []
    early = early_end_cautions(fit, point["tokens"])
    return [*covered.cautions(point["num_params"], point["tokens"]), *early]


def evidence(fit: laws.Fit | laws.Forecast, point: Mapping[str, float]) -> list[str]:
    """How far outside the fitted runs a point lies, and what the backtest says about such distances."""
    lines = []
    for name, word in (("num_params", "parameters"), ("tokens", "tokens")):
        if name not in point or name not in fit.range:
            continue
        value, (low, high) = point[name], fit.range[name]
        if not low <= value <= high:
            times = value / high if value > high else low / value
            where = "above the largest" if value > high else "below the smallest"
            lines.append(f"{word}: {times:.3g}× {where} that was fitted")
    if isinstance(fit, laws.Forecast):
        lines += fit.evidence(point["num_params"], point["tokens"]).split("\n")
    return lines

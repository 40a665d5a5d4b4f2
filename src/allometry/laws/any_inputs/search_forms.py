"""The search for the forms of a table: all are fitted, the best tested on what is held out, and some mixed.

Every candidate of the grammar is fitted to all runs; the plain forms and those that fit best are tested on what
``held_out`` holds out, and mixed by the score of that backtest. The mixture is tested on deeper splits too, which say
how wide its interval has to be.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..tables.measurements import Measurements
from .backtest_forms import CommonScale, Trial, fit_to, left_of, trial
from .composing.candidates import PLAIN, candidates
from .composing.formula_form import named_forms
from .fitted_form import FittedForm
from .frontier import ALL, BEST, FRONTIER, cost_weights, emphases, emphasis_weights, relevance
from .held_out import HeldOut, beyond, deeper_splits, splits
from .input_forecast import DRIFT, InputForecast
from .leftovers import Basis, Metric, Places, choose_metric
from .mixing import Record, inflations, shown_errors
from .padded import middle_of
from .projection import AnyForm
from .sizes_and_tokens import sizes_forecast

Array = np.ndarray
STARTS, BACKTEST_STARTS = 8, 1
# Forms that are tested besides the plain ones, over all ways of counting runs and of one; and of one with exponents of
# each group.
MOST_RANKED, MOST_OF_A_WAY, MOST_APART = 40, 10, 4
MOST_RUNS, MOST_FITTED = 600, 1500
# Runs for each constant of a form that several groups share.
ROOM = 1.3


def forecast_inputs(runs: Measurements, seed: int = 0, forms: Sequence[AnyForm] | None = None) -> InputForecast:
    """Fit the grammar's forms, test them on runs that are held out, and mix the best.

    Args:
        runs: the runs, as ``Observations.read(…, target=…, inputs=…)`` gives them.
        seed: of the starting points.
        forms: the forms to fit instead of the grammar's.

    Raises:
        UserError: the runs are too few for every one of these forms.
    """
    thin, middle, common = thinned(runs, MOST_RUNS, seed), middle_of(runs), CommonScale.of(runs.values)
    ranked = _ranked(runs, thin, middle, common, seed, forms)
    places = Places.of(thin).at(thin.points)
    nearest = next((one for way in (FRONTIER, BEST) for one in ranked if one.emphasis == way), ranked[0])
    metric = choose_metric(places, thin.group, left_of(nearest, thin, common))
    base = splits(thin)
    test = lambda fitted, chosen: backtest_forms(fitted, chosen, thin, middle, common, metric, seed)
    trials, notes = test(ranked, base), list(runs.notes)
    record = Record.of(trials, ranked)
    if record.names:
        kept = record.best()
    else:
        notes.append("too few runs for a backtest: plain forms share the weight")
        kept = [number for number, one in enumerate(ranked) if one.form.name in PLAIN] or list(range(len(ranked)))
    record, ranked = record.where(kept), [ranked[number] for number in kept]
    mixed = record.mixed([trials[number] for number in kept]) if record.names else []
    deep = deeper_splits(thin, base) if mixed else []
    evidence = [*mixed, *(record.mixed(test(ranked, deep)) if deep else [])]
    final = thinned(runs, MOST_FITTED, seed)
    fits = tuple(
        one if final is thin else fit_to(one.form, final, middle, common, one.theta[:1], one.own, one.emphasis)
        for one in ranked
    )
    return InputForecast(
        runs,
        fits,
        record,
        errors={one.split.name: one.rms for one in mixed},
        metric=metric,
        logarithmic=common.logarithmic,
        least=common.least,
        inflation=inflations(record.along, evidence),
        shown=shown_errors(record.along, evidence),
        notes=tuple(notes),
        sizes=sizes_forecast(thin, mixed, common) if forms is None else None,
    )


def _ranked(
    runs: Measurements,
    thin: Measurements,
    middle: Array,
    common: CommonScale,
    seed: int,
    asked: Sequence[AnyForm] | None,
) -> list[FittedForm]:
    """The forms worth a test, fitted to ``thin``: for each way of counting runs the best first, then some with
    exponents of each group.

    Raises:
        UserError: the runs are too few for all of them.
    """
    forms = [*candidates(runs), *named_forms(runs)] if asked is None else asked
    fits = [fit_to(form, thin, middle, common, form.starts(STARTS, seed)) for form in forms]
    apart = []
    if len(runs.group_names) > 1:
        apart = [fit_to(one.form, thin, middle, common, one.theta[:1], own=True) for one in fits if one.theta.shape[1]]
    counted = [ALL, *emphases(thin)]
    most = min(MOST_RANKED // len(counted), MOST_OF_A_WAY)
    ranked: list[FittedForm] = []
    for emphasis in counted:
        refit = lambda one, way=emphasis: (
            one if way == ALL else fit_to(one.form, thin, middle, common, one.theta[:1], one.own, way)
        )
        ranked += _shortlist([refit(one) for one in fits], thin, common, emphasis, most)
        ranked += _shortlist([refit(one) for one in apart], thin, common, emphasis, MOST_APART)
    if not ranked:
        few = f"{plural(len(thin), 'run is', 'runs are')} too few for"
        if asked is None:
            raise UserError(f"{few} any form over {', '.join(runs.inputs)}: make more runs, or give fewer inputs")
        names = ", ".join(dict.fromkeys(form.name for form in asked))
        raise UserError(f"{few} the constants of {names}: make more runs, or ask for a law of fewer constants")
    return ranked


def thinned(runs: Measurements, most: int, seed: int) -> Measurements:
    """Not more than so many runs, drawn at random."""
    if len(runs) <= most:
        return runs
    return runs.where(np.sort(np.random.default_rng(seed).permutation(len(runs))[:most]))


def backtest_forms(
    fitted: Sequence[FittedForm],
    chosen: Sequence[HeldOut],
    runs: Measurements,
    middle: Array,
    common: CommonScale,
    metric: Metric,
    seed: int,
) -> list[list[Trial]]:
    """What each form predicts for what each split holds out."""
    places = Places.of(runs).at(runs.points)
    drift = DRIFT * float(common.forward(runs.values).std())
    trials: list[list[Trial]] = [[] for _ in fitted]
    counts = relevance(runs, common.forward(runs.values))
    for split in chosen:
        kept, held = runs.where(split.fitted), runs.where(split.held)
        basis = Basis.of(places[split.fitted], kept.group, metric)
        crossing = basis.crossing(places[split.held], held.group)
        far = drift * beyond(kept, held.points)
        for full, rows in zip(fitted, trials, strict=True):
            starts = np.concatenate([full.theta[:1], full.form.starts(BACKTEST_STARTS, seed)])
            starts = starts if full.form.constants else starts[:1]
            one = fit_to(full.form, kept, middle, common, starts, full.own, full.emphasis)
            rows.append(trial(one, kept, held, common, basis, crossing, split, far, counts[split.held]))
    return trials


def _shortlist(
    fitted: Sequence[FittedForm], runs: Measurements, common: CommonScale, emphasis: str, most: int
) -> list[FittedForm]:
    """The best forms, one of each family, by how they fit for their number of constants, and all the plain ones."""
    groups, values = len(runs.group_names), common.forward(runs.values)
    weights = cost_weights(runs) * emphasis_weights(runs, values, emphasis)
    weights = weights / weights.mean()
    count = len(runs) / float((weights**2).mean())  # as if so many runs counted alike
    criterion = {}
    for one in fitted:
        left = values - common.moments(one, runs.points, runs.group)[0]
        each = 1 + 0.5 * (groups - 1)  # what a constant of every group counts, since they are pooled
        taken = one.theta.shape[1] * (each if one.own else 1) + one.form.num_linear * each
        plain = one.form.name in PLAIN and not one.own
        # Groups share what they have in common: each adds hardly more than a constant of its own.
        needed = one.form.num_constants + groups if groups == 1 else ROOM * (one.form.num_constants + groups)
        if plain or needed < len(runs):
            squares = np.log(float((weights * left**2).mean()) + 1e-300)
            criterion[id(one)] = (count * squares + np.log(count) * taken, plain, one)
    ranked = sorted(criterion.values(), key=lambda entry: entry[0])
    others: dict[Hashable, FittedForm] = {}
    for _, plain, one in ranked:
        if not plain and len(others) < most:
            others.setdefault(one.form.family, one)
    return [one for _, plain, one in ranked if plain or others.get(one.form.family) is one]

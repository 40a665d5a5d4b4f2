"""The sentences of the report: verdict, what is still missing, captions; and the outcome as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .. import laws
from ..config.run import RunConfig
from ..planning import Outcome, Plan
from ..quantities import format_count, format_flops, plural
from .cells import interval
from .study_contents import StudyContents, fits_of, weights_of

EVIDENCE = {
    "backtest": (
        "Do the laws predict?",
        "Each law was fitted to the smaller runs only and then predicted the larger ones; a dot is one such "
        "prediction. Pale dots are runs that say little about a well-trained one. The weights of the laws are "
        "computed from these errors.",
    ),
    "calibration": (
        "Do the intervals hold?",
        "Share of the backtest's runs inside intervals of each level: near the diagonal, an interval means what it "
        "says. The width of the intervals was set by these same runs.",
    ),
}
VALLEYS = (
    "Best sizes, budget by budget",
    "The runs of each budget, the slice fitted to them and its minimum, dashed where the runs do not determine one; "
    "and the best size against compute.",
)


def verdict(contents: StudyContents) -> str:
    """The study in one paragraph, at any stage."""
    if contents.outcome:
        return f"{_predicted(contents)} {_trained(contents, contents.outcome)}"
    if contents.plan:
        return f"{_predicted(contents)} This model has not been trained yet."
    ended = _ladder(contents)
    if contents.predictor:
        best = next(iter(weights_of(contents.predictor)))
        runs = contents.predictor.num_runs
        return f"{ended} The laws were fitted to {runs} of them; {best} has the largest weight. There is no plan yet."
    finished = contents.finished("ladder")
    if not finished:
        return f"{ended} No law can be fitted yet."
    low = min(finished, key=lambda record: math.inf if record.loss is None else record.loss)
    return (
        f"{ended} The lowest held-out loss is {low.loss:.4f} {contents.unit}, of run {low.id} with "
        f"{format_count(low.num_params)} parameters on {format_count(low.tokens)} tokens. "
        "No law has been fitted yet."
    )


def missing(contents: StudyContents) -> list[tuple[str, str]]:
    """What the study still lacks, and the command that adds it (or an empty string)."""
    lines = []
    ended = [record for record in contents.records if record.kind == "ladder"]
    usable = len(contents.finished("ladder"))
    if contents.rungs is not None and len(ended) < contents.rungs:
        lines.append(
            (
                f"The ladder is not complete: {len(ended)} of {contents.rungs} runs have ended. "
                "Run the same command again; it continues where it stopped.",
                "",
            )
        )
    if contents.predictor is None:
        lines.append(("There is no law yet; this fits one to the ladder's runs:", "allometry fit STUDY"))
    elif usable and contents.predictor.num_runs != usable:
        fitted = contents.predictor.num_runs
        stale = f"The law was fitted to {plural(fitted, 'run')}, and {usable} of the ladder have finished; fit again:"
        lines.append((stale, "allometry fit STUDY"))
    if contents.plan is None:
        lines.append(("There is no plan yet; this makes one from the law:", "allometry plan STUDY --flops …"))
    elif not contents.plan.run:
        lines.append(("The plan names no run to train here: train it where the runs of this study were trained.", ""))
    elif contents.outcome is None:
        lines.append(("The plan has not been trained yet; this trains it and compares:", "allometry train STUDY"))
    return lines


def optimum_note(plan: Plan | None) -> str:
    """Why the optimum by 6·N·D is not the plan; empty where the plan counts its FLOPs so, too."""
    if plan is None or not plan.flops_exact:
        return ""
    factor = plan.flops_exact / plan.flops
    return (
        "The optimum counts the budget as 6·N·D and takes any size. The plan counts the FLOPs of shapes that exist, "
        f"with head and attention: {factor:.3g} times 6·N·D for its model, so the same budget buys it other tokens."
    )


def runs_note(contents: StudyContents) -> str:
    """How the table of runs counts: ours exactly and by trunks, those of others as they were stated."""
    ours = [record.config for record in contents.records if not record.external]
    kinds = sorted({record.counted.replace("_", "-") for record in contents.records})
    if len(ours) == len(contents.records) and all(run.trainer.schedules for run in ours):
        return (
            f"Parameters are {', '.join(kinds)}, FLOPs are counted exactly from the shapes, losses are {contents.unit} "
            f"on held-out text. {_growth(ours)} Runs of one size share a trunk; the seconds of a run are what it added "
            "to its trunk."
        )
    return (
        f"Parameters and FLOPs are as the runs stated them (parameters: {', '.join(kinds)}), FLOPs 6·N·D where nothing "
        f"else was stated; losses are {contents.unit} on held-out data."
    )


def _growth(runs: Sequence[RunConfig]) -> str:
    """How batch, learning rate and weights change along a run, as the runs recorded it."""
    trains = [run.train for run in runs]
    rules = {(t.reference_tokens, t.batch_exponent, t.lr_exponent, t.weight_decay_timescale) for t in trains}
    if len(rules) != 1:
        return ""
    reference, batch, lr, timescale = rules.pop()
    rate = f"the learning rate changes as tokens^{-lr:g}" if lr else "the learning rate is constant until its decay"
    return (
        f"Batch (tokens) and learning rate are the values after {reference:,} tokens; the batch grows as "
        f"tokens^{batch:g}, {rate}."
        + (f" What weights have learned fades as tokens^{-1 / timescale:.2g}." if timescale else "")
    )


def captions(contents: StudyContents) -> dict[str, tuple[str, str]]:
    """Picture → its heading and its caption."""
    level = f"{contents.level:.0%}"
    left_out = len(contents.diverged)
    without = f" Not shown: {plural(left_out, 'diverged run')}." if left_out else ""
    law = (
        " The line is the predicted loss if every budget is split best between size and tokens; the band is its "
        f"{level} interval."
        if contents.predictor
        else ""
    )
    aim = " Diamond: the loss predicted before training, with its interval." if contents.plan else ""
    aim += " Dot near it: the actual loss." if contents.outcome else ""
    return {
        "loss_by_compute": (
            "Loss against compute",
            f"Each dot is a run, each colour a model size.{law}{aim}{without} Bars show two standard errors, if they "
            "are longer than the dot.",
        ),
        "size_curves": (
            "Loss against tokens, size by size",
            "Held-out loss of every rung."
            + (" Lines: the prediction at that size." if contents.predictor else "")
            + aim,
        ),
        "training_curves": (
            "Training",
            "Training loss of every run: pale with its noise, strong its mean. Runs of one size share their trunk and "
            "separate where the learning rate begins to decay; a dot is the held-out loss at a run's end. The band, if "
            "there is one, is where the law and the curves of the rungs expect the target's loss on its way: outside "
            "it there is an early warning.",
        ),
        "sweep": (
            "The recipe's evidence",
            "What other learning rates and batches cost, at the sizes and lengths of the sweep; each line is relative "
            "to the best run of that size and length, and the chosen value is marked.",
        ),
        "surface": (
            "Rate and batch together",
            "Contours of the loss above its lowest, by the parabolas through the sweep; dots are its runs, each beside "
            "the best of its size and length; the cross is the chosen setting with its 90 % interval.",
        ),
        "scores": (
            "Scores beside the loss",
            "Held-out scores of every run by its compute, as the task measures them; bars show two standard errors, "
            "the planned run is orange.",
        ),
        **EVIDENCE,
        "valleys": VALLEYS,
        "isoflop": (
            "The choice of size",
            "Predicted loss along the plan's budget: thick all laws together, as the plan uses them; coloured each law "
            "alone with its weight. Orange: sizes whose loss is nearly the lowest; grey: sizes that were not searched.",
        ),
    }


def law_captions(level: str, thinned: bool) -> dict[str, tuple[str, str]]:
    """Picture of a law's page → its heading and its caption; ``thinned``: only some of the runs are drawn."""
    some = " Of very many runs some are drawn." if thinned else ""
    return {
        "frontier": (
            "Loss against compute",
            f"Each dot is a run, its colour its size.{some} The line is the predicted loss if every budget is split "
            f"best between size and tokens; the band is its {level} interval.",
        ),
        "isoflop": VALLEYS,
        "surface": (
            "What another learning rate and batch cost",
            "Contours of the loss above the lowest, from a surface fitted to all runs, at the size and tokens that "
            "most runs share; dots are the runs there, the cross is the optimum with its interval.",
        ),
        **{name: EVIDENCE[name] for name in ("backtest", "calibration")},
    }


def law_notes(predictor: laws.Fit | laws.Forecast) -> list[str]:
    """The notes of the fits: drift and correction of a forecast, constants at a bound, rows left out."""
    notes = []
    if isinstance(predictor, laws.Forecast):
        notes.append(
            "For every factor e of compute beyond the largest run, the interval widens by a drift of "
            f"{predictor.drift:.2%} of the loss (one standard deviation)."
        )
        if abs(predictor.correction) >= 5e-5:
            high, change = ("high", "reduced") if predictor.correction > 0 else ("low", "raised")
            notes.append(
                f"The backtest's predictions were too {high} with distance, so the prediction is {change} by "
                f"{abs(predictor.correction):.2%} for every factor e of compute, as far as the backtest extrapolated."
            )
        if predictor.early_end is not None:
            text = predictor.early_end.sentence()
            notes.append(f"{text[0].upper()}{text[1:]}.")
    notes += [f"{name}: {note}" for name, fit in fits_of(predictor).items() for note in fit.active_bounds]
    return [*notes, *predictor.notes]


def few_units(plan: Plan | None) -> str:
    """That a law that is asked on the page takes every unit for new, where the plan knows better; else empty."""
    available = None if plan is None else plan.budget and plan.budget.tokens_available
    if available is None:
        return ""
    return (
        f"Asked here, the law takes every unit of data for new. There are {format_count(available)}: the plan and "
        "allometry predict count what it costs to read them again."
    )


def outcome_lines(outcome: Outcome) -> list[str]:
    """The prediction and the actual loss as lines for the terminal."""
    low, high, actual, predicted = outcome.low, outcome.high, outcome.actual, outcome.predicted
    where = ""
    if low is not None and high is not None:
        where = ", inside the interval" if low <= actual <= high else ", OUTSIDE the interval"
    error = abs(outcome.relative_error)
    side = "above" if predicted > actual else "below"
    bits = outcome.bits_per_byte
    lines = [
        f"predicted  {predicted:.4f} {interval(low, high).text}",
        f"actual     {actual:.4f}{where}" + (f"; {bits:.4f} bits per byte of text" if bits else ""),
        f"error      {error:.2%}: the prediction was {side} the actual loss",
    ]
    if outcome.compute_ratio is not None:
        lines.append(f"reach      {outcome.compute_ratio:.3g} times the compute of the largest rung")
    lines.append(f"ladder     {outcome.ladder_share:.1%} of all compute")
    return [*lines, f"note       {outcome.note}"] if outcome.note else lines


def _ladder(contents: StudyContents) -> str:
    ended = [record for record in contents.records if record.kind == "ladder"]
    if not contents.records:
        return "No run has ended yet."
    lost = sum(record.status != "finished" for record in ended)
    diverged = f"; {lost} of them diverged." if lost else "."
    if contents.rungs is not None:
        return f"{len(ended)} of {plural(contents.rungs, 'run')} of the ladder have ended{diverged}"
    return f"{plural(len(ended), 'run')} of the ladder {'has' if len(ended) == 1 else 'have'} ended{diverged}"


def _predicted(contents: StudyContents) -> str:
    plan = contents.plan
    if plan is None:  # somebody has deleted it
        return "The plan behind this outcome is no longer in the study."
    smaller = plural(contents.predictor.num_runs, "smaller run") if contents.predictor else ""
    law = f"the law fitted to {smaller}" if smaller else "its law"
    interval = "" if plan.low is None else f" [{plan.low:.4f}, {plan.high:.4f}]"
    level = "" if plan.low is None else f" ({plan.level:.0%} interval)"
    return (
        f"By {law}, a model of {format_count(plan.num_params)} parameters on {format_count(plan.tokens)} tokens "
        f"({format_flops(plan.flops_exact or plan.flops)} FLOPs) should reach a held-out loss of "
        f"{plan.loss:.4f}{interval} {contents.unit}{level}."
    )


def _trained(contents: StudyContents, outcome: Outcome) -> str:
    actual, predicted, low, high = outcome.actual, outcome.predicted, outcome.low, outcome.high
    side = "below" if actual < predicted else "above"
    inside = ""
    if low is not None and high is not None:
        inside = ", inside the interval" if low <= actual <= high else ", outside the interval"
    error = abs(outcome.relative_error)
    text = f"After training it reached {actual:.4f}, {side} the prediction{inside}: an error of {error:.2%}"
    if outcome.compute_ratio is not None:
        text += f" at {outcome.compute_ratio:.3g} times the compute of the ladder's largest run"
    if contents.unit != "nats per byte" and outcome.bits_per_byte:
        text += f"; that is {outcome.bits_per_byte:.4f} bits per byte of text"
    return f"{text}. The ladder took {outcome.ladder_share:.1%} of all the compute spent."

"""What the report says in sentences: the verdict, what is still missing, what each picture shows."""

from __future__ import annotations

from ..quantities import format_count, format_flops
from .study_contents import StudyContents, weights_of


def verdict(contents: StudyContents) -> str:
    """The study in one paragraph, at whatever stage it is."""
    if contents.outcome:
        return f"{_predicted(contents)} {_came_out(contents)}"
    if contents.plan:
        return f"{_predicted(contents)} It is not trained yet."
    ended = _ladder(contents)
    if contents.predictor:
        best = next(iter(weights_of(contents.predictor)))
        runs = contents.predictor.num_runs
        return f"{ended} The laws were fitted to {runs} of its runs; {best} weighs most. No plan is made yet."
    finished = contents.finished("ladder")
    if not finished:
        return f"{ended} There is nothing to fit a law to yet."
    low = min(finished, key=lambda record: record.loss)
    return (
        f"{ended} The lowest held-out loss is {low.loss:.4f} {contents.unit}, of run {low.id} with "
        f"{format_count(low.config.num_params)} parameters on {format_count(low.config.tokens)} tokens. "
        "No law is fitted yet."
    )


def missing(contents: StudyContents) -> list[tuple[str, str]]:
    """What the study still lacks, and the command that adds it (or nothing)."""
    lines = []
    ended = [record for record in contents.records if record.kind == "ladder"]
    usable = len(contents.finished("ladder"))
    if contents.rungs is not None and len(ended) < contents.rungs:
        lines.append(
            (
                f"The ladder is not complete: {len(ended)} of {contents.rungs} runs have ended. "
                "The command that began it goes on where it stopped.",
                "",
            )
        )
    if contents.predictor is None:
        lines.append(("There is no law yet; this fits one to the ladder's runs:", "allometry fit STUDY"))
    elif usable and contents.predictor.num_runs != usable:
        fitted = contents.predictor.num_runs
        rests = f"The law rests on {fitted} runs, and the ladder has {usable} finished ones now; fit anew:"
        lines.append((rests, "allometry fit STUDY"))
    if contents.plan is None:
        lines.append(("There is no plan yet; this makes one from the law:", "allometry plan STUDY --flops …"))
    elif contents.outcome is None:
        lines.append(("The plan is not trained yet; this trains it and compares:", "allometry train STUDY"))
    return lines


def captions(contents: StudyContents) -> dict[str, tuple[str, str]]:
    """Picture → its heading and what it shows."""
    level = f"{contents.level:.0%}"
    left_out = len(contents.diverged)
    without = f" {left_out} diverged run{'s are' if left_out > 1 else ' is'} left out." if left_out else ""
    law = (
        " The line is the predicted loss where every budget is split best between size and tokens, the band its "
        f"{level} interval."
        if contents.predictor
        else ""
    )
    aim = " Diamond: predicted before training, with its interval." if contents.plan else ""
    aim += " Dot in it: what came out." if contents.outcome else ""
    return {
        "loss_by_compute": (
            "Loss against compute",
            f"A dot is a run, a colour a model size.{law}{aim}{without} Bars, where they are longer than the dot, are "
            "two standard errors.",
        ),
        "size_curves": (
            "Loss against tokens, size by size",
            "Held-out loss of every rung."
            + (" Lines: the prediction at that size." if contents.predictor else "")
            + aim,
        ),
        "training_curves": (
            "Training",
            "Training loss of every run: its noise pale, its mean drawn out. Runs of one size share their trunk and "
            "part where the learning rate begins to fall; a dot is the held-out loss at a run's end.",
        ),
        "sweep": (
            "The recipe's evidence",
            "What other learning rates and batches cost, at the sizes and lengths of the sweep; each line is relative "
            "to the best of all its runs, and the chosen value is marked.",
        ),
        "backtest": (
            "Do the laws predict?",
            "Each law was fitted to the smaller runs only and asked for the larger ones; a dot is one such prediction. "
            "Pale dots are runs that say little about a well-trained one. The weights of the laws rest on this.",
        ),
        "isoflop": (
            "The choice of size",
            "Predicted loss along the plan's budget: black what the plan goes by, coloured each law alone with its "
            "weight. Orange: sizes that cost hardly more than the best; grey: sizes "
            "that were not searched.",
        ),
    }


def _ladder(contents: StudyContents) -> str:
    ended = [record for record in contents.records if record.kind == "ladder"]
    if not contents.records:
        return "No run has ended yet."
    wanted = f" of {contents.rungs}" if contents.rungs is not None else ""
    lost = sum(record.status != "finished" for record in ended)
    return f"{len(ended)}{wanted} runs of the ladder have ended" + (f", {lost} of them diverged." if lost else ".")


def _predicted(contents: StudyContents) -> str:
    plan = contents.plan
    if plan is None:  # an outcome whose plan was deleted since
        return "The plan behind this outcome is no longer in the study."
    runs = f"the law of {contents.predictor.num_runs} smaller runs" if contents.predictor else "its law"
    interval = "" if plan.low is None else f" [{plan.low:.4f}, {plan.high:.4f}]"
    level = "" if plan.low is None else f" ({plan.level:.0%} interval)"
    return (
        f"By {runs}, a model of {format_count(plan.num_params)} parameters on {format_count(plan.tokens)} tokens "
        f"({format_flops(plan.flops_exact or plan.flops)} FLOPs) should reach a held-out loss of "
        f"{plan.loss:.4f}{interval} {contents.unit}{level}."
    )


def _came_out(contents: StudyContents) -> str:
    outcome = contents.outcome
    actual, predicted, low, high = outcome.actual, outcome.predicted, outcome.low, outcome.high
    side = "below" if actual < predicted else "above"
    inside = ""
    if low is not None and high is not None:
        inside = ", inside the interval" if low <= actual <= high else ", outside the interval"
    error = abs(outcome.relative_error)
    text = f"Trained, it reached {actual:.4f}, {side} the prediction{inside}: an error of {error:.2%}"
    if outcome.compute_ratio is not None:
        text += f" at {outcome.compute_ratio:.3g} times the compute of the ladder's largest run"
    if contents.unit != "nats per byte" and outcome.bits_per_byte:
        text += f"; that is {outcome.bits_per_byte:.4f} bits per byte of text"
    return f"{text}. The ladder took {outcome.ladder_share:.1%} of all the compute spent."

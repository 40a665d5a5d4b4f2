"""Train what was decided: first the sweep, which measures the recipe, then rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..config.run import RunConfig
from ..runs.engines.contract import Engine, silent
from ..runs.hooks import EventHandler
from ..runs.job import Job
from ..runs.study import Study
from ..runs.trunks import groups
from .design import Design
from .recipe import Recipe
from .sweep import measure_recipe

RETRY_RATE = 0.5  # a run that diverged is tried again at this share of its learning rate


def run_sweep(study: Study, design: Design, engine: Engine, on_event: EventHandler = silent) -> Recipe:
    """Train the runs of the sweep that are missing, and measure the recipe from all of them.

    A design without a sweep keeps the recipe that it was given. The recipe is written to ``recipe.json``.

    Raises:
        UserError: a process died, or too few runs of the sweep finished.
    """
    recipe, evidence = design.recipe, {}
    if design.sweep:
        engine.train(study, missing_jobs(study, design.sweep, "sweep", design.batched), on_event)
        recipe, evidence = measure_recipe(design.recipe, [study.ended(config.id) for config in design.sweep])
    study.write("recipe.json", recipe.to_json() | {"evidence": evidence})
    return recipe


def train_rungs(study: Study, rungs: Sequence[RunConfig], engine: Engine, on_event: EventHandler = silent) -> None:
    """Train the rungs that are missing; a rung that diverges is tried again as often as the study asks.

    Raises:
        UserError: a process died; the runs that are recorded stay.
    """
    engine.train(study, missing_jobs(study, rungs, "ladder"), on_event)
    retry_of: dict[str, str] = {}
    attempts = list(rungs)
    for _ in range(study.settings().get("study", {}).get("retries", 0)):
        attempts = [retry for config in attempts if (retry := _retry(study, config, retry_of)) is not None]
        engine.train(study, missing_jobs(study, attempts, "ladder", retry_of=retry_of), on_event)
    for config in rungs:  # a run of the sweep whose settings happen to be the recipe's is a rung as well
        record = study.ended(config.id)
        if record.kind == "sweep":
            study.save(replace(record, kind="ladder"), study.curve(config.id))


def _retry(study: Study, config: RunConfig, retry_of: dict[str, str]) -> RunConfig | None:
    """The next attempt of a run that diverged, at ``RETRY_RATE`` of its learning rate; ``retry_of`` notes it."""
    if study.ended(config.id).status != "diverged":
        return None
    retry = config.with_train(lr=config.train.lr * RETRY_RATE)
    retry_of[retry.id] = config.id
    return retry


def missing_jobs(
    study: Study,
    configs: Sequence[RunConfig],
    kind: str,
    batched: bool = False,
    retry_of: Mapping[str, str] | None = None,
) -> list[Job]:
    """Jobs for the runs that are not recorded yet, with their relative cost from their FLOPs; a trunk is one job.

    With ``batched``, trunks that step alike are one job. Such a job has all their runs or none: the models that are
    trained together decide each other's rounding, so a job that a crash cut short must be the same again.
    """
    missing = lambda group: [config for config in group if study.record(config.id) is None]
    # A step costs about as much as 64 k parameters' arithmetic before it has done any.
    cost = lambda group: max(config.tokens * (config.model.flops_per_token + 4e5) for config in group)
    jobs = []
    for trunks in groups(configs, batched):
        left = [runs for runs in map(missing, trunks) if runs]
        if left:
            runs = left[0] if len(trunks) == 1 else [config for runs in trunks for config in runs]
            jobs.append(Job(tuple(runs), kind, sum(map(cost, left)), retry_of or {}))
    return jobs

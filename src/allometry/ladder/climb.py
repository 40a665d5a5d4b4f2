"""Train what a design asks for: first the sweep, which measures the recipe, then the rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..config.run import RunConfig
from ..runs.engines.local import Job, Listener, LocalEngine
from ..runs.study import Study
from ..runs.trunks import groups
from .design import Design, rungs
from .recipe import Recipe
from .sweep import measure

RETRY_RATE = 0.5  # of its learning rate, for a run that diverged


def tune(study: Study, made: Design, engine: LocalEngine, listener: Listener = lambda event: None) -> Recipe:
    """Train what is missing of the sweep, and measure the recipe by it; without a sweep, the recipe as it was given.

    Raises:
        UserError: a process died, or too little of the sweep trained.
    """
    recipe, evidence = made.recipe, {}
    if made.sweep:
        engine.train(study, jobs(study, made.sweep, "sweep", made.batched), listener)
        recipe, evidence = measure(made.recipe, [study.record(config.id) for config in made.sweep])
    study.write("recipe.json", recipe.to_json() | {"evidence": evidence})
    return recipe


def climb(
    study: Study, made: Design, recipe: Recipe, engine: LocalEngine, listener: Listener = lambda event: None
) -> None:
    """Train what is missing of the rungs, by a recipe; those that diverge again, as often as the study asks for.

    Raises:
        UserError: a process died; what was recorded stays.
    """
    chosen = rungs(made, recipe)
    engine.train(study, jobs(study, chosen, "ladder"), listener)
    retry_of: dict[str, str] = {}
    again = chosen
    for _ in range(study.settings().get("study", {}).get("retries", 0)):
        again = [retry for config in again if (retry := _retry(study, config, retry_of)) is not None]
        engine.train(study, jobs(study, again, "ladder", retry_of=retry_of), listener)
    for config in chosen:  # a run of the sweep that happened to hit the recipe is a rung as well
        record = study.record(config.id)
        if record.kind == "sweep":
            study.save(replace(record, kind="ladder"), study.curve(config.id))


def _retry(study: Study, config: RunConfig, retry_of: dict[str, str]) -> RunConfig | None:
    """The next attempt of a run that diverged, at ``RETRY_RATE`` of its rate; noted in ``retry_of``."""
    if study.record(config.id).status != "diverged":
        return None
    train = config.train.model_copy(update={"lr": config.train.lr * RETRY_RATE})
    retry = config.model_copy(update={"train": train})
    retry_of[retry.id] = config.id
    return retry


def jobs(
    study: Study,
    configs: Sequence[RunConfig],
    kind: str,
    batched: bool = False,
    retry_of: Mapping[str, str] | None = None,
) -> list[Job]:
    """Runs that are not recorded yet, those of a trunk together; their relative cost from their FLOPs.

    With ``batched``, trunks that step alike are one job. Such a job has all their runs or none: what was trained
    beside a run decides its rounding, so a job that a crash cut short must be the same again.
    """
    missing = lambda group: [config for config in group if study.record(config.id) is None]
    # A step costs about as much as 64 k parameters' arithmetic before it has done any.
    cost = lambda group: max(config.tokens * (config.model.flops_per_token + 4e5) for config in group)
    made = []
    for trunks in groups(configs, batched):
        left = [runs for runs in map(missing, trunks) if runs]
        if left:
            runs = left[0] if len(trunks) == 1 else [config for runs in trunks for config in runs]
            made.append(Job(tuple(runs), kind, sum(map(cost, left)), retry_of or {}))
    return made

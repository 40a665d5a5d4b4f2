"""A study whose losses come from a known law; nothing is trained. It is built whole and cut back to earlier stages."""

import json
import shutil
from dataclasses import replace

import numpy as np

from allometry import laws, planning
from allometry.config.task import TextConfig
from allometry.files import write_json
from allometry.ladder.design import Design
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape, shape_near
from allometry.ladder.sweep import sweep_runs
from allometry.runs.record import RunRecord
from allometry.runs.study import Study
from allometry.workflow.outcome import record_outcome

STAGES = ("empty", "runs", "fit", "plan", "outcome")
WIDTHS = (24, 32, 48, 64, 96)
LENGTHS = (300_000, 600_000, 1_200_000)
LOST = 3  # the rung that diverges
TRUTH = {"E": 0.55, "A": 16.0, "B": 90.0, "alpha": 0.30, "beta": 0.38}
FINGERPRINT = "0123456789abcdef"
ENVIRONMENT = {"allometry": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "system": "Linux x86_64", "cores": 2}


def true_loss(num_params, tokens):
    return laws.Chinchilla().loss(TRUTH, num_params, tokens)


def build(path, *, source="stdlib", note="loss not finite at step 120", sample="def add(a, b):\n", word="Linux x86_64"):
    """A study with sweep, 14 rungs and one that diverged, law, plan, target, outcome and sample.

    ``source``, ``note``, ``sample`` and ``word`` (in the environment) are the texts that come from outside.
    """
    study = Study.create(path, {"study": {"data": source, "seed": 0}, "fingerprint": FINGERPRINT})
    data = TextConfig(source=source, fingerprint=FINGERPRINT)
    counts = {
        "train_tokens": 27_123_456,
        "heldout_tokens": 1_654_321,
        "documents": 1234,
        "duplicates": 56,
        "skipped": 7,
    }
    manifest = {"source": source, "fingerprint": FINGERPRINT, "tokenizer": "bytes"} | counts
    write_json(study.path / "corpus" / "manifest.json", manifest)
    base, recipe = Recipe(lr=0.5, batch_tokens=512), Recipe(lr=0.4, batch_tokens=400, measured="10 runs")
    star = sweep_runs(base, shape(24), data, LENGTHS[:2], 0)
    rungs = [recipe.run(shape(width), data, tokens, 0) for width in WIDTHS for tokens in LENGTHS]
    study.write("ladder.json", Design(tuple(star), tuple(rungs), base).to_json())
    study.write("recipe.json", recipe.to_json() | {"evidence": {"cost_of_half_lr": 0.004, "at_edge": False}})

    environment = ENVIRONMENT | {"system": word}
    generator = np.random.default_rng(3)
    for config in star:
        shift = np.log2([config.train.lr / 0.4, config.train.batch_tokens / 400])
        _save(study, record(config, "sweep", 1 + 0.004 * float(shift @ shift)), environment)
    for config in rungs:
        factor = 1 + 0.002 * generator.standard_normal()
        note_of = note if config == rungs[LOST] else ""
        _save(study, record(config, "ladder", factor, note_of), environment)

    forecast = laws.forecast(laws.Observations.from_records(study.rows()))
    study.write("fit.json", forecast.to_json())
    budget = planning.Budget(flops=8 * max(config.flops for config in rungs))
    plan = planning.plan(
        forecast, budget, shape=shape_near, recipe=lambda n, d: recipe.at(d), created="2026-01-02T03:00:00+00:00"
    )
    config = recipe.run(shape_near(plan.num_params), data, round(plan.tokens), 0)
    plan = plan.with_run(config.to_dict())
    study.write("plan.json", plan.to_json())
    target = record(config, "target", 1.004)
    _save(study, target, environment)
    record_outcome(study, plan, target)
    study.write("sample.json", {"run": target.id, "prompt": "def ", "text": sample})
    return study


def cut(study, path, stage):
    """A copy of a built study as it was at ``stage``, one of ``STAGES``; at ``runs`` half of the ladder had ended."""
    copy = Study(shutil.copytree(study.path, path))
    at = STAGES.index(stage)
    names = [("outcome.json", 4), ("sample.json", 4), ("plan.json", 3), ("fit.json", 2), ("recipe.json", 1)]
    for name in (name for name, first in names if at < first):
        (copy.path / name).unlink()
    ladder = [one.id for one in copy.records("ladder")]
    gone = [one.id for one in copy.records("target")] if at < 4 else []
    gone += ladder[7:] if at < 2 else []
    gone = [one.id for one in copy.records()] if at < 1 else gone
    for run in gone:
        shutil.rmtree(copy.run_path(run))
    return copy


def record(config, kind, factor=1.0, note=""):
    """The record of a run by the known law, ``factor`` times its loss; a note makes it a diverged one."""
    loss = None if note else float(true_loss(config.num_params, config.tokens) * factor)
    return RunRecord(
        run=config,
        kind=kind,
        status="diverged" if note else "finished",
        loss=loss,
        loss_se=None if note else 0.004,
        train_loss=loss,
        seconds=config.flops / 2e9,
        flops_spent=0.8 * config.flops,
        tokens_per_second=2e9 / config.model.flops_per_token,
        finished_at="2026-01-02T03:04:05+00:00",
        note=note,
    )


def curve(config):
    """A training curve that lies above the law until the learning rate falls, over the last fifth, and ends on it."""
    tokens = np.geomspace(512, config.tokens, 120).round()
    above = 1 + 0.08 * np.clip((config.tokens - tokens) / (0.2 * config.tokens), 0, 1)
    loss = np.minimum(true_loss(config.num_params, tokens) * above, 5.6)
    return [[float(t), round(float(x), 5)] for t, x in zip(tokens, loss, strict=True)]


def raw(study, name):
    return json.loads((study.path / name).read_text())


def _save(study, one, environment):
    study.save(replace(one, environment=environment), curve(one.config))

"""Everything that a study holds, read once, at whatever stage it is: the one source of what pictures and page say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .. import laws
from ..config.run import RunConfig
from ..planning import Outcome, Plan
from ..runs.record import RunRecord
from ..runs.study import Study

Curve = list[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class StudyContents:
    """The files of a study; None where there is no such file yet.

    Attributes:
        records: all runs that ended, by FLOPs.
        curves: run → (tokens, smoothed training loss), of rungs and targets.
        predictor: of ``fit.json``.
        plan: of ``plan.json``.
        outcome: of ``outcome.json``.
        recipe: of ``recipe.json``: the fields of a Recipe, and ``evidence``.
        sample: of ``sample.json``: run, prompt, text.
        corpus: the manifest of the text: source, fingerprint, counts.
        settings: what the study was begun with.
        rungs: how many runs the ladder is to have; None where that is not on record.
        sweep_ids: the runs of the designed sweep; one that met the recipe is recorded as a rung.
    """

    records: tuple[RunRecord, ...]
    curves: dict[str, Curve]
    predictor: laws.Fit | laws.Forecast | None
    plan: Plan | None
    outcome: Outcome | None
    recipe: dict[str, Any] | None
    sample: dict[str, Any] | None
    corpus: dict[str, Any] | None
    settings: dict[str, Any]
    rungs: int | None
    sweep_ids: frozenset[str]

    @classmethod
    def of(cls, study: Study) -> StudyContents:
        """Read a study.

        Raises:
            UserError: a file of it is damaged.
        """
        records = tuple(study.records())
        present = lambda name: (study.path / name).is_file()
        ladder = study.read("ladder.json")
        return cls(
            records=records,
            curves={record.id: study.curve(record.id) for record in records if record.kind != "sweep"},
            predictor=laws.load(study.path / "fit.json") if present("fit.json") else None,
            plan=Plan.load(study.path / "plan.json") if present("plan.json") else None,
            outcome=Outcome.from_json(outcome) if (outcome := study.read("outcome.json")) else None,
            recipe=study.read("recipe.json"),
            sample=study.read("sample.json"),
            corpus=study.read("corpus/manifest.json"),
            settings=study.settings(),
            rungs=len(ladder["rungs"]) if ladder else None,
            sweep_ids=frozenset(
                RunConfig.parse(c, "ladder.json: sweep").id for c in (ladder or {"sweep": []})["sweep"]
            ),
        )

    def finished(self, *kinds: str) -> list[RunRecord]:
        """The runs of these kinds (all, if none is named) that did not diverge."""
        return [r for r in self.records if r.status == "finished" and (not kinds or r.kind in kinds)]

    @property
    def diverged(self) -> list[RunRecord]:
        return [record for record in self.records if record.status != "finished"]

    @property
    def swept(self) -> list[RunRecord]:
        """The finished runs of the sweep."""
        return [r for r in self.finished() if r.kind == "sweep" or r.id in self.sweep_ids]

    @cached_property
    def planned(self) -> RunConfig | None:
        """The run that carries out the plan."""
        return RunConfig.parse(self.plan.run, "plan.json: run") if self.plan and self.plan.run else None

    @cached_property
    def target(self) -> RunRecord | None:
        """The run that the outcome speaks of."""
        run = self.outcome.run if self.outcome else None
        return next((record for record in self.records if record.id == run), None)

    @property
    def fits(self) -> dict[str, laws.Fit]:
        """Law → its fit; one of them where a single law was fitted."""
        return fits_of(self.predictor) if self.predictor else {}

    @property
    def level(self) -> float:
        """The level of every interval in the report: the plan's, before there is one 90 %."""
        return self.plan.level if self.plan else 0.9

    @property
    def source(self) -> str:
        """Where the text came from."""
        if self.corpus:
            return self.corpus["source"]
        return self.records[0].config.task.source if self.records else "unknown text"

    @property
    def unit(self) -> str:
        """The unit of every loss."""
        tokenizers = {record.config.task.tokenizer for record in self.records}
        return "nats per byte" if tokenizers == {"bytes"} else "nats per token"


def fits_of(predictor: laws.Fit | laws.Forecast) -> dict[str, laws.Fit]:
    """Law → fit: those of a forecast, or the one fit itself."""
    return {predictor.law.name: predictor} if isinstance(predictor, laws.Fit) else dict(predictor.fits)


def weights_of(predictor: laws.Fit | laws.Forecast) -> dict[str, float]:
    """Law → its weight in the prediction, the heaviest first."""
    weights = {predictor.law.name: 1.0} if isinstance(predictor, laws.Fit) else predictor.weights
    return dict(sorted(weights.items(), key=lambda pair: -pair[1]))

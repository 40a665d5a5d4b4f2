"""Everything that a study holds, read once, at any stage of the study: the one source of pictures and page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import laws
from ..config.model import kind_of_rate
from ..config.run import RunConfig
from ..errors import UserError
from ..planning import Outcome, Plan
from ..runs.record import RunRecord
from ..runs.study import Study

Curve = list[tuple[float, float]]
# What pages read of the small files of a study. The recipe of a program has no reference length, and is only shown.
OF_SAMPLE = {"run": str, "prompt": str, "text": str}
OF_LADDER = {"sweep": list, "rungs": list}
OF_CORPUS = {"source": str}
OF_RECIPE: dict[str, type] = dict.fromkeys(
    ("lr", "batch_tokens", "batch_exponent", "lr_exponent", "reference_tokens"), float
)


@dataclass(frozen=True, eq=False)
class StudyContents:
    """The content of a study's files; None for a file that does not exist yet.

    Attributes:
        records: all runs that ended, sorted by FLOPs.
        curves: run → (tokens, smoothed training loss), for rungs, targets and single runs.
        predictor: from ``fit.json``.
        plan: from ``plan.json``.
        outcome: from ``outcome.json``.
        recipe: from ``recipe.json``: the fields of a Recipe, and ``evidence``.
        sample: from ``sample.json``: run, prompt, text.
        corpus: the manifest of the corpus: source, fingerprint, counts.
        settings: the settings of the study.
        rungs: the number of runs that the ladder will have; None before it is designed.
        sweep_ids: the runs of the sweep. One that equals a rung is recorded as a rung.
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
            UserError: a file of the study is damaged.
        """
        records = tuple(study.records())
        plan = study.path / "plan.json"
        ladder = study.table("ladder.json", OF_LADDER)
        recipe = study.table("recipe.json")
        if recipe and "reference_tokens" in recipe:
            study.table("recipe.json", OF_RECIPE)
        return cls(
            records=records,
            curves={record.id: study.curve(record.id) for record in records if record.kind != "sweep"},
            predictor=_load_predictor(study.path / "fit.json"),
            plan=Plan.load(plan) if plan.is_file() else None,
            outcome=Outcome.from_json(outcome) if (outcome := study.table("outcome.json")) else None,
            recipe=recipe,
            sample=study.table("sample.json", OF_SAMPLE),
            corpus=study.table("corpus/manifest.json", OF_CORPUS),
            settings=study.settings(),
            rungs=len(ladder["rungs"]) if ladder else None,
            sweep_ids=frozenset(
                RunConfig.parse(c, "ladder.json: sweep").id for c in (ladder or {"sweep": []})["sweep"]
            ),
        )

    def finished(self, *kinds: str) -> list[RunRecord]:
        """The runs of these kinds (without any: of all kinds) that did not diverge."""
        return [r for r in self.records if r.status == "finished" and (not kinds or r.kind in kinds)]

    @property
    def diverged(self) -> list[RunRecord]:
        return [record for record in self.records if record.status != "finished"]

    @property
    def counted(self) -> str:
        """Which parameters the study's law counts; pictures and tables count them likewise."""
        return self.predictor.counted if self.predictor else "non_embedding"

    def size(self, record: RunRecord) -> float:
        """The parameters of a run's model, as the law counts them."""
        return float(record.counts().get(f"num_params_{self.counted}") or record.num_params)

    @property
    def swept(self) -> list[RunRecord]:
        """The finished runs of the sweep, including those that are recorded as rungs."""
        return [r for r in self.finished() if r.kind == "sweep" or r.id in self.sweep_ids]

    @cached_property
    def planned(self) -> RunConfig | None:
        """The run that carries out the plan."""
        return RunConfig.parse(self.plan.run, "plan.json: run") if self.plan and self.plan.run else None

    @property
    def rate(self) -> str | None:
        """What the learning rate of the study's models is, by their parametrisation; None where a program has them."""
        runs = [self.planned, *(record.config for record in self.records if not record.external)]
        return next((kind_of_rate(run.model.model_dump()) for run in runs if run is not None), None)

    @cached_property
    def target(self) -> RunRecord | None:
        """The run that the outcome is about."""
        run = self.outcome.run if self.outcome else None
        return next((record for record in self.records if record.id == run), None)

    @property
    def fits(self) -> dict[str, laws.Fit]:
        """Law → its fit; a single one if only one law was fitted."""
        return fits_of(self.predictor) if self.predictor else {}

    @property
    def level(self) -> float:
        """The level of every interval in the report: the plan's, or 90 % without a plan."""
        return self.plan.level if self.plan else 0.9

    @property
    def source(self) -> str:
        """Where the corpus came from."""
        if self.corpus:
            return self.corpus["source"]
        return self.records[0].data if self.records else "unknown text"

    @property
    def unit(self) -> str:
        """The unit of every loss."""
        units = {record.loss_unit for record in self.records}
        return units.pop() if len(units) == 1 else "nats per token"


def _load_predictor(path: Path) -> laws.Fit | laws.Forecast | None:
    if not path.is_file():
        return None
    predictor = laws.load(path)
    if not isinstance(predictor, laws.Fit | laws.Forecast):
        raise UserError(f"{path}: not a law of the loss; `allometry fit` of the study writes one")
    return predictor


def fits_of(predictor: laws.Fit | laws.Forecast) -> dict[str, laws.Fit]:
    """Law → fit: those of a forecast, or the one fit itself."""
    return {predictor.law.name: predictor} if isinstance(predictor, laws.Fit) else dict(predictor.fits)


def weights_of(predictor: laws.Fit | laws.Forecast) -> dict[str, float]:
    """Law → its weight in the prediction, the largest first."""
    weights = {predictor.law.name: 1.0} if isinstance(predictor, laws.Fit) else predictor.weights
    return dict(sorted(weights.items(), key=lambda pair: -pair[1]))

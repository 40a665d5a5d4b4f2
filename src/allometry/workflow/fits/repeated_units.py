"""Plans and predictions of studies whose data are few: how many units there are, and what reading them again costs.

A study of texts says how often its plan reads them, and leaves it to the user: a longer text can be given. Images,
pairs, and what a program or a recorded loop learns from are as many as the study says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ... import laws
from ...config.external import ExternalRun
from ...config.task import TextConfig
from ...planning import Budget, Plan, Repeated
from ...planning.optimum.repeated_data import costs_much, knows_repetition, repetition_note
from ...quantities import format_count
from ...runs.study import Study

Predictor = laws.Fit | laws.Forecast


@dataclass(frozen=True)
class RepeatedUnits:
    """The data of a study: different units, those that its longest rung read, and what a unit is."""

    unique: float
    seen: float
    unit: str

    @classmethod
    def of(cls, study: Study) -> RepeatedUnits | None:
        """None where nothing says how many there are, or where the runs of a study differ in it."""
        records = [record for record in study.records("ladder") if record.status == "finished"]
        stated = (study.table("program.json") or {}).get(
            "unique_tokens"
        )  # of a program, also where it was stated later
        known = {round(record.tokens / record.epochs) if record.epochs else None for record in records}
        if stated is not None:
            known = {stated}
        if len(known) != 1 or None in known or not records:
            return None
        run = records[0].run
        unit = run.unit if isinstance(run, ExternalRun) else run.task.unit
        return cls(float(known.pop() or 0), float(max(record.tokens for record in records)), unit)

    def law(self, predictor: Predictor) -> Predictor | Repeated:
        """The law where units are read again; the same where it knows what that costs."""
        return predictor if knows_repetition(predictor) else Repeated(predictor, self.unique, seen_tokens=self.seen)

    def plan(self, make: Callable[[Predictor | Repeated, Budget], Plan], predictor: Predictor, budget: Budget) -> Plan:
        """The plan that ``make`` makes; made again for the few units there are where it would read them too often."""
        planned = make(predictor, budget)
        again = planned.tokens > max(self.unique, self.seen) and not knows_repetition(predictor)
        if not again or budget.tokens_available is not None:
            return planned
        return make(self.law(predictor), replace(budget, tokens_available=self.unique))

    def with_note(self, plan: Plan, *, known: bool) -> Plan:
        """A plan that says how often its run reads the units; ``known``: the law includes what that costs."""
        if plan.budget.tokens_available is not None:
            return plan
        epochs = plan.tokens / self.unique
        text = repetition_note(epochs, known, "" if self.unit == "token" else self.unit)
        if not text:
            return plan
        if costs_much(epochs):
            return replace(plan, cautions=(*plan.cautions, f"the run {text}"))
        return replace(plan, notes=(*plan.notes, f"the run {text}"))

    def sentence(self, tokens: float) -> str:
        """How often a run reads the units, and what a prediction makes of it; empty for one pass or less."""
        if tokens <= max(self.unique, self.seen):
            return ""
        return (
            f"the run reads its {format_count(self.unique)} {self.unit}s {tokens / self.unique:.3g} times: those that "
            "it reads after the longest fitted run's count as worth less (arXiv 2305.16264), and the interval is "
            "wider, since data may wear out faster or more slowly"
        )


def repeated_units(study: Study) -> RepeatedUnits | None:
    """The data of a study whose plans count units that are read again; None for texts, and where it is not known."""
    tasks = [record.config.task for record in study.records("ladder") if not record.external]
    return None if any(isinstance(task, TextConfig) for task in tasks) else RepeatedUnits.of(study)


def unknown_units(study: Study) -> str:
    """For people, of a program that does not say how many units there are: that every one is taken for new."""
    program = study.table("program.json")
    if program is None or program.get("unique_tokens") is not None:
        return ""
    return (
        f"every {program.get('unit', 'token')} is taken for new: if the program reads some again, say in the study how "
        "many there are, as unique_tokens = 10_000"
    )

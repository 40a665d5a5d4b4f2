"""Decide the later rungs of a ladder: what the runs so far do not tell about the target, within the time that is left.

Speed is watched: what the first rungs took, over what they were expected to take, is what everything else will take.
A machine that has become slower gets smaller rungs and a smaller target, so that the minutes hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ... import laws
from ...config.run import RunConfig
from ...config.study import StudyConfig
from ...errors import UserError
from ...ladder.design import Design, trunk_flops
from ...ladder.fill_minutes import FIXED_SECONDS
from ...ladder.noise import RUN_NOISE, trunk_noise
from ...ladder.recipe import Recipe
from ...ladder.speed import Speed
from ...ladder.stages import LENGTH_STEPS, LadderStage, candidate_trunks
from ...planning.experiments.gaussian_model import MODELLED
from ...planning.experiments.next_trunks import TrunkChoice, next_trunks
from ...quantities import format_count, plural
from ...runs.record import RunRecord
from ...runs.trunks import trunk_costs
from .ladder_forecast import fit_ladder

SLOWER = 1.15  # the machine is slower than measured only beyond this factor: single runs differ by as much
STAGE_SHARE = 0.55  # of what is left, for each stage but the last
LEAST_TRUNKS = 1.5  # a stage of fewer trunks of the largest FLOPs, for each worker, is not worth its waiting
SIZES = 65  # among which the best one for the target is searched


@dataclass(frozen=True)
class LadderSoFar:
    """A ladder at work: what was designed, decided and recorded."""

    config: StudyConfig
    design: Design
    speed: Speed
    recipe: Recipe
    stages: Sequence[LadderStage]
    records: Sequence[RunRecord]

    @property
    def top_flops(self) -> float:
        """FLOPs that the largest rung may take, by the last decision."""
        return self.stages[-1].top_flops if self.stages else self.design.largest_flops

    @property
    def rungs(self) -> list[RunConfig]:
        return [record.config for record in self.records if record.kind == "ladder"]

    @property
    def slowdown(self) -> float:
        """What the rungs took over what they were expected to take; 1 within ``SLOWER``."""
        expected = sum(trunk_costs(self.speed.ladder, self.rungs).values())
        took = sum(record.seconds for record in self.records if record.kind == "ladder")
        ratio = took / expected if expected > 0 else 1.0
        return ratio if ratio > SLOWER else 1.0

    def decide(self) -> LadderStage:
        """The next stage; one without runs where the ladder is complete."""
        top = self.top_flops if self.stages else self._affordable()
        left = self._later_flops(top)
        first = not self.stages
        trunks = candidate_trunks(self.config, self.design, self.recipe, top, self.rungs) if left > 0 else []
        if first:  # the target is a multiple of the largest rung: one of full length is trained whatever it tells
            trunks = [runs for runs in trunks if runs[-1].flops > top * (LENGTH_STEPS[0] + LENGTH_STEPS[1]) / 2]
        if not trunks or not self.rungs:  # no time is left, or none for a run of a length that says something
            return LadderStage((), top, "complete")
        last = STAGE_SHARE * left < LEAST_TRUNKS * self.speed.workers * top
        return self._choose(trunks, left if last and not first else max(STAGE_SHARE * left, top * 1.2), top)

    def _later_flops(self, top: float) -> float:
        """FLOPs that are left for later rungs, if the largest takes ``top``."""
        design = self.design
        scale = top / design.largest_flops
        later = [run for stage in self.stages for run in stage.runs]
        return design.later_flops * scale - trunk_flops(later) if design.top_flops else 0.0

    def _affordable(self) -> float:
        """FLOPs of the largest rung, such that later rungs and the target fit the minutes at the speed as it is."""
        design, slowdown = self.design, self.slowdown
        if slowdown == 1.0 or self.config.minutes is None or design.target_seconds is None:
            return design.largest_flops
        spent = sum(record.seconds for record in self.records) / self.speed.workers
        available = 60 * self.config.minutes - FIXED_SECONDS - spent
        first = trunk_costs(self.speed.ladder, design.rungs)
        later = design.later_flops / trunk_flops(design.rungs) * sum(first.values()) / self.speed.workers
        needed = slowdown * (later + design.target_seconds)
        least = max(rung.flops for rung in design.rungs)
        return max(least, design.largest_flops * min(1.0, available / needed))

    def _choose(self, trunks: list[list[RunConfig]], budget: float, top: float) -> LadderStage:
        """The trunks that tell most about the target for the time they take, within a budget in FLOPs."""
        by_trunk = [record for record in self.records if record.kind == "ladder" and record.status == "finished"]
        try:
            forecast, observations = fit_ladder(by_trunk)
        except UserError as error:  # too few runs have ended well: the sizes in the middle, again
            return LadderStage(tuple(trunks[len(trunks) // 2]), top, f"no law yet: {error}")
        goal = self.design.target_ratio * top
        best = _best_point(forecast, goal, trunks)
        slow = sum(trunk_costs(self.speed.ladder, self.design.rungs).values()) / trunk_flops(self.design.rungs)
        costs = [sum(trunk_costs(self.speed.ladder, runs).values()) / slow for runs in trunks]
        choices = [
            TrunkChoice(runs[0].num_params, tuple(run.tokens for run in runs), trunk_noise(runs[0].num_params), cost)
            for runs, cost in zip(trunks, costs, strict=True)
        ]
        weights = {name: forecast.weights[name] for name in MODELLED if forecast.weights.get(name, 0) > 0}
        total = sum(weights.values())
        weights = {name: weight / total for name, weight in weights.items()} if total else {"chinchilla": 1.0}
        chosen, before, after = next_trunks(
            observations,
            choices,
            best,
            budget,
            weights,
            trunks=[record.config.trunk for record in by_trunk],
            noises=[trunk_noise(record.num_params) for record in by_trunk],
            own_noise=RUN_NOISE,
        )
        runs = [run for place in chosen for run in trunks[place]]
        reason = (
            f"{plural(len(chosen), 'trunk')} for a target of about {format_count(best[0])} parameters: its loss known "
            f"to {before.loss:.2%} → {after.loss:.2%}, the loss of twice over half that size to {before.slope:.2%} → "
            f"{after.slope:.2%}"
        )
        return LadderStage(tuple(runs), top, reason if runs else "complete")


def _best_point(forecast: laws.Forecast, flops: float, trunks: Sequence[Sequence[RunConfig]]) -> tuple[float, float]:
    """(N*, D*) at the target's FLOPs as the law sees it now, N* within the sizes to choose from.

    FLOPs a token are those of the models, between them by interpolation: with a large vocabulary most of them are the
    readout's, and grow with the width alone.
    """
    per_token = {runs[0].num_params: runs[0].model.flops_per_token for runs in trunks}
    known = np.log(sorted(per_token.items()))
    sizes = np.linspace(known[0, 0], known[-1, 0], SIZES)
    tokens = flops / np.exp(np.interp(sizes, *known.T))
    best = np.argmin(forecast.predict(num_params=np.exp(sizes), tokens=tokens).value)
    return math.exp(sizes[best]), float(tokens[best])

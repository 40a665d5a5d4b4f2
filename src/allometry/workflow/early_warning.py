"""An early word on a run whose training loss is not where the law expects it; it stops nothing."""

from __future__ import annotations

import contextlib

from .. import laws
from ..config.run import RunConfig
from ..errors import UserError
from ..laws.along_a_run.expected_band import LEAST_SIZES, Band, Course, Watch, band
from ..planning.resources.shapes import size_of
from ..quantities import format_count
from ..runs.record import RunRecord
from ..runs.study import Study

LAW, REFITS = "chinchilla", 40  # of the rungs that have ended, while there is no better; refits for its interval


class Early:
    """Bands for the runs of a study that are under way, by its rungs that have ended.

    ``predictor`` is the study's law; without one, a law is fitted to the rungs of other trunks. Too few of them, and
    nothing is said.
    """

    def __init__(self, study: Study, predictor: laws.Fit | laws.Forecast | None = None):
        self.study, self.predictor = study, predictor
        self._ended = self._read()
        self._watches: dict[str, Watch | None] = {}
        self._said: dict[str, str] = {}

    def reading(self, config: RunConfig, tokens: float, loss: float) -> str:
        """What there is to say of a reading of a run: once, a sentence; else nothing."""
        if config.id not in self._watches:
            found = self._band(config)
            self._watches[config.id] = found and Watch(found)
        watch = self._watches[config.id]
        return self._sentence(config, watch.band, tokens, loss) if watch and watch(tokens, loss) else ""

    def ended(self, config: RunConfig) -> str:
        """A run is recorded: what was said of it, or is to be said by its whole curve. The next bands know of it."""
        found = None if config.id in self._said else self._band(config)
        left = found and found.first_outside(self.study.curve(config.id))
        if left:
            self._sentence(config, found, *left)
        self._ended = self._read()
        self._watches = {run: watch for run, watch in self._watches.items() if watch is not None}
        return self._said.get(config.id, "")

    def _sentence(self, config: RunConfig, found: Band, tokens: float, loss: float) -> str:
        low, high = found.at(tokens)
        side = "below" if loss < low else "above"
        self._said[config.id] = (
            f"training loss {loss:.3f} at {format_count(tokens)} tokens is {side} the band [{low:.3f}, {high:.3f}] "
            "that the law and the curves of other runs give: look at its rate and its text"
        )
        return self._said[config.id]

    def _read(self) -> list[RunRecord]:
        return [record for record in self.study.records("ladder") if record.status == "finished"]

    def _band(self, config: RunConfig) -> Band | None:
        others = [record for record in self._ended if record.config.trunk != config.trunk]
        if len({record.config.num_params for record in others}) < LEAST_SIZES:
            return None
        try:
            predictor = self.predictor
            if predictor is None:
                rows = [record.row() for record in others]
                predictor = laws.fit(
                    LAW, laws.Observations.from_records(rows, counted="non_embedding"), bootstrap=REFITS
                )
            courses = [_course(record.config, predictor, self.study.curve(record.id)) for record in others]
            return band(predictor, [course for course in courses if course.curve], _course(config, predictor))
        except UserError:
            return None


def law_of(study: Study) -> laws.Fit | laws.Forecast | None:
    """The law that the study holds; None before there is one."""
    path = study.path / "fit.json"
    with contextlib.suppress(UserError):  # what cannot be read gives no band; whoever needs the law will say so
        return laws.load(path) if path.is_file() else None
    return None


def _course(
    config: RunConfig, predictor: laws.Fit | laws.Forecast, curve: list[tuple[float, float]] | None = None
) -> Course:
    schedule = config.schedule
    fall = schedule.tokens_before(schedule.decay_start)
    return Course(size_of(config.model, predictor.counted), config.tokens, max(1, fall), curve or ())

"""An early warning about a run whose training loss is not where the law expects it; the run goes on."""

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
from .fits.study_fit import load_fit

# The law that is fitted to the rungs that have ended, until the study has one of its own; refits for its interval.
LAW, REFITS = "chinchilla", 40


class EarlyWarning:
    """Bands of expected training loss for the runs under way, from the rungs of the study that have ended.

    ``predictor`` is the study's law; without one, a law is fitted to the rungs of other trunks. With too few rungs
    there is no warning.
    """

    def __init__(self, study: Study, predictor: laws.Fit | laws.Forecast | None = None):
        self.study, self.predictor = study, predictor
        self._ended = self._finished_rungs()
        self._watches: dict[str, Watch | None] = {}
        self._warnings: dict[str, str] = {}

    def check_reading(self, config: RunConfig, tokens: float, loss: float) -> str:
        """The warning that a reading of a run gives rise to, once for each run; else an empty text."""
        if config.id not in self._watches:
            expected = self._band(config)
            self._watches[config.id] = Watch(expected) if expected else None
        watch = self._watches[config.id]
        return self._warning(config, watch.band, tokens, loss) if watch and watch(tokens, loss) else ""

    def check_curve(self, config: RunConfig) -> str:
        """The warning about a run that is recorded: the one given before, or one from its whole curve.

        From now on the run is one of those that the bands of other runs are made from.
        """
        expected = None if config.id in self._warnings else self._band(config)
        outside = expected.first_outside(self.study.curve(config.id)) if expected else None
        if expected and outside:
            self._warning(config, expected, *outside)
        self._ended = self._finished_rungs()
        self._watches = {run: watch for run, watch in self._watches.items() if watch is not None}
        return self._warnings.get(config.id, "")

    def _warning(self, config: RunConfig, expected: Band, tokens: float, loss: float) -> str:
        interval = expected.at(tokens)
        if interval is None:  # the band says nothing at so many tokens
            return ""
        low, high = interval
        side = "below" if loss < low else "above"
        self._warnings[config.id] = (
            f"training loss {loss:.3f} at {format_count(tokens)} tokens is {side} the band [{low:.3f}, {high:.3f}] "
            "that the law and the curves of other runs give: check its learning rate and its corpus"
        )
        return self._warnings[config.id]

    def _finished_rungs(self) -> list[RunRecord]:
        return [record for record in self.study.records("ladder") if record.status == "finished"]

    def _band(self, config: RunConfig) -> Band | None:
        """The band of a run, from the rungs of other trunks; None if there are too few."""
        others = [record for record in self._ended if record.config.trunk != config.trunk]
        if len({record.config.num_params for record in others}) < LEAST_SIZES:
            return None
        try:
            predictor = self.predictor
            if predictor is None:
                rows = [record.row() for record in others]
                observations = laws.Observations.from_records(rows, counted="non_embedding")
                predictor = laws.fit(LAW, observations, "log_squares", bootstrap=REFITS)
            courses = [_course(record.config, predictor, self.study.curve(record.id)) for record in others]
            return band(predictor, [course for course in courses if course.curve], _course(config, predictor))
        except UserError:
            return None


def saved_law(study: Study) -> laws.Fit | laws.Forecast | None:
    """The law that the study holds; None if there is none yet."""
    path = study.path / "fit.json"
    with contextlib.suppress(UserError):  # without a readable law there is no band; who needs the law will report it
        return load_fit(path) if path.is_file() else None
    return None


def _course(
    config: RunConfig, predictor: laws.Fit | laws.Forecast, curve: list[tuple[float, float]] | None = None
) -> Course:
    schedule = config.schedule
    decay_start = schedule.tokens_before(schedule.decay_start)
    return Course(size_of(config.model, predictor.counted), config.tokens, max(1, decay_start), curve or ())

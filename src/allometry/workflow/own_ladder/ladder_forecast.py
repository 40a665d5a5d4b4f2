"""The law of a ladder of the built-in decoder: with the noise of its trunks and what earlier studies showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import laws
from ...ladder.noise import RUN_NOISE, trunk_noise
from ...ladder.shape import BYTES
from ...runs.record import RunRecord
from ...runs.study import Study
from .earlier_studies import (
    DRIFT,
    EARLY_DRIFT,
    LAWS,
    LEAST_LENGTHS,
    LEAST_RUNS,
    LEAST_TOKENS,
    SHORT_TOKENS,
    priors,
)


def own_ladder(source: Path | str) -> list[RunRecord]:
    """The finished rungs of a study whose ladder is of the built-in decoder on text; none for anything else.

    Students of a teacher are something else: what earlier studies showed of the constants does not hold for them.
    """
    study = Study(Path(source))
    if not study.settings_path.is_file():
        return []
    rungs = [record for record in study.records("ladder") if record.status == "finished"]
    return rungs if all(_is_plain_text(record) for record in rungs) else []


def _is_plain_text(record: RunRecord) -> bool:
    return not record.external and record.config.plain_text


def fit_ladder(records: Sequence[RunRecord]) -> tuple[laws.Forecast, laws.Observations]:
    """The forecast of a ladder of the built-in decoder, and its runs.

    It knows more than one of anybody's table: which runs share a trunk, the noise of trunks and of runs, and, where the
    runs are of plain decoders on text and as long as those of earlier studies, what came out of these
    (:mod:`.earlier_studies`).

    Raises:
        UserError: too few runs for a law.
    """
    long = [record for record in records if record.tokens >= LEAST_TOKENS and _is_plain_text(record)]
    sizes, lengths = {record.num_params for record in long}, {record.tokens for record in long}
    if len(long) < LEAST_RUNS or len(sizes) < 3 or len(lengths) < LEAST_LENGTHS:
        observations = with_noise([record.row() for record in records])
        return laws.forecast(observations), observations
    observations = with_noise([record.row() for record in long])
    text = long[0].config.text
    law = forecast_text(observations, text.vocab_size, text.bytes_per_token, text.train_tokens)
    return law, observations


def with_noise(rows: Sequence[Mapping[str, Any]]) -> laws.Observations:
    """Runs of the built-in decoder, with what repeats showed of their noise."""
    noise = [{"trunk_noise": trunk_noise(row["num_params"]), "run_noise": RUN_NOISE} for row in rows]
    return laws.Observations.from_records(
        [{**row, **known} for row, known in zip(rows, noise, strict=True)], counted="non_embedding"
    )


def forecast_text(
    observations: laws.Observations, vocab_size: int, bytes_per_token: float, train_tokens: float | None
) -> laws.Forecast:
    """The forecast of a ladder on text of so many unique tokens (None: no run reads any of it twice), by what earlier
    studies showed."""
    early = vocab_size > BYTES or observations.tokens.max() < SHORT_TOKENS
    drift = EARLY_DRIFT if early else DRIFT
    if train_tokens is not None:
        drift = replace(drift, unique_tokens=float(train_tokens))
    return laws.forecast(observations, drift=drift, laws=LAWS, priors=priors(bytes_per_token))

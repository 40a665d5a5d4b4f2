"""The ladders of the tournament fitted again by the law as it stands: are its errors as large as its intervals say?

    python benchmarks/refit_ladders.py                      # the table: error, half-width, errors over intervals
    python benchmarks/refit_ladders.py --noise              # how far two trunks of one size differ, and how steadily
    python benchmarks/refit_ladders.py --add tournament/A   # adds the ladder of a study to ladders.jsonl

``ladders.jsonl`` holds the rungs of each study and what came out beyond them. The constants of
``allometry.workflow.own_ladder.earlier_studies`` and ``allometry.ladder.noise`` rest on it, so this is no judgement of
them: what was predicted before it was known stands in ``tournament.jsonl``. Half a minute.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from allometry.ladder.shape import BYTES
from allometry.laws.fitting.trunk_noise import trunk_differences
from allometry.workflow.own_ladder.earlier_studies import LEAST_TOKENS
from allometry.workflow.own_ladder.ladder_forecast import forecast_text, with_noise
from result_rows import ResultRows

LADDERS = ResultRows("ladders")
NINETY = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Refit:
    """What the law says of a study's target now.

    Attributes:
        name: of the study.
        of_bytes: whether its tokens are bytes, not subwords.
        error: predicted over the mean of the target's seeds, less one.
        half_width: of the 90 % interval, in ln L.
        misses: ln(predicted/actual) of each seed, in half widths times 1.645: standard deviations of a normal error.
        ratio: the target's FLOPs over those of the largest rung, about.
    """

    name: str
    of_bytes: bool
    error: float
    half_width: float
    misses: tuple[float, ...]
    ratio: float


def ladder_of(folder: Path) -> dict[str, Any]:
    """The row of a study: its text, its rungs, and every longer run that was trained beside its target."""
    from allometry.runs.study import Study

    records = [record for record in Study(folder).records() if record.status == "finished"]
    rungs = [record for record in records if record.kind == "ladder"]
    trunks = {trunk: place for place, trunk in enumerate(dict.fromkeys(rung.config.trunk for rung in rungs))}
    text = rungs[0].config.text
    target = next(record for record in records if record.kind == "target")
    beyond = [target, *(record for record in records if record.kind == "run")]
    return {
        "name": folder.name,
        "vocab_size": text.vocab_size,
        "bytes_per_token": text.bytes_per_token,
        "train_tokens": text.train_tokens,
        "rungs": [[rung.num_params, rung.tokens, rung.loss, trunks[rung.config.trunk]] for rung in rungs],
        "beyond": [[record.num_params, record.tokens, record.loss] for record in beyond],
    }


def observations_of(ladder: dict[str, Any]):
    """The rungs of a stored ladder that a law is fitted to."""
    names = ("num_params", "tokens", "loss", "trunk")
    rows = [dict(zip(names, rung, strict=True)) for rung in ladder["rungs"]]
    return with_noise([row for row in rows if row["tokens"] >= LEAST_TOKENS])


def refit(ladder: dict[str, Any]) -> Refit:
    """The law of a stored ladder, held against all seeds of its target."""
    observations = observations_of(ladder)
    law = forecast_text(observations, *(ladder[name] for name in ("vocab_size", "bytes_per_token", "train_tokens")))
    size, tokens, _ = ladder["beyond"][0]
    actual = np.array([loss for n, _, loss in ladder["beyond"] if n == size])
    answer = law.predict(num_params=size, tokens=tokens, level=0.9)
    half = math.log(float(answer.high / answer.low)) / 2
    misses = np.log(float(answer.value) / actual) / (half / NINETY)
    return Refit(
        ladder["name"],
        ladder["vocab_size"] <= BYTES,
        float(answer.value) / actual.mean() - 1,
        half,
        tuple(map(float, misses)),
        size * tokens / float((observations.num_params * observations.tokens).max()),
    )


def noise_table(ladders: list[dict[str, Any]]) -> str:
    """The noise of a run, and of a run around its trunk, by all pairs of trunks of one size."""
    pairs = [trunk_differences(observations_of(ladder)) for ladder in ladders]
    levels, changes = (np.concatenate([pair[part] for pair in pairs]) for part in (0, 1))
    return (
        f"{len(levels)} lengths that two trunks of one size share: a run differs by "
        f"{np.sqrt(np.mean(levels**2) / 2):.2%} (standard deviation); {len(changes)} changes from one length to the "
        f"next: around its trunk by {np.sqrt(np.mean(changes**2)) / 2:.2%}"
    )


def table(refits: list[Refit]) -> str:
    """Every study, and what they are together."""
    lines = [f"{'study':28s}    ×   error  half-width  misses (standard deviations)"]
    lines += [
        f"{one.name:28s} {one.ratio:4.0f}  {one.error:+.2%}  {one.half_width:9.2%}   "
        + " ".join(f"{miss:+.2f}" for miss in one.misses)
        for one in refits
    ]
    for of_bytes, tokens in ((True, "bytes"), (False, "subwords")):
        near = [one for one in refits if one.ratio < 20 and one.of_bytes is of_bytes]
        errors, misses = np.array([one.error for one in near]), np.array([x for one in near for x in one.misses])
        lines.append(
            f"8 ×, {tokens}: {len(near)} studies, error {np.sqrt(np.mean(errors**2)):.2%} rms ({errors.mean():+.2%} on "
            f"average), half-width {np.median([one.half_width for one in near]):.2%}; {len(misses)} targets, misses "
            f"{np.sqrt(np.mean(misses**2)):.2f} rms, {int((np.abs(misses) < NINETY).sum())} inside"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", type=Path, nargs="+", metavar="STUDY", help="studies whose ladders are added")
    parser.add_argument("--noise", action="store_true", help="the noise of runs, by trunks of one size")
    options = parser.parse_args()
    for folder in options.add or ():
        LADDERS.put("name", ladder_of(folder))
    if options.noise:
        print(noise_table(LADDERS.read()))
    elif not options.add:
        print(table([refit(ladder) for ladder in LADDERS.read()]))


if __name__ == "__main__":
    main()

"""The noise of a run that laws are told is the one that was measured."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from allometry.config.model import DecoderConfig
from allometry.ladder.noise import RUN_NOISE, trunk_noise

ROWS = Path(__file__).parents[2] / "benchmarks" / "results" / "seed_noise.jsonl"


def test_the_noise_by_size_is_that_of_repeated_runs():
    """The rows of `seed_noise.py --wired`: eight seeds each, three texts, two lengths."""
    found = defaultdict(list)
    for row in map(json.loads, ROWS.read_text().splitlines()):
        if row["changed"].startswith("as a study trains"):
            found[row["width"]].append(row["sd"])
    measured = {width: np.sqrt(np.mean(np.square(sds))) for width, sds in found.items() if len(sds) > 3}
    assert len(measured) >= 3
    for width, sd in measured.items():
        model = DecoderConfig(width=width, hidden=3 * width, layers=4, head_dim=16, context=128, vocab_size=256)
        assert 0.75 < sd / np.hypot(trunk_noise(model.num_params), RUN_NOISE) < 1.33, width

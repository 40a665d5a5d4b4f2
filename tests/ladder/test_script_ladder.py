"""The sweep of a program: the best rate of each width, whatever the loss does far from it."""

import math
import sys

import numpy as np
import pytest

from allometry.config.script import ScriptModelConfig, ScriptStudyConfig
from allometry.ladder.script_ladder import ScriptRecipe, Sizes, measure_script_recipe, sweep_of
from allometry.runs.record import RunRecord
from helpers.builders import record

CONFIG = ScriptStudyConfig.parse(
    {
        "widths": [16, 24, 32, 48],
        "tokens": [50_000],
        "lr": 4e-3,
        "sweep": True,
        "trainer": {
            "name": "script",
            "command": f"{sys.executable} p.py --width {{width}} --tokens {{tokens}} --lr {{lr}} --out {{out}}",
            "result": "{out}/r.json",
            "count": "24 * width**2",
        },
    },
    "study.toml",
)


SIZES = Sizes({width: (24 * width**2, 6.0 * 24 * width**2) for width in CONFIG.widths}, CONFIG)


def swept(log_loss) -> list[RunRecord]:
    """Records of a sweep whose log loss is a function of width and of the logarithm of the rate."""
    runs = sweep_of(CONFIG, SIZES)
    assert all(isinstance(run.model, ScriptModelConfig) for run in runs)
    return [record(run, math.exp(log_loss(run.model.width, math.log2(run.train.lr))), kind="sweep") for run in runs]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_steep_side_does_not_move_the_best_rate(exponent):
    """Below a quarter of the best rate nothing has been learned yet: the loss there is far above any parabola."""

    def log_loss(width, lr):
        off = lr - math.log2(7e-3 * (width / 16) ** -exponent)
        return 1 + 0.03 * off**2 + 0.06 * 2 ** (-2 * off - 2) * (width == 16)

    at = np.linspace(-9, -5, 4001)
    truth = [2 ** at[np.argmin([log_loss(width, one) for one in at])] for width in (16, 32)]
    recipe, evidence = measure_script_recipe(CONFIG, swept(log_loss))
    assert isinstance(recipe, ScriptRecipe)
    for width, rate in zip(("16", "32"), truth, strict=True):
        assert abs(math.log2(evidence["best_lr"][width] / rate)) < 0.25
    assert not evidence["at_edge"]


def test_noise_of_a_percent_moves_the_best_rate_by_less_than_an_octave():
    moved = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        noisy = lambda width, lr, rng=rng: 0.03 * (lr - math.log2(5e-3)) ** 2 + rng.normal(0, 0.01)
        _, evidence = measure_script_recipe(CONFIG, swept(noisy))
        moved += [math.log2(rate / 5e-3) for rate in evidence["best_lr"].values()]
    assert np.std(moved) < 0.5
    assert abs(np.mean(moved)) < 0.1


def test_rates_that_noise_makes_equal_do_not_make_an_exponent():
    """Losses of a small GPT after 256 steps: flat from 4e-3 to 3e-2, to 3 %."""
    losses = {
        16: {0.002: 2.8214, 0.004: 2.6114, 0.008: 2.5305, 0.016: 2.5081, 0.032: 2.4648},
        32: {0.002: 2.6576, 0.004: 2.5749, 0.008: 2.5828, 0.016: 2.6615, 0.032: 2.6442},
    }
    config = CONFIG.model_copy(update={"lr": 8e-3})
    runs = sweep_of(config, SIZES)
    records = [record(run, losses[run.model.width][round(run.train.lr, 6)], kind="sweep") for run in runs]
    recipe, _ = measure_script_recipe(config, records)
    assert 0 < recipe.lr_exponent < 1.2  # through the single losses: 1.9


def test_a_best_rate_beyond_those_that_ran_is_their_end():
    _, evidence = measure_script_recipe(CONFIG, swept(lambda width, lr: 1 - 0.1 * lr))
    assert evidence["at_edge"]
    assert evidence["best_lr"]["16"] == pytest.approx(4 * CONFIG.lr)

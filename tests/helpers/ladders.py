"""Tables of runs with a known truth, and where the public tables lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from allometry.laws import LAWS, Observations

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[3] / "shared"))

# One published or plausible truth a law; losses between 1.5 and 5 over the ladders below.
TRUTHS = {
    "power": {"k": 25.0, "alpha": -0.06, "beta": -0.05},
    "power_floor": {"E": 1.5, "k": 300.0, "alpha": -0.15, "beta": -0.12},
    "kaplan": {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "kaplan_floor": {"E": 1.4, "Nc": 4e10, "Dc": 6e11, "alpha_N": 0.25, "alpha_D": 0.3},
    "chinchilla": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "chinchilla_tied": {"E": 1.7, "A": 150.0, "B": 500.0, "alpha": 0.3},
    "skaling": {"E": 1.6, "A": 900.0, "B": 2500.0, "alpha": 0.4, "beta": 0.36, "k": 0.8},
    "farseer": {
        "s": -0.021, "q": 0.169, "S": 1.2, "B": 88.01, "b": -0.1, "Q": -6.287, "A": -0.124, "a": 0.123, "E": 0.424,
    },
    "data_constrained": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.35, "R_N": 5.3, "R_D": 15.4},
    "three_term": {"E": 1.7, "A": 406.4, "B": 5.0, "C": 30.0, "alpha": 0.34, "beta": 0.3, "gamma": 0.4},
}  # fmt: skip
LADDER = [name for name in TRUTHS if LAWS[name].inputs == ("num_params", "tokens")]


def shared(name: str) -> Path:
    """A file of the shared data; the test is skipped, with the reason, where it is absent."""
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"no shared table at {path}; set ALLOMETRY_SHARED to its folder")
    return path


def ladder(law: str, values: dict | None = None, noise: float = 0.0, seed: int = 0, sizes: int = 6, counts: int = 4):
    """A grid of sizes × token counts whose losses follow the law with log-normal noise.

    What else the law reads varies too: three batch sizes, or three shares of the tokens that are unique.
    """
    axes = [np.geomspace(2e7, 3e9, sizes), np.geomspace(5e8, 2e11, counts)]
    if len(LAWS[law].inputs) == 3:
        axes.append(np.geomspace(0.02, 1, 3) if law == "data_constrained" else np.geomspace(1e5, 4e6, 3))
    n, d, *third = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    extra = {}
    if law == "data_constrained":
        extra = {"unique_tokens": third[0] * d}
    if law == "three_term":
        extra = {"batch_tokens": third[0], "steps": d / third[0]}
    return runs(n, d, law, values or TRUTHS[law], noise, seed, **extra)


def runs(n, d, law: str, values: dict, noise: float = 0.0, seed: int = 0, **extra) -> Observations:
    """Runs of these sizes and tokens."""
    n, d = np.broadcast_arrays(np.atleast_1d(n).astype(float), np.atleast_1d(d).astype(float))
    columns = {"num_params": n, "tokens": d, **extra}
    loss = LAWS[law].loss(values, *(columns[name] for name in LAWS[law].inputs))
    columns["loss"] = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(n.shape))
    return Observations.from_records(
        [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    )

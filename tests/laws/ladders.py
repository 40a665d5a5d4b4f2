"""Tables of runs with a known truth, and where the public tables lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from allometry.laws import LAWS, Observations

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[3] / "shared"))

# One published or plausible truth a law; losses between 2 and 4 over the ladder below.
TRUTHS = {
    "power": {"k": 25.0, "alpha": -0.06, "beta": -0.05},
    "power_floor": {"E": 1.5, "k": 300.0, "alpha": -0.15, "beta": -0.12},
    "chinchilla": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "skaling": {"E": 1.6, "A": 900.0, "B": 2500.0, "alpha": 0.4, "beta": 0.36, "k": 0.8},
}


def shared(name: str) -> Path:
    """A file of the shared data; the test is skipped, with the reason, where it is absent."""
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"no shared table at {path}; set ALLOMETRY_SHARED to its folder")
    return path


def ladder(law: str, values: dict | None = None, noise: float = 0.0, seed: int = 0, sizes: int = 6, counts: int = 4):
    """A grid of sizes × token counts whose losses follow the law with log-normal noise."""
    n, d = np.meshgrid(np.geomspace(2e7, 3e9, sizes), np.geomspace(5e8, 2e11, counts), indexing="ij")
    return runs(n.ravel(), d.ravel(), law, values or TRUTHS[law], noise, seed)


def runs(n, d, law: str, values: dict, noise: float = 0.0, seed: int = 0) -> Observations:
    """Runs of these sizes and tokens."""
    n, d = np.broadcast_arrays(np.atleast_1d(n).astype(float), np.atleast_1d(d).astype(float))
    loss = LAWS[law].loss(values, n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(n.shape))
    return Observations.from_records(
        [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    )

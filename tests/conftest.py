"""One thread, and property tests that draw the same examples every time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads a BLAS

import pytest
import torch
from hypothesis import HealthCheck, register_random, settings

torch.set_num_threads(1)


class TorchRandom:
    """Torch's generator as hypothesis wants one, so that an example draws the same tensors whenever it is run."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = TorchRandom()  # hypothesis holds it by a weak reference
register_random(_torch_random)

# Derandomised, so that a bound of four standard errors is met every time or never.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)

"""The check of scales before a training: silent for a healthy model, a line for another, and nothing is changed."""

import pytest
import torch

from allometry.lm.decoder import build
from allometry.lm.training.health import scale_warning
from helpers.builders import model_config


@pytest.fixture
def batch():
    return torch.randint(32, (6, 16)), torch.randint(32, (6, 16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fresh_model_is_healthy_and_stays_as_it_was(batch, precision):
    model = build(model_config(width=32, layers=3), 0, precision)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert scale_warning(model, batch) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("factor", "said"), [(1e-3, "too small"), (1e3, "overflow")])
def test_a_weight_at_another_scale_is_named(batch, factor, said):
    model = build(model_config(width=32, layers=3), 0)
    name, weight = next((n, p) for n, p in model.named_parameters() if "blocks.1" in n and p.ndim == 2)
    with torch.no_grad():
        weight.mul_(factor)
    line = scale_warning(model, batch)
    assert name in line
    assert said in line
    assert "\n" not in line

"""Parameter groups and AdamW: PyTorch's own, at rates by role, with a weight decay that only the schedule moves."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from allometry.lm.model import build
from builders import model_config


def decoder(**changes):
    return build(model_config(**changes), 0)


def loss_of(model):
    tokens = torch.arange(17).repeat(2, 1)
    return model.loss(tokens[:, :-1], tokens[:, 1:])


@given(st.sampled_from([16, 32]), st.integers(1, 4), st.sampled_from([16, 24, 64]), st.floats(1e-4, 10))
def test_one_group_for_each_distinct_rate_and_every_parameter_once(width, layers, hidden, lr):
    model = decoder(width=width, layers=layers, hidden=hidden)
    groups = nn.param_groups(model, lr, 0.1)
    factors = nn.learning_rate_factors(model)
    assert len(groups) == len({group["lr"] for group in groups}) == len(set(factors.values()))
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(map(id, model.parameters()))
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == pytest.approx(lr * factors[name], rel=1e-12)


def test_tied_weights_are_in_one_group():
    model = torch.nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    (group,) = nn.param_groups(model, 1.0)
    assert len(group["params"]) == 1


@given(st.floats(1e-3, 10), st.floats(0.001, 0.5), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_without_gradients_a_step_shrinks_weights_by_the_decay_times_the_schedules_shape(lr, decay, shapes):
    """Whatever the learning rate, and the same for every role."""
    model = decoder(layers=1).double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = nn.AdamW(model, lr, weight_decay=decay)
    left = 1.0
    for shape in shapes:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.set_schedule(shape)
        optimizer.step()
        left *= 1 - decay * shape
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name] * left, rtol=1e-12, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_adamw_is_torchs_at_those_rates(decay):
    """Against the plain, unfused one in float64, along a schedule; each step's rounding is all that may differ."""
    ours = decoder().double()
    theirs = copy.deepcopy(ours)
    optimizer = nn.AdamW(ours, 0.3, betas=(0.8, 0.95), eps=1e-9, weight_decay=decay)
    factors = nn.learning_rate_factors(theirs)
    plain = torch.optim.AdamW(
        [
            {"params": [p], "lr": 0.3 * factors[n], "weight_decay": decay / (0.3 * factors[n])}
            for n, p in theirs.named_parameters()
        ],
        betas=(0.8, 0.95),
        eps=1e-9,
        foreach=False,
        fused=False,
    )
    peaks = [group["lr"] for group in plain.param_groups]
    for shape in (0.5, 1.0, 1.0, 0.25):
        optimizer.set_schedule(shape)
        for group, peak in zip(plain.param_groups, peaks, strict=True):
            group["lr"] = peak * shape
        for model, stepper in ((ours, optimizer), (theirs, plain)):
            stepper.zero_grad()
            loss_of(model).backward()
            stepper.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9, msg=name)


def test_a_schedule_of_zero_leaves_everything_where_it_is():
    model = decoder()
    before = copy.deepcopy(model.state_dict())
    optimizer = nn.AdamW(model, 1.0, weight_decay=0.1)
    optimizer.set_schedule(0.0)
    loss_of(model).backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_schedules_do_not_compound():
    optimizer = nn.AdamW(decoder(), 1.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for shape in (0.5, 0.1, 1.0):
        optimizer.set_schedule(shape)
        assert [group["lr"] for group in optimizer.param_groups] == [peak * shape for peak in peaks]

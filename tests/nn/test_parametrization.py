"""Roles by name, learning rates by role, and what they are for: changes of activations that do not grow with width."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from allometry.lm.model import build
from builders import model_config


def decoder(**changes):
    return build(model_config(**changes), 0)


def test_every_parameter_has_the_role_of_its_layer():
    model = decoder(width=16, layers=3, hidden=24, vocab_size=32)
    roles = nn.roles(model)
    assert roles.keys() == dict(model.named_parameters()).keys()
    assert roles["embedding.weight"] == nn.Role("input", fan_in=32, fan_out=16, branches=1)
    assert roles["readout.weight"] == nn.Role("output", fan_in=16, fan_out=32, branches=1)
    for layer in range(3):
        block = f"stack.blocks.{layer}"
        assert roles[f"{block}.attention.qkv.weight"] == nn.Role("hidden", 16, 48, branches=6)
        assert roles[f"{block}.attention.out.weight"] == nn.Role("hidden", 16, 16, branches=6)
        assert roles[f"{block}.mlp.gate_up.weight"] == nn.Role("hidden", 16, 48, branches=6)
        assert roles[f"{block}.mlp.down.weight"] == nn.Role("hidden", 24, 16, branches=6)
    assert len(roles) == 2 + 3 * 4


@given(st.sampled_from([16, 32, 48, 80]), st.integers(1, 6), st.integers(8, 64))
def test_rates_are_those_of_umup_for_each_role_and_depth(width, layers, hidden):
    """Embedding 1/√fan_out, hidden 1/√fan_in · 1/√branches, output 1 (arXiv 2407.17465, table 2)."""
    with torch.device("meta"):
        model = decoder(width=width, layers=layers, hidden=hidden)
    factors = nn.learning_rate_factors(model)
    assert factors.pop("embedding.weight") == pytest.approx(1 / math.sqrt(width))
    assert factors.pop("readout.weight") == 1
    for name, factor in factors.items():
        fan_in = hidden if ".down." in name else width
        assert factor == pytest.approx(1 / math.sqrt(fan_in * 2 * layers)), name


def test_a_hidden_weight_outside_a_residual_stack_knows_no_depth():
    assert nn.learning_rate_factors(nn.Linear(25, 7)) == {"weight": 1 / 5}


def _assigned(model):
    other = decoder()
    other.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return other


def _materialised(model):
    with torch.device("meta"):
        other = decoder()
    return other.to_empty(device="cpu")


CARRIES = {
    "deepcopy": copy.deepcopy,
    "load_state_dict(assign)": _assigned,
    "to_empty": _materialised,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "double": lambda model: model.double(),
}


@pytest.mark.parametrize("carry", CARRIES.values(), ids=CARRIES)
def test_roles_survive(carry):
    model = decoder()
    roles, factors = nn.roles(model), nn.learning_rate_factors(model)
    carried = carry(model)
    assert nn.roles(carried) == roles
    assert nn.learning_rate_factors(carried) == factors


def test_roles_survive_a_wrapper_around_the_model_or_the_stack():
    model = decoder()
    expected = sorted(nn.learning_rate_factors(model).values())
    assert sorted(nn.learning_rate_factors(torch.nn.Sequential(model)).values()) == expected
    model.stack = torch.nn.Sequential(model.stack)
    assert sorted(nn.learning_rate_factors(model).values()) == expected


def test_a_parameter_of_no_role_is_refused_by_name():
    model = torch.nn.Sequential(nn.Linear(4, 4), torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"1\.weight: Linear names no role"):
        nn.roles(model)


WATCHED = ("embedding", "stack.blocks.1.attention.out", "stack.blocks.1.mlp.down", "stack", "readout")


def coordinate_changes(width: int, equal_rates: bool = False) -> dict[str, float]:
    """RMS change of what each watched module gives, over three Adam steps at one base rate."""
    model = decoder(width=width, hidden=2 * width, head_dim=16, context=16)
    optimizer = nn.AdamW(model, 0.2)
    if equal_rates:
        for group in optimizer.param_groups:
            group["lr"] = 0.2 / math.sqrt(32 * 4)  # what hidden weights have at width 32
    tokens = torch.randint(32, (8, 17), generator=torch.Generator().manual_seed(0))
    seen = {}
    for name in WATCHED:
        model.get_submodule(name).register_forward_hook(lambda m, i, y, name=name: seen.update({name: y.detach()}))
    model(tokens[:, :-1])
    before = dict(seen)
    for _ in range(3):
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model(tokens[:, :-1])
    return {name: (seen[name] - before[name]).square().mean().sqrt().item() for name in WATCHED}


def growth(narrow: dict[str, float], wide: dict[str, float]) -> dict[str, float]:
    return {name: wide[name] / narrow[name] for name in WATCHED}


def test_coordinate_check_activations_move_as_far_at_any_width():
    """From width 32 to 256 the changes neither grow by 1.3 nor halve: a power of the width between −1/3 and 1/8.

    A scheme that is off has ½ at least. The embedding's own change falls as width^-½, which is how u-μP sets it.
    """
    narrow = coordinate_changes(32)
    for width in (64, 128, 256):
        ratio = growth(narrow, coordinate_changes(width))
        assert ratio.pop("embedding") == pytest.approx(math.sqrt(32 / width), rel=0.15)
        assert all(0.5 < value < 1.3 for value in ratio.values()), (width, ratio)


def test_coordinate_check_fails_where_all_weights_share_one_rate():
    ratio = growth(coordinate_changes(32, equal_rates=True), coordinate_changes(256, equal_rates=True))
    assert ratio["stack"] > 1.5

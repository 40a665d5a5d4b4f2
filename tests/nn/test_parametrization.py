"""Roles by name, schemes put on a model, and what they are for: changes of activations that do not grow with size."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from allometry.nn.schemes import KINDS, SCHEMES, SP
from helpers.unit_scaled import decoder, rms

NAMES = list(SCHEMES)


# Roles


def test_every_parameter_has_the_role_of_its_layer():
    model = nn.Decoder(32, 3, 16, 4, 24, kv_heads=2)
    roles = nn.roles(model)
    assert roles.keys() == dict(model.named_parameters()).keys()
    assert roles.pop("embedding.weight") == nn.Role("input", fan_in=32, fan_out=16, branches=1)
    assert roles.pop("readout.weight") == nn.Role("output", fan_in=16, fan_out=32, branches=1)
    for layer in range(3):
        block = f"stack.blocks.{layer}"
        assert roles.pop(f"{block}.attention.qkv.weight") == nn.Role("hidden", 16, 32, branches=6)
        assert roles.pop(f"{block}.attention.out.weight") == nn.Role("hidden", 16, 16, branches=6)
        assert roles.pop(f"{block}.mlp.up.weight") == nn.Role("hidden", 16, 48, branches=6)
        assert roles.pop(f"{block}.mlp.down.weight") == nn.Role("hidden", 24, 16, branches=6)
    assert not roles


def test_roles_of_single_layers():
    assert nn.roles(nn.Linear(4, 6, bias=True)) == {
        "weight": nn.Role("hidden", 4, 6),
        "bias": nn.Role("bias", 4, 6),
    }
    assert nn.roles(nn.Conv1d(6, 4, 3, groups=2))["weight"] == nn.Role("hidden", 9, 6)
    assert nn.roles(nn.Conv2d(4, 8, (3, 5)))["weight"] == nn.Role("hidden", 60, 120)
    assert {role.kind for role in nn.roles(nn.LayerNorm(4, elementwise_affine=True)).values()} == {"gain", "bias"}
    assert nn.roles(nn.RMSNorm(4)) == {}


def test_a_hidden_weight_outside_a_residual_stack_knows_no_depth():
    assert nn.learning_rate_factors(nn.Linear(25, 7)) == {"weight": 1 / 5}


def test_a_block_alone_is_a_stack_of_one():
    assert {role.branches for role in nn.roles(nn.TransformerBlock(16, 2)).values()} == {2}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: torch.nn.Sequential(nn.Linear(4, 4), torch.nn.Linear(4, 4)), r"1\.weight: Linear"),
        (lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), r"original0: ParametrizationList"),
        (lambda: Plain(), r"theta: Plain"),
    ],
    ids=["plain torch layer", "weight_norm", "a class with roles that is no nn.Parametrized"],
)
@pytest.mark.parametrize("ask", [nn.roles, nn.parametrize, lambda m: nn.AdamW(m, 1.0)], ids=["roles", "scheme", "opt"])
def test_a_parameter_of_no_role_is_refused_by_name(model, name, ask):
    with pytest.raises(ValueError, match=rf"{name} .*nn\.Parametrized"):
        ask(model())


class Plain(torch.nn.Module):
    roles = {"theta": "hidden"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.ones(3, 3))


def test_an_unknown_role_is_refused_and_the_known_ones_are_named():
    class Odd(nn.Linear):
        roles = {"weight": "middle"}  # noqa: RUF012

    layer = Odd.__new__(Odd)
    torch.nn.Module.__init__(layer)
    layer.weight = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="weight: role 'middle' is unknown") as error:
        nn.roles(layer)
    assert all(repr(kind) in str(error.value) for kind in KINDS)


def test_a_model_that_is_refused_is_left_as_it_was():
    model = torch.nn.Sequential(nn.Linear(4, 4), torch.nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="names no role"):
        nn.parametrize(model, "sp")
    assert torch.equal(model[0].weight, before)
    assert model[0].scheme == "umup"


class Bilinear(nn.Parametrized):
    """A layer of somebody's own: out of two inputs, a weight stored (fan_in, fan_out), and a gain."""

    roles = {"table": "hidden", "gain": "gain", "bias": "bias"}  # noqa: RUF012

    def __init__(self, n, m):
        super().__init__()
        self.table = torch.nn.Parameter(torch.empty(n, m))
        self.gain = torch.nn.Parameter(torch.empty(m))
        self.bias = torch.nn.Parameter(torch.empty(m))
        self.refactor()
        self.reset_parameters()

    def fans(self, name):
        return self.table.shape

    def refactor(self):
        self.constant = self.multiplier("table")

    def forward(self, x):
        return self.constant * (x @ self.table) * self.gain + self.bias


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_of_the_users_own_needs_roles_and_fans_and_no_more(name):
    model = torch.nn.Sequential(Bilinear(64, 400))
    assert nn.learning_rate_factors(model) == {"0.table": 1 / 8, "0.gain": 1, "0.bias": 1}
    nn.parametrize(model, name, nn.Base(width=16))
    layer = model[0]
    assert torch.equal(layer.gain, torch.ones(400))
    assert torch.equal(layer.bias, torch.zeros(400))
    assert rms(layer(torch.randn(256, 64))) == pytest.approx(1, rel=0.05)  # A·B = fan_in^-½ in every scheme
    layer.reset_parameters()
    assert rms(layer(torch.randn(256, 64))) == pytest.approx(1, rel=0.05)
    optimizer = nn.AdamW(model, 0.1)
    layer(torch.randn(8, 64)).square().sum().backward()
    optimizer.step()


# Rates


@given(st.sampled_from([16, 32, 48, 80]), st.integers(1, 6), st.integers(8, 64))
def test_rates_are_those_of_umup_for_each_role_and_depth(width, layers, hidden):
    """Embedding 1/√fan_out, hidden 1/√fan_in · 1/√branches, output 1 (arXiv 2407.17465, table 2)."""
    with torch.device("meta"):
        model = nn.Decoder(32, layers, width, 2, hidden)
    factors = nn.learning_rate_factors(model)
    assert factors.pop("embedding.weight") == pytest.approx(1 / math.sqrt(width))
    assert factors.pop("readout.weight") == 1
    for name, factor in factors.items():
        fan_in = hidden if ".down." in name else width
        assert factor == pytest.approx(1 / math.sqrt(fan_in * 2 * layers)), name


def test_a_shared_weight_appears_once_and_takes_the_lesser_factor():
    model = decoder(tied=True)
    factors = nn.learning_rate_factors(model)
    assert factors.keys() == dict(model.named_parameters()).keys()
    assert "readout.weight" not in factors
    assert factors["embedding.weight"] == 1 / 4  # 1/√width; the readout alone would have 1
    assert nn.roles(model).keys() >= {"embedding.weight", "readout.weight"}
    # The other way round, the lesser factor comes second.
    pair = torch.nn.Sequential(nn.Readout(64, 64), nn.Linear(64, 64))
    pair[1].weight = pair[0].weight
    assert nn.learning_rate_factors(pair) == {"0.weight": 1 / 8}


# Putting a scheme on a model


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_draw_in_every_scheme(name):
    """Weights differ from unit-normal ones by the deviation of the scheme and nothing else."""
    base = nn.Base(width=32)
    unit, model = decoder(), nn.parametrize(decoder(), name, base)
    for (key, z), w in zip(unit.named_parameters(), model.parameters(), strict=True):
        role = nn.roles(model)[key]
        torch.testing.assert_close(w, z * SCHEMES[name].init[role.kind](role, base), rtol=1e-6, atol=0)
    torch.manual_seed(1)
    again = nn.parametrize(decoder(), name, base)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_parametrize_returns_the_model_and_doing_it_twice_changes_nothing(name):
    model = decoder()
    assert nn.parametrize(model, name) is model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model(torch.arange(8)[None])
    nn.parametrize(model, name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(torch.arange(8)[None]), logits)


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_from_one_scheme_to_another_and_back_to_the_same_model(first, second, tied):
    model = nn.parametrize(decoder(tied=tied), first)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tokens = torch.arange(12).view(1, -1)
    logits, factors = model(tokens), nn.learning_rate_factors(model)
    nn.parametrize(model, second)
    nn.parametrize(model, first)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=0)
    torch.testing.assert_close(model(tokens), logits, rtol=1e-5, atol=1e-6)
    assert nn.learning_rate_factors(model) == factors


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_weight_is_rescaled_once(name):
    model = torch.nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    before = model[0].weight.detach().clone()
    nn.parametrize(model, name)
    torch.testing.assert_close(model[0].weight, before * model[0].init_std(), rtol=1e-6, atol=0)
    assert model[2].weight is model[0].weight


@pytest.mark.parametrize("name", NAMES)
def test_biases_and_gains_start_at_0_and_1_in_every_scheme(name):
    model = torch.nn.Sequential(nn.Linear(8, 8, bias=True), nn.LayerNorm(8, elementwise_affine=True))
    nn.parametrize(model, name, nn.Base(width=2))
    for key, role in nn.roles(model).items():
        if role.kind in ("bias", "gain"):
            assert torch.equal(model.get_parameter(key), torch.full((8,), float(role.kind == "gain"))), key


def test_frozen_weights_are_rescaled_too():
    model = nn.Linear(16, 16).requires_grad_(False)
    before = model.weight.clone()
    nn.parametrize(model, "sp")
    torch.testing.assert_close(model.weight, before / 4)
    assert not model.weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_the_function_at_the_start_is_that_of_unit_weights_times_multiplier_and_deviation(name):
    """Written out in plain PyTorch and float64: embedding, a hidden layer, the readout."""
    base = nn.Base(width=8)
    torch.manual_seed(0)
    model = torch.nn.Sequential(nn.Embedding(10, 24), nn.Linear(24, 40), nn.Tanh(), nn.Readout(40, 10)).double()
    table, hidden, readout = (parameter.detach().clone() for parameter in model.parameters())
    nn.parametrize(model, name, base)
    scheme = SCHEMES[name]
    kinds = (nn.Role("input", 10, 24), nn.Role("hidden", 24, 40), nn.Role("output", 40, 10))
    e, h, o = (scheme.multiplier[role.kind](role, base) * scheme.init[role.kind](role, base) for role in kinds)
    tokens = torch.arange(10)
    gain = nn.exact_scale(torch.tanh).forward
    expected = torch.tanh(table[tokens] * e @ hidden.t() * h) * gain @ readout.t() * o
    torch.testing.assert_close(model(tokens), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [lambda: nn.Linear(96, 160), lambda: nn.Conv1d(32, 64, 3)], ids=["Linear", "Conv1d"])
def test_gradients_are_at_unit_scale_under_every_scheme(name, layer):
    layer = nn.parametrize(layer(), name, nn.Base(width=24))
    shape = (256, 96) if isinstance(layer, nn.Linear) else (32, 32, 64)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    y.backward(torch.randn_like(y))
    assert rms(y) == pytest.approx(1, rel=0.03)
    assert rms(x.grad) == pytest.approx(1, rel=0.05)  # a convolution's border is weaker
    assert rms(layer.weight.grad) == pytest.approx(1, rel=0.03)


def test_mup_at_the_width_it_is_relative_to_is_sp():
    base = nn.Base(width=16)
    sp, mup = (nn.parametrize(decoder(hidden=16), name, base) for name in ("sp", "mup"))
    tokens = torch.arange(12).view(1, -1)
    torch.testing.assert_close(mup(tokens), sp(tokens))
    assert nn.learning_rate_factors(mup) == pytest.approx(nn.learning_rate_factors(sp))


def test_completep_at_the_depth_it_is_relative_to_is_mup():
    base = nn.Base(branches=6)
    mup, completep = (nn.parametrize(decoder(layers=3), name, base) for name in ("mup", "completep"))
    tokens = torch.arange(12).view(1, -1)
    assert torch.equal(completep(tokens), mup(tokens))
    assert nn.learning_rate_factors(completep) == nn.learning_rate_factors(mup)


def test_a_stack_built_of_parametrized_blocks_places_them_under_their_scheme():
    base = nn.Base(branches=12)
    blocks = [nn.parametrize(nn.TransformerBlock(16, 2), "completep", base) for _ in range(3)]
    stack = nn.ResidualStack(blocks)
    assert [pair() for block in stack.blocks for pair in block.weights] == [(1.0, 2.0)] * 6


@pytest.fixture
def deep():
    """GPT-2's habit, whose init depends on the depth, and a multiplier and rate that do too: in none of the papers."""
    shrink = lambda role, base: (role.fan_in * role.branches) ** -0.5
    scheme = nn.Scheme(
        "deep",
        "a test",
        multiplier=SP.multiplier | {"hidden": lambda role, base: 3 / role.branches},
        init=SP.init | {"hidden": shrink, "gain": lambda role, base: 5.0},
        rate=SP.rate | {"hidden": lambda role, base: base.tau / role.branches, "bias": lambda role, base: 7.0},
        residual=lambda i, branches, base: (0.5, (i + 1) / branches),
    )
    SCHEMES["deep"] = scheme
    yield scheme
    del SCHEMES["deep"]


def test_a_new_scheme_needs_an_entry_in_the_table_and_no_more(deep):
    unit, model = decoder(layers=3), nn.parametrize(decoder(layers=3), "deep", nn.Base(tau=0.3))
    key = "stack.blocks.1.mlp.down.weight"
    fan_in = model.get_parameter(key).shape[1]
    torch.testing.assert_close(model.get_parameter(key), unit.get_parameter(key) / math.sqrt(fan_in * 6))
    assert nn.learning_rate_factors(model)[key] == pytest.approx(0.3 / 6)
    assert model.stack.blocks[1].mlp.up.factors().output == pytest.approx(3 / 6)
    assert [pair() for block in model.stack.blocks for pair in block.weights] == [(0.5, (i + 1) / 6) for i in range(6)]
    assert sorted(group["lr"] for group in nn.AdamW(model, 1.0).param_groups) == pytest.approx([0.05, 1.0])
    back = nn.parametrize(model, "umup")
    torch.testing.assert_close(back.get_parameter(key), unit.get_parameter(key))
    with pytest.raises(ValueError, match="'deep'"):
        nn.parametrize(model, "deeper")


def test_weights_drawn_anew_have_the_deviation_of_their_scheme_and_depth(deep):
    model = nn.parametrize(decoder(layers=3, width=64), "deep")
    wanted = {key: rms(value) for key, value in model.named_parameters()}
    for module in model.modules():
        if isinstance(module, nn.Parametrized):
            module.reset_parameters()
    for key, value in model.named_parameters():
        assert rms(value) == pytest.approx(wanted[key], rel=0.1), key


# What the schemes are for


def changes(model, optimizer, lr, watched):
    """RMS change of what each watched module gives, over one step on a small batch of random tokens.

    Few tokens, for the products of different tokens add noise that only a width far above their number outgrows.
    """
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    seen = {}
    for name in watched:
        model.get_submodule(name).register_forward_hook(lambda m, i, y, name=name: seen.update({name: y.detach()}))
    logits = model(tokens[:, :-1])
    before = dict(seen)
    nn.CrossEntropyLoss()(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer(model, lr).step()
    with torch.no_grad():
        model(tokens[:, :-1])
    return {name: rms(seen[name] - before[name]) for name in watched}


def powers(sizes, results):
    """The power of the size with which each watched change grows: the slope in logarithms, by least squares."""
    x = torch.tensor(sizes).double().log()
    x = x - x.mean()
    logs = {name: torch.tensor([result[name] for result in results]).double().log() for name in results[0]}
    return {name: float((x @ values) / (x @ x)) for name, values in logs.items()}


HIDDEN = ("stack.blocks.0.attention.out", "stack.blocks.0.mlp", "stack", "norm")


def width_powers(scheme, lr, optimizer=nn.AdamW, widths=(64, 128, 256, 512), frozen=False):
    watched = HIDDEN + ("readout",) + ("embedding",) * (not frozen)
    results = []
    for width in widths:
        torch.manual_seed(0)
        model = nn.parametrize(nn.Decoder(64, 2, width, width // 32, 2 * width), scheme)
        model.embedding.requires_grad_(not frozen)
        results.append(changes(model, optimizer, lr, watched))
    return powers(widths, results)


def check_width(found):
    """Hidden activations within ±0.15 (none is ½ at least); logits do not grow and hardly shrink."""
    assert all(abs(found[name]) < 0.15 for name in HIDDEN), found
    assert -0.35 < found["readout"] < 0.15, found


@pytest.mark.parametrize(("scheme", "lr"), [("umup", 0.02), ("mup", 1e-4), ("completep", 1e-4), ("mus", 1e-3)])
def test_a_step_moves_activations_as_far_at_any_width(scheme, lr):
    found = width_powers(scheme, lr)
    check_width(found)
    # What u-μP gives the embedding, 1/√fan_out, and the others do not.
    assert found["embedding"] == pytest.approx(-0.5 if scheme == "umup" else 0, abs=0.02)


def test_a_step_moves_activations_further_at_greater_width_under_sp():
    found = width_powers("sp", 1e-5)
    assert all(found[name] > 0.6 for name in (*HIDDEN, "readout")), found


@pytest.mark.parametrize("optimizer", [nn.SGD, nn.Lion, nn.Muon])
def test_the_same_table_serves_the_other_optimisers(optimizer):
    """The embedding frozen: its own share of the change falls as width^-½, and SGD's is large."""
    check_width(width_powers("umup", 0.02, optimizer, widths=(64, 128, 256), frozen=True))


def depth_power(scheme, lr, optimizer=nn.AdamW):
    """Of the end of the stream, as the readout sees it."""
    depths, results = (2, 4, 8, 16), []
    for depth in depths:
        torch.manual_seed(0)
        model = nn.parametrize(nn.Decoder(64, depth, 64, 2, 128), scheme)
        results.append(changes(model, optimizer, lr, ("norm",)))
    return powers(depths, results)["norm"]


@pytest.mark.parametrize(
    ("scheme", "lr", "optimizer"),
    [("completep", 1e-4, nn.AdamW), ("umup", 0.01, nn.AdamW), ("umup", 0.01, nn.Lion), ("umup", 0.01, nn.Muon)],
)
def test_a_step_moves_the_end_of_the_stream_as_far_at_any_depth(scheme, lr, optimizer):
    assert abs(depth_power(scheme, lr, optimizer)) < 0.15


def test_a_step_moves_the_end_of_the_stream_further_at_greater_depth_under_mup():
    assert depth_power("mup", 1e-5) > 0.35

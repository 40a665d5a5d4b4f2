"""The tables of the parametrisations against the published rules, written out a second time.

Multiplier A, init B and Adam's rate C may be moved against each other without changing the model: what a rule says
is A·B, the deviation of a weight as the forward pass sees it, and A·C, how far a step moves it.
"""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from allometry.nn.schemes import KINDS, SCHEMES, scheme

N0, L0 = 48, 6  # width and branches of the tuned model
BASE = nn.Base(width=N0, branches=L0)

# kind: (A·B, A·C) as a function of fan_in i, fan_out o and branches b.
SQUARE_ROOT = lambda i, o, b: i**-0.5
CONSTANT = lambda i, o, b: 1.0
PUBLISHED = {
    "sp": {  # PyTorch's habit
        "input": (CONSTANT, CONSTANT),
        "hidden": (SQUARE_ROOT, CONSTANT),
        "output": (SQUARE_ROOT, CONSTANT),
    },
    "mup": {  # 2203.03466, table 8, all relative to the width N0
        "input": (CONSTANT, CONSTANT),
        "hidden": (SQUARE_ROOT, lambda i, o, b: N0 / i),
        "output": (lambda i, o, b: math.sqrt(N0) / i, lambda i, o, b: N0 / i),
    },
    "completep": {  # 2505.01618, table 1, α = 1: the depth is in the residual, none of it in the rates
        "input": (CONSTANT, CONSTANT),
        "hidden": (SQUARE_ROOT, lambda i, o, b: N0 / i),
        "output": (lambda i, o, b: math.sqrt(N0) / i, lambda i, o, b: N0 / i),
    },
    "umup": {  # 2407.17465, table 2
        "input": (CONSTANT, lambda i, o, b: o**-0.5),
        "hidden": (SQUARE_ROOT, lambda i, o, b: 1 / (i * math.sqrt(b))),
        "output": (lambda i, o, b: 1 / i, lambda i, o, b: 1 / i),
    },
    "mus": {  # 2502.05967
        "input": (CONSTANT, CONSTANT),
        "hidden": (SQUARE_ROOT, lambda i, o, b: math.sqrt(N0) / i),
        "output": (lambda i, o, b: 1 / i, lambda i, o, b: 1 / i),
    },
}
NAMES = st.sampled_from(list(PUBLISHED))
SIZES = st.integers(1, 10_000)
DEPTHS = st.integers(1, 200).map(lambda layers: 2 * layers)


def abc(name: str, kind: str, i: int, o: int, b: int) -> tuple[float, float, float]:
    role, table = nn.Role(kind, i, o, b), scheme(name)
    return table.multiplier[kind](role, BASE), table.init[kind](role, BASE), table.rate[kind](role, BASE)


def test_every_scheme_there_is_has_its_published_rule_here():
    assert PUBLISHED.keys() == SCHEMES.keys()
    for name, table in SCHEMES.items():
        assert table.name == name
        assert table.multiplier.keys() == table.init.keys() == table.rate.keys() == set(KINDS)
        assert table.source


@given(NAMES, st.sampled_from(["input", "hidden", "output"]), SIZES, SIZES, DEPTHS)
def test_weights_start_and_move_as_published(name, kind, i, o, b):
    a, init, rate = abc(name, kind, i, o, b)
    deviation, step = PUBLISHED[name][kind]
    assert a * init == pytest.approx(deviation(i, o, b), rel=1e-12)
    assert a * rate == pytest.approx(step(i, o, b), rel=1e-12)


@given(NAMES, st.sampled_from(["bias", "gain"]), SIZES, SIZES, DEPTHS)
def test_biases_and_gains_move_by_the_base_rate_at_any_size(name, kind, i, o, b):
    a, _, rate = abc(name, kind, i, o, b)
    assert (a, rate) == (1, 1)


@given(st.sampled_from(["umup", "mus"]), st.sampled_from(["input", "hidden", "output"]), SIZES, SIZES, DEPTHS)
def test_umup_and_mus_store_every_weight_at_unit_scale(name, kind, i, o, b):
    assert abc(name, kind, i, o, b)[1] == 1


@given(st.sampled_from(["mup", "umup", "completep", "mus"]), SIZES, DEPTHS)
def test_what_makes_a_width_transfer_the_powers_of_the_width(name, width, b):
    """Hidden weights start as n^-½ and move as n⁻¹, outputs start and move as n⁻¹; sp has neither."""
    narrow = {kind: abc(name, kind, width, width, b) for kind in ("hidden", "output")}
    wide = {kind: abc(name, kind, 4 * width, 4 * width, b) for kind in ("hidden", "output")}
    ratio = lambda kind, j: (wide[kind][0] * wide[kind][j]) / (narrow[kind][0] * narrow[kind][j])
    assert ratio("hidden", 1) == pytest.approx(1 / 2)
    assert ratio("hidden", 2) == pytest.approx(1 / 4)
    assert ratio("output", 1) == pytest.approx(1 / 4)
    assert ratio("output", 2) == pytest.approx(1 / 4)


@pytest.mark.parametrize("name", ["mup", "completep"])
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_tuned_model_itself_mup_is_sp(name, kind):
    assert abc(name, kind, N0, N0, L0) == pytest.approx(_at_sp(kind), rel=1e-12)


def _at_sp(kind):
    return abc("sp", kind, N0, N0, L0)


# The residual stream


@given(st.integers(1, 64), st.floats(0.1, 8), st.floats(0.1, 8))
def test_umup_residual_follows_the_formula_for_tau(layers, alpha_res, alpha_ratio):
    """τ_i² = α_i² / (L/2 + ⌊(i+1)/2⌋·α_attn² + ⌊i/2⌋·α_mlp²), L = 2·layers (2407.17465, G.2)."""
    base = nn.Base(alpha_res=alpha_res, alpha_ratio=alpha_ratio)
    mlp = alpha_res * math.sqrt(2 / (1 + alpha_ratio**2))
    attention = alpha_ratio * mlp
    for i in range(2 * layers):
        own = mlp if i % 2 else attention
        tau = math.sqrt(own**2 / (layers + math.floor((i + 1) / 2) * attention**2 + math.floor(i / 2) * mlp**2))
        keep, share = SCHEMES["umup"].residual(i, 2 * layers, base)
        assert share / keep == pytest.approx(tau, rel=1e-12)
        assert keep**2 + share**2 == pytest.approx(1, rel=1e-12)
        assert nn.residual_taus(2 * layers, alpha_res, alpha_ratio)[i] == pytest.approx(tau, rel=1e-12)


@given(st.integers(1, 64), st.floats(0.1, 8), st.floats(0.1, 8))
def test_umup_branches_reach_the_end_of_the_stream_in_the_shares_that_alpha_names(layers, alpha_res, alpha_ratio):
    """Of the variance: all attention over the embedding, and all MLPs, have mean α_res² and quotient α_ratio²."""
    base = nn.Base(alpha_res=alpha_res, alpha_ratio=alpha_ratio)
    embedding, branches = 1.0, []
    for i in range(2 * layers):
        keep, share = SCHEMES["umup"].residual(i, 2 * layers, base)
        embedding *= keep**2
        branches = [value * keep**2 for value in branches] + [share**2]
    attention, mlp = branches[0::2], branches[1::2]
    assert attention == pytest.approx([attention[0]] * layers)  # no layer weighs more than another
    assert mlp == pytest.approx([mlp[0]] * layers)
    assert (sum(attention) + sum(mlp)) / (2 * embedding) == pytest.approx(alpha_res**2)
    assert sum(attention) / sum(mlp) == pytest.approx(alpha_ratio**2)


@given(DEPTHS, st.floats(0.01, 0.99), st.data())
def test_residual_weights_of_the_other_schemes(branches, tau, data):
    i = data.draw(st.integers(0, branches - 1))
    base = nn.Base(branches=L0, tau=tau)
    assert SCHEMES["sp"].residual(i, branches, base) == (1, 1)
    assert SCHEMES["mup"].residual(i, branches, base) == (1, 1)
    assert SCHEMES["completep"].residual(i, branches, base) == pytest.approx((1, L0 / branches))
    keep, share = SCHEMES["mus"].residual(i, branches, base)
    assert (keep**2, share**2) == pytest.approx((1 - tau, tau))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_blocks_of_a_stack_have_the_residual_weights_of_their_place(name):
    model = nn.parametrize(nn.Decoder(32, 3, 16, 2), name, BASE)
    placed = [weights() for block in model.stack.blocks for weights in block.weights]
    assert placed == [pytest.approx(SCHEMES[name].residual(i, 6, BASE)) for i in range(6)]


# Asking for one


@pytest.mark.parametrize("name", ["mu-p", "", "UMUP", None])
def test_an_unknown_scheme_is_refused_and_the_known_ones_are_named(name):
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"scheme: .*unknown") as error:
        nn.parametrize(model, name)
    assert all(repr(known) in str(error.value) for known in PUBLISHED)
    assert model.scheme == "umup"


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("width", -64), ("branches", 0), ("tau", 2.0), ("tau", -0.1), ("alpha_res", 0), ("alpha_ratio", -1)],
)
def test_constants_that_make_no_sense_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field}: "):
        nn.Base(**{field: value})


def test_tables_and_roles_cannot_be_changed_by_accident():
    for record, field in ((SCHEMES["sp"], "name"), (nn.Role("hidden", 2, 3), "kind"), (BASE, "width")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, None)

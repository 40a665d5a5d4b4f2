"""Batch-size and learning-rate rules: published figures worked by hand, and what carrying a baseline must keep."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry import planning
from allometry.errors import UserError
from allometry.planning import rules
from allometry.planning.rules import side_by_side

FACTORS = st.floats(0.1, 100.0)


def test_proportional_example_is_exact():
    scaled = side_by_side.carry_baseline(100, 200, 0.01, factor=2)
    first = json.loads(json.dumps(planning.carry_baseline(100, 200, 0.01, 2)["proportional"].to_json()))
    assert next(iter(scaled)) == "proportional"
    assert (first["params"], first["batch"], first["lr"]) == (200, 400, 0.02)
    assert isinstance(first["params"], int)
    assert isinstance(first["batch"], int)
    assert "0.02" in json.dumps(first["lr"])
    assert "Nothing measured supports" in first["evidence"]


def test_no_float_dust():
    scaled = side_by_side.carry_baseline(100.0, 200.0, 0.1, factor=3, names=["proportional"])["proportional"]
    assert json.dumps([scaled.params, scaled.batch, scaled.lr]) == "[300, 600, 0.3]"


def test_every_rule_says_where_it_comes_from():
    assert set(rules.RULES) == {
        *("proportional", "sqrt", "linear", "mup", "u_mup", "completep", "gradient_noise"),
        *("kaplan", "deepseek", "step_law", "moonlight", "porian", "minicpm", "power_lines", "three_term"),
    }
    for name, rule in rules.RULES.items():
        assert rule.name == name
        assert rule.formula
        assert rule.source
        assert rule.applies
        assert rule.note
        assert rule.units


@pytest.mark.parametrize(
    ("name", "batch", "lr"),
    [
        ("sqrt", 16.0, 4.0),  # batch × factor, Adam's rate × √factor
        ("mup", 1.0, 1 / 4),  # width × 4 at fixed depth
        ("u_mup", 1.0, 1.0),
        ("completep", 1.0, 16 ** (-1 / 3)),
        ("deepseek", 256**0.3271, 256**-0.125),  # N and D × 16: C × 256
        ("step_law", 16**0.571, 16 ** (0.307 - 0.713)),
        ("moonlight", 256**0.4138, 256**-0.057),
        ("porian", 16 ** (2 / 3), 16 ** (-1 / 3)),
        ("power_lines", 16**0.383, 16**0.383 / 16),  # D/N stays, so η ∝ B/D
        ("three_term", 16**0.566, None),
        ("minicpm", None, 1.0),
    ],
)
def test_factors_at_sixteen_times_the_size(name, batch, lr):
    scaled = side_by_side.carry_baseline(1e8, 1.0, 1.0, factor=16, names=[name])[name]
    for value, expected in ((scaled.batch, batch), (scaled.lr, lr)):
        assert value == (expected if expected is None else pytest.approx(expected, rel=1e-9))


def test_tokens_may_grow_otherwise():
    fixed = side_by_side.carry_baseline(1e8, 1.0, 1.0, 16, tokens=2e9, token_factor=1, names=["step_law"])["step_law"]
    assert (fixed.batch, fixed.tokens) == (1, 2_000_000_000)
    assert fixed.lr == pytest.approx(16**-0.713, rel=1e-9)


def test_rules_in_the_loss_need_both_losses():
    told = side_by_side.carry_baseline(1e8, 1.0, 1.0, 16, losses=(3.0, 2.5))
    assert told["minicpm"].batch == pytest.approx((3.0 / 2.5) ** 6.24, rel=1e-9)
    assert told["kaplan"].batch == pytest.approx((3.0 / 2.5) ** (1 / 0.21), rel=1e-9)
    assert side_by_side.carry_baseline(1e8, 1.0, 1.0, 16)["kaplan"].batch is None


def test_beta2_follows_the_batch():
    scaled = side_by_side.carry_baseline(100, 200, 0.01, 2, beta2=0.95)
    assert scaled["sqrt"].beta2 == 0.9025
    assert scaled["proportional"].beta2 is None


def test_sgd_gets_the_linear_rule_and_none_of_adams():
    scaled = side_by_side.carry_baseline(100, 200, 0.01, 2, optimizer="sgd")
    assert set(scaled) == {"proportional", "linear"}
    assert (scaled["linear"].batch, scaled["linear"].lr) == (400, 0.02)


def test_range_is_told():
    inside = side_by_side.carry_baseline(0.3e9, 1.0, 1.0, 2, tokens=10e9, names=["step_law"])["step_law"]
    beyond = side_by_side.carry_baseline(0.3e9, 1.0, 1.0, 20, tokens=10e9, names=["step_law"])["step_law"]
    unknown = side_by_side.carry_baseline(0.3e9, 1.0, 1.0, 2, names=["step_law"])["step_law"]
    assert (inside.in_range, beyond.in_range, unknown.in_range) == (True, False, None)
    assert inside.measured == "200M to 1.1B parameters, 4B to 100B tokens"


@settings(max_examples=60, deadline=None)
@given(first=FACTORS, second=FACTORS, name=st.sampled_from([n for n, r in rules.RULES.items() if not r.is_measurement]))
def test_two_steps_are_one(first, second, name):
    optimizer = rules.RULES[name].optimizers[-1]
    options = {"names": [name], "optimizer": optimizer, "beta2": 0.999}
    half = side_by_side.carry_baseline(1e5, 4096, 0.01, first, tokens=1e7, **options)[name]
    batch, lr = half.batch or 1.0, half.lr or 1.0
    options["beta2"] = half.beta2 or 0.999
    end = side_by_side.carry_baseline(half.params, batch, lr, second, tokens=half.tokens, **options)[name]
    options["beta2"] = 0.999
    whole = side_by_side.carry_baseline(1e5, 4096, 0.01, first * second, tokens=1e7, **options)[name]
    for field in ("params", "tokens", "beta2", "batch", "lr"):
        one, two = getattr(whole, field), getattr(end, field)
        assert (one is None) == (two is None)
        assert one is None or math.isclose(one, two, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("name", "given", "batch", "lr"),
    [
        # DeepSeek at C = 1e18: ln C = 41.4465; 0.2920·e^13.5572 and 0.3118·e^-5.18082
        ("deepseek", {"flops": 1e18}, 225_500, 1.7534e-3),
        # Step Law at 1 B and 20 B tokens: 0.58·e^(0.571·23.7190); 1.79·e^(-0.713·20.7233 + 0.307·23.7190)
        ("step_law", {"num_params": 1e9, "tokens": 20e9}, 441_900, 9.96e-4),
        # Moonlight at C = 1e20: 0.0065·e^(0.4138·46.0517); 0.0127·10^(-0.057·20) = 0.0127·10^-1.14
        ("moonlight", {"flops": 1e20}, 1_226_900, 9.2004e-4),
        # Porian at 864 M: eight times the reference: 4·327680 and half of 0.0047
        ("porian", {"num_params": 864e6}, 1_310_720, 0.00235),
        # MiniCPM at loss 2: 1.21e9/2^6.24 = 1.21e9/75.585
        ("minicpm", {"loss": 2.0}, 16_008_500, 0.01),
        # Kaplan at 1 M: 0.003239 − 0.0001395·13.81551; B_crit at loss 3: 2e8·e^(-1.098612/0.21)
        ("kaplan", {"num_params": 1e6, "loss": 3.0}, 1_069_000, 1.31174e-3),
        # Power Lines at 10 B tokens: 2048·0.0306·10^3.83
        ("power_lines", {"tokens": 1e10}, 423_690, None),
        # Three-term at 10 B tokens: 0.667·10^5.66
        ("three_term", {"tokens": 1e10}, 304_900, None),
    ],
)
def test_published_constants(name, given, batch, lr):
    got_batch, got_lr = rules.rule(name).recommend(**given)
    assert got_batch == pytest.approx(batch, rel=1e-3)
    assert got_lr == (lr if lr is None else pytest.approx(lr, rel=1e-3))


def test_side_by_side_and_warned_outside_the_range():
    answers = planning.recommend(1e9, 20e9, loss=2.5)
    assert set(answers) == {
        *("kaplan", "deepseek", "step_law", "moonlight", "porian", "minicpm", "power_lines", "three_term")
    }
    assert (answers["step_law"].in_range, answers["step_law"].warning) == (True, "")
    assert answers["deepseek"].warning == "outside the measured range: 1.2e+20 FLOPs, measured at 1e+17 to 2e+19"
    assert answers["deepseek"].in_range is False
    assert answers["porian"].in_range is None
    json.dumps({name: answer.to_json() for name, answer in answers.items()}, allow_nan=False)


def test_comparison_leaves_no_rule_out_and_says_why_one_is_silent():
    table = side_by_side.compare(1e9, 20e9)
    rows = {row.rule: row for row in table.rows}
    assert list(rows) == list(rules.RULES)
    assert all(row.formula and row.units and row.source and row.measured for row in table.rows)
    assert (rows["step_law"].batch_tokens, rows["step_law"].lr) == tuple(planning.recommend(1e9, 20e9)["step_law"])
    assert rows["minicpm"].why == ""
    assert rows["sqrt"].why.startswith("relative only")
    assert "planning.gradient_noise" in rows["gradient_noise"].why
    assert rows["deepseek"].why == "outside the measured range: 1.2e+20 FLOPs, measured at 1e+17 to 2e+19"
    assert side_by_side.compare(2e10, 1e11, names=["kaplan"]).rows[0].why == "needs the expected loss, in nats a token"
    assert json.loads(json.dumps(table.to_json(), allow_nan=False))["rules"]["porian"]["in_range"] is None


def test_comparison_prints_a_line_for_every_rule():
    lines = str(side_by_side.compare(1e9, 20e9, loss=2.5)).splitlines()
    assert lines[0] == "at 1B parameters, 20B tokens, 1.20e+20 FLOPs"
    assert [line.split()[0] for line in lines[2 : 2 + len(rules.RULES)]] == list(rules.RULES)
    assert next(line for line in lines if line.startswith("step_law")).split()[1:4] == ["442k", "0.000996", "inside"]
    assert any(
        line.startswith("kaplan: outside") for line in str(side_by_side.compare(2e9, 1e11, loss=2.0)).splitlines()
    )


def test_kaplan_has_no_rate_for_large_models():
    assert rules.rule("kaplan").recommend(2e10, 1e11, loss=2.0).lr is None
    assert "kaplan" not in planning.recommend(2e10, 1e11)
    assert side_by_side.carry_baseline(1e9, 1.0, 1.0, 1000, names=["kaplan"])["kaplan"].lr is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rules.rule("folklore"), "unknown rule 'folklore'; known: proportional, sqrt"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 0), "factor must be a finite number above zero"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, math.inf), "factor must be"),
        (lambda: side_by_side.carry_baseline(-1, 200, 0.01, 2), "params must be"),
        (lambda: side_by_side.carry_baseline(100, 0, 0.01, 2), "batch must be"),
        (lambda: side_by_side.carry_baseline(100, 200, math.nan, 2), "lr must be"),
        (lambda: side_by_side.carry_baseline(100, 200, "0.01", 2), "lr must be"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, tokens=0), "tokens must be"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, token_factor=-1), "token factor must be"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, beta2=1.0), "beta2 must lie between 0 and 1"),
        (
            lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, optimizer="magic"),
            "unknown optimizer 'magic'; known: adam, adamw",
        ),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, optimizer="sgd", names=["mup"]), "not for sgd"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, names=["gradient_noise"]), "must be measured"),
        (lambda: side_by_side.carry_baseline(100, 200, 0.01, 2, losses=(0.0, 1.0)), "loss must be"),
        (lambda: planning.recommend(1e9, 2e10, names=["sqrt"]), "gives no absolute value here"),
        (lambda: side_by_side.compare(1e9, 2e10, names=["folklore"]), "unknown rule 'folklore'"),
        (lambda: side_by_side.compare(-1e9, 2e10), "num params must be"),
        (lambda: planning.recommend(1e9, 0), "tokens must be"),
        (lambda: rules.rule("minicpm").recommend(loss=-1.0), "loss must be"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_carry_from_one_measured_model():
    assert planning.carry(4.0, 1e6, 1e8, 16e6, 1e8, -0.25, -0.3) == pytest.approx(2.0)
    assert planning.carry(3.0, 1e6, 1e8, 2e6, 4e8, -0.1, -0.2) == pytest.approx(3.0 * 2**-0.1 * 4**-0.2)
    assert planning.carry(3.0, 1e6, 1e8, 1e6, 1e8, -0.1, -0.2) == 3.0


@settings(max_examples=40, deadline=None)
@given(*[st.floats(-1, 1)] * 2, *[st.floats(1e3, 1e12)] * 4)
def test_carrying_there_and_back(alpha, beta, n, d, n2, d2):
    there = planning.carry(2.5, n, d, n2, d2, alpha, beta)
    assert planning.carry(there, n2, d2, n, d, alpha, beta) == pytest.approx(2.5, rel=1e-9)


def test_carry_refuses():
    with pytest.raises(UserError, match="metric must be"):
        planning.carry(0.0, 1, 1, 1, 1, -0.1, -0.1)
    with pytest.raises(UserError, match="to tokens must be"):
        planning.carry(1.0, 1, 1, 1, 0, -0.1, -0.1)
    with pytest.raises(UserError, match="beta must be a finite number"):
        planning.carry(1.0, 1, 1, 1, 1, -0.1, math.nan)

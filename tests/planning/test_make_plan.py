"""Budgets and plans: exactly one way to give a budget, a plan that survives its JSON, and what it tells a person."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from allometry import laws, planning
from allometry.config.model import DecoderConfig
from allometry.errors import UserError
from allometry.planning import Budget, FittedRange, Plan
from helpers.predictors import Chinchilla, Power, Prediction


@dataclass(frozen=True)
class Model:
    width: int
    layers: int = 4

    @property
    def num_params(self) -> int:
        return 12 * self.layers * self.width**2

    @property
    def flops_per_token(self) -> float:
        return 6.0 * self.num_params + 12.0 * self.layers * self.width * 256


def shape(num_params: float) -> Model:
    return Model(width=max(16, 16 * round((num_params / 48) ** 0.5 / 16)))


def recipe(num_params: float, tokens: float) -> tuple[float, float]:
    return 256.0, 0.15


def test_budgets_that_are_the_same():
    by_device = Budget(device="H100", num_devices=8, hours=72, mfu=0.4)
    assert by_device.flops == pytest.approx(8 * 72 * 3600 * 0.4 * 989e12)
    assert by_device.device == "h100"
    by_rate = Budget(flops_per_second=8 * 0.4 * 989e12, hours=72)
    assert by_rate.flops == pytest.approx(by_device.flops)
    assert by_rate.rate == pytest.approx(by_device.rate)
    assert Budget(flops=1e21).rate is None
    assert Budget(device="a100", hours=1) == Budget(device="A100", hours=1, num_devices=1, mfu=0.4)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(flops=1.234567890123456e21),
        Budget(device="h200", num_devices=3, hours=5),
        Budget(flops_per_second=1e10, hours=2),
        Budget(cost=1e4, price_per_hour=2.1, device="h100", num_devices=16, memory=40e9),
        Budget(loss=2.1, device="a100", tokens_available=1e12, inference_tokens=1e13),
        Budget(num_params=7e9, tokens=2e12),
    ],
)
def test_budget_json_there_and_back(budget):
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
    assert "None" not in budget.describe()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a loss to reach, num_params or tokens: none was given"),
        ({"flops": 1e21, "device": "h100", "hours": 1}, "not flops and hours"),
        ({"flops": 1e21, "loss": 2.0}, "not flops and loss"),
        ({"flops": 1e21, "num_params": 1e9, "tokens": 1e10}, "not flops and num_params and tokens together"),
        ({"device": "h100", "flops_per_second": 1e12, "hours": 1}, "not both"),
        ({"flops": -1.0}, "flops must be a finite number above zero"),
        ({"flops": float("inf")}, "flops must be"),
        ({"flops": 1e21, "hours": 3}, "not flops and hours"),
        (
            {"flops_per_second": 1e12, "hours": 1, "num_devices": 8},
            "num_devices has no use without a device: give one, or leave it out",
        ),
        ({"flops": 1e12, "mfu": 0.5, "price_per_hour": 2}, "mfu and price_per_hour have no use without a device"),
        ({"device": "h100"}, "none was given"),
        ({"flops_per_second": 1e12}, "none was given"),
        ({"cost": 100.0, "device": "h100"}, "needs price_per_hour"),
        ({"cost": 100.0, "hours": 3, "device": "h100", "price_per_hour": 2}, "not hours and cost"),
        ({"cost": -100.0, "device": "h100", "price_per_hour": 2}, "cost must be"),
        ({"flops": 1e21, "inference_tokens": -1}, "inference tokens must be"),
        ({"flops": 1e21, "tokens_available": 0}, "tokens available must be"),
        ({"flops": 1e21, "memory": float("nan")}, "memory must be"),
        ({"flops": 1e21, "memory": 80}, "memory of 0.08 kB a device is too little to be meant"),
        ({"device": "h100", "hours": 0}, "hours must be"),
        ({"device": "h100", "hours": 1, "mfu": 1.2}, "mfu is a share of the peak"),
        (
            {"device": "h100", "hours": 1, "num_devices": 1.5},
            "num_devices must be whole, not 1.5",
        ),
        ({"device": "abacus", "hours": 1}, "unknown device 'abacus'; known: v100, a100"),
        ({"hours": 5}, "a budget by hours needs a device, or flops_per_second"),
    ],
)
def test_budget_refuses(given, message):
    with pytest.raises(UserError) as caught:
        Budget(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_money_buys_device_hours():
    budget = Budget(cost=1000.0, price_per_hour=2.5, device="h100", num_devices=8)
    assert budget.flops == pytest.approx(Budget(device="h100", num_devices=8, hours=50).flops)
    assert budget.money(50 * 3600) == pytest.approx(1000)
    assert Budget(flops=1e21, device="h100", num_devices=8, price_per_hour=2.5).money(3600) == pytest.approx(20)
    assert Budget(flops=1e21, device="h100").money(3600) is None
    measured = Budget(cost=10.0, price_per_hour=5.0, flops_per_second=1e15)
    assert measured.flops == pytest.approx(1e15 * 7200)


def test_throughput_of_the_largest_runs():
    rows = [
        {"num_params": n, "tokens": 20 * n, "flops": 7 * n * 20 * n, "loss": 3.0, "tokens_per_second": speed}
        for n, speed in ((1e6, 1e5), (2e6, 8e4), (4e6, 5e4), (8e6, 3e4), (16e6, 2e4), (32e6, float("nan")))
    ]
    # Of five runs with a speed the two largest: 7·8e6·3e4 and 7·16e6·2e4 FLOP/s.
    from allometry.planning.resources.budget import throughput

    observations = laws.Observations.from_records(rows)
    assert throughput(observations) == pytest.approx((7 * 8e6 * 3e4 + 7 * 16e6 * 2e4) / 2)
    with pytest.raises(UserError, match="tokens_per_second"):
        throughput(laws.Observations.from_records([{"num_params": 1e6, "tokens": 1e7, "loss": 3.0}]))


def test_devices_have_sources():
    for name, device in planning.DEVICES.items():
        assert device.name == name
        assert 1e13 < device.peak_flops < 1e16
        assert 1e10 < device.memory < 1e12
        assert device.source
    assert planning.device("H100_PCIe").peak_flops == 756e12


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("4090", "rtx4090"), ("RTX 5090", "rtx5090"), ("NVIDIA H100 80GB", "h100"), ("tpu v5p", "tpu-v5p"),
        ("v6e", "tpu-v6e"), ("M4 Max", "m4-max"), ("Apple M4 Max", "m4-max"), ("Instinct MI300X", "mi300x"),
        ("A100 40GB", "a100-40gb"), ("a100", "a100"), ("h100-sxm5", "h100"), ("B300", "b300"), ("trn2", "trn2"),
    ],
)  # fmt: skip
def test_devices_by_the_names_that_people_use(said, meant):
    assert planning.device(said).name == meant


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("h10", "did you mean h100"),
        ("tpu", "tpu-v4"),
        ("mi300", "did you mean mi300x"),
        ("h1000", "did you mean h100"),
        ("rtx4080", "rtx4090"),
        ("", "known: "),
    ],
)
def test_the_nearest_device_is_offered(said, words):
    with pytest.raises(UserError, match="unknown device") as caught:
        planning.device(said)
    assert words in str(caught.value)


def test_a_place_to_train_is_no_accelerator():
    with pytest.raises(UserError, match=r"place to train, whose speed is not known.*give its flops_per_second"):
        planning.device("cpu")


def test_plan_by_published_rules():
    law = Chinchilla()
    plan = planning.plan(law, Budget(flops=1e20), shape=None)
    assert plan.num_params == pytest.approx(law.closed_form(1e20), rel=1e-6)
    assert 6 * plan.num_params * plan.tokens == pytest.approx(1e20)
    assert plan.rule == "step_law"
    assert plan.batch == pytest.approx(0.58 * plan.tokens**0.571)
    assert plan.lr == pytest.approx(1.79 * plan.num_params**-0.713 * plan.tokens**0.307)
    assert {"deepseek", "step_law", "porian", "moonlight"} <= set(plan.recommendations)
    assert "not by your own runs" in plan.notes[0]
    assert (plan.seconds, plan.cost, plan.memory, plan.model) == (None, None, None, None)
    other = planning.plan(law, 1e20, rule="deepseek", shape=None)
    assert other.lr == pytest.approx(0.3118 * 1e20**-0.125)
    assert any("outside the measured range" in note for note in other.notes)


def test_batch_and_rate_lie_within_the_spread_of_the_rules():
    plan = planning.plan(Chinchilla(), 1e20, shape=None)
    told = {name: tuple(plan.recommendations[name]) for name in ("deepseek", "step_law", "moonlight", "porian")}
    batches, rates = zip(*told.values(), strict=True)
    assert plan.intervals["lr"].low == pytest.approx(min(rates))
    assert plan.intervals["lr"].high == pytest.approx(max(rates))
    three_term = plan.recommendations["three_term"].batch_tokens
    assert plan.intervals["batch"].low == pytest.approx(min(*batches, three_term))
    assert plan.intervals["batch"].high == pytest.approx(max(*batches, three_term))
    for name in ("batch", "lr", "warmup_tokens", "decay", "weight_decay"):
        assert plan.intervals[name].low <= getattr(plan, name) <= plan.intervals[name].high


def test_schedule_by_its_sources():
    """τ = B/(η·λ·D) = 1.084·(D/N)^−0.527 (2505.13738); 2000 steps of warmup, at most a twentieth; 20 % decay."""
    plan = planning.plan(Chinchilla(), Budget(num_params=1e9, tokens=20e9), shape=None)
    timescale = plan.batch / (plan.lr * plan.weight_decay * plan.tokens)
    assert timescale == pytest.approx(1.084 * 20**-0.527)
    assert 0.05 < plan.weight_decay < 0.2  # 0.1 is what models of this size are trained with
    assert plan.warmup_tokens == pytest.approx(2000 * plan.batch)
    short = planning.plan(Chinchilla(), Budget(num_params=1e8, tokens=2e9), shape=None)
    assert short.warmup_tokens == pytest.approx(short.tokens / 20)
    assert plan.decay == 0.2


def test_a_surface_brings_its_intervals():
    @dataclass(frozen=True)
    class Measured:
        def optimum(self, num_params, tokens, level=0.9):
            spread = {"batch_tokens": (2e5, 3e5, 4e5), "lr": (1e-3, 2e-3, 5e-3)}
            told = {name: Prediction(value, low, high) for name, (low, value, high) in spread.items()}
            return SimpleNamespace(**told)

        def outside(self, num_params, tokens):
            return ["1B parameters, measured at 1M to 10M"]

    plan = planning.plan(Chinchilla(), Budget(num_params=1e9, tokens=20e9), surface=Measured(), shape=None)
    assert (plan.batch, plan.lr, plan.rule) == (3e5, 2e-3, "surface")
    assert (plan.intervals["batch"].low, plan.intervals["lr"].high) == (2e5, 5e-3)
    decay = plan.intervals["weight_decay"]
    assert decay.low / plan.weight_decay == pytest.approx(2 / 3 * 2 / 5)
    assert decay.high / plan.weight_decay == pytest.approx(4 / 3 * 2)
    assert any("beyond the surface's runs" in note for note in plan.notes)


def test_the_default_shape_is_a_transformer():
    law, budget = Chinchilla(), Budget(device="h100", num_devices=8, hours=72, price_per_hour=2.0)
    plan = planning.plan(law, budget)
    model = DecoderConfig.parse(plan.model)
    assert plan.num_params == plan.exact_counts["num_params"] == model.num_params
    assert plan.exact_counts["num_params_total"] == model.num_params_total
    assert 0.9 * budget.flops < plan.flops_exact == pytest.approx(plan.tokens * model.flops_per_token)
    assert plan.seconds == pytest.approx(72 * 3600)
    assert plan.cost == pytest.approx(8 * 72 * 2)
    assert plan.memory.fits
    basin = plan.optimum.basin.within_0_5_percent
    assert basin[0] < plan.num_params < basin[1]


def test_a_law_of_total_parameters_is_planned_in_total_parameters():
    """The embedding is half of a small model: taking one count for the other would halve the size."""

    class Total(Chinchilla):
        counted = "total"

    plan = planning.plan(Total(), Budget(flops=1e18))
    model = DecoderConfig.parse(plan.model)
    assert plan.num_params == model.num_params_total > 1.3 * model.num_params
    assert plan.loss == pytest.approx(Chinchilla().predict(model.num_params_total, plan.tokens).value)
    fixed = planning.plan(Total(), Budget(flops=1e19, num_params=2e8))
    assert fixed.num_params == pytest.approx(2e8, rel=0.05)
    assert "embedding and head included" in fixed.summary()
    # Rules for batch and rate are in non-embedding parameters whatever the law counts.
    assert fixed.lr == pytest.approx(1.79 * fixed.exact_counts["num_params"] ** -0.713 * fixed.tokens**0.307)
    with pytest.raises(UserError, match="num_params_total"):
        planning.plan(Total(), Budget(flops=1e18), shape=shape)


def test_a_goal_says_what_it_takes():
    budget = Budget(loss=2.2, device="h100", num_devices=64, price_per_hour=2.0)
    plan = planning.plan(Chinchilla(), budget)
    assert plan.loss == pytest.approx(2.2, rel=1e-6)
    assert plan.seconds == pytest.approx(plan.flops_exact / budget.rate, rel=0.1)
    assert plan.cost == pytest.approx(plan.seconds / 3600 * 64 * 2)
    assert plan.intervals["flops"].low < plan.flops
    wanted = planning.plan(Chinchilla(), Budget(num_params=7e9, tokens=2e12, device="h100"))
    assert wanted.tokens == 2e12
    assert wanted.num_params == pytest.approx(7e9, rel=0.02)


def test_serving_is_paid_for():
    law, budget = Chinchilla(), Budget(flops=1e22, inference_tokens=1e12)
    plan = planning.plan(law, budget)
    model = DecoderConfig.parse(plan.model)
    assert plan.inference_flops == pytest.approx(1e12 * model.flops_per_token / 3)
    assert plan.flops_exact + plan.inference_flops == pytest.approx(1e22)
    assert plan.tokens_per_param > planning.plan(law, Budget(flops=1e22)).tokens_per_param
    assert "serving" in plan.summary()


def test_fixed_tokens_are_paid_for_at_exact_flops():
    plan = planning.plan(Chinchilla(), Budget(flops=1e20, tokens=20e9))
    assert plan.tokens == 20e9
    assert 0.9e20 < plan.flops_exact <= 1e20


def test_plan_with_a_real_shape():
    law = Chinchilla(E=0.9, A=30.0, B=60.0, alpha=0.35, beta=0.3)
    seconds = lambda model, tokens: tokens / 10_000
    plan = planning.plan(law, Budget(flops=1e14), shape=shape, recipe=recipe, seconds=seconds)
    model = Model(**{"width": plan.model["width"], "layers": plan.model["layers"]})
    assert plan.num_params == model.num_params != plan.optimum.num_params
    assert plan.tokens == pytest.approx(1e14 / model.flops_per_token)
    assert plan.loss == pytest.approx(law.predict(plan.num_params, plan.tokens).value)
    assert plan.flops_exact == pytest.approx(model.flops_per_token * plan.tokens)
    assert (plan.batch, plan.lr, plan.rule) == (256.0, 0.15, "recipe")
    assert plan.seconds == pytest.approx(plan.tokens / 10_000)
    assert plan.low < plan.loss < plan.high
    assert (plan.warmup_tokens, plan.decay, plan.weight_decay) == (None, None, None)


def test_notes_hold_for_the_size_that_is_trained():
    covered = FittedRange.of([1e4, 2e5], [1e6, 4e6])
    plan = planning.plan(Power(), Budget(flops=1e14), shape=shape, recipe=recipe, fitted_range=covered)
    assert sum("of the largest fitted run" in note for note in plan.notes) == 1
    assert sum("the law has no best size" in caution for caution in plan.cautions) == 1
    far = planning.plan(
        Power(), Budget(flops=1e14), shape=lambda _: Model(width=512), recipe=recipe, fitted_range=covered
    )
    assert any("× the parameters of the optimum by 6ND" in note for note in far.notes)


def test_a_plan_is_not_worse_than_half_its_size_by_its_own_law():
    """The runs end at 9 tokens a parameter, the optimum lies far beyond: said first, and the size is the law's."""
    law = Chinchilla(E=0.9, A=30.0, B=60.0, alpha=0.35, beta=0.3)
    narrow = FittedRange.of([1e6, 2e6, 4e6], [1e6, 3e6, 9e6])
    plan = planning.plan(law, 3e15, shape=shape, recipe=recipe, fitted_range=narrow)
    assert plan.basin.cost_of_half_size > 0 < plan.basin.cost_of_double_size
    for low, high in (plan.basin.within_0_1_percent, plan.basin.within_0_5_percent):
        assert low <= plan.num_params <= high
    assert plan.summary().startswith("caution: the best size lies outside what was run")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_basin_is_that_of_the_shapes():
    """Half and twice the size at their own exact FLOPs a token, not by 6ND: the head is a third of these models."""
    law = Chinchilla(E=0.9, A=30.0, B=60.0, alpha=0.35, beta=0.3)
    plan = planning.plan(law, 1e16)
    for factor, cost in ((0.5, plan.basin.cost_of_half_size), (2.0, plan.basin.cost_of_double_size)):
        other = planning.Shapes()(factor * plan.num_params)
        loss = law.predict(other.num_params, 1e16 / other.flops_per_token).value
        assert cost == pytest.approx(loss / plan.loss - 1, abs=0.003)
        by_6nd = law.predict(factor * plan.num_params, plan.tokens / factor).value / plan.loss - 1
        assert abs(cost - (loss / plan.loss - 1)) < abs(by_6nd - (loss / plan.loss - 1))


def test_a_size_or_tokens_alone_are_budgets():
    plan = planning.plan(Chinchilla(), Budget(tokens=100e9, device="h100", num_devices=64))
    assert plan.tokens == 100e9
    assert plan.num_params == pytest.approx(plan.optimum.num_params, rel=0.05)
    assert plan.seconds > 0
    seven = planning.plan(Chinchilla(), Budget(num_params=7e9))
    assert seven.num_params == pytest.approx(7e9, rel=0.05)
    assert seven.tokens == seven.optimum.tokens


def test_the_shape_is_the_best_of_those_that_the_budget_buys():
    law = Chinchilla(E=0.9, A=30.0, B=60.0, alpha=0.35, beta=0.3)
    plan = planning.plan(law, Budget(flops=1e14), shape=shape, recipe=recipe)
    tried = {shape(size).num_params: shape(size) for size in np.geomspace(*plan.optimum.searched, 2000)}
    losses = [law.predict(m.num_params, 1e14 / m.flops_per_token).value for m in tried.values()]
    assert plan.loss == pytest.approx(min(losses), rel=1e-12)


def test_only_what_trains_in_time_is_planned():
    law = Chinchilla(E=0.9, A=30.0, B=60.0, alpha=0.35, beta=0.3)
    free = planning.plan(law, Budget(flops=1e14), shape=shape, recipe=recipe)
    # A machine that needs as long for a token whatever the model: fewer tokens are faster.
    seconds = lambda model, tokens: tokens / 1e4
    held = planning.plan(
        law, Budget(flops=1e14), shape=shape, recipe=recipe, seconds=seconds, within=free.tokens / 1e4 / 2
    )
    assert held.seconds == pytest.approx(held.tokens / 1e4)
    assert held.seconds <= free.tokens / 1e4 / 2
    assert held.num_params > free.num_params
    assert held.loss > free.loss
    assert any("were considered" in note for note in held.notes)
    assert free.flops_exact == pytest.approx(held.flops_exact)


def test_fixed_size_and_tokens():
    plan = planning.plan(Chinchilla(), Budget(num_params=1e9, tokens=20e9), shape=None)
    assert (plan.num_params, plan.tokens, plan.budget.flops) == (1e9, 20e9, None)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert "1B parameters, 20B tokens" in plan.summary()


def test_repeated_data_are_told():
    plan = planning.plan(Chinchilla(), Budget(flops=1e21, tokens_available=2e9))
    assert any("reads the data" in note and "2305.16264" in note for note in plan.notes)
    assert plan.loss > planning.plan(Chinchilla(), Budget(flops=1e21)).loss
    enough = planning.plan(Chinchilla(), Budget(flops=1e21, tokens_available=1e13))
    assert enough.loss == pytest.approx(planning.plan(Chinchilla(), Budget(flops=1e21)).loss, rel=1e-12)
    assert not any("reads the data" in note for note in enough.notes)


def test_what_does_not_suit_the_machine_is_told():
    small = Budget(num_params=7e9, tokens=1e12, device="a10", num_devices=4)
    assert any("it would on 8 devices" in text for text in planning.plan(Chinchilla(), small).cautions)
    many = Budget(num_params=1e8, tokens=2e9, device="h100", num_devices=4096)
    assert any("too few for 4096 devices" in note for note in planning.plan(Chinchilla(), many).notes)


def test_a_plan_has_a_layout_for_its_cluster():
    plan = planning.plan(Chinchilla(), Budget(num_params=70e9, tokens=2e12, device="a100", num_devices=2048))
    layout = plan.memory.layout
    assert plan.memory.fits
    assert layout.num_devices == 2048
    assert plan.batch == layout.sequences * 2048  # whole sequences, as many for each group
    assert "FSDP" in plan.summary()


def test_hours_count_flops_as_an_mfu_does():
    """6·N with the head and the whole of attention (arXiv 2204.02311), of which causal kernels compute half."""
    plan = planning.plan(Chinchilla(), Budget(device="h100", num_devices=8, hours=72))
    model = DecoderConfig.parse(plan.model)
    assert plan.tokens * model.num_params_matmul * 6 < 8 * 72 * 3600 * 0.4 * 989e12
    full = 6 * model.num_params_matmul + 12 * model.layers * model.width * model.context
    assert plan.tokens * full == pytest.approx(8 * 72 * 3600 * 0.4 * 989e12)
    assert "MFU (6·N with head and full attention, arXiv 2204.02311)" in plan.summary()


def test_plan_survives_its_file(tmp_path):
    budget = Budget(device="h100", num_devices=8, hours=1)
    plan = planning.plan(Chinchilla(), budget, shape=shape, created="2026-01-02T03:04:05+00:00")
    plan = plan.with_run({"model": {"width": 64}, "seed": 1})
    path = tmp_path / "plan.json"
    plan.save(path)
    assert Plan.load(path) == plan
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]
    record = json.loads(path.read_text("utf-8"))
    assert record["kind"] == "plan"
    assert record["run"] == {"model": {"width": 64}, "seed": 1}
    assert plan.created == "2026-01-02T03:04:05+00:00"
    assert plan.seconds == pytest.approx(plan.flops_exact / budget.rate)
    with pytest.raises(FrozenInstanceError):
        plan.lr = 1.0


def test_created_is_the_time_of_planning():
    assert planning.plan(Chinchilla(), Budget(flops=1e20)).created.endswith("+00:00")


def test_summary_reads_well():
    text = planning.plan(Chinchilla(), Budget(flops_per_second=1e15, hours=24), shape=shape).summary()
    for word in ("budget", "model", "tokens", "batch", "learning rate", "warmup", "weight decay", "predicted loss"):
        assert word in text
    for word in ("at 90 %", "within 0.5 %", "size off by 2×", "% at half the size", "time", "interval of", "note: "):
        assert word in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("note")) < 120
    assert "nan" not in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget(flops=2.0)}, "does not pay for one parameter"),
        ({"budget": Budget(flops=1e6)}, "FLOPs pay for no model here"),
        ({"budget": Budget(flops=1e9)}, "less than one batch of"),
        ({"budget": Budget(flops=1e21, tokens_available=1e4)}, "tokens available are less than one batch"),
        ({"budget": Budget(loss=1.0)}, "no compute reaches a loss of 1"),
        ({"budget": Budget(flops=1e21, num_params=1e14)}, "beyond the shapes known here"),
        ({"rule": "folklore"}, "unknown rule 'folklore'; known:"),
        ({"rule": "three_term"}, "gives no batch and learning rate here; these do: deepseek, step_law"),
        ({"rule": "power_lines"}, "gives no batch and learning rate here"),
        ({"recipe": lambda n, d: (256, -1.0)}, "learning rate of the recipe must be"),
        ({"recipe": lambda n, d: (1e30, 0.1)}, "less than one batch of"),
        ({"shape": lambda n: Model(width=0)}, "parameters of the shape must be"),
        ({"level": 1.0}, "level is 1.0; it must lie between 0 and 1"),
    ],
)
def test_wrong_input(options, message):
    budget = options.pop("budget", Budget(flops=1e18))
    with pytest.raises(UserError) as caught:
        planning.plan(Chinchilla(), budget, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_plan(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(UserError, match="no such file"):
        Plan.load(path)
    for text, message in (
        ("{", "not JSON"),
        ("[]", "not a plan"),
        ('{"kind": "fit"}', "not a plan"),
        ('{"kind": "plan", "loss": 1}', "missing or unknown fields"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            Plan.load(path)
    record = planning.plan(Chinchilla(), Budget(flops=1e20)).to_json()
    for field, value in (("optimum", {"what": 1}), ("recommendations", {"x": {"y": 1}}), ("notes", None)):
        path.write_text(json.dumps(record | {field: value}))
        with pytest.raises(UserError, match="not a plan of this version"):
            Plan.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Plan.load(tmp_path)


def test_no_torch_no_scipy():
    code = "import sys, allometry.planning; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_machine_that_cannot_hold_the_plan_is_its_first_line():
    held = planning.plan(Chinchilla(), Budget(num_params=7e9, tokens=140e9, device="h100", num_devices=64))
    assert held.memory.fits
    assert not any("cannot train" in text for text in held.cautions)
    alone = planning.plan(Chinchilla(), Budget(num_params=70e9, tokens=1.4e12, device="rtx4090", num_devices=4))
    assert alone.memory.fits is False
    first = alone.summary().splitlines()[: len(alone.cautions)]
    assert any("this machine cannot train the plan" in line and "devices or more" in line for line in first)
    assert not any("does not fit" in note for note in alone.notes)


def test_the_shape_names_shared_heads():
    small, large = (planning.plan(Chinchilla(), Budget(num_params=size, tokens=20 * size)) for size in (5e8, 8e9))
    assert "of keys and values" not in small.summary()
    assert "32 heads of 128 (8 of keys and values)" in large.summary()

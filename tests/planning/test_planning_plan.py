"""Budgets and plans: exactly one way to give a budget, a plan that survives its JSON, and what it tells a person."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest

from allometry import planning
from allometry.errors import UserError
from allometry.planning import Budget, Covered, Plan

from .predictors import Chinchilla, Power


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
    by_device = Budget(device="H100", count=8, hours=72, mfu=0.4)
    assert by_device.flops == pytest.approx(8 * 72 * 3600 * 0.4 * 989e12)
    assert by_device.device == "h100"
    by_rate = Budget(flops_per_second=8 * 0.4 * 989e12, hours=72)
    assert by_rate.flops == pytest.approx(by_device.flops)
    assert by_rate.rate == pytest.approx(by_device.rate)
    assert Budget(flops=1e21).rate is None
    assert Budget(device="a100", hours=1) == Budget(device="A100", hours=1, count=1, mfu=0.4)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(flops=1.234567890123456e21),
        Budget(device="h200", count=3, hours=5),
        Budget(flops_per_second=1e10, hours=2),
    ],
)
def test_budget_json_there_and_back(budget):
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
    assert budget.describe().endswith(("FLOPs", ")"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one; none was given"),
        ({"flops": 1e21, "device": "h100", "hours": 1}, "not flops and device together"),
        ({"device": "h100", "flops_per_second": 1e12, "hours": 1}, "exactly one"),
        ({"flops": -1.0}, "flops must be a finite number above zero"),
        ({"flops": float("inf")}, "flops must be"),
        ({"flops": 1e21, "hours": 3}, "does not take hours"),
        ({"flops_per_second": 1e12, "hours": 1, "count": 8}, "does not take count"),
        ({"device": "h100"}, "needs hours"),
        ({"flops_per_second": 1e12}, "needs hours"),
        ({"device": "h100", "hours": 0}, "hours must be"),
        ({"device": "h100", "hours": 1, "mfu": 1.2}, "mfu is a share of the peak"),
        ({"device": "h100", "hours": 1, "count": 1.5}, "whole number of devices"),
        ({"device": "abacus", "hours": 1}, "unknown device 'abacus'; known: a100, h100"),
        ({"hours": 5}, "none was given"),
    ],
)
def test_budget_refuses(given, message):
    with pytest.raises(UserError) as caught:
        Budget(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices_have_sources():
    for name, device in planning.DEVICES.items():
        assert device.name == name
        assert 5e13 < device.peak_flops < 1e16
        assert 1e10 < device.memory < 1e12
        assert device.source
    assert planning.device("H100_PCIe").peak_flops == 756e12


def test_plan_by_published_rules():
    law = Chinchilla()
    plan = planning.plan(law, Budget(flops=1e20))
    assert plan.num_params == pytest.approx(law.closed_form(1e20), rel=1e-6)
    assert 6 * plan.num_params * plan.tokens == pytest.approx(1e20)
    assert plan.rule == "step_law"
    assert plan.batch == pytest.approx(0.58 * plan.tokens**0.571)
    assert plan.lr == pytest.approx(1.79 * plan.num_params**-0.713 * plan.tokens**0.307)
    assert {"deepseek", "step_law", "porian", "moonlight"} <= set(plan.recommendations)
    assert "not by your own runs" in plan.notes[0]
    assert plan.seconds is None
    other = planning.plan(law, Budget(flops=1e20), rule="deepseek")
    assert other.lr == pytest.approx(0.3118 * 1e20**-0.125)
    assert any("outside the measured range" in note for note in other.notes)


def test_plan_with_a_real_shape():
    law = Chinchilla(E=0.9, A=30.0, B=60.0, alpha=0.35, beta=0.3)
    plan = planning.plan(law, Budget(flops=1e14), shape=shape, recipe=recipe, tokens_per_second=10_000.0)
    model = Model(**{"width": plan.model["width"], "layers": plan.model["layers"]})
    assert plan.num_params == model.num_params != plan.optimum.num_params
    assert plan.tokens == pytest.approx(1e14 / model.flops_per_token)
    assert plan.loss == pytest.approx(law.predict(plan.num_params, plan.tokens).value)
    assert plan.flops_exact == pytest.approx(model.flops_per_token * plan.tokens)
    assert (plan.batch, plan.lr, plan.rule) == (256.0, 0.15, "recipe")
    assert plan.seconds == pytest.approx(plan.tokens / 10_000)
    assert plan.low < plan.loss < plan.high


def test_notes_hold_for_the_size_that_is_trained():
    covered = Covered.of([1e4, 2e5], [1e6, 4e6])
    plan = planning.plan(Power(), Budget(flops=1e14), shape=shape, recipe=recipe, covered=covered)
    assert sum("of the largest fitted run" in note for note in plan.notes) == 1
    assert sum("no optimum inside" in note for note in plan.notes) == 1
    far = planning.plan(Power(), Budget(flops=1e14), shape=lambda _: Model(width=512), recipe=recipe, covered=covered)
    assert any("× the parameters of the optimum by 6ND" in note for note in far.notes)


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


def test_fixed_size_and_tokens_need_no_budget():
    plan = planning.plan(Chinchilla(), num_params=1e9, tokens=20e9)
    assert (plan.num_params, plan.tokens, plan.budget) == (1e9, 20e9, None)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert "size and tokens fixed" in plan.summary()
    fixed = planning.plan(Chinchilla(), Budget(flops=1e20), tokens=20e9)
    assert fixed.tokens == 20e9


def test_plan_survives_its_file(tmp_path):
    budget = Budget(device="h100", count=8, hours=1)
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
    for word in ("budget", "model", "the law asked for", "tokens", "batch", "learning rate", "predicted loss"):
        assert word in text
    for word in ("at 90 %", "within 0.5 %", "wrong by 2×", "half the size costs +", "time", "note: "):
        assert word in text
    assert max(len(line) for line in text.splitlines()) < 140
    assert "nan" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget(flops=2.0)}, "does not pay for one parameter"),
        ({"budget": None}, "give flops"),
        ({"rule": "folklore"}, "unknown rule 'folklore'; known:"),
        ({"rule": "three_term"}, "gives no batch and learning rate here; these do: deepseek, step_law"),
        ({"rule": "power_lines"}, "gives no batch and learning rate here"),
        ({"recipe": lambda n, d: (256, -1.0)}, "learning rate of the recipe must be"),
        ({"recipe": lambda n, d: (1e30, 0.1)}, "less than one batch of"),
        ({"tokens_per_second": 0.0}, "tokens per second must be"),
        ({"level": 1.0}, "level is a probability"),
        ({"num_params": 0}, "num params must be"),
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

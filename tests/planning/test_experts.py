"""Mixtures of experts: the best number of them by a law that is known, and the memory that all of them take."""

from dataclasses import dataclass

import numpy as np
import pytest

from allometry import laws, planning
from allometry.errors import UserError
from allometry.planning import Budget
from allometry.planning.experts import total_params
from helpers.ladders import ladder
from helpers.predictors import Chinchilla, Prediction


@dataclass(frozen=True)
class Experts:
    """E + A/(N^α·x^δ) + B/D^β: experts x are worth more parameters, up to a number."""

    delta: float = 0.1
    most: float = 64.0

    def predict(self, num_params, tokens, level=0.9, *, num_experts=1.0):
        worth = num_params * min(num_experts, self.most) ** (self.delta / 0.3478)
        value = Chinchilla().predict(worth, tokens).value + 1e-3 * np.log(max(num_experts / self.most, 1.0))
        return Prediction(value, 0.99 * value, 1.01 * value)


def test_the_best_number_of_experts():
    found = planning.plan_experts(Experts(), Budget(flops=1e22))
    assert found.best.num_experts == 64
    losses = [each.loss for each in found.choices]
    assert losses == sorted(losses)
    dense = next(each for each in found.choices if each.num_experts == 1)
    assert dense.active == dense.total == pytest.approx(Chinchilla().closed_form(1e22), rel=1e-6)
    for each in found.choices:
        assert 6 * each.active * each.tokens == pytest.approx(1e22)
        assert each.total == pytest.approx(each.active * (1 + 2 * each.num_experts) / 3)


def test_all_experts_take_memory():
    machine = Budget(flops=1e22, device="h100", num_devices=8)
    free, held = planning.plan_experts(Experts(), 1e22), planning.plan_experts(Experts(), machine)
    assert held.best.num_experts < free.best.num_experts
    assert held.best.fits
    assert held.best.states <= 0.9 * 80e9
    assert held.best.states == pytest.approx(16 * held.best.total / 8)
    assert any(each.fits is False for each in held.choices)
    assert "too much" in held.summary()


def test_a_loss_is_reached_with_the_fewest_flops():
    """With 64 experts least compute is needed; the others are ranked by theirs, though all reach the same loss."""
    goal = planning.plan_experts(Experts(), Budget(flops=1e22)).best.loss
    reached = planning.plan_experts(Experts(), Budget(loss=goal))
    assert reached.best.num_experts == 64
    assert reached.best.flops == pytest.approx(1e22, rel=1e-3)
    flops = [each.flops for each in reached.choices]
    assert flops == sorted(flops)
    assert flops[-1] > 1.5 * flops[0]
    assert all(each.loss == pytest.approx(goal, rel=1e-5) for each in reached.choices)
    assert reached.summary().count("FLOPs") == len(reached.choices)


def test_numbers_of_experts_that_never_reach_a_loss_are_left_out_aloud():
    floor = 1e-3 * np.log(256 / 64)  # with 256 experts, above the law's own
    goal = 0.5 * floor + Chinchilla().predict(1e40, 1e40).value
    reached = planning.plan_experts(Experts(), Budget(loss=goal), experts=(64, 256))
    assert [each.num_experts for each in reached.choices] == [64]
    assert reached.notes[0].startswith("256 experts: no compute reaches a loss")
    with pytest.raises(UserError, match="no compute reaches a loss"):
        planning.plan_experts(Experts(), Budget(loss=goal), experts=(256,))


@pytest.mark.parametrize("alone", [{"tokens": 1e11}, {"num_params": 1e9}])
def test_a_size_or_tokens_alone_are_no_budget(alone):
    with pytest.raises(UserError, match="alone give every number of experts another compute"):
        planning.plan_experts(Experts(), Budget(**alone))
    fixed = planning.plan_experts(Experts(), Budget(flops=1e22, **alone))
    assert fixed.best.num_experts == 64


def test_published_totals():
    """Mixtral 8×7B has 46.7B parameters of which 12.9B are active: 4 times as many experts as a token uses."""
    assert total_params(12.9e9, 4) == pytest.approx(46.7e9, rel=0.2)


def test_wrong_input():
    for law in (object(), laws.fit("chinchilla", ladder("chinchilla"), bootstrap=0)):
        with pytest.raises(UserError, match="does not read a number of experts"):
            planning.plan_experts(law, 1e20)
    with pytest.raises(UserError, match="no number of experts"):
        planning.plan_experts(Experts(), 1e20, experts=[])
    with pytest.raises(UserError, match="experts 0 must be"):
        planning.plan_experts(Experts(), 1e20, experts=[0])

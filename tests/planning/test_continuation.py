"""Going on with a checkpoint or beginning anew: what is left is spent once, and the law decides."""

import json

import numpy as np
import pytest

from allometry import laws
from allometry.config.model import DecoderConfig
from allometry.errors import UserError
from allometry.planning import Budget, Plan
from allometry.planning.continuation import Checkpoint, resume
from allometry.planning.resources.shapes import Shapes
from helpers.ladders import ladder
from helpers.predictors import Chinchilla

LAW = Chinchilla()


def test_a_checkpoint_gets_what_is_left():
    model = Shapes()(1e9)
    done = Checkpoint(model.num_params, 5e9, model, "mine")
    left = Budget(device="h100", num_devices=8, hours=10, price_per_hour=2.0)
    found = resume(LAW, left, [done])
    continues = next(each for each in found.alternatives if each.continues)
    # Hours count the whole of attention, as an MFU does; causal kernels compute half of it.
    full = 6 * model.num_params_matmul + 12 * model.layers * model.width * model.context
    assert continues.new_tokens == pytest.approx(left.flops / full)
    assert continues.flops == pytest.approx(continues.new_tokens * model.flops_per_token)
    assert continues.plan.tokens == pytest.approx(5e9 + continues.new_tokens)
    assert continues.plan.loss == pytest.approx(LAW.predict(model.num_params, continues.plan.tokens).value)
    assert continues.plan.seconds == continues.seconds == pytest.approx(36_000)
    assert continues.plan.cost == pytest.approx(8 * 10 * 2)
    assert DecoderConfig.parse(continues.plan.model) == model
    anew = next(each for each in found.alternatives if not each.continues)
    assert anew.flops == pytest.approx(left.flops, rel=0.1)
    assert anew.tokens_done == 0


def test_the_law_decides():
    """A model near the best size goes on; one far too large for what is left gives way to a smaller one."""
    near = resume(LAW, 1e20, [Checkpoint(1e9, 20e9)])
    assert near.best.continues
    # 1e20 FLOPs give 30B parameters 0.56B tokens more: a model of the right size begins anew and wins.
    large = resume(LAW, 1e20, [Checkpoint(30e9, 0.1e9)])
    assert not large.best.continues
    assert large.best.plan.num_params < 2e9
    losses = [each.plan.loss for each in large.alternatives]
    assert losses == sorted(losses)


def test_of_several_checkpoints_the_best_is_found():
    points = [Checkpoint(size, 20 * size, name=f"run {size:g}") for size in np.geomspace(1e7, 1e10, 7)]
    found = resume(LAW, 3e19, points)
    expected = [LAW.predict(point.num_params, point.tokens + 3e19 / 6 / point.num_params).value for point in points]
    names = [each.checkpoint for each in found.alternatives if each.continues]
    assert names == [points[index].name for index in np.argsort(expected)]


def test_refits_say_how_surely():
    fitted = laws.fit("chinchilla", ladder("chinchilla", noise=0.003))
    c, left = fitted.values, 1e21
    # A larger model on as many tokens as make it as good.
    excess = fitted.predict(2e9, 1e9 + left / 12e9).value - c["E"] - c["A"] * 4e9 ** -c["alpha"]
    tokens = (c["B"] / excess) ** (1 / c["beta"]) - left / 24e9
    even = resume(fitted, left, [Checkpoint(2e9, 1e9), Checkpoint(4e9, tokens)])
    assert even.alternatives[0].plan.loss == pytest.approx(even.alternatives[1].plan.loss, rel=1e-9)
    shares = [each.preferred for each in even.alternatives]
    assert sum(shares) == pytest.approx(1.0)
    assert sorted(shares)[1] > 0.2
    clear = resume(fitted, 1e19, [Checkpoint(1e9, 100e9)])
    assert clear.best.preferred == 1.0
    assert resume(LAW, 1e20, [Checkpoint(1e9, 1e9)]).best.preferred is None


def test_what_is_left_pays_for_serving_and_the_data_are_the_same():
    left = Budget(flops=1e20, inference_tokens=1e9, tokens_available=1e9)
    found = resume(LAW, left, [Checkpoint(1e9, 3e9)])
    continues = next(each for each in found.alternatives if each.continues)
    assert continues.new_tokens == pytest.approx(1e20 / 6e9 - 1e9 / 3)
    assert any("reads the data" in note for note in continues.plan.notes)
    assert continues.plan.loss > LAW.predict(1e9, continues.plan.tokens).value


def test_too_little_for_a_new_model_still_goes_on():
    found = resume(LAW, 1e9, [Checkpoint(1e5, 1e7)], shape=None)
    assert [each.continues for each in found.alternatives] == [True, False]
    found = resume(LAW, 1e9, [Checkpoint(1e5, 1e7)])
    assert [each.continues for each in found.alternatives] == [True]
    assert "a new model is out of reach: " in found.notes[0]


def test_a_decayed_checkpoint_is_told():
    found = resume(LAW, 1e20, [Checkpoint(1e9, 20e9, decayed=True)])
    assert any("warm up again" in note for note in found.best.plan.notes)


def test_summary_and_json():
    found = resume(LAW, 1e20, [Checkpoint(1e9, 20e9, name="run a"), Checkpoint(1.001e9, 20e9, name="run b")])
    text = found.summary()
    for word in (
        "left: 1.00e+20 FLOPs",
        "continue run a",
        "a new model",
        "best: continue ",
        "as good within",
    ):
        assert word in text
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["kind"] == "continuation"
    assert [each["name"] for each in record["alternatives"]] == [each.name for each in found.alternatives]
    assert Plan.from_json(record["alternatives"][0]["plan"]) == found.best.plan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resume(LAW, Budget(loss=2.0), [Checkpoint(1e9, 1e9)]), "flops, hours or cost"),
        (lambda: resume(LAW, Budget(flops=1e20, tokens=1e9), [Checkpoint(1e9, 1e9)]), "without a fixed size"),
        (lambda: resume(LAW, 1e20, []), "no checkpoint"),
        (lambda: resume(LAW, 10.0, [Checkpoint(1e9, 1e9)]), "pay for no model here"),
        (lambda: resume(LAW, 1e20, [Checkpoint(1e9, 1e9)], rule="folklore"), "unknown rule"),
        (lambda: Checkpoint(1e9, 0), "tokens done must be"),
        (lambda: Checkpoint(-1, 1e9), "num params must be"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(UserError, match=message):
        call()

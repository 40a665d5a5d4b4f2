"""The compiled step: loss and gradients of the layers at every shape; a training that resumes to the bit."""

import copy
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from allometry import nn
from allometry.config.run import RunConfig
from allometry.config.task import TranslationConfig
from allometry.data.corpus import Corpus
from allometry.lm import checkpoint
from allometry.lm.compiled import build as kernels
from allometry.lm.compiled.adamw import CompiledAdamW
from allometry.lm.compiled.step import Step
from allometry.lm.compiled.whole_step import LEFT_OUT
from allometry.lm.decoder import LanguageModel, build
from allometry.lm.training.gradients import Pieces
from allometry.lm.training.member import Member
from allometry.lm.training.training_step import advance
from allometry.runs.hooks import Hooks, Interrupted
from allometry.runs.study import Study
from allometry.tasks.answers import PAIRS
from helpers.builders import model_config, run_config
from helpers.training import fresh, train

pytestmark = pytest.mark.skipif(bool(kernels.available()), reason=kernels.available())

# Heads narrower, as wide and wider than a vector, of odd multiples; rows and lengths that end within one.
SHAPES = [
    ({"width": 24, "head_dim": 12, "hidden": 64}, 4, 128),
    ({"width": 64, "head_dim": 16, "hidden": 168, "layers": 3}, 3, 50),
    ({"width": 44, "head_dim": 22, "hidden": 60, "vocab_size": 77}, 2, 37),
    ({"width": 80, "head_dim": 40, "hidden": 56, "vocab_size": 300}, 2, 17),
    ({"width": 8, "head_dim": 2, "hidden": 8, "vocab_size": 2}, 1, 1),
]


def batch(model: dict, rows: int, length: int) -> torch.Tensor:
    return torch.randint(model.get("vocab_size", 32), (2, rows, length))


WAYS = [("fp32", True), ("bf16", True), ("bf16", False)]  # precision; whether a step is one call, or between GEMMs


def random_model(model: dict, precision: str = "fp32", compile: bool = False) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LanguageModel(model_config(**model), precision, compile)


def pair(model: dict, precision: str = "fp32", whole: bool = True):
    """The same model by its layers and by kernels, from random weights, with gradients."""
    plain, fast = (random_model(model, precision, compile) for compile in (False, True))
    fast.step = Step(fast.step.dtype, whole)
    return plain, fast


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize(("model", "rows", "length"), SHAPES)
def test_loss_and_gradients_are_those_of_the_layers(model, rows, length):
    tokens, targets = batch(model, rows, length)
    plain, fast = pair(model)
    losses = [one.loss(tokens, targets) for one in (plain, fast)]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    for (name, mine), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        # A gradient that is zero but for rounding (of one position, the queries') has no direction to compare.
        scale = max(theirs.grad.norm().item(), 1e-3)
        assert (mine.grad - theirs.grad).norm().item() < 1e-5 * scale, name
    each = [one.token_losses(tokens, targets) for one in (plain, fast)]
    torch.testing.assert_close(each[1], each[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("whole", "shape"), [(True, shape) for shape in SHAPES[:4]] + [(False, SHAPES[1])])
def test_in_bf16_it_is_no_further_from_fp32_than_the_layers_are(whole, shape):
    model, (tokens, targets) = shape[0], batch(*shape)
    exact, _ = pair(model)
    plain, fast = pair(model, "bf16", whole)
    for one in (exact, plain, fast):
        one.loss(tokens, targets).backward()
    for (name, right), theirs, mine in zip(
        exact.named_parameters(), plain.parameters(), fast.parameters(), strict=True
    ):
        assert mine.grad.dtype == torch.float32
        if right.grad.norm() > 1e-3:  # a gradient that is zero but for rounding has no direction to compare
            assert 0 < distance(mine.grad, right.grad) < 1.2 * distance(theirs.grad, right.grad), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_autograd_they_are_the_same_and_add_up(precision):
    """Whatever lies there as gradient: nothing, what the call before left, or anybody's tensors."""
    tokens, targets = batch(*SHAPES[1])
    model = pair(SHAPES[1][0], precision)[1]
    loss = model.loss(tokens, targets)
    loss.backward()
    expected = gradients(model)
    for times in (2, 3):
        assert model.step.gradients([model], tokens[None], targets[None]) == [pytest.approx(loss.item(), rel=1e-6)]
        assert all(distance(mine, times * one) < 1e-6 for mine, one in zip(gradients(model), expected, strict=True))
    model.zero_grad(set_to_none=True)
    for times in (1, 2):
        model.step.gradients([model], tokens[None], targets[None])
        assert all(distance(mine, times * one) < 1e-6 for mine, one in zip(gradients(model), expected, strict=True))
    other = batch(SHAPES[1][0], 5, 16)  # another step, which leaves what the first left
    model.step.gradients([model], *other[:, None])
    sums = gradients(model)
    model.zero_grad(set_to_none=True)
    model.step.gradients([model], *other[:, None])
    assert all(
        distance(mine - alone, 2 * one) < 1e-5
        for mine, alone, one in zip(sums, gradients(model), expected, strict=True)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("width", [8, 12, 16, 24, 40, 56, 96])
def test_heads_of_eight_and_narrow_models(width, precision):
    """A step of several models beside each other gives each what it gives alone, to the bit."""
    model = {"width": width, "head_dim": 8 if width % 8 == 0 else width, "hidden": 8 * round(width / 3), "layers": 2}
    exact, _ = pair(model)
    fast = [random_model(model, precision, compile=True) for _ in range(3)]
    tokens, targets = torch.randint(32, (2, 3, 5, 70))
    together = fast[0].step.gradients(fast, tokens, targets)
    for i, one in enumerate(fast):
        found = gradients(one)
        one.zero_grad()
        assert one.step.gradients([one], tokens[i : i + 1], targets[i : i + 1]) == [together[i]]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, gradients(one), strict=True))
        exact.zero_grad()
        exact.loss(tokens[i], targets[i]).backward()
        close = {"fp32": 1e-5, "bf16": 0.03}[precision]
        assert all(distance(mine, right) < close for mine, right in zip(found, gradients(exact), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("width", [8, 12, 24, 96])
def test_kernels_are_as_near_to_float64_as_the_layers_are(width, precision):
    """Of a fresh decoder, whose heads look sharply: the narrower it is, the more of each rounding is seen."""
    config = model_config(width=width, head_dim=8 if width % 8 == 0 else width, layers=2)
    errors = {"layers": [], "kernels": []}
    for seed in range(4):
        tokens, targets = torch.randint(32, (2, 20, 70))
        exact, layers, fast = (
            build(config, seed).double(),
            *(build(config, seed, precision, way) for way in (False, True)),
        )
        exact.compute = torch.float64
        logits = super(LanguageModel, exact).forward(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        for model, found in zip((layers, fast), errors.values(), strict=True):
            model.loss(tokens, targets).backward()
            found += [distance(*both) for both in zip(gradients(model), gradients(exact), strict=True)]
    assert np.mean(errors["kernels"]) < 1.5 * np.mean(errors["layers"])


def test_pieces_of_a_batch_add_up_to_it():
    tokens, targets = batch(*SHAPES[1])[:, [0, 1, 2, 0]]
    whole, parts = (pair(SHAPES[1][0])[1] for _ in range(2))
    whole.loss(tokens, targets).backward()
    parts.loss(tokens[:2], targets[:2]).backward()  # a pass for this shape, which the pieces must not take as it is
    parts.zero_grad()
    with nn.accumulation(2):
        for half in range(2):
            parts.loss(tokens[2 * half :][:2], targets[2 * half :][:2]).backward()
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert distance(mine.grad, theirs.grad) < 1e-5


def test_a_multiple_of_the_loss_has_that_multiple_of_the_gradient():
    tokens, targets = batch(*SHAPES[1])
    one, three = (pair(SHAPES[1][0])[1] for _ in range(2))
    one.loss(tokens, targets).backward()
    (3 * three.loss(tokens, targets)).backward()
    for mine, theirs in zip(three.parameters(), one.parameters(), strict=True):
        assert distance(mine.grad, 3 * theirs.grad) < 1e-5


@pytest.mark.parametrize(("precision", "whole"), WAYS)
def test_threads_change_nothing(precision, whole):
    tokens, targets = batch(*SHAPES[1])
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            model = pair(SHAPES[1][0], precision, whole)[1]
            model.loss(tokens, targets).backward()
            found.append(gradients(model))
        finally:
            torch.set_num_threads(1)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert torch.equal(mine, theirs) if whole else distance(mine, theirs) < 1e-6


@pytest.mark.parametrize(("precision", "whole"), WAYS)
def test_a_backward_pass_after_another_loss_is_refused(precision, whole):
    model = pair(SHAPES[1][0], precision, whole)[1]
    first = model.loss(*batch(*SHAPES[1]))
    model.loss(*batch(*SHAPES[1]))
    with pytest.raises(RuntimeError, match="another loss was computed since"):
        first.backward()


def test_a_copy_and_weights_that_were_replaced_are_followed():
    tokens, targets = batch(*SHAPES[1])
    plain, fast = pair(SHAPES[1][0])
    fast.loss(tokens, targets)
    copied = copy.deepcopy(fast)
    for model in (plain, fast, copied):
        weights = {name: torch.full_like(w, 0.1).cumsum(-1).sin() for name, w in model.state_dict().items()}
        model.load_state_dict(weights, assign=True)
    for model in (fast, copied):
        assert model.loss(tokens, targets).item() == pytest.approx(plain.loss(tokens, targets).item(), rel=1e-5)


@pytest.mark.parametrize(("precision", "whole"), WAYS)
@pytest.mark.parametrize("bad", [-1, 32])
def test_a_token_outside_the_table_is_refused(bad, precision, whole):
    model = pair(SHAPES[0][0], precision, whole)[1]
    tokens = torch.zeros(1, 4, dtype=torch.long)
    for position in range(2):
        given = [tokens, tokens]
        given[position] = torch.full_like(tokens, bad)
        with pytest.raises(IndexError, match="but there are 32 tokens"):
            model.loss(*given)


@pytest.mark.parametrize(("precision", "whole"), WAYS)
def test_what_is_not_finite_is_not_hidden(precision, whole):
    model = pair(SHAPES[0][0], precision, whole)[1]
    with torch.no_grad():
        model.stack.blocks[0].mlp.up.weight[0, 0] = float("nan")
    assert not model.loss(*batch(*SHAPES[0])).isfinite()


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_its_optimizer_steps_as_pytorch_does(weight_decay):
    plain, fast = pair(SHAPES[0][0])
    kinds = nn.AdamW, CompiledAdamW
    optimizers = [kind(model, 0.3, weight_decay=weight_decay) for kind, model in zip(kinds, (plain, fast), strict=True)]
    for step in range(30):
        drawn = [torch.randn_like(weight) * 10 ** (step % 5 - 2) for weight in plain.parameters()]
        for model, optimizer in zip((plain, fast), optimizers, strict=True):
            for weight, grad in zip(model.parameters(), drawn, strict=True):
                weight.grad = grad.clone()
            optimizer.set_schedule(1 - step / 40)
            optimizer.step()
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        states = optimizers[1].state[mine], optimizers[0].state[theirs]
        assert states[0].keys() == states[1].keys()
        for key in states[0]:
            torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("precision", "whole"), WAYS)
def test_a_target_that_is_left_out_has_no_loss_and_no_gradient(precision, whole):
    model = {"width": 64, "head_dim": 16, "hidden": 168, "layers": 3}
    tokens, targets = batch(model, 3, 50)
    targets[0], targets[1:, ::2] = LEFT_OUT, LEFT_OUT  # a whole row, and every other place
    plain, fast = pair(model, precision, whole)
    theirs = nn.functional.cross_entropy(plain(tokens).flatten(0, 1), targets.flatten())
    theirs.backward()
    if whole:
        [ours] = fast.step.gradients([fast], tokens[None], targets[None], add=False)
    else:
        loss = fast.loss(tokens, targets)
        loss.backward()
        ours = loss.item()
    tolerance = 1e-5 if precision == "fp32" else 0.03
    assert ours * 150 / 50 == pytest.approx(theirs.item(), rel=tolerance)
    for mine, other in zip(gradients(fast), gradients(plain), strict=True):
        assert distance(mine, other) < tolerance
    each = fast.token_losses(tokens, targets)
    assert (each[targets == LEFT_OUT] == 0).all()
    assert (each[targets != LEFT_OUT] > 0).all()


# ---- training


@pytest.fixture(scope="module")
def corpus():
    text = np.random.default_rng(0).integers(0, 32, 40_000).astype(np.uint8)
    text[1::2] = text[::2]  # every other letter repeats the one before
    return Corpus(text[:36_000], text[36_000:], "made", "f00d", 1, 0, 0)


def test_fifty_steps_are_those_of_the_layers(corpus):
    losses = []
    for compile in (False, True):
        config = run_config(tokens=50 * 256, batch_exponent=0.0, compile=compile)
        (member, pieces), seen = fresh(config, corpus), []
        note = lambda meter=member.meter, seen=seen: seen.append(meter.smooth)
        advance([member], [config], pieces, 50, note)
        losses.append(seen)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_answers_to_texts_are_learned_and_scored_as_by_the_layers():
    losses, scores = [], []
    for compile in (False, True):
        given = run_config({"vocab_size": 256, "context": 48}, tokens=50 * 384, batch_exponent=0.0, compile=compile)
        config = RunConfig(model=given.model, task=TranslationConfig(source="", fingerprint=""), train=given.train)
        member, seen = Member.fresh(config, PAIRS.stand_in(config), torch.device("cpu")), []
        pieces = Pieces(member)
        advance([member], [config], pieces, 30, lambda meter=member.meter, seen=seen: seen.append(meter.smooth))
        losses.append(seen)
        scores.append(member.task.evaluate(member.model)["loss"].value)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0] - 0.5
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)


def test_an_interrupted_training_ends_where_an_undisturbed_one_does(corpus, tmp_path):
    config = run_config(tokens=12_000, compile=True)
    calm, broken = (Study.create(tmp_path / name, {"made": True}) for name in ("calm", "broken"))
    train([config], corpus, calm)
    count = itertools.count(1)
    with pytest.raises(Interrupted):
        train([config], corpus, broken, hooks=Hooks(should_stop=lambda: next(count) >= 20))
    train([config], corpus, broken)
    weights = [checkpoint.read(study.weights_path(config.id))[0] for study in (calm, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert broken.record(config.id).loss == calm.record(config.id).loss


def test_without_a_compiler_training_goes_on_with_one_line():
    code = """
from allometry.lm.decoder import LanguageModel, build
from allometry.config.model import DecoderConfig
for _ in range(2):
    assert build(DecoderConfig(width=8, layers=1, hidden=8, head_dim=4), 0, compile=True).step is None
"""
    environment = {"PATH": "/nowhere", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "no compiled kernels (they need Linux and a C++ compiler): training goes on without, several times slower"
    ]

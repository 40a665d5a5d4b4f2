"""A batch in pieces: the gradients, and the run, of the whole."""

import numpy as np
import pytest
import torch

from allometry import nn
from allometry.config.task import EVALUATED_TOKENS
from allometry.data.corpus import Corpus
from allometry.lm.compiled.build import available
from allometry.lm.decoder import DECODER, build
from allometry.lm.training.step_memory import most_rows
from allometry.runs import cost
from allometry.runs.cost import PROCESS_BYTES, machine_memory, memory_bytes, memory_share
from allometry.runs.study import Study
from allometry.tasks.text import evaluate_windows
from helpers.builders import model_config, run_config
from helpers.training import fresh, train

COMPILED = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(bool(available()), reason=available() or "there are kernels")),
]
RUN = {"tokens": 4_000, "batch_tokens": 128, "batch_exponent": 0.0}  # eight sequences a step


@pytest.fixture
def corpus():
    text = np.random.default_rng(0).integers(0, 32, 6_000).astype(np.uint8)
    return Corpus(text[:5_000], text[5_000:], "text", "f00d", 1, 0, 0)


def gradients(model, tokens, targets, parts):
    model.zero_grad()
    with nn.accumulation(parts):
        for piece in zip(tokens.chunk(parts), targets.chunk(parts), strict=True):
            model.loss(*piece).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("compile", COMPILED)
@pytest.mark.parametrize("parts", [2, 8])
def test_the_gradients_of_pieces_add_up_to_those_of_the_whole(compile, parts):
    """√(rows of the whole) is under every sum over rows: k pieces of their own would add up to √k times too much."""
    model = build(model_config(), 0, compile=compile)
    tokens, targets = torch.randint(32, (2, 8, 16))
    whole, pieces = (gradients(model, tokens, targets, k) for k in (1, parts))
    for name, expected in whole.items():
        assert (pieces[name] - expected).norm() < 1e-6 * expected.norm(), name


def test_a_run_short_of_memory_is_the_run_of_the_whole_and_says_how(corpus, tmp_path, monkeypatch):
    config = run_config(**RUN)
    records = []
    for name, fits, more in (("whole", 8, 1), ("pieces", 2, 1), ("recomputed", 1, -1)):
        monkeypatch.setenv(cost.MEMORY_VARIABLE, str(PROCESS_BYTES + memory_bytes(config, fits) + more))
        assert fresh(config, corpus)[1].limits.rows == fits
        where = Study.create(tmp_path / name, {"made": True})
        train([config], corpus, where)
        records.append(where.record(config.id))
    for record in records[1:]:
        assert record.loss == pytest.approx(records[0].loss, rel=1e-5)
        assert record.train_loss == pytest.approx(records[0].train_loss, rel=1e-5)
    told = [{"pieces_of_a_batch", "activations_recomputed"} & record.environment.keys() for record in records]
    assert [len(names) for names in told] == [0, 1, 2]
    assert [record.environment["pieces_of_a_batch"] for record in records[1:]] == [4, 8]


def test_a_trunk_short_of_memory_has_the_gradients_of_the_whole(corpus, monkeypatch):
    """Adam would not tell: it forgets a factor."""
    config = run_config(model={"layers": 6}, **RUN)
    found, kept = [], []
    for fits, more in ((8, 1), (2, 1), (1, -1)):
        monkeypatch.setenv(cost.MEMORY_VARIABLE, str(PROCESS_BYTES + memory_bytes(config, fits) + more))
        member, pieces = fresh(config, corpus)
        pieces.backward([(0, 8)])
        found.append(torch.cat([parameter.grad.flatten() for parameter in member.model.parameters()]))
        kept.append(held(member.model, *member.task.batch(0, 8)))
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-6 * found[0].norm()
    assert kept[2] < kept[0] / 3


def test_pieces_are_as_large_as_fit_and_at_least_one_sequence():
    config = run_config(**RUN)
    sizes = [memory_bytes(config, most) for most in (1, 2, 4, 8)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == memory_bytes(config)
    assert [most_rows(DECODER, config, size) for size in sizes] == [1, 2, 4, 8]
    assert most_rows(DECODER, config, sizes[2] - 1) == 2
    assert most_rows(DECODER, config, 0.0) == 1


def test_a_process_uses_what_its_starter_says_or_its_share_of_the_machine(monkeypatch):
    monkeypatch.delenv(cost.MEMORY_VARIABLE, raising=False)
    assert 0 < memory_share() < machine_memory() < 1e16
    monkeypatch.setenv(cost.MEMORY_VARIABLE, "123")
    assert memory_share() == 123


def test_evaluation_takes_a_bounded_number_of_tokens_at_once():
    model, sizes = build(model_config(context=1024), 0), []
    windows = torch.randint(32, (2, 5, 1024)).unbind()
    alone = [evaluate_windows(model, (windows[0][i : i + 1], windows[1][i : i + 1])).value for i in range(5)]
    inner = model.token_losses
    model.token_losses = lambda tokens, targets: sizes.append(tokens.numel()) or inner(tokens, targets)
    score = evaluate_windows(model, windows)
    assert max(sizes) <= EVALUATED_TOKENS < sum(sizes)
    assert score.value == pytest.approx(np.mean(alone), rel=1e-6)
    assert score.error == pytest.approx(np.std(alone) / 5**0.5, rel=1e-3)


@pytest.mark.parametrize("compile", COMPILED)
def test_recomputed_activations_are_not_held_and_change_no_gradient(compile):
    """To the bit those of the layers, by which a model that was compiled is trained from then on."""
    plain, model = (build(model_config(layers=6), 0, compile=kernels) for kernels in (False, compile))
    tokens, targets = torch.randint(32, (2, 8, 16))
    DECODER.recompute(model)
    expected, recomputed = (gradients(each, tokens, targets, 2) for each in (plain, model))
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in expected.items())
    assert held(model, tokens, targets) < held(plain, tokens, targets) / 3


def held(model, tokens, targets):
    """Bytes that autograd keeps of a step."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(tokens, targets)
    assert loss.requires_grad
    return sum(sizes.values())

"""Cost before training: known coefficients are recovered, seconds add up, memory follows the largest batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry.config.task import EVALUATED_TOKENS
from allometry.ladder.shape import shape
from allometry.lm.compiled.build import available
from allometry.lm.decoder import build
from allometry.runs.cost import HELD_OUT_SHARE, Throughput, memory_bytes
from allometry.runs.machine import cores
from helpers.builders import run_config

PLANTED = Throughput(overhead=2e-4, per_activation=3e-9, per_flop=2e-11)


def configs():
    return [
        run_config(model=shape(width).to_dict(), batch_tokens=batch)
        for width in (16, 32, 64, 128)
        for batch in (256, 1024)
    ]


def step(throughput: Throughput, config) -> float:
    return throughput.step_seconds(config.model, config.train.batch_tokens)


def test_known_coefficients_are_recovered():
    fitted = Throughput.fit(configs(), [step(PLANTED, config) for config in configs()])
    assert fitted.to_json() == pytest.approx(PLANTED.to_json(), rel=1e-6)
    assert Throughput(**fitted.to_json()) == fitted


def test_noisy_times_give_coefficients_that_are_not_negative_and_predict():
    rng = np.random.default_rng(0)
    times = [step(PLANTED, config) * rng.uniform(0.9, 1.1) for config in configs()]
    fitted = Throughput.fit(configs(), times)
    assert min(fitted.overhead, fitted.per_activation, fitted.per_flop) >= 0
    for config in configs():
        assert step(fitted, config) == pytest.approx(step(PLANTED, config), rel=0.1)


def test_a_single_measurement_is_reproduced():
    (config, *_) = configs()
    assert step(Throughput.fit([config], [0.25]), config) == pytest.approx(0.25)


@given(st.integers(1, 300_000), st.floats(0, 1), st.floats(0, 1))
def test_seconds_add_up_step_by_step(tokens, one, other):
    config = run_config(tokens=tokens)
    schedule = config.schedule
    first, last = sorted((round(one * schedule.steps), round(other * schedule.steps)))
    parts = [(0, first), (first, last), (last, schedule.steps)]
    whole = PLANTED.seconds_between(config, 0, schedule.steps)
    assert sum(PLANTED.seconds_between(config, *part) for part in parts) == pytest.approx(whole, rel=1e-12)
    last = min(last, first + 200)
    each = [PLANTED.step_seconds(config.model, 16 * schedule.batch_at(step)[1]) for step in range(first, last)]
    assert PLANTED.seconds_between(config, first, last) == pytest.approx(sum(each), rel=1e-9)


def test_a_trunk_costs_its_longest_run_and_the_decays_of_the_others():
    runs = [run_config(tokens=tokens) for tokens in (200_000, 50_000, 100_000)]
    added = PLANTED.trunk_seconds(runs, held_out_tokens=0)
    ordered = sorted(runs, key=lambda config: config.tokens)
    decays = [PLANTED.seconds_between(c, c.schedule.decay_start, c.schedule.steps) for c in ordered[:-1]]
    longest = PLANTED.seconds_between(ordered[-1], 0, ordered[-1].schedule.steps)
    assert sum(added) == pytest.approx(longest + sum(decays), rel=1e-12)
    evaluated = PLANTED.trunk_seconds(runs, held_out_tokens=16_384)
    batch = 32 * 16
    once = HELD_OUT_SHARE * 16_384 / batch * PLANTED.step_seconds(runs[0].model, batch)
    assert np.subtract(evaluated, added) == pytest.approx([once] * 3, rel=1e-9)


def held_bytes(config) -> int:
    """Weights, gradients, moments, and what autograd keeps of one step, each storage once."""
    model = build(config.model, 0)
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    context = config.model.context
    tokens = torch.zeros(config.train.batch_tokens // context, context, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(tokens, tokens)
    assert loss.grad_fn is not None  # the graph, and with it what it keeps, is alive
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storages.values()) + 16 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("width", "batch"), [(32, 256), (64, 1024), (128, 2048)])
def test_memory_is_enough_for_what_a_step_holds_and_not_twice_that(width, batch):
    """The surplus is for what lives for an operation only."""
    config = run_config(model=shape(width, context=64).to_dict(), batch_tokens=batch, batch_exponent=0.0)
    assert 1 <= memory_bytes(config) / held_bytes(config) <= 2


@pytest.mark.skipif(bool(available()), reason=available() or "there are kernels")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("width", "context", "batch"), [(32, 64, 256), (64, 512, 1024)])
def test_memory_is_what_compiled_kernels_hold(precision, width, context, batch):
    options = {"batch_tokens": batch, "batch_exponent": 0.0, "compile": True, "precision": precision}
    config = run_config(model=shape(width, context=context).to_dict(), **options)
    model = build(config.model, 0, precision, compile=True)
    tokens = torch.zeros(batch // context, context, dtype=torch.long)
    windows = torch.zeros(EVALUATED_TOKENS // context, context, dtype=torch.long)
    torch.set_num_threads(cores())
    try:
        model.step.gradients([model], tokens[None], tokens[None]) if model.step.whole else model.loss(tokens, tokens)
        model.token_losses(windows, windows)
    finally:
        torch.set_num_threads(1)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_of(model)}
    for parameter in model.parameters():
        for known in (parameter, parameter.grad):
            storages.pop(known.untyped_storage().data_ptr() if known is not None else 0, None)
    held = sum(storages.values()) + 16 * sum(parameter.numel() for parameter in model.parameters())
    assert memory_bytes(config) / held == pytest.approx(1, abs=0.1)


def tensors_of(model):
    """All that the passes of a compiled step hold."""
    tensors, look = [], [*model.step._passes.values(), *model.step._wholes.values()]
    while look:
        value = look.pop()
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            look += value
        elif hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
            look += vars(value).values()
    return tensors


def test_memory_follows_the_largest_batch_of_the_run():
    """A hundred times the reference tokens: ten times the batch."""
    short, long = (run_config(tokens=tokens, batch_tokens=1024) for tokens in (1_000_000, 100_000_000))
    grown = long.schedule.stages[-1].batch / short.schedule.stages[-1].batch
    assert grown >= 8
    states = 16 * short.model.num_params_total
    assert memory_bytes(long) - states == pytest.approx(grown * (memory_bytes(short) - states), rel=1e-9)

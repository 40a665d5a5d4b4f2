"""The path of batch and learning rate: what runs of different length share, and that each covers its tokens exactly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allometry.config.schedule import Schedule
from helpers.builders import run_config

settings = st.fixed_dictionaries(
    {
        "batch_tokens": st.integers(1, 20_000),
        "reference_tokens": st.integers(1, 10_000_000),
        "batch_exponent": st.one_of(st.just(0.0), st.floats(0, 1)),
        "lr_exponent": st.floats(-1, 1),
        "warmup_tokens": st.integers(0, 50_000),
        "decay": st.floats(0.01, 1),
        "weight_decay": st.sampled_from([0.0, 0.01]),
        "weight_decay_timescale": st.one_of(st.none(), st.floats(1, 50)),
    }
)
lengths = st.integers(1, 200_000)
contexts = st.sampled_from([2, 16, 128])


def schedule_of(settings: dict, tokens: int, context: int = 16) -> Schedule:
    return run_config(model={"context": context}, tokens=tokens, **settings).schedule


@given(settings, lengths, contexts)
def test_steps_cover_the_tokens_within_one_batch(settings, tokens, context):
    schedule = schedule_of(settings, tokens, context)
    last = schedule.batch_at(schedule.steps - 1)[1]
    rounded = max(1, round(tokens / context)) * context
    assert rounded <= schedule.tokens < rounded + last * context
    assert schedule.tokens == schedule.tokens_before(schedule.steps)


@given(settings, lengths, contexts)
def test_batches_are_consecutive_without_gap_or_overlap(settings, tokens, context):
    schedule = schedule_of(settings, tokens, context)
    place = 0
    for step in range(min(schedule.steps, 3000)):
        first, batch = schedule.batch_at(step)
        assert first == place
        assert schedule.tokens_before(step) == place * context
        place += batch


@given(settings, lengths, contexts)
def test_batches_are_powers_of_two_that_never_shrink(settings, tokens, context):
    schedule = schedule_of(settings, tokens, context)
    batches = [stage.batch for stage in schedule.stages]
    assert batches == sorted(set(batches))
    assert all(batch & (batch - 1) == 0 for batch in batches)


@given(settings, lengths)
def test_batches_change_where_the_power_law_reaches_the_next_power_of_two(settings, tokens):
    """Rounded in the logarithm: at 2^(k − ½), at the first step that begins there; later only if a step is a stage."""
    schedule = schedule_of(settings, tokens)
    floor, reference = max(settings["warmup_tokens"], 16), settings["reference_tokens"]
    law = lambda sequence: (
        settings["batch_tokens"] / 16 * (max(16 * sequence, floor) / reference) ** settings["batch_exponent"]
    )
    just_above, just_below = math.sqrt(2) * (1 + 1e-9), math.sqrt(2) / (1 + 1e-9)  # rounding, not room

    first = schedule.stages[0]
    assert first.batch == 1 or law(0) >= first.batch / just_above
    ends = [stage.first_row for stage in schedule.stages[1:]] + [schedule.tokens // 16]
    for stage, end in zip(schedule.stages, ends, strict=True):
        last_step = end - stage.batch
        assert law(last_step) <= stage.batch * just_above or last_step == stage.first_row > 0
    for stage in schedule.stages[1:]:
        assert law(stage.first_row) >= stage.batch / 2 * just_below


@given(settings, lengths, lengths, contexts)
def test_nothing_before_the_decay_depends_on_the_length(settings, one, other, context):
    shorter, longer = sorted((one, other))
    short, long = schedule_of(settings, shorter, context), schedule_of(settings, longer, context)
    assert short.decay_start <= long.decay_start
    for step in range(min(short.decay_start, 3000)):
        assert short.batch_at(step) == long.batch_at(step)
        assert short.lr_factor_at(step) == long.lr_factor_at(step)
        assert short.weight_decay_at(step) == long.weight_decay_at(step)


@given(settings, lengths, st.floats(0.01, 1))
def test_nothing_before_the_decay_depends_on_when_it_begins(settings, tokens, decay):
    one, other = schedule_of(settings, tokens), schedule_of(settings | {"decay": decay}, tokens)
    assert one.steps == other.steps
    for step in range(min(one.decay_start, other.decay_start, 3000)):
        assert one.lr_factor_at(step) == other.lr_factor_at(step)
        assert one.weight_decay_at(step) == other.weight_decay_at(step)


@given(settings, lengths)
def test_the_decay_takes_its_share_of_the_tokens_within_a_batch(settings, tokens):
    schedule = schedule_of(settings, tokens)
    decay = schedule.tokens - schedule.tokens_before(schedule.decay_start)
    batch = 16 * schedule.batch_at(schedule.steps - 1)[1]
    # The decay begins at a step's begin and the run ends at a step's end; a sequence is rounded, twice.
    assert decay > 0
    assert abs(decay - settings["decay"] * tokens) <= batch + 2 * 16


@given(settings, lengths)
def test_the_learning_rate_decays_linearly_to_one_steps_share(settings, tokens):
    """Without warm-up and power law: 1 at the branch, then down in proportion to the tokens that are left."""
    plain = settings | {"lr_exponent": 0.0, "warmup_tokens": 0}
    schedule = schedule_of(plain, tokens)
    start, end = schedule.tokens_before(schedule.decay_start), schedule.tokens
    assert schedule.lr_factor_at(schedule.decay_start) == 1
    for step in range(schedule.decay_start, min(schedule.steps, schedule.decay_start + 3000)):
        left = end - schedule.tokens_before(step)
        assert schedule.lr_factor_at(step) == pytest.approx(left / (end - start), rel=1e-12)
    last = schedule.batch_at(schedule.steps - 1)[1] * 16
    assert schedule.lr_factor_at(schedule.steps - 1) == pytest.approx(last / (end - start), rel=1e-12)


@given(settings, lengths)
def test_the_learning_rate_warms_up_linearly_and_then_follows_its_power_law(settings, tokens):
    schedule = schedule_of(settings, tokens)
    warmup, floor = settings["warmup_tokens"], max(settings["warmup_tokens"], 16)
    for step in range(min(schedule.decay_start, 500)):
        seen = schedule.tokens_before(step + 1)
        law = (max(seen, floor) / settings["reference_tokens"]) ** -settings["lr_exponent"]
        warm = min(1, seen / warmup) if warmup else 1
        assert schedule.lr_factor_at(step) == pytest.approx(law * warm, rel=1e-12)


@given(settings, lengths, st.floats(1, 50))
def test_with_a_timescale_what_was_learned_fades_as_a_power_of_the_tokens_seen(settings, tokens, timescale):
    """Whatever the batch and its growth: from any step to any other, by the ratio of the tokens seen before them."""
    given = settings | {"weight_decay_timescale": timescale}
    schedule = schedule_of(given | {"weight_decay": 0.0}, tokens)
    floor = max(settings["warmup_tokens"], 16)
    left, steps = 1.0, min(schedule.steps, 500)
    for step in range(steps):
        left *= 1 - schedule.weight_decay_at(step)
        seen = max(schedule.tokens_before(step + 1), floor)
        assert left == pytest.approx((floor / seen) ** (1 / timescale), rel=1e-9)
    both, last = schedule_of(given, tokens), schedule.steps - 1
    kept = (1 - schedule.weight_decay_at(last)) * (1 - settings["weight_decay"])
    assert 1 - both.weight_decay_at(last) == pytest.approx(kept, rel=1e-9)
    assert schedule_of(settings | {"weight_decay_timescale": None}, tokens).weight_decay_at(0) is None


@given(lengths, st.integers(0, 6))
def test_exponents_of_zero_mean_one_batch_and_one_learning_rate(tokens, power):
    schedule = schedule_of({"batch_tokens": 16 * 2**power, "batch_exponent": 0.0, "warmup_tokens": 0}, tokens)
    assert [stage.batch for stage in schedule.stages] == [2**power]
    assert {schedule.lr_factor_at(step) for step in range(min(schedule.decay_start, 500))} <= {1.0}


def test_square_root_growth_by_hand():
    """512 tokens at a million, warm-up to 16 000: 65 tokens there, that is 4 sequences of 16; then 2^(k + ½)."""
    schedule = run_config(tokens=1_000_000, batch_tokens=512, warmup_tokens=16_000, batch_exponent=0.5).schedule
    assert [stage.batch for stage in schedule.stages] == [4, 8, 16, 32]
    begins = [stage.first_row * 16 for stage in schedule.stages[1:]]
    bounds = [1e6 * (16 * 2 ** (k + 0.5) / 512) ** 2 for k in (2, 3, 4)]
    for begin, bound, batch in zip(begins, bounds, (4, 8, 16), strict=True):
        assert bound <= begin < bound + 16 * batch


@pytest.mark.parametrize("exponent", [1e-300, 1e-6, 1e-3])
def test_a_tiny_exponent_is_nearly_none(exponent):
    """Its next doubling lies beyond any float."""
    assert len(run_config(batch_exponent=exponent, batch_tokens=256).schedule.stages) == 1


def test_a_run_of_one_token_is_one_step():
    schedule = run_config(tokens=1).schedule
    assert (schedule.steps, schedule.decay_start) == (1, 0)
    assert 0 < schedule.lr_factor_at(0) <= 1


@given(settings, lengths)
def test_a_trunk_is_named_by_what_its_runs_share(settings, tokens):
    config = run_config(tokens=tokens, **settings)
    longer = run_config(tokens=2 * tokens, **settings)
    steeper = run_config(tokens=tokens, **settings | {"decay": settings["decay"] / 2})
    assert config.trunk == longer.trunk == steeper.trunk
    assert len({config.id, longer.id, steeper.id}) == 3

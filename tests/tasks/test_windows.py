"""Batches as a pure function of seed and place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry.errors import UserError
from allometry.tasks.windows import Windows, held_out_windows

cases = st.tuples(st.integers(2, 20), st.integers(0, 300), st.integers(0, 2**32)).map(
    lambda case: (case[0], 2 * case[0] + 1 + case[1], case[2])
)


def windows_of(context: int, length: int, seed: int) -> Windows:
    """Of a text whose tokens are their own places."""
    return Windows(np.arange(length), context, seed)


@given(cases)
def test_an_epoch_visits_every_window_of_its_phase_once(case):
    windows = windows_of(*case)
    context = case[0]
    for epoch in (0, 1, 5):
        inputs, _ = windows.batch(epoch * windows.per_epoch, windows.per_epoch)
        starts = sorted(inputs[:, 0].tolist())
        assert 0 <= starts[0] < context
        assert starts == list(range(starts[0], starts[0] + context * windows.per_epoch, context))


@given(cases)
def test_an_epoch_leaves_out_less_than_two_windows_of_the_text(case):
    context, length, _ = case
    windows = windows_of(*case)
    assert windows.per_epoch >= 1
    assert length - 1 - windows.per_epoch * context < 2 * context


@given(cases, st.integers(0, 60), st.integers(1, 12))
def test_inputs_are_text_and_targets_the_same_one_place_on(case, first, size):
    context, length, _ = case
    inputs, targets = windows_of(*case).batch(first, size)
    assert inputs.shape == targets.shape == (size, context)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(context))
    assert torch.equal(targets, inputs + 1)
    assert targets.max() < length


@given(cases, st.integers(0, 40), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_batches_are_consecutive_pieces_of_one_sequence_however_it_is_cut(case, first, sizes):
    windows = windows_of(*case)
    whole, _ = windows.batch(first, sum(sizes))
    ends = np.cumsum(sizes)
    pieces = [windows.batch(first + int(end) - size, size)[0] for size, end in zip(sizes, ends, strict=True)]
    assert torch.equal(torch.cat(pieces), whole)


@given(cases, st.integers(0, 100))
def test_the_order_is_a_function_of_seed_and_place_alone(case, first):
    """Another object, asked for other places before."""
    one, other = windows_of(*case), windows_of(*case)
    for place in (977, 3, 40):
        other.batch(place, 2)
    assert torch.equal(one.batch(first, 5)[0], other.batch(first, 5)[0])


def test_seeds_and_epochs_have_their_own_order():
    windows, other = windows_of(8, 1000, 0), windows_of(8, 1000, 1)
    epochs = [w.batch(e * w.per_epoch, w.per_epoch)[0].tolist() for w in (windows, other) for e in (0, 1)]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])


def test_bytes_that_cannot_be_written_are_read():
    """As a corpus hands them over: uint8, from a buffer."""
    tokens = np.frombuffer(bytes(range(256)), dtype=np.uint8)
    inputs, targets = Windows(tokens, 16, 0).batch(0, 4)
    assert torch.equal(targets[:, :-1], inputs[:, 1:])


def test_a_text_too_short_is_one_line():
    windows_of(16, 33, 0).batch(0, 3)
    with pytest.raises(UserError, match="32 tokens of text are too few for a context of 16"):
        windows_of(16, 32, 0)
    with pytest.raises(UserError, match="16 tokens of held-out text are too few for a context of 16"):
        held_out_windows(np.arange(16), 16, 4)


@given(st.integers(2, 20), st.integers(1, 400), st.integers(1, 30))
def test_held_out_windows_spread_over_the_text_without_overlap(context, more, most):
    length = context + more
    inputs, targets = held_out_windows(np.arange(length), context, most)
    starts = inputs[:, 0]
    available = (length - 1) // context
    assert len(starts) == min(most, available)
    assert (starts.diff() >= context).all()
    assert starts[0] == 0
    assert most == 1 or starts[-1] == context * (available - 1)
    assert torch.equal(targets, inputs + 1)

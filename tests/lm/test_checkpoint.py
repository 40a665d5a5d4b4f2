"""Checkpoints: bit-equal, self-checking, atomic."""

import copy
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry import files, nn
from allometry.errors import UserError
from allometry.lm import checkpoint
from allometry.lm.decoder import build
from helpers.builders import model_config

META = {"step": 3, "smooth": 2.5, "curve": [[1, 2.0]], "name": "τ"}


def trained(steps: int):
    model = build(model_config(layers=1), 0)
    optimizer = nn.AdamW(model, 0.3, weight_decay=0.01)
    train(model, optimizer, range(steps))
    return model, optimizer


def train(model, optimizer, steps) -> None:
    for step in steps:
        tokens = torch.randint(32, (2, 17), generator=torch.Generator().manual_seed(step))
        optimizer.set_schedule(1 / (1 + step))
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_equal(one: dict, other: dict) -> None:
    """To the bit, types included."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert tensor.shape == other[name].shape
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a checkpoint of a small model after three steps."""
    path = tmp_path_factory.mktemp("checkpoint") / "c.safetensors"
    state = checkpoint.capture(*trained(3))
    small = {name: tensor[:4] if tensor.ndim else tensor for name, tensor in state.items()}
    checkpoint.write(path, small, META)
    return path.read_bytes()


def test_what_is_written_is_read_to_the_bit(tmp_path):
    state = checkpoint.capture(*trained(3))
    assert {name.split(".")[0] for name in state} == {"model", "exp_avg", "exp_avg_sq", "step"}
    checkpoint.write(tmp_path / "c", state, META)
    tensors, meta = checkpoint.read(tmp_path / "c")
    assert_equal(tensors, state)
    assert meta == META


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_every_type_and_shape_is_read_as_written(tmp_path, dtype):
    state = {f"{shape}": torch.randint(2, shape).to(dtype) for shape in [(), (0,), (3,), (2, 3), (2, 0, 3)]}
    state["strided"] = torch.randint(2, (4, 6)).to(dtype).t()[::2]
    checkpoint.write(tmp_path / "c", state, {})
    assert_equal(checkpoint.read(tmp_path / "c")[0], state)


@pytest.mark.parametrize("at", [0, 2])
def test_training_goes_on_to_the_bit_where_it_was_left(tmp_path, at):
    """The restored model is another object, of another seed, with another history."""
    whole, _ = trained(5)
    checkpoint.write(tmp_path / "c", checkpoint.capture(*trained(at)), {})
    model, optimizer = trained(4)
    checkpoint.restore(model, optimizer, checkpoint.read(tmp_path / "c")[0])
    train(model, optimizer, range(at, 5))
    assert_equal(model.state_dict(), whole.state_dict())


def test_a_captured_state_is_a_copy_both_ways():
    """Training on does not change it, and neither does training on from it."""
    model, optimizer = trained(2)
    state = checkpoint.capture(model, optimizer)
    kept = copy.deepcopy(state)
    train(model, optimizer, range(2, 4))
    assert_equal(state, kept)
    checkpoint.restore(model, optimizer, state)
    assert_equal(checkpoint.capture(model, optimizer), kept)
    train(model, optimizer, range(2, 4))
    assert_equal(state, kept)


# ---- damage


def damaged(tmp_path, content: bytes) -> str:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: .*run the same command again") as caught:
        checkpoint.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_undamaged_file_is_read(written, tmp_path):
    (tmp_path / "c").write_bytes(written)
    assert checkpoint.read(tmp_path / "c")[1] == META


def test_every_flipped_bit_of_the_header_is_noticed(written, tmp_path):
    """Length, JSON with names, types, shapes, places, the checksum itself: one bit of each byte in turn."""
    end = 8 + int.from_bytes(written[:8], "little")
    assert end < len(written)
    for place in range(end):
        damaged(tmp_path, written[:place] + bytes([written[place] ^ (1 << place % 8)]) + written[place + 1 :])


@settings(max_examples=300)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_noticed(written, tmp_path, where, mask):
    place = int(where * len(written))
    content = bytearray(written)
    content[place] ^= mask
    header_space = place < 8 + int.from_bytes(written[:8], "little") and written[place : place + 1] == b" "
    if not (header_space and bytes([content[place]]).isspace()):  # white space for white space is no damage
        damaged(tmp_path, bytes(content))


def test_a_file_cut_short_or_too_long_is_noticed(written, tmp_path):
    end = 8 + int.from_bytes(written[:8], "little")
    for length in (0, 1, 7, 8, 9, end - 1, end, end + 1, len(written) - 1):
        damaged(tmp_path, written[:length])
    damaged(tmp_path, written + b"\0")
    damaged(tmp_path, b"\0" * len(written))


def test_a_file_of_somebody_else_is_refused(tmp_path):
    from safetensors.torch import save

    damaged(tmp_path, save({"a": torch.zeros(3)}))
    damaged(tmp_path, save({"a": torch.zeros(3)}, {"meta": "{}"}))


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(UserError, match="none: no such file"):
        checkpoint.read(tmp_path / "none")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    checkpoint.write(path, {"a": torch.ones(3)}, {"step": 1})
    old = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"a": torch.zeros(3)}, {"step": 2})
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["c"]
    assert checkpoint.read(path)[1] == {"step": 1}

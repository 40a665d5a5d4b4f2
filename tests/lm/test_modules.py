"""The family of the user's modules: counts against closed forms, code that travels with a study, faults in one line."""

from pathlib import Path

import pytest
import torch

import helpers
from allometry.config.model import DecoderConfig
from allometry.config.task import ImagesConfig, TextConfig
from allometry.errors import UserError
from allometry.lm.families import family_of
from allometry.lm.modules import module_code as codes
from allometry.lm.modules.count_member import check_members, member
from allometry.lm.modules.module_code import keep, offer, read_code

NETS = Path(helpers.__file__).parent / "small_net.py"
IMAGES = ImagesConfig(source="made", fingerprint="f00d", shape=(1, 8, 8), classes=10)
TEXT = TextConfig(source="made", fingerprint="f00d", vocab_size=32)


def made(function, width=8, task=IMAGES, parametrization="sp", **fields):
    return member(read_code(f"{NETS}:{function}"), width, task, 16, fields, parametrization)


def test_counts_of_an_mlp_by_hand():
    """64 → 8 → 8 → 10 with biases: 6 FLOPs for each weight, but none for the gradient of the images."""
    net = made("mlp")
    weights, biases = 64 * 8 + 8 * 8 + 8 * 10, 8 + 8 + 10
    assert net.num_params_total == net.num_params_matmul == weights + biases
    assert net.num_params == weights + biases - 8 * 10 - 10
    assert net.flops_per_token == 6 * weights - 2 * 64 * 8
    assert net.row_tokens == 1


def test_counts_of_our_decoder_are_those_of_its_closed_form():
    """PyTorch's counter sees all of the masked square of attention, the closed form the half that is needed."""
    net = made("decoder", 16, TEXT)
    ours = DecoderConfig(width=16, layers=2, hidden=24, head_dim=8, vocab_size=32, context=16)
    names = ("num_params", "num_params_matmul", "num_params_total", "row_tokens")
    assert [getattr(net, name) for name in names] == [getattr(ours, name) for name in names]
    masked = 12 * ours.layers * ours.width * (ours.context - (ours.context + 1) / 2)
    assert net.flops_per_token == pytest.approx(ours.flops_per_token + masked, rel=0.05)


def test_the_identity_knows_the_code_and_not_where_it_lies(tmp_path):
    (tmp_path / "elsewhere.py").write_bytes(NETS.read_bytes())
    here, there = read_code(f"{NETS}:conv"), read_code(f"{tmp_path}/elsewhere.py:conv")
    assert here.fingerprint != there.fingerprint  # the name of a file is part of what it imports
    (tmp_path / "small_net.py").write_bytes(NETS.read_bytes())
    same = read_code(f"{tmp_path}/small_net.py:conv")
    assert member(same, 8, IMAGES, 16, {}, "sp").identity() == made("conv").identity()
    (tmp_path / "small_net.py").write_bytes(NETS.read_bytes() + b"# changed\n")
    assert read_code(f"{tmp_path}/small_net.py:conv").fingerprint != here.fingerprint


def test_a_study_takes_the_code_along_with_what_it_imports(tmp_path, monkeypatch):
    folder, study = tmp_path / "work", tmp_path / "study"
    folder.mkdir()
    (folder / "parts.py").write_text(
        "from torch import nn\ndef last(width, classes):\n    return nn.Linear(width, classes)\n"
    )
    (folder / "model.py").write_text(
        "import parts\nfrom torch import nn\n"
        "def net(width, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), parts.last(width, classes))\n"
    )
    code = read_code(f"{folder}/model.py:net")
    assert set(code.files) == {"model.py", "parts.py"}
    config = member(code, 8, IMAGES, 16, {}, "sp")
    keep(code, study)
    for each in folder.iterdir():
        if each.is_file():
            each.unlink()
    monkeypatch.setattr(codes, "_loaded", {})
    monkeypatch.setattr(codes, "_kept", {})
    with pytest.raises(UserError, match=r"model.py is no file"):
        family_of(config).build(config, 0)
    offer(study)
    assert sum(p.numel() for p in family_of(config).build(config, 0).parameters()) == config.num_params_total
    assert codes.code_of(code.source, study).fingerprint == code.fingerprint  # its own file is gone
    (study / "family" / "parts.py").write_text("changed")
    with pytest.raises(UserError, match="its code was changed since the study began"):
        offer(study)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_module", "no_module returned int, no torch.nn.Module"),
        ("empty", "no parameters to train"),
        ("other_shape", r"returns \(2, 11\); the task images needs logits of shape \(2, 10\)"),
        ("raises", r"RuntimeError: the disk of weights is not mounted \(small_net.py, line \d+\)"),
        ("missing", "has no function or class missing"),
    ],
)
def test_a_module_that_cannot_be_trained_is_one_line(function, says):
    with pytest.raises(UserError, match=says) as caught:
        made(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("ignores_width", "it ignores the width"),
        ("Noisy", "its outputs differ for the same seed"),
        ("NotFinite", "its outputs are NaN or infinite before any training"),
        ("drawn", "its first weights differ for the same seed"),
    ],
)
def test_a_family_that_makes_no_ladder_is_one_line(function, says):
    with pytest.raises(UserError, match=says):
        check_members([made(function, width) for width in (8, 16)])


def test_good_families_pass():
    for function in ("conv", "mlp"):
        check_members([made(function, width) for width in (8, 16)])


def test_a_field_that_the_function_does_not_take_is_refused():
    assert made("conv", dropout=0.1).fields["dropout"] == 0.1
    with pytest.raises(UserError, match="conv takes no 'depth'"):
        made("conv", depth=3)


def test_umup_makes_the_module_unit_scaled():
    config = made("mlp", 64, parametrization="umup")
    model = family_of(config).build(config, 0)
    x = torch.randn(256, 1, 8, 8)
    hidden = model[:4](x)
    assert hidden.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.2)
    assert config.identity() != made("mlp", 64).identity()

"""What every family of models keeps: counts are those of the model, and a seed gives a model."""

from pathlib import Path

import pytest
import torch

import helpers
from allometry.config.model import ModelConfig
from allometry.config.task import ImagesConfig
from allometry.errors import UserError
from allometry.lm.families import FAMILIES, family_of
from allometry.lm.modules.count_member import member
from allometry.lm.modules.module_code import read_code
from helpers.builders import model_config, run_config

NETS = Path(helpers.__file__).parent / "small_net.py"
IMAGES = ImagesConfig(source="made", fingerprint="f00d", shape=(1, 8, 8), classes=10)
MODELS = {  # a member of each family
    "decoder": lambda: model_config(layers=3),
    "module": lambda: member(read_code(f"{NETS}:mlp"), 8, IMAGES, 0, {}, "sp"),
}


@pytest.fixture(params=FAMILIES)
def config(request):
    return MODELS[request.param]()


def test_counts_are_those_of_the_model(config):
    family = family_of(config)
    counts = family.counts(config)
    with torch.device("meta"):
        model = family.build(config, 0)
    assert counts.num_params_total == sum(parameter.numel() for parameter in model.parameters())
    blocks = sum(parameter.numel() for block in family.blocks(model) for parameter in block.parameters())
    assert counts.num_params <= counts.num_params_matmul <= counts.num_params_total
    assert counts.num_params == blocks or not family.blocks(model)
    assert counts.flops_per_unit >= 4 * counts.num_params  # 6, without the gradient of the first input
    names = ("num_params", "num_params_matmul", "num_params_total")
    assert [getattr(counts, name) for name in names] == [getattr(config, name) for name in names]


def test_a_seed_gives_a_model_whatever_was_drawn_before(config):
    one = family_of(config).build(config, 5)
    torch.rand(3)
    state = torch.get_rng_state()
    other, third = (family_of(config).build(config, seed) for seed in (5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters(), strict=True))


def test_its_optimizer_follows_a_schedule(config):
    family, train = family_of(config), run_config().train
    model = family.build(config, 0)
    optimizer = family.optimizer(model, train)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    peaks = [group["lr"] for group in optimizer.param_groups]
    optimizer.set_schedule(0.25)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25 * peak for peak in peaks])


def test_memory_grows_with_the_rows_of_a_step(config):
    run = run_config(batch_tokens=1024, batch_exponent=0.0)
    run = type(run)(model=config, task=run.task, train=run.train)
    sizes = [family_of(config).memory_bytes(run, rows) for rows in (1, 2, 8)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_an_unknown_family_is_one_line():
    with pytest.raises(UserError, match="mixer: not one of the families"):
        family_of(ModelConfig.model_construct(family="mixer", width=8))

"""Roles belong to names in the module tree, so they outlive whatever wraps, copies, loads or shards a model.

For each: the optimiser's groups are those of the bare model, and so is what a step of training does.
"""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from allometry import nn
from helpers.unit_scaled import decoder, next_token_loss

OPTIMIZERS = {"AdamW": nn.AdamW, "SGD": nn.SGD, "Lion": nn.Lion, "Muon": nn.Muon}
TOKENS = torch.arange(18).view(2, 9)


@pytest.fixture(scope="module")
def mesh():
    """A world of one process, in this one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def assigned(model, mesh):
    with torch.device("meta"):
        other = nn.parametrize(nn.Decoder(32, 2, 16, 2, tied=tied(model)), model.readout.scheme)
    other.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return other


def materialised(model, mesh):
    with torch.device("meta"):
        other = nn.parametrize(nn.Decoder(32, 2, 16, 2, tied=tied(model)), model.readout.scheme)
    other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other


def tied(model):
    return model.readout.weight is model.embedding.weight


def sharded(model, mesh):
    for block in model.stack.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model.stack, mesh=mesh)  # which changes the class of each
    return fully_shard(model, mesh=mesh)


def checkpointed_blocks(model, mesh):
    for i, block in enumerate(model.stack.blocks):
        model.stack.blocks[i] = checkpoint_wrapper(block)
    return model


def compiled_blocks(model, mesh):
    for i, block in enumerate(model.stack.blocks):
        model.stack.blocks[i] = torch.compile(block, backend="eager")
    return model


def compiled_in_place(model, mesh):
    model.compile(backend="eager")
    return model


class Wrapper(torch.nn.Module):
    """A user's own: the loss inside, the model under another name, its blocks through torch.utils.checkpoint."""

    def __init__(self, model):
        super().__init__()
        self.inner = torch.nn.ModuleDict({"model": model})

    def forward(self, tokens):
        model = self.inner["model"]
        x = model.embedding(tokens)
        for block in model.stack.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return model.readout(model.norm(x))


WRAPPERS = {
    "deepcopy": lambda model, mesh: copy.deepcopy(model),
    "pickle": lambda model, mesh: pickle.loads(pickle.dumps(model)),
    "load_state_dict(assign=True)": assigned,
    "meta, to_empty, load": materialised,
    "Sequential": lambda model, mesh: torch.nn.Sequential(model),
    "DistributedDataParallel": lambda model, mesh: DistributedDataParallel(model),
    "fully_shard": sharded,
    "fully_shard, root only": lambda model, mesh: fully_shard(model, mesh=mesh),
    "checkpoint_wrapper": lambda model, mesh: checkpoint_wrapper(model),
    "checkpoint_wrapper on blocks": checkpointed_blocks,
    "torch.utils.checkpoint": lambda model, mesh: Wrapper(model),
    "torch.compile": lambda model, mesh: torch.compile(model, backend="eager"),
    "torch.compile on blocks": compiled_blocks,
    "Module.compile": compiled_in_place,
}
WRAPPED = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
PREFIXES = ("_orig_mod.", "_checkpoint_wrapped_module.", "module.", "inner.model.", "0.")


def bare(name):
    """The name of a parameter without what the wrappers put before or into it."""
    for prefix in PREFIXES:
        name = name.replace(prefix, "") if prefix != "0." else name.removeprefix(prefix)
    return name


def full(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def groups_of(optimizer):
    return sorted(
        (group["lr"], group["weight_decay"], sum(p.numel() for p in group["params"]), len(group["params"]))
        for group in optimizer.param_groups
    )


def train(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = next_token_loss(model, TOKENS)
        loss.backward()
        optimizer.step()
    return loss.item()


def check(wrap, mesh, make, scheme="umup", **options):
    plain = nn.parametrize(decoder(**options), scheme)
    wrapped = wrap(nn.parametrize(decoder(**options), scheme), mesh)
    names = {bare(name): name for name, _ in wrapped.named_parameters()}
    assert names.keys() == dict(plain.named_parameters()).keys()
    assert {bare(name): role for name, role in nn.roles(wrapped).items()} == nn.roles(plain)
    factors = {bare(name): factor for name, factor in nn.learning_rate_factors(wrapped).items()}
    assert factors == nn.learning_rate_factors(plain)
    a, b = make(plain, 0.1, weight_decay=0.01), make(wrapped, 0.1, weight_decay=0.01)
    assert groups_of(a) == groups_of(b)
    assert train(wrapped, b, 2) == pytest.approx(train(plain, a, 2), rel=1e-6)
    trained = {bare(name): full(parameter) for name, parameter in wrapped.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-5, atol=1e-6, msg=name)


@WRAPPED
def test_groups_and_training_are_those_of_the_bare_model(wrap, mesh):
    check(wrap, mesh, nn.AdamW)


@pytest.mark.parametrize("make", [nn.SGD, nn.Lion, nn.Muon])
@pytest.mark.parametrize("wrap", [sharded, WRAPPERS["DistributedDataParallel"]], ids=["fully_shard", "DDP"])
def test_every_optimiser_works_on_what_the_wrappers_make_of_parameters(wrap, mesh, make):
    check(wrap, mesh, make)


@pytest.mark.parametrize("wrap", [assigned, sharded, WRAPPERS["pickle"]], ids=["assign", "fully_shard", "pickle"])
def test_the_scheme_is_kept(wrap, mesh):
    check(wrap, mesh, nn.AdamW, "mup")


@pytest.mark.parametrize(
    "wrap",
    [wrap for name, wrap in WRAPPERS.items() if "blocks" not in name],
    ids=[n for n in WRAPPERS if "blocks" not in n],
)
def test_a_tied_weight_stays_one_weight(wrap, mesh):
    check(wrap, mesh, nn.AdamW, tied=True)


@pytest.mark.parametrize("scheme", ["sp", "umup"])
def test_a_scheme_can_be_put_on_a_model_that_is_sharded_already(mesh, scheme):
    plain, shards = nn.parametrize(decoder(), scheme), nn.parametrize(sharded(decoder(), mesh), scheme)
    for mine, theirs in zip(shards.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(full(mine), theirs.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scheme", ["umup", "mup", "sp"])
@pytest.mark.parametrize("shard", [False, True], ids=["", "fully_shard"])
@pytest.mark.parametrize("options", [{}, {"tied": True}], ids=["", "tied"])
def test_a_model_made_on_meta_and_drawn_later_is_as_healthy_as_any(mesh, scheme, shard, options):
    """to_empty leaves what the memory held; reset_parameters draws weights with the deviation of the scheme."""
    with torch.device("meta"):
        model = nn.parametrize(nn.Decoder(64, 2, 64, 2, **options), scheme)
    if shard:
        sharded(model, mesh)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    torch.manual_seed(1)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    usual = nn.parametrize(nn.Decoder(64, 2, 64, 2, **options), scheme)
    for (name, p), q in zip(model.named_parameters(), usual.parameters(), strict=True):
        assert full(p).std().item() == pytest.approx(q.std().item(), rel=0.06), name
        assert abs(full(p).mean().item()) < 0.06 * q.std().item(), name
    tokens = torch.arange(64).view(2, 32)
    logits, expected = model(tokens), usual(tokens)
    assert full(logits).std().item() == pytest.approx(expected.std().item(), rel=0.15)
    logits.sum().backward()
    assert all(full(p.grad).isfinite().all() for p in model.parameters())


def test_functional_calls_and_moves_of_type_keep_roles():
    model = decoder()
    roles, factors = nn.roles(model), nn.learning_rate_factors(model)
    for moved in (model.double(), model.to(torch.bfloat16), model.eval(), model.requires_grad_(False)):
        assert nn.roles(moved) == roles
        assert nn.learning_rate_factors(moved) == factors
    other = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    torch.func.functional_call(model, other, (TOKENS,))
    assert nn.roles(model) == roles


def test_parameters_replaced_by_hand_keep_their_roles():
    """The tensor is another, the name is the same."""
    model = decoder()
    factors = nn.learning_rate_factors(model)
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, torch.nn.Parameter(parameter.detach() * 2))
    assert nn.learning_rate_factors(model) == factors


def test_no_role_is_kept_on_a_tensor():
    for parameter in decoder().parameters():
        assert not parameter.__dict__

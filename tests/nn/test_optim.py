"""Parameter groups and optimisers against PyTorch's own and against the rules written out; decay and schedules."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from allometry.nn.optim import orthogonalize
from helpers.unit_scaled import decoder, next_token_loss

OPTIMIZERS = {
    "AdamW": nn.AdamW,
    "SGD": lambda *a, **k: nn.SGD(*a, momentum=0.9, **k),
    "nesterov": lambda *a, **k: nn.SGD(*a, momentum=0.9, nesterov=True, **k),
    "Lion": nn.Lion,
    "Muon": nn.Muon,
}
EACH = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
SHAPES = (0.5, 1.0, 1.0, 0.25)


def mixed():
    """Every kind of parameter: matrices, a convolution, bias, gain."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        nn.Conv1d(4, 8, 3, bias=True), nn.GELU(), torch.nn.Flatten(), nn.Linear(64, 24, bias=True),
        nn.LayerNorm(24, elementwise_affine=True), nn.Readout(24, 5),
    )  # fmt: skip


def loss_of(model):
    return next_token_loss(model, torch.arange(18).view(2, 9))


def give_gradients(model, seed, zero=False):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if zero else torch.randn(p.shape, generator=generator, dtype=p.dtype)


def same(a, b, **tolerance):
    for (name, mine), theirs in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# Groups


@given(st.sampled_from([16, 32]), st.integers(1, 4), st.sampled_from([16, 24, 64]), st.floats(1e-4, 10))
def test_one_group_for_each_distinct_rate_and_every_parameter_once(width, layers, hidden, lr):
    model = decoder(layers, width, hidden=hidden)
    groups = nn.param_groups(model, lr, 0.1)
    factors = nn.learning_rate_factors(model)
    assert len(groups) == len({group["lr"] for group in groups}) == len(set(factors.values()))
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(map(id, model.parameters()))
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == pytest.approx(lr * factors[name], rel=1e-12)
    for group in groups:
        assert group["peak_lr"] == group["lr"]
        assert group["weight_decay"] * group["lr"] == pytest.approx(0.1)


@EACH
def test_frozen_parameters_are_left_out_and_left_alone(make):
    model = decoder()
    model.embedding.requires_grad_(False)
    frozen = model.embedding.weight.clone()
    optimizer = make(model, 0.1, weight_decay=0.1)
    assert all(p is not model.embedding.weight for group in optimizer.param_groups for p in group["params"])
    loss_of(model).backward()
    optimizer.step()
    assert torch.equal(model.embedding.weight, frozen)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        nn.param_groups(nn.Linear(4, 4).requires_grad_(False), 1.0)


@EACH
@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(make, lr):
    with pytest.raises(ValueError, match=f"lr: {lr}"):
        make(decoder(), lr)


@EACH
@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_is_none_is_refused(make, decay):
    with pytest.raises(ValueError, match=f"weight_decay: {decay}"):
        make(decoder(), 0.1, weight_decay=decay)


@pytest.mark.parametrize("make", [nn.Lion, nn.Muon])
@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1)])
def test_betas_outside_their_range_are_refused(make, betas):
    with pytest.raises(ValueError, match="betas: "):
        make(decoder(), 0.1, betas=betas)


def test_muons_rate_for_the_rest_is_checked_too():
    with pytest.raises(ValueError, match=r"lr: 0\.0"):
        nn.Muon(decoder(), 1.0, adam_lr=0.0)


@EACH
def test_parameters_in_place_of_the_model_are_refused(make):
    """The first thing that somebody who comes from torch.optim will write."""
    with pytest.raises(TypeError, match="model: "):
        make(decoder().parameters(), 0.1)


# Weight decay and schedules


@EACH
@given(st.floats(1e-3, 10), st.floats(0.001, 0.5), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_without_gradients_a_step_shrinks_weights_by_the_decay_times_the_schedules_shape(make, lr, decay, shapes):
    """Whatever the learning rate, and the same for every role."""
    model = decoder(layers=1).double()
    before = copy.deepcopy(model)
    optimizer = make(model, lr, weight_decay=decay)
    left = 1.0
    for shape in shapes:
        give_gradients(model, 0, zero=True)
        optimizer.set_schedule(shape)
        optimizer.step()
        left *= 1 - decay * shape
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.mul_(left)
    same(model, before, rtol=1e-12, atol=0)


@EACH
def test_a_decay_that_is_given_with_the_schedule_holds_from_then_on_for_the_weights_that_decay(make):
    model = nn.Sequential(nn.Linear(8, 4, bias=True), nn.RMSNorm(4)).double()
    before = copy.deepcopy(model)
    optimizer = make(model, 0.3, weight_decay=1e-6)
    left = 1.0
    for shape, decay in ((1.0, 0.2), (0.5, 0.0), (0.5, None), (0.5, 0.1)):
        give_gradients(model, 0, zero=True)
        optimizer.set_schedule(shape, decay)
        optimizer.step()
        left *= 1 - shape * (decay or 0.0)
    with torch.no_grad():
        before[0].weight.mul_(left)
    same(model, before, rtol=1e-12, atol=0)
    spared = make(model, 0.3)
    spared.set_schedule(1.0, 0.5)
    assert not any(group["weight_decay"] for group in spared.param_groups)


@EACH
def test_pytorchs_own_schedulers_move_the_decay_with_the_rate(make):
    model = decoder().double()
    before = copy.deepcopy(model)
    optimizer = make(model, 0.3, weight_decay=0.1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    shapes = (0.2, 1.0, 0.6, 0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shapes[min(step, 3)])
    left = 1.0
    for shape in shapes:
        give_gradients(model, 0, zero=True)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([peak * shape for peak in peaks])
        optimizer.step()
        scheduler.step()
        left *= 1 - 0.1 * shape
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.mul_(left)
    same(model, before, rtol=1e-12, atol=0)


@EACH
def test_decay_comes_before_the_update_and_not_by_way_of_the_gradient(make):
    """A step with decay is a step without it from the shrunken weights, momentum included."""
    with_decay, without = decoder().double(), decoder().double()
    a, b = make(with_decay, 0.1, weight_decay=0.2), make(without, 0.1)
    for seed in range(3):
        give_gradients(with_decay, seed)
        give_gradients(without, seed)
        with torch.no_grad():
            for parameter in without.parameters():
                parameter.mul_(1 - 0.2)
        a.step()
        b.step()
    same(with_decay, without, rtol=1e-9, atol=1e-12)


@EACH
def test_a_schedule_of_zero_leaves_everything_where_it_is(make):
    model = decoder()
    before = copy.deepcopy(model)
    optimizer = make(model, 1.0, weight_decay=0.1)
    optimizer.set_schedule(0.0)
    loss_of(model).backward()
    optimizer.step()
    same(model, before, rtol=0, atol=0)


@EACH
def test_schedules_do_not_compound(make):
    optimizer = make(decoder(), 1.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for shape in (0.5, 0.1, 1.0):
        optimizer.set_schedule(shape)
        assert [group["lr"] for group in optimizer.param_groups] == [peak * shape for peak in peaks]


@EACH
def test_a_group_without_gradients_stays_as_it_is_decay_or_not(make):
    """A branch that a batch does not use, say: neither moved nor shrunk, as in PyTorch's AdamW."""
    model = torch.nn.Sequential(nn.Linear(4, 4), nn.Linear(9, 9))  # two rates, hence two groups
    used, unused = (layer.weight.detach().clone() for layer in model)
    optimizer = make(model, 0.1, weight_decay=0.1)
    optimizer.step()
    model[0](torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    assert torch.equal(model[1].weight, unused)
    assert not torch.equal(model[0].weight, used)


# Against independent implementations


def by_hand(model, lr, decay, kinds=("input", "hidden", "output", "bias", "gain")):
    """A group a parameter; biases and gains, the vectors, do not decay."""
    roles, factors = nn.roles(model), nn.learning_rate_factors(model)
    return [
        {"params": [p], "lr": lr * factors[n], "weight_decay": (p.dim() > 1) * decay / (lr * factors[n])}
        for n, p in model.named_parameters()
        if roles[n].kind in kinds
    ]


def run_beside(ours, optimizer, theirs, references):
    """Both through the same gradients and schedule."""
    peaks = [[group["lr"] for group in reference.param_groups] for reference in references]
    for seed, shape in enumerate(SHAPES):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        optimizer.set_schedule(shape)
        optimizer.step()
        for reference, rates in zip(references, peaks, strict=True):
            for group, peak in zip(reference.param_groups, rates, strict=True):
                group["lr"] = peak * shape
            reference.step()


@pytest.mark.parametrize("make_model", [decoder, mixed])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_adamw_is_torchs_at_those_rates(make_model, decay):
    """Against the plain, unfused one in float64, along a schedule; each step's rounding is all that may differ."""
    ours, theirs = make_model().double(), make_model().double()
    options = {"betas": (0.8, 0.95), "eps": 1e-9}
    plain = torch.optim.AdamW(by_hand(theirs, 0.3, decay), **options, foreach=False, fused=False)
    run_beside(ours, nn.AdamW(ours, 0.3, weight_decay=decay, **options), theirs, [plain])
    same(ours, theirs, rtol=1e-9, atol=1e-9)


def test_adam_is_adamw_without_decay():
    a, b = decoder(), decoder()
    for model, optimizer in ((a, nn.Adam(a, 0.1)), (b, nn.AdamW(b, 0.1))):
        loss_of(model).backward()
        optimizer.step()
    same(a, b, rtol=0, atol=0)
    with pytest.raises(TypeError, match="weight_decay"):
        nn.Adam(a, 0.1, weight_decay=0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_at_those_rates(momentum, nesterov):
    if nesterov and not momentum:
        pytest.skip("there is none")
    ours, theirs = mixed().double(), mixed().double()
    groups = [group | {"weight_decay": 0.0} for group in by_hand(theirs, 0.3, 0.0)]
    plain = torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, foreach=False, fused=False)
    run_beside(ours, nn.SGD(ours, 0.3, momentum, nesterov=nesterov), theirs, [plain])
    same(ours, theirs, rtol=1e-9, atol=1e-12)


def test_sgd_keeps_its_decay_from_step_to_step():
    model = decoder()
    optimizer = nn.SGD(model, 0.1, weight_decay=0.1)
    before = [group["weight_decay"] for group in optimizer.param_groups]
    loss_of(model).backward()
    optimizer.step()
    assert [group["weight_decay"] for group in optimizer.param_groups] == before


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_lion_is_its_paper(decay):
    """arXiv 2302.06675, algorithm 2, parameter by parameter, but the decay independent."""
    ours, theirs = mixed().double(), mixed().double()
    optimizer = nn.Lion(ours, 0.3, betas=(0.8, 0.95), weight_decay=decay)
    factors = nn.learning_rate_factors(theirs)
    moments = {name: torch.zeros_like(p) for name, p in theirs.named_parameters()}
    for seed, shape in enumerate(SHAPES):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        optimizer.set_schedule(shape)
        optimizer.step()
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                c = 0.8 * moments[name] + 0.2 * p.grad
                kept = 1 - decay * shape * (p.dim() > 1)  # biases and gains do not decay
                p.copy_(p * kept - 0.3 * factors[name] * shape * torch.sign(c))
                moments[name] = 0.95 * moments[name] + 0.05 * p.grad
    same(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_is_torchs_on_hidden_matrices_and_adamw_on_the_rest(nesterov):
    """torch.optim.Muon multiplies its rate by √max(1, rows/columns); ours has √(fan_in·fan_out) and the role's rate."""
    ours, theirs = decoder(), decoder()
    lr, adam_lr, decay = 0.2, 0.03, 0.05
    groups = []
    for name, p in theirs.named_parameters():
        role = nn.roles(theirs)[name]
        if role.kind == "hidden":
            rate = lr / math.sqrt(role.fan_in * role.branches) * math.sqrt(role.fan_in * role.fan_out)
            rate /= math.sqrt(max(1, role.fan_out / role.fan_in))
            groups.append({"params": [p], "lr": rate, "weight_decay": decay / rate})
    muon = torch.optim.Muon(groups, momentum=0.9, nesterov=nesterov)
    adam = torch.optim.AdamW(by_hand(theirs, adam_lr, decay, ("input", "output")), betas=(0.8, 0.95), eps=1e-9)
    optimizer = nn.Muon(ours, lr, 0.9, decay, nesterov=nesterov, adam_lr=adam_lr, betas=(0.8, 0.95), eps=1e-9)
    assert len(optimizer.param_groups) == 6  # four shapes of hidden matrices, embedding, readout
    run_beside(ours, optimizer, theirs, [muon, adam])
    start = decoder()
    for (name, mine), other, first in zip(
        ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True
    ):
        moved = (other - first).norm()
        off = (mine - other).norm() / moved
        assert off < (0.01 if "stack" in name else 1e-4), (name, off)  # BF16 in the one case, float32 in the other


def test_muon_treats_a_convolution_as_a_matrix_and_leaves_vectors_to_adam():
    model = mixed()
    before = model[0].weight.detach().clone()
    optimizer = nn.Muon(model, 0.1)
    give_gradients(model, 0)
    optimizer.step()
    update = (before - model[0].weight).flatten(1)  # 8 rows of 4·3
    rate = 0.1 * nn.learning_rate_factors(model)["0.weight"] * math.sqrt(12 * 24)
    assert torch.linalg.svdvals(update / rate).amax() < 1.3
    assert torch.linalg.svdvals(update / rate).amin() > 0.6
    by_muon = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    assert by_muon == {id(model[0].weight), id(model[3].weight)}


@given(st.integers(1, 48), st.integers(1, 48), st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_orthogonalize_moves_singular_values_to_about_1_and_keeps_the_singular_vectors(rows, columns, size, seed):
    generator = torch.Generator().manual_seed(seed)
    short, long = min(rows, columns), max(rows, columns)
    u, _ = torch.linalg.qr(torch.randn(short, short, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(long, short, generator=generator, dtype=torch.float64))
    values = 0.1 + 0.9 * torch.rand(short, generator=generator, dtype=torch.float64)
    matrix = size * (u * values) @ v.t()
    polar = u @ v.t()
    if rows > columns:
        matrix, polar = matrix.t(), polar.t()
    result = orthogonalize(matrix.float()).double()
    assert result.shape == (rows, columns)
    singular = torch.linalg.svdvals(result)
    assert singular.amin() > 0.6
    assert singular.amax() < 1.3
    assert (result * polar).sum() / (result.norm() * polar.norm()) > 0.95


def test_orthogonalize_of_nothing_is_nothing():
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6, dtype=torch.bfloat16))


# The habits of torch.optim


@EACH
@pytest.mark.parametrize("through_a_file", [False, True])
def test_resuming_from_a_state_dict_goes_on_to_the_bit(make, through_a_file, tmp_path):
    straight = decoder()
    optimizer = make(straight, 0.1, weight_decay=0.01)
    for step in range(5):
        if step == 2:
            resumed = copy.deepcopy(straight)
            state = copy.deepcopy(optimizer.state_dict())
        give_gradients(straight, step)
        optimizer.set_schedule(1 - step / 10)
        optimizer.step()
    if through_a_file:
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer = make(resumed, 0.7)  # whatever it was made with, the state says
    optimizer.load_state_dict(state)
    for step in range(2, 5):
        give_gradients(resumed, step)
        optimizer.set_schedule(1 - step / 10)
        optimizer.step()
    same(resumed, straight, rtol=0, atol=0)


@EACH
def test_a_closure_is_evaluated_once_before_anything_moves(make):
    with_closure, plain = decoder(), decoder()
    a, b = make(with_closure, 0.1, weight_decay=0.1), make(plain, 0.1, weight_decay=0.1)
    calls = []

    def closure():
        a.zero_grad()
        loss = loss_of(with_closure)
        loss.backward()
        calls.append(loss.item())
        return loss

    for _ in range(3):
        b.zero_grad()
        loss = loss_of(plain)
        loss.backward()
        b.step()
        assert a.step(closure).item() == pytest.approx(loss.item(), rel=1e-6)
    assert len(calls) == 3
    same(with_closure, plain, rtol=1e-6, atol=1e-7)


@EACH
def test_step_hooks_run_once(make):
    torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)  # PyTorch hooks a class when it is first made
    model = decoder()
    optimizer, calls = make(model, 0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    loss_of(model).backward()
    optimizer.step()
    assert calls == ["before", "after"]


@EACH
def test_a_group_can_be_added(make):
    model, more = decoder(), nn.Linear(4, 4)
    optimizer = make(model, 0.1, weight_decay=0.1)
    group = optimizer.param_groups[0] | {"params": [more.weight]}
    optimizer.add_param_group(group)
    before = more.weight.detach().clone()
    optimizer.set_schedule(0.5)
    more(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(more.weight, before)


def test_what_pytorch_fuses_is_fused():
    for optimizer in (nn.AdamW(decoder(), 0.1), nn.Adam(decoder(), 0.1)):
        assert all(group["fused"] for group in optimizer.param_groups)
    # PyTorch 2.13's fused SGD leaves half-precision tensors on the CPU where they are, without a word.
    assert not any(group["fused"] for group in nn.SGD(decoder().bfloat16(), 0.1).param_groups)
    with torch.device("meta"):
        model = decoder()
    assert not any(group["fused"] for group in nn.AdamW(model, 0.1).param_groups)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_step_is_finite_in_every_type_even_where_gradients_are_zero(make, dtype):
    model = decoder().to(dtype)
    optimizer = make(model, 0.1)
    before = copy.deepcopy(model)
    for _ in range(2):
        loss_of(model).backward()  # half the rows of the embedding see no token, and have no gradient
        optimizer.step()
    for (name, p), first in zip(model.named_parameters(), before.parameters(), strict=True):
        assert p.dtype == dtype
        assert p.isfinite().all(), name
        assert not torch.equal(p, first), name


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_in_half_precision_is_that_of_float64_rounded(make, dtype):
    half = decoder().to(dtype)
    double = copy.deepcopy(half).double()
    optimizers = [make(model, 0.1, weight_decay=0.1) for model in (half, double)]
    give_gradients(half, 0)
    for p, q in zip(half.parameters(), double.parameters(), strict=True):
        q.grad = p.grad.double()
    for optimizer in optimizers:
        optimizer.step()
    for (name, p), q in zip(half.named_parameters(), double.named_parameters(), strict=True):
        off = (p.double() - q[1]).abs() / (1 + q[1].abs())
        assert off.amax() < 4 * torch.finfo(dtype).eps, name


@EACH
def test_training_lowers_the_loss(make):
    model = decoder()
    optimizer = make(model, 0.05, weight_decay=1e-4)
    first = loss_of(model).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model).item() < 0.7 * first

"""What PyTorch does with functions: vmap, per-sample gradients, forward mode, export, compilation."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, jacfwd, jvp, stack_module_state, vjp, vmap

from allometry import nn
from allometry.nn import functional as F
from allometry.nn.ops.activations import ACTIVATIONS, GATES
from allometry.nn.ops.scale import exact_scale

f64 = torch.float64
VOCAB = 19
OPTIONS = {
    "pre": {},
    "post": {"norm": "post"},
    "grouped": {"kv_heads": 2, "qk_norm": True},
    "window": {"window": 3, "activation": "gelu"},
    "tied": {"tied": True, "activation": "geglu"},
}


def decoder(**options):
    return nn.Decoder(VOCAB, 2, 16, 4, 24, **options)


def convnet():
    """Every layer that no decoder has: (batch, 3, 8, 8) → (batch, 5)."""
    return torch.nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1, bias=True),
        nn.GELU(),
        torch.nn.Flatten(2),
        nn.Conv1d(4, 6, 3, padding=1, groups=2, constraint="output"),
        torch.nn.Flatten(),
        nn.LayerNorm(96, elementwise_affine=True),
        nn.Linear(96, 12, bias=True),
        nn.RMSNorm(12, elementwise_affine=True),
        nn.SwiGLU(),
        nn.MLP(6, 8, "relu2", bias=True),
        nn.Softmax(),
        nn.Readout(6, 5),
    )


def batches(kind, batch=3, dtype=torch.float32):
    if kind == "convnet":
        return torch.randn(batch, 3, 8, 8, dtype=dtype), torch.randint(5, (batch,))
    return torch.randint(VOCAB, (2, batch, 7)).unbind()


def make(kind):
    return convnet() if kind == "convnet" else decoder(**OPTIONS[kind])


def loss_of(logits, targets):
    return nn.CrossEntropyLoss()(logits.reshape(-1, logits.shape[-1]), targets.flatten())


def gradients(model, inputs, targets):
    return torch.autograd.grad(loss_of(model(inputs), targets), list(model.parameters()))


def assert_close(actual, expected, close=1e-5):
    torch.testing.assert_close(actual, expected, rtol=close, atol=close)


KINDS = ["convnet", *OPTIONS]
NAMES = ["ReLU", "ReLU2", "GELU", "SiLU", "Tanh", "Sigmoid", "Softplus", "SwiGLU", "GEGLU"]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


# ---- vmap


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_each_sample_by_vmap_are_those_of_a_loop(kind):
    model = make(kind).double()
    inputs, targets = batches(kind, dtype=f64)
    # By name and once each: a tied weight is the embedding's.
    model(inputs)  # makes the constants of the activations outside of the transform
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sample = lambda p, x, t: loss_of(functional_call(model, p, (x[None],)), t[None])
    mapped = vmap(grad(sample), in_dims=(None, 0, 0))(parameters, inputs, targets)
    for i in range(len(inputs)):
        alone = gradients(model, inputs[i : i + 1], targets[i : i + 1])
        # The factor of the loss is a float32.
        assert_close([mapped[name][i] for name in parameters], list(alone), 1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tied"])
def test_an_ensemble_by_vmap_equals_its_members(kind):
    models = [make(kind).double() for _ in range(3)]
    inputs, targets = batches(kind, dtype=f64)
    parameters, _ = stack_module_state(models)

    def member(p):
        logits = functional_call(models[0], p, (inputs,))
        return loss_of(logits, targets), logits

    grads, logits = vmap(grad(member, has_aux=True))(parameters)
    for i, model in enumerate(models):
        assert_close(logits[i], model(inputs), 1e-11)
        assert_close([grads[name][i] for name in parameters], list(gradients(model, inputs, targets)), 1e-6)


def test_vmap_over_a_residual_stream_and_its_weights():
    """All of split, add and onto, each tensor mapped or not."""
    x, stream = torch.randn(2, 4, 3, 6, dtype=f64)
    weight = torch.randn(4, 6, 6, dtype=f64)

    def branch(x, weight, stream):
        y, skip = F.residual_split(x, 0.8, 0.6, norm=True)
        z, other = F.residual_split(F.linear(y, weight, onto=skip, keep=0.8, share=0.6), 0.8, 0.6)
        return F.residual_add(F.add(z, stream), other, 0.8, 0.6)

    for dims in ((0, 0, 0), (0, None, 0), (0, 0, None), (0, None, None), (None, 0, None)):
        arguments = [t if d == 0 else t[0] for t, d in zip((x, weight, stream), dims, strict=True)]
        pull = lambda *a: grad(lambda *a: branch(*a).square().sum(), argnums=(0, 1, 2))(*a)
        mapped, mapped_grads = vmap(branch, dims)(*arguments), vmap(pull, dims)(*arguments)
        for i in range(4):
            own = [t[i] if d == 0 else t for t, d in zip(arguments, dims, strict=True)]
            assert_close(mapped[i], branch(*own), 1e-12)
            assert_close([g[i] for g in mapped_grads], list(pull(*own)), 1e-12)


# ---- forward mode


def check_jvp(function, x):
    """The tangent is the derivative of the value: by central differences, whose error is about 1e-9."""
    tangent = torch.randn_like(x)
    value, slope = jvp(function, (x,), (tangent,))
    assert_close(value, function(x), 1e-12)
    assert_close(slope, (function(x + 1e-5 * tangent) - function(x - 1e-5 * tangent)) / 2e-5, 3e-7)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *GATES])
@pytest.mark.parametrize("constraint", [None, "output"])
def test_jvp_of_activations_differentiates_the_value(name, constraint):
    function = getattr(F, name)
    x = torch.randn(2, 3, 4, dtype=f64)
    apply = lambda x: function(*(x if name in GATES else x[:1]), constraint=constraint)
    apply(x)
    check_jvp(apply, x)


def test_the_constants_may_be_wanted_first_within_a_transform():
    exact_scale.cache_clear()
    check_jvp(F.tanh, torch.randn(3, dtype=f64))


# Each as a function of one tensor of shape (3, 4, 6), through every argument in turn.
W, V, B = torch.randn(3, 6, 6, dtype=f64, generator=torch.Generator().manual_seed(1)).unbind()
TABLES = F.rope_tables(4, 6, dtype=f64)
TARGETS = torch.tensor([0, 1, -100, 3, 4, 5, 5, 4, 3, -100, 1, 0])
OPERATIONS = {
    "linear-x": lambda x: F.linear(x, W, B[0]),
    "linear-weight": lambda x: F.linear(W, x[0], B[0, :4]),
    "linear-bias": lambda x: F.linear(W, V, x[0, 0]),
    "linear-onto": lambda x: F.linear(x.sin(), W, onto=x, keep=0.8, share=0.6),
    "linear-onto-alone": lambda x: F.linear(W[:4], V, onto=x[0], keep=0.8, share=0.6),
    "linear-all": lambda x: F.linear(x, x[0], x[1, :, 0], onto=x[..., :4], keep=0.8, share=0.6),
    "conv1d-x": lambda x: F.conv1d(x, W[:, :4, None], B[0], padding=1),
    "conv1d-weight": lambda x: F.conv1d(W[None, :4], x[..., :2], stride=2),
    "conv1d-all": lambda x: F.conv1d(x, x[..., :2], x[:, 0, 0], dilation=2),
    "conv2d": lambda x: F.conv2d(x[None], x[None, :, :2, :2], groups=1),
    "rms_norm": lambda x: F.rms_norm(x, (6,), x[0, 0]),
    "layer_norm": lambda x: F.layer_norm(x, (6,), x[0, 0], x[0, 1]),
    "rope": lambda x: F.rope(x, *TABLES),
    "split": lambda x: torch.cat(F.residual_split(x, 0.8, 0.6)),
    "split-norm": lambda x: torch.cat(F.residual_split(x, 0.8, 0.6, norm=True)),
    "residual_add": lambda x: F.residual_add(x.sin(), x, 0.8, 0.6),
    "residual_add-branch": lambda x: F.residual_add(x, W[:4].expand_as(x), 0.8, 0.6),
    "residual_add-skip": lambda x: F.residual_add(W[:4], x[0], 0.8, 0.6),
    "add": lambda x: F.add(x, x.sin()),
    "cross_entropy": lambda x: F.cross_entropy(x.view(12, 6), TARGETS),
    "cross_entropy-none": lambda x: F.cross_entropy(x.view(12, 6), TARGETS, reduction="none"),
    "mse": lambda x: F.mse_loss(x, x.sin()),
    "embedding": lambda x: F.embedding(torch.tensor([1, 0, 3]), x[0]),
    "softmax": lambda x: F.softmax(x, 1, multiplier=2.0),
    "attention": lambda x: F.attention(x[None], x[None], x[None].sin()),
    "scale": lambda x: nn.scale(x, 3.0, 0.5),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_jvp_of_operations_differentiates_the_value(name):
    check_jvp(OPERATIONS[name], torch.randn(3, 4, 6, dtype=f64))


@pytest.mark.parametrize("kind", KINDS)
def test_jvp_of_models_differentiates_the_value_in_all_parameters_at_once(kind):
    model = make(kind).double()
    inputs, _ = batches(kind, dtype=f64)
    model(inputs)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}
    at = lambda step: functional_call(model, {n: p + step * tangents[n] for n, p in parameters.items()}, (inputs,))
    _, slope = jvp(lambda p: functional_call(model, p, (inputs,)), (parameters,), (tangents,))
    assert_close(slope, (at(1e-5) - at(-1e-5)) / 2e-5, 1e-6)


def test_forward_and_backward_mode_agree_under_a_constraint():
    x, weight = torch.randn(4, dtype=f64), torch.randn(5, 4, dtype=f64)
    function = lambda x: F.tanh(F.linear(F.rms_norm(x, (4,)), weight, constraint="output"), constraint="output")
    function(x)
    forward = jacfwd(function)(x)
    _, pull = vjp(function, x)
    backward = torch.stack([pull(row)[0] for row in torch.eye(5, dtype=f64)])
    assert_close(forward, backward, 1e-12)


# ---- export


@pytest.mark.parametrize("kind", ["convnet", *OPTIONS])
def test_an_exported_program_takes_any_batch_and_length(kind):
    model = make(kind).eval()
    dims = {0: torch.export.Dim("batch", min=1, max=64)}
    if kind != "convnet":
        # A window longer than the sequence is another graph.
        dims[1] = torch.export.Dim("length", min=OPTIONS[kind].get("window", 1) + 1, max=512)
    program = torch.export.export(model, (batches(kind)[0],), dynamic_shapes=(dims,)).module()
    for batch in (1, 5):
        inputs = batches(kind, batch)[0]
        assert_close(program(inputs), model(inputs))
    if kind != "convnet":
        tokens = torch.randint(VOCAB, (2, 30))
        assert_close(program(tokens), model(tokens))


# ---- compile


def count_compilations(function):
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, backend=counter, fullgraph=True, dynamic=True), counter


@pytest.mark.parametrize("options", [{}, {"norm": "post", "kv_heads": 2, "qk_norm": True, "activation": "gelu"}])
def test_five_lengths_are_one_compilation_with_the_gradients_of_eager(options):
    model = nn.Decoder(VOCAB, 1, 16, 4, 24, **options)
    eager = lambda tokens, targets: loss_of(model(tokens), targets)
    compiled, counter = count_compilations(eager)
    for length in (7, 16, 33, 50, 64):
        tokens, targets = torch.randint(VOCAB, (2, 3, length))
        targets[:, 0] = -100
        loss, expected = compiled(tokens, targets), eager(tokens, targets)
        assert_close(loss, expected)
        mine, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected))
        assert_close(mine, theirs, 1e-4)
    # Not 2: a float that the compiler takes for a variable makes it begin again.
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler, which PyTorch's own backend calls")
def test_lengths_that_vary_also_go_through_the_compilers_own_backend():
    """Which took the strides of queries and keys, once they are rotated, for those of the first length."""
    block = nn.TransformerBlock(16, 4, 24)
    compiled = torch.compile(block, dynamic=True)
    for length in (3, 5, 8):
        x = torch.randn(2, length, 16, requires_grad=True)
        mine, theirs = compiled(x), block(x)
        assert_close(mine, theirs)
        grads = [torch.autograd.grad(y.square().sum(), [x, *block.parameters()]) for y in (mine, theirs)]
        assert_close(*grads, 1e-4)


def test_a_convolutional_net_compiles_whole():
    model = convnet()
    compiled, counter = count_compilations(model)
    for batch in (2, 3, 5):
        inputs, targets = batches("convnet", batch)
        assert_close(compiled(inputs), model(inputs))
        assert_close(gradients(compiled, inputs, targets), gradients(model, inputs, targets), 1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_layer_compiles_whole(name):
    layer, x = getattr(nn, name)(), torch.randn(3, 8, requires_grad=True)
    exact_scale.cache_clear()
    compiled, _ = count_compilations(layer)
    grads = [torch.autograd.grad(module(x).sum(), x)[0] for module in (compiled, layer)]
    assert_close(*grads)


def test_a_new_scheme_is_compiled_anew_and_rightly():
    model = torch.nn.Sequential(nn.MLP(6, 8, "gelu"), nn.Readout(6, 5))
    compiled, counter = count_compilations(model)
    inputs, targets = torch.randn(4, 6), torch.randint(5, (4,))
    losses = []
    for i, scheme in enumerate(("umup", "sp", "completep")):
        nn.parametrize(model, scheme, nn.Base(width=8))
        losses.append(loss_of(compiled(inputs), targets).item())
        assert losses[-1] == pytest.approx(loss_of(model(inputs), targets).item(), rel=1e-5)
        mine, theirs = gradients(compiled, inputs, targets), gradients(model, inputs, targets)
        assert_close(mine, theirs)
        assert counter.frame_count == i + 1
    assert len(set(losses)) == 3


def test_a_compiled_block_follows_its_place_and_scheme():
    block, x = nn.TransformerBlock(16, 4, 24), torch.randn(2, 5, 16)
    compiled, _ = count_compilations(block)
    before = compiled(x)
    block.place(2, 8)
    assert_close(compiled(x), block(x))
    assert not torch.allclose(compiled(x), before)


def test_a_compiled_backward_pass_knows_of_accumulation():
    model = torch.nn.Sequential(nn.Linear(6, 5, bias=True), nn.RMSNorm(5, elementwise_affine=True), nn.Readout(5, 4))
    compiled, _ = count_compilations(model)
    inputs, targets = torch.randn(8, 6), torch.randint(4, (8,))
    for parts in (1, 4, 9, 1):
        with nn.accumulation(parts):
            assert_close(gradients(compiled, inputs, targets), gradients(model, inputs, targets))


def test_checkpointing_gives_the_same_gradients():
    block, x = nn.TransformerBlock(16, 4, 24), torch.randn(2, 5, 16, requires_grad=True)
    plain = torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()])
    again = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
    assert_close(torch.autograd.grad(again.square().sum(), [x, *block.parameters()]), plain)

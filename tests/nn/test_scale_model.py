"""The unit rule: plain torch.nn models become unit-scaled ones, with gradients of the right direction."""

import copy
import io
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from allometry.nn import AdamW, roles
from allometry.nn.conversion.measured.measured_modules import MeasuredLinear
from allometry.nn.conversion.plain_linear_maps import lower
from allometry.nn.conversion.scale_model import scale_model
from allometry.nn.conversion.unit.counterparts import MeasuredScale
from allometry.nn.layers import stateless
from allometry.nn.layers import with_parameters as layers


class Block(nn.Module):
    """A hand-written pre-norm block, in the style of the small GPTs that people copy."""

    def __init__(self, width, heads, dropout=0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).split(width, dim=2)
        q, k, v = (t.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        dropout = self.dropout if self.training else 0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return self.proj(y.transpose(1, 2).contiguous().view(batch, length, width))

    def forward(self, x):
        x = x + self.attend(self.ln1(x))
        return x + F.dropout(self.down(F.gelu(self.up(self.ln2(x)))), self.dropout, self.training)


class GPT(nn.Module):
    def __init__(self, vocab=31, width=32, heads=4, depth=2, context=16, dropout=0.0):
        super().__init__()
        self.context = context
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens, targets=None):
        length = tokens.size(1)
        assert length <= self.context, "too long"
        x = self.wte(tokens) + self.wpe(torch.arange(0, length, device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class SlowAttention(nn.Module):
    """Attention written out, with a mask in a buffer."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        # Not square: with as many inputs as outputs, the true backward factor is also that of unit scale.
        self.q, self.k, self.v = (nn.Linear(width, 2 * width) for _ in range(3))
        self.o = nn.Linear(2 * width, width)
        self.register_buffer("mask", torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32))

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (f(x).view(batch, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        logits = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        logits = logits.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
        y = F.softmax(logits, dim=-1) @ v
        return x + self.o(y.transpose(1, 2).contiguous().view(batch, length, 2 * width))


class ResidualUnit(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.first, self.second = nn.Conv2d(inner, outer, 3, stride, 1), nn.Conv2d(outer, outer, 3, 1, 1)
        self.down = nn.Conv2d(inner, outer, 1, stride) if stride != 1 or inner != outer else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.second(self.relu(self.first(x)))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Gated(nn.Module):
    """Branches that cannot be cut out: one that something else reads inside, and one in parallel."""

    def __init__(self, width=16):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(width, 3 * width), nn.Linear(3 * width, width), nn.Linear(width, width)
        self.d = nn.Linear(3 * width, width)

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        x = x + self.b(hidden)
        x = x + self.c(x) * 0.5 + torch.sigmoid(self.d(hidden)) * x
        return x


def mlp():
    return nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Sequential(nn.Linear(128, 64), nn.Mish()), nn.Linear(64, 10))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding="same"),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def res_net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        ResidualUnit(16, 16, 1),
        ResidualUnit(16, 32, 2),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def encoder(norm_first=False):
    layer = nn.TransformerEncoderLayer(32, 4, 128, 0.1, "gelu", batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


MODELS = {
    "mlp": (mlp, lambda: torch.randn(512, 32)),
    "conv": (conv_net, lambda: torch.randn(64, 3, 16, 16)),
    "resnet": (res_net, lambda: torch.randn(32, 3, 16, 16)),
    "encoder": (encoder, lambda: torch.randn(32, 16, 32)),
    "prenorm encoder": (lambda: encoder(True), lambda: torch.randn(32, 16, 32)),
    "gpt": (GPT, lambda: torch.randint(31, (32, 16))),
    "gpt with dropout": (lambda: GPT(dropout=0.2), lambda: torch.randint(31, (32, 16))),
}


def root_mean_squares(model, x):
    """Of what every layer returns, and of its gradient, by path; a scaled operation counts after its factor."""
    values, grads = {}, {}

    def watch(path):
        def hook(module, args, output):
            values[path] = float(output.detach().square().mean().sqrt())
            output.register_hook(lambda grad: grads.__setitem__(path, float(grad.square().mean().sqrt())))

        return hook

    kinds = (layers.Parametrized, stateless.Activation, stateless.Dropout, MeasuredScale)
    for path, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(watch(path))
    y = model(x)
    y.backward(torch.randn_like(y))
    return values, grads


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_starts_near_unit_scale(name):
    make, inputs = MODELS[name]
    model, x = make(), inputs()
    scaled = scale_model(model, x)
    assert scaled.training == model.training
    fresh = inputs()  # not what was measured on
    values, grads = root_mean_squares(scaled, fresh)
    assert len(values) == len(grads) > 3
    for path, value in values.items():
        assert 0.5 < value < 2, (path, value)
    for path, value in grads.items():
        # Softmax passes its logits less than it gets, the more positions the less; the true gradient, nothing to add.
        low = 0.1 if path.endswith(("q_proj", "k_proj")) else 0.45
        assert low < value < 2, (path, value)


def wanted_names(name, model):
    names = set(model.state_dict())
    if "encoder" in name:
        lowered = lower(copy.deepcopy(model))
        assert not any("in_proj" in key for key in lowered.state_dict())
        return set(lowered.state_dict())
    return names


@pytest.mark.parametrize("name", MODELS)
def test_names_roles_and_optimiser(name):
    make, inputs = MODELS[name]
    model, x = make(), inputs()
    scaled = scale_model(model, x)
    parameters = {key for key in wanted_names(name, model) if not key.endswith(("mean", "var", "tracked"))}
    assert {key for key, _ in scaled.named_parameters(remove_duplicate=False)} == parameters
    found = roles(scaled)
    assert found.keys() == parameters
    assert {role.kind for key, role in found.items() if key.endswith("bias")} <= {"bias"}
    optimizer = AdamW(scaled, lr=0.1)
    scaled(x).square().mean().backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in scaled.parameters())


def test_a_sequential_keeps_its_types():
    scaled = scale_model(mlp(), torch.randn(8, 32))
    assert type(scaled) is nn.Sequential
    assert [type(m) for m in scaled] == [layers.Linear, stateless.ReLU, nn.Sequential, layers.Linear]
    assert type(scale_model(nn.Linear(4, 3), torch.randn(2, 4))) is layers.Linear
    weight = scaled[0].weight
    assert float(weight.mean()) == pytest.approx(0, abs=0.06)
    assert float(weight.std()) == pytest.approx(1, abs=0.05)
    torch.manual_seed(5)
    first = scale_model(mlp(), torch.randn(8, 32))[0].weight
    torch.manual_seed(5)
    assert torch.equal(scale_model(mlp(), torch.randn(8, 32))[0].weight, first)
    inplace = mlp()
    assert scale_model(inplace, torch.randn(8, 32), inplace=True) is inplace
    with pytest.raises(ValueError, match="inplace: the unit rule makes a new model"):
        scale_model(GPT(), torch.randint(31, (2, 4)), inplace=True)


def test_the_readout_is_the_one_that_is_named():
    scaled = scale_model(mlp(), torch.randn(8, 32), readout="3")
    assert isinstance(scaled[3], layers.Readout)
    assert roles(scaled)["3.weight"].kind == "output"
    assert roles(scale_model(mlp(), torch.randn(8, 32)))["3.weight"].kind == "hidden"
    assert roles(scale_model(GPT(), torch.randint(31, (2, 4)), readout="head"))["head.weight"].kind == "output"
    with pytest.raises(ValueError, match="readout: '9' is not a linear map"):
        scale_model(mlp(), torch.randn(8, 32), readout="9")


SMALL = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ELU(), nn.Linear(5, 3)), lambda: torch.randn(7, 6)),
    "gpt": (lambda: GPT(vocab=7, width=8, heads=2, context=6), lambda: torch.randint(7, (2, 5))),
    "slow": (lambda: nn.Sequential(nn.Linear(8, 8), SlowAttention(8)), lambda: torch.randn(2, 5, 8)),
    "gated": (lambda: nn.Sequential(nn.Linear(6, 6), Gated(6)), lambda: torch.randn(4, 6)),
    "resnet": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), ResidualUnit(3, 3, 1), ResidualUnit(3, 4, 2), nn.AvgPool2d(3)),
               lambda: torch.randn(2, 2, 8, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), lambda: torch.randn(2, 4, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_receives_its_true_direction(name):
    """Against central differences of the function in float64: each parameter's is the true gradient times one number.

    It is the sum over paths that this sees: a branch and its skip with factors that disagree would turn it.
    """
    make, inputs = SMALL[name]
    model, x = make().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    scaled = scale_model(model, x).double()
    upstream = torch.randn(scaled(x).shape, dtype=torch.float64)
    scaled.zero_grad()
    (scaled(x) * upstream).sum().backward()
    value = lambda: float((scaled(x) * upstream).sum())
    with torch.no_grad():
        for key, parameter in scaled.named_parameters():
            flat, grad = parameter.view(-1), parameter.grad.view(-1)
            picked = torch.randperm(flat.numel())[:5].tolist()
            true = []
            for i in picked:
                old, step = float(flat[i]), 1e-6
                flat[i] = old + step
                high = value()
                flat[i] = old - step
                true.append((high - value()) / (2 * step))
                flat[i] = old
            true, found = torch.tensor(true, dtype=torch.float64), grad[picked]
            if float(true.norm()) < 1e-7:  # a key's bias shifts all logits alike
                assert float(found.norm()) < 1e-7, key
                continue
            factor = float((true * found).sum() / true.square().sum())
            assert factor > 0, key
            assert float((found - factor * true).norm()) < 1e-5 * float(found.norm()), key


def test_one_tensor_read_twice_receives_both_gradients_alike():
    """The parameters on either side of a branch that cannot be cut out share one factor with the whole."""
    scaled = scale_model(Gated(), torch.randn(64, 16))
    code = scaled.code
    assert "true_add" in code
    assert "residual_split" not in code.split("true_add")[0]


def test_residual_weights_follow_the_depth():
    scaled = scale_model(GPT(depth=3), torch.randint(31, (4, 8)))
    adds = [n for n in scaled.graph.nodes if getattr(n.target, "__name__", "") == "residual_add"]
    taus = [node.args[3] / node.args[2] for node in adds]
    assert taus == pytest.approx([(3 + i) ** -0.5 for i in range(6)])
    assert scaled.blocks.get_submodule("0").up.branches == 6
    assert not hasattr(scaled.head, "branches")


def test_weights_stay_tied_and_context_may_vary():
    scaled = scale_model(GPT(), torch.randint(31, (2, 16)))
    assert scaled.head.weight is scaled.wte.weight
    assert scaled(torch.randint(31, (3, 5))).shape == (3, 5, 31)


def test_the_loss_within_the_model():
    tokens = torch.randint(31, (4, 16))
    scaled = scale_model(GPT(), {"tokens": tokens, "targets": tokens})
    logits, loss = scaled(tokens, tokens)
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits.view(-1, 31), tokens.view(-1))))


def test_an_argument_that_the_example_lacked_is_refused():
    scaled = scale_model(encoder(), torch.randn(3, 6, 32))
    with pytest.raises(ValueError, match="mask: a tensor, but the model was scaled for None; give"):
        scaled(torch.randn(3, 6, 32), torch.zeros(6, 6))


def test_dropout_follows_the_mode():
    scaled = scale_model(GPT(dropout=0.5), torch.randint(31, (2, 16)))
    tokens = torch.randint(31, (2, 16))
    assert not torch.equal(scaled(tokens), scaled(tokens))
    scaled.eval()
    assert torch.equal(scaled(tokens), scaled(tokens))


def test_masks_of_the_encoder():
    """A padded position is not looked at, as in the plain one."""
    model = encoder().eval()
    x, mask = torch.randn(3, 6, 32), torch.zeros(3, 6, dtype=torch.bool)
    mask[:, 4:] = True
    scaled = scale_model(model, {"src": x, "src_key_padding_mask": mask}).eval()
    before = scaled(x, src_key_padding_mask=mask)[:, :4]
    x[:, 4:] = 100
    torch.testing.assert_close(scaled(x, src_key_padding_mask=mask)[:, :4], before)


@pytest.mark.parametrize("name", ["conv", "gpt", "encoder"])
def test_copies_and_state(name):
    make, inputs = MODELS[name]
    x = inputs()
    scaled = scale_model(make(), x).eval()
    reference = scaled(x)
    assert torch.equal(copy.deepcopy(scaled)(x), reference)
    other = scale_model(make(), inputs()).eval()
    assert not torch.allclose(other(x), reference)
    other.load_state_dict(scaled.state_dict())
    assert torch.equal(other(x), reference)
    file = io.BytesIO()
    torch.save(scaled, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), reference)


@pytest.mark.parametrize(
    ("make", "x"),
    [(lambda: GPT(depth=1, width=8, heads=1), torch.ones(2, 8).long()), (SMALL["mlp"][0], torch.ones(4, 6))],
    ids=["gpt", "mlp"],
)
def test_compiles(make, x):
    scaled = scale_model(make(), x).eval()
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(scaled), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), scaled(x), rtol=1e-5, atol=1e-5)
    scaled(x).sum().backward()
    compiled(x).sum().backward()
    for (key, a), b in zip(scaled.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-4, msg=key)


def test_the_plain_model_is_left_alone():
    model = conv_net()
    state, modes = copy.deepcopy(model.state_dict()), model.training
    scale_model(model, torch.randn(4, 3, 16, 16))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.training == modes
    # Neither are running means moved by what is measured.
    scaled = scale_model(model, torch.randn(4, 3, 16, 16) + 5)
    assert float(scaled[1].norm.running_mean.abs().max()) == 0


# Attention and encoder in plain terms, which the measured rules need too


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("own", [{}, {"kdim": 6, "vdim": 10}])
def test_attention_lowered_is_the_same_function(own, batch_first):
    plain = nn.MultiheadAttention(8, 2, batch_first=batch_first, **own).eval()
    q, k, v = torch.randn(3, 5, 8), torch.randn(3, 7, own.get("kdim", 8)), torch.randn(3, 7, own.get("vdim", 8))
    if not batch_first:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    lowered = lower(copy.deepcopy(plain))
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = True
    per_head = torch.randn(6, 5, 7)
    for options in ({}, {"key_padding_mask": padding}, {"attn_mask": torch.randn(5, 7)}, {"attn_mask": per_head}):
        torch.testing.assert_close(lowered(q, k, v, **options)[0], plain(q, k, v, **options)[0])
    both = {"attn_mask": torch.rand(5, 7) < 0.3, "key_padding_mask": padding}
    torch.testing.assert_close(lowered(q, k, v, **both)[0], plain(q, k, v, **both)[0])


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_measured_rule_keeps_an_encoder(norm_first):
    model, x = encoder(norm_first).eval(), torch.randn(4, 6, 32)
    scaled = scale_model(model, x, "absmax")
    assert isinstance(scaled.layers[0].linear1, MeasuredLinear)
    assert isinstance(scaled.layers[1].self_attn.k_proj, MeasuredLinear)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    with torch.no_grad():  # where the plain one takes its short cut past the modules
        for mask in (None, causal):
            expected, found = model(x, mask), scaled(x, mask)
            assert float((found - expected).norm() / expected.norm()) < 1e-6


# What it cannot treat


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.body(x) * self.scale


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.cumsum(self.layer(x), -1)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 4)), (3, 4), r"cannot treat 1 \(GRU"),
        (nn.Sequential(nn.Linear(4, 4), nn.LPPool1d(2, 2)), (3, 4), r"cannot treat 1 \(LPPool1d"),
        (Odd(), (3, 4), r"cannot treat \(model\) \(Odd with parameters scale"),
        (Unknown(), (3, 4), r"cannot treat cumsum in"),
        (Branching(), (3, 4), r"forward of Branching cannot be traced: an if or assert on the values"),
        (nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")), (2, 4, 8), r"0 \(Conv1d: padding_mode"),
    ],
    ids=["gru", "pool", "parameter", "function", "branch", "padding"],
)
def test_what_it_cannot_treat_is_named(model, x, message):
    with pytest.raises(ValueError, match=message):
        scale_model(model, torch.randn(x))


def test_not_strict_leaves_it_with_a_warning():
    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="left as they are: cumsum"):
        scaled = scale_model(Unknown(), x, strict=False)
    assert isinstance(scaled.layer, layers.Linear)
    assert torch.allclose(scaled(x), torch.cumsum(scaled.layer(x), -1))
    with pytest.warns(UserWarning, match=r"Odd with parameters scale"):
        scaled = scale_model(Odd(), x, strict=False)
    assert scaled(x).shape == (3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scale_model(mlp(), torch.randn(3, 32), strict=False)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="model: int"):
        scale_model(3, torch.randn(2, 2))
    with pytest.raises(ValueError, match="rule: 'units' is unknown"):
        scale_model(mlp(), torch.randn(2, 32), "units")
    with pytest.raises(ValueError, match="not finite"):
        scale_model(mlp(), torch.full((2, 32), float("inf")))
    with pytest.raises(ValueError, match="format: 'e4m3'"):
        scale_model(mlp(), torch.randn(2, 32), "rms", format="e4m3")


def test_graph_modules_are_what_others_return():
    assert isinstance(scale_model(GPT(), torch.randint(31, (2, 4))), fx.GraphModule)

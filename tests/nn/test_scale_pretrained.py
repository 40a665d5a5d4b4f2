"""Models of transformers under the measured rules: all treated strictly, same function, plain weights when saved."""

import importlib.util
import pickle

import pytest
import torch
from torch import Tensor, nn

from allometry.nn import finetune_groups, scale_model, unscale
from allometry.nn.conversion.measured.measured_modules import MeasuredModule, measured_modules, plain_state

with_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
RULES = pytest.mark.parametrize("rule", ["absmax", "rms"])


class Conv1D(nn.Module):
    """As transformers has it: y = x·W + b."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(0.02 * torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


class Small(nn.Module):
    """What pretrained models are made of besides linear maps: tokens, positions, gains, a lone bias, a tied head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 12, 8))
        self.gain, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(20))
        self.map, self.head = Conv1D(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat((self.first.expand(len(tokens), -1, -1), self.table(tokens)), 1)
        return self.head(self.map((x + self.positions[:, : x.shape[1]]) * self.gain)) + self.bias

    def save_pretrained(self, path, state_dict=None):
        torch.save(self.state_dict() if state_dict is None else state_dict, path)


@RULES
def test_what_enters_no_product_is_left_without_complaint(rule, tmp_path):
    model, tokens = Small(), torch.randint(20, (3, 5))
    scaled = scale_model(model, tokens, rule)
    assert set(measured_modules(scaled)) == {"table", "map", "head"}
    torch.testing.assert_close(scaled(tokens), model(tokens), rtol=2e-6, atol=2e-6)
    assert not torch.allclose(scaled.map.weight, model.map.weight, rtol=0.1)  # they are divided
    scaled.save_pretrained(tmp_path / "weights")
    saved = torch.load(tmp_path / "weights")
    assert saved.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-6, atol=0)
    assert saved["head.weight"].data_ptr() == saved["table.weight"].data_ptr()
    assert type(scaled).__name__ == "Small"
    assert type(unscale(scaled)) is Small
    assert type(scaled.map) is Conv1D
    assert pickle.loads(pickle.dumps(scaled)).state_dict().keys() == model.state_dict().keys()


def test_the_factor_of_a_transposed_weight_is_by_its_fan_in():
    model = nn.Sequential(Conv1D(3, 8))
    largest = model[0].weight.abs().max().item()
    scaled = scale_model(model, torch.randn(4, 8), "absmax")
    assert float(scaled[0].weight_factor.value) == pytest.approx(largest / 8**0.5)


class Own(nn.Module):
    """A matrix of a module's own that enters a product, straight or by way of another tensor."""

    def __init__(self, way: str):
        super().__init__()
        self.way, self.matrix, self.map = way, nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        ways = {
            "matmul": lambda: x @ self.matrix,
            "einsum": lambda: torch.einsum("bi,ij->bj", x, self.matrix),
            "transposed": lambda: nn.functional.linear(x, self.matrix.t().contiguous()),
            "normalised": lambda: x @ (self.matrix / self.matrix.norm()),
            "double": lambda: (x.double() @ self.matrix.double()).float(),
            "attention": lambda: nn.functional.scaled_dot_product_attention(x[None], self.matrix[None], x[None])[0],
            "added": lambda: x + self.matrix[: len(x)],
            "multiplied": lambda: x * self.matrix[: len(x)].sigmoid(),
        }
        return self.map(ways[self.way]())


@pytest.mark.parametrize("way", ["matmul", "einsum", "transposed", "normalised", "double", "attention"])
def test_a_matrix_in_a_product_that_we_do_not_treat_is_refused(way):
    x = torch.randn(6, 6)
    with pytest.raises(ValueError, match=r"cannot scale \(model\) \(Own\)"):
        scale_model(Own(way), x, "rms")
    with pytest.warns(UserWarning, match="left as they are"):
        scale_model(Own(way), x, "rms", strict=False)


@pytest.mark.parametrize("way", ["added", "multiplied"])
def test_a_matrix_in_no_product_stays(way):
    model, x = Own(way), torch.randn(6, 6)
    torch.testing.assert_close(scale_model(model, x, "rms")(x), model(x), rtol=2e-6, atol=2e-6)


def pretrained(name: str) -> tuple[nn.Module, dict[str, Tensor], int]:
    """A small model, its input, and how many of its modules multiply."""
    import transformers as hf

    tokens = torch.randint(90, (2, 12))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped = sizes | {"num_key_value_heads": 2, "vocab_size": 96}
    if name == "gpt2":
        config = hf.GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=32, vocab_size=96)
        return hf.GPT2LMHeadModel(config), {"input_ids": tokens}, 2 + 8 + 1
    if name == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)), {"input_ids": tokens}, 1 + 14 + 1
    if name == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(head_dim=8, **grouped)), {"input_ids": tokens}, 1 + 14 + 1
    if name == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=96, **sizes)), {"input_ids": tokens}, 3 + 12 + 2
    if name == "vit":
        model = hf.ViTForImageClassification(hf.ViTConfig(image_size=16, patch_size=4, **sizes))
        return model, {"pixel_values": torch.randn(2, 3, 16, 16)}, 1 + 12 + 1
    if name == "resnet":
        config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        return hf.ResNetForImageClassification(config), {"pixel_values": torch.randn(4, 3, 32, 32)}, 7
    layers = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in
              (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))}  # fmt: skip
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = hf.WhisperConfig(d_model=32, num_mel_bins=8, max_source_positions=16, max_target_positions=16,
                              vocab_size=96, **layers, **ends)  # fmt: skip
    example = {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": tokens}
    return hf.WhisperForConditionalGeneration(config), example, 2 + 12 + 1 + 20 + 1


NAMES = ("gpt2", "llama", "qwen3", "bert", "vit", "resnet", "whisper")


@with_transformers
@RULES
@pytest.mark.parametrize("name", NAMES)
def test_function_gradients_and_saved_weights_are_the_plain_models(name, rule, tmp_path):
    model, example, products = pretrained(name)
    model.eval()
    scaled = scale_model(model, example, rule)
    assert sum(isinstance(module, MeasuredModule) for module in scaled.modules()) >= products
    plain, ours = model(**example).logits, scaled(**example).logits
    assert (ours - plain).abs().max() < 2e-6 * plain.abs().max()
    alphas = {id(module.weight): float(module.weight_factor.value) for module in measured_modules(scaled).values()}
    trained = [p for p in model.parameters() if p.requires_grad], [p for p in scaled.parameters() if p.requires_grad]
    true = torch.autograd.grad(plain.square().sum(), trained[0], allow_unused=True)
    grads = torch.autograd.grad(ours.square().sum(), trained[1], allow_unused=True)
    largest = max(grad.norm() for grad in true if grad is not None)
    for parameter, expected, grad in zip(trained[1], true, grads, strict=True):
        if expected is not None:  # the gradient of θ/α is α times that of θ
            assert (grad / alphas.get(id(parameter), 1.0) - expected).norm() < 1e-5 * max(
                expected.norm(), 1e-3 * largest
            )
    scaled.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").state_dict()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-6, atol=1e-9)
    assert plain_state(scaled).keys() == model.state_dict().keys()


@with_transformers
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_fine_tuning_takes_the_plain_models_steps(name):
    model, example, _ = pretrained(name)
    model.eval()
    scaled = scale_model(model, example, "absmax")
    labels = example | {"labels": example["input_ids"]}
    losses = []
    for each, groups in ((model, model.parameters()), (scaled, finetune_groups(scaled, 1e-3, eps=1e-12))):
        optimizer = torch.optim.AdamW(groups, lr=1e-3, eps=1e-12, weight_decay=0.0)
        for _ in range(4):
            optimizer.zero_grad()
            loss = each(**labels).loss
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0] < model.config.vocab_size


@with_transformers
@pytest.mark.parametrize("name", ["llama", "vit", "whisper"])
def test_the_unit_rule_makes_a_decoder_or_says_in_one_line_why_not(name):
    import allometry.nn as ours

    model, example, _ = pretrained(name)
    if name == "llama":
        unit = scale_model(model, example, "unit")
        assert isinstance(unit, ours.Decoder)
        assert unit(example["input_ids"]).shape == model(**example).logits.shape
        assert sum(p.numel() for p in unit.parameters()) == sum(
            p.numel() for n, p in model.named_parameters() if "norm" not in n
        )
        return
    with pytest.raises(ValueError, match="unit") as caught:
        scale_model(model, example, "unit")
    assert len(str(caught.value).splitlines()) == 1
    assert "co_varnames" not in str(caught.value)

"""Stock architectures in plain PyTorch, written from their papers: what an exported folder computes, in float64."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from allometry.lm.decoder import LanguageModel, build
from helpers.builders import model_config

# Every option that has a stock architecture, in models of two to 24 layers.
EXPORTED = {
    "bitnet": {},
    "bitnet, 24 layers": {"layers": 24},
    "bitnet, tied, grouped": {"tied": True, "head_dim": 8, "kv_heads": 2},
    "bitnet, geglu": {"activation": "geglu"},
    "llama": {"norms": "pre"},
    "llama, 24 layers, tied": {"norms": "pre", "tied": True, "layers": 24},
    "llama, grouped": {"norms": "pre", "head_dim": 8, "kv_heads": 1},
    "qwen3": {"norms": "pre", "qk_norm": True, "head_dim": 8, "kv_heads": 2},
}
OF_LLAMA_CPP = ("bitnet, tied, grouped", "llama", "llama, 24 layers, tied", "llama, grouped", "qwen3")


def uneven(vocab_size: int = 256, size: float = 1.0, **options) -> LanguageModel:
    """A model from random weights whose rows have unequal sizes, as training leaves them."""
    shape = {"width": 32, "hidden": 64, "head_dim": 16, "layers": 2, "context": 32, "vocab_size": vocab_size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LanguageModel(model_config(**{**shape, **options})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size * torch.randn(parameter.shape[0], 1).mul(0.3).exp())
    return model


def in_float64(model: LanguageModel, tokens: Tensor) -> Tensor:
    """The logits of our own model, all in float64."""
    wide = build(model.config, 0).double()
    wide.load_state_dict(model.state_dict())
    wide.compute = torch.float64
    with torch.no_grad():
        return super(LanguageModel, wide).forward(tokens)


def error(logits: Tensor, truth: Tensor) -> float:
    return ((logits.double() - truth).norm() / truth.norm()).item()


def stock_logits(folder: Path, tokens: Tensor) -> Tensor:
    """The logits of the model in an exported folder, by its config and weights alone."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}
    eps, size = config["rms_norm_eps"], config["head_dim"]
    act = {"silu": F.silu, "gelu": F.gelu}[config["hidden_act"]]

    def norm(x: Tensor, name: str) -> Tensor:
        return weights[name] * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, at + "input_layernorm.weight")
        q, k, v = (h @ weights[f"{at}self_attn.{part}_proj.weight"].T for part in "qkv")
        q, k, v = (y.view(*y.shape[:2], -1, size).transpose(1, 2) for y in (q, k, v))
        if config["model_type"] == "qwen3":
            q, k = (norm(y, f"{at}self_attn.{part}_norm.weight") for y, part in ((q, "q"), (k, "k")))
        y = _attention(_rotated(q, config), _rotated(k, config), v)
        y = y.transpose(1, 2).flatten(2)
        if config["model_type"] == "bitnet":
            y = norm(y, at + "self_attn.attn_sub_norm.weight")
        x = x + y @ weights[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm.weight")
        y = act(h @ weights[at + "mlp.gate_proj.weight"].T) * (h @ weights[at + "mlp.up_proj.weight"].T)
        if config["model_type"] == "bitnet":
            y = norm(y, at + "mlp.ffn_sub_norm.weight")
        x = x + y @ weights[at + "mlp.down_proj.weight"].T
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return norm(x, "model.norm.weight") @ weights[head].T


def _rotated(x: Tensor, config: dict) -> Tensor:
    half = x.shape[-1] // 2
    frequency = config["rope_parameters"]["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.outer(torch.arange(x.shape[2]).double(), frequency))
    turned = torch.complex(x[..., :half], x[..., half:]) * turn
    return torch.cat((turned.real, turned.imag), -1)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], 1) for y in (k, v))
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return torch.softmax(logits.masked_fill(later, -math.inf), -1) @ v

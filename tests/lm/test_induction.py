"""The wiring of a fresh decoder: which head looks where, and what it leaves alone."""

import pytest
import torch

from allometry import nn
from allometry.config.model import DecoderConfig
from allometry.lm.decoder import LanguageModel, build
from allometry.lm.induction import wire_induction

SHAPES = (
    {"width": 16},
    {"width": 32},
    {"width": 96, "layers": 3},
    {"width": 64, "head_dim": 32, "kv_heads": 1},
    {"width": 64, "tied": True, "norms": "pre"},
)


def config(**fields) -> DecoderConfig:
    given = {"layers": 2, "context": 64, "vocab_size": 256} | fields
    return DecoderConfig(hidden=3 * given["width"], **given)


def attention_of_first_heads(model, tokens) -> list[torch.Tensor]:
    """Softmax of the first head's logits in the first two layers, (batch, query, key)."""
    heads, found = [layer.attention for layer in model.stack.layers[:2]], []

    def look(attention, inputs, _):
        (x,) = inputs[:1]
        size = attention.head_dim
        rows = attention.qkv(x).view(*x.shape[:2], -1, size).transpose(1, 2)
        rotated = nn.functional.rope(rows, *attention.rotation(x.shape[1], rows))
        q, k = rotated[:, 0], rotated[:, attention.heads]
        logits = attention.multiplier()[0] * q @ k.transpose(1, 2) / size**0.5
        later = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
        found.append(logits.masked_fill(later, -torch.inf).softmax(-1))

    handles = [head.register_forward_hook(look) for head in heads]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return found


def twice(length: int, seed: int = 0) -> torch.Tensor:
    """Random tokens that occur twice: (4, 2 × length)."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.stack([torch.randperm(256, generator=generator)[:length] for _ in range(4)])
    return torch.cat([half, half], 1)


@pytest.mark.parametrize("fields", SHAPES)
def test_the_first_head_looks_at_the_position_before(fields):
    for seed in range(3):
        weights, _ = attention_of_first_heads(build(config(**fields), seed), twice(16))
        assert weights.diagonal(-1, 1, 2).mean() > 0.6
        before = torch.arange(weights.shape[1] - 1)
        assert (weights[:, 1:].argmax(-1) == before).float().mean() > (0.9 if fields["width"] > 16 else 0.8)


@pytest.mark.parametrize("fields", SHAPES[1:])  # of width 16 the residual stream holds too little beside the rest
def test_the_second_head_looks_behind_the_earlier_occurrence_of_its_token(fields):
    """On average over seeds: far above chance, and above the occurrence itself and what follows later."""
    length, offsets = 16, (0, 1, 2, 3, 5)
    at, seen = torch.arange(length, 2 * length - 5), dict.fromkeys(offsets, 0.0)
    for seed in range(8):
        _, weights = attention_of_first_heads(build(config(**fields), seed), twice(length, seed))
        for offset in offsets:
            seen[offset] += weights[:, at, at - length + offset].mean().item() / 8
    assert seen[1] > 1.4 * max(value for offset, value in seen.items() if offset != 1), seen
    assert seen[1] > 1.8 / (1.5 * length), seen


def test_without_the_wiring_neither_looks_there():
    torch.manual_seed(0)
    first, second = attention_of_first_heads(LanguageModel(config(width=32)), twice(16))
    at = torch.arange(16, 31)
    assert first.diagonal(-1, 1, 2).mean() < 0.3
    assert second[:, at, at - 15].mean() < 0.07


def test_only_these_rows_and_the_embeddings_change():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = LanguageModel(config(width=32, layers=4))
    wired = build(config(width=32, layers=4), 3)
    changed = {
        name: (a != b).any(1).nonzero().flatten().tolist()
        for (name, a), b in zip(plain.named_parameters(), wired.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    rows = [*range(16), *range(32, 48)]  # queries and keys of the first of two heads
    assert changed == {
        "embedding.weight": list(range(256)),
        "stack.blocks.0.attention.qkv.weight": rows,
        "stack.blocks.1.attention.qkv.weight": rows,
    }
    assert wired.embedding.weight.square().mean().sqrt().item() == pytest.approx(1, abs=0.05)


def test_shapes_too_small_for_a_circuit_get_what_fits():
    one = build(config(width=16, layers=1), 0)
    assert one(twice(8)).isfinite().all()
    two = LanguageModel(config(width=8, head_dim=2))  # one pair, which turns fast: nothing compares tokens
    before = two.stack.layers[1].attention.qkv.weight.clone()
    wire_induction(two)
    assert torch.equal(two.stack.layers[1].attention.qkv.weight, before)

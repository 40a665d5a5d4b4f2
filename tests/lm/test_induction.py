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


def plain(config: DecoderConfig, seed: int) -> LanguageModel:
    """The same decoder, not wired."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LanguageModel(config)


def attention_of_first_heads(model, tokens, layers=2) -> list[torch.Tensor]:
    """Softmax of the first head's logits in the first layers, (batch, query, key)."""
    heads, found = [layer.attention for layer in model.stack.layers[:layers]], []

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
    found = []
    for seed in range(3):
        weights, _ = attention_of_first_heads(build(config(**fields), seed), twice(16))
        assert weights.diagonal(-1, 1, 2).mean() > 0.6
        before = torch.arange(weights.shape[1] - 1)
        found.append((weights[:, 1:].argmax(-1) == before).float().mean())
    assert sum(found) / 3 > (0.9 if fields["width"] > 16 else 0.8)


@pytest.mark.parametrize("fields", [{**fields, "layers": 4} for fields in SHAPES])
def test_heads_of_the_next_two_layers_look_behind_the_earlier_occurrence_of_their_token(fields):
    """On average over seeds: far above chance, and above the occurrence itself and what follows later."""
    length, offsets, seeds = 16, (0, 1, 2, 3, 5), 8
    at = torch.arange(length, 2 * length - 5)
    for layer in (1, 2):
        seen = dict.fromkeys(offsets, 0.0)
        for seed in range(seeds):
            weights = attention_of_first_heads(build(config(**fields), seed), twice(length, seed), layer + 1)[layer]
            for offset in offsets:
                seen[offset] += weights[:, at, at - length + offset].mean().item() / seeds
        assert seen[1] > 3 * max(value for offset, value in seen.items() if offset != 1), (layer, seen)
        assert seen[1] > 4 / (1.5 * length), (layer, seen)


def test_a_fresh_decoder_copies():
    """Of random tokens that occur twice it foretells the second half better than the first, whatever the seed."""
    gains = {build: [], plain: []}
    for seed in range(8):
        tokens = twice(16, seed)
        for start, found in gains.items():
            losses = start(config(width=64), seed).token_losses(tokens[:, :-1], tokens[:, 1:])
            found.append((losses[:, :15].mean() - losses[:, 16:].mean()).item())
    assert min(gains[build]) > 0
    assert sum(gains[build]) > 5 * abs(sum(gains[plain]))


def test_without_the_wiring_neither_looks_there():
    first, second = attention_of_first_heads(plain(config(width=32), 0), twice(16))
    at = torch.arange(16, 31)
    assert first.diagonal(-1, 1, 2).mean() < 0.3
    assert second[:, at, at - 15].mean() < 0.07


def test_only_what_the_circuit_uses_changes_and_keeps_its_scale():
    untouched, wired = plain(config(width=64, layers=5), 3), build(config(width=64, layers=5), 3)
    changed = {
        name: (a != b).any(1).nonzero().flatten().tolist()
        for (name, a), b in zip(untouched.named_parameters(), wired.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    everything, queries_and_keys, values = [*range(64)], [*range(16), *range(64, 80)], [*range(128, 192)]
    assert changed == {
        "embedding.weight": [*range(256)],
        "readout.weight": [*range(256)],
        "stack.blocks.0.attention.qkv.weight": queries_and_keys + values,
        "stack.blocks.0.attention.out.weight": everything,
        "stack.blocks.0.mlp.down.weight": everything,
        "stack.blocks.1.attention.qkv.weight": queries_and_keys,
        "stack.blocks.2.attention.qkv.weight": queries_and_keys,
    }
    for name in changed:
        if "qkv" not in name:
            assert wired.get_parameter(name).square().mean().sqrt().item() == pytest.approx(1, abs=0.1), name
    of_values = wired.stack.layers[0].attention.qkv.weight[values]
    assert of_values.square().mean().sqrt().item() == pytest.approx(1, abs=0.05)


def test_shapes_too_small_for_a_circuit_get_what_fits():
    one = build(config(width=16, layers=1), 0)
    assert one(twice(8)).isfinite().all()
    two = LanguageModel(config(width=8, head_dim=2))  # one pair, which turns fast: nothing compares tokens
    before = two.stack.layers[1].attention.qkv.weight.clone()
    wire_induction(two)
    assert torch.equal(two.stack.layers[1].attention.qkv.weight, before)


def test_threads_change_no_bit_of_a_start():
    starts = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            starts.append(build(config(width=192, vocab_size=2048), 0).state_dict())
        finally:
            torch.set_num_threads(1)
    for other in starts[1:]:
        assert all(torch.equal(weight, other[name]) for name, weight in starts[0].items())

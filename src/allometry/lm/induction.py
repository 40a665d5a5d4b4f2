"""A start at which a decoder can copy: two attention heads that are wired as an induction circuit.

To continue "… ab … a" with b, a head of one layer tells every position which token stands before it, and a head of a
later layer looks for the position whose previous token is the present one (Olsson et al. 2022, arXiv 2209.11895). From
random weights small models find this circuit late, each seed at another time, if at all: two seeds of one model of
270 k parameters ended 4.5 % apart, most of it on text that had occurred before in the window. Averaging does not help
there: a run got so far or it did not, and a ladder cannot see which its target will do. Wired from the start, five of
six seeds used the circuit after 4 M tokens, and none of six others (``benchmarks/induction.py``). Training may change
it, as all weights. A start of attention that resembles what training ends at is due to Trockman & Kolter 2023 (arXiv
2305.09828).

The heads use the rotary position embedding: pairs of features that turn fast tell the distance of one position, slow
ones hardly turn within a context and compare tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import nn

PREVIOUS = 12.0  # the logit of the position before, from the common part of all embeddings alone
MATCH = 6.0  # the strength of the comparison: rms of the weights of query and key, multiplied
FAST = 0.1  # radians a position: pairs that turn at least so fast tell distances


@torch.no_grad()
def wire_induction(model: nn.Decoder) -> None:
    """Wire the first heads of the first two layers of a fresh decoder; one of a single layer gets the first head.

    A direction common to all embeddings is drawn from PyTorch's generator; the embeddings keep their scale.
    """
    if model.embedding.weight.is_meta:
        return  # there are shapes only
    layers = [layer.attention for layer in model.stack.layers]
    common = torch.randn(model.embedding.weight.shape[1])
    common /= common.square().mean().sqrt()  # as long as √width
    table = model.embedding.weight
    table.sub_(torch.outer(table @ common, common) / len(common))  # alike in all tokens: nothing of its own along it
    table.add_(common).mul_(math.sqrt(0.5))
    fast = _turns_fast(layers[0])
    _look_back(layers[0], common, fast)
    if len(layers) > 1 and not fast.all():
        _look_for_match(layers[0], layers[1], ~fast)


def _look_back(attention: nn.Attention, common: Tensor, fast: Tensor) -> None:
    """Let the first head attend to the position before, whatever the tokens: it reads the common direction only."""
    query = torch.cat((fast, torch.zeros_like(fast))).float()
    cos, sin = attention.rotation(2, query)
    key = nn.functional.rope(query.expand(2, -1), cos, sin)[1]  # turned on by one position: aligned with the next query
    # The normed embedding has the common direction at √½ of its scale, and a linear map divides by √width.
    width, size = len(common), attention.head_dim
    strength = math.sqrt(PREVIOUS * math.sqrt(size) / float(query @ query) * 2 / width)
    queries, keys, _ = _rows(attention)
    queries.copy_(strength * torch.outer(query, common))
    keys.copy_(strength * torch.outer(key, common))


def _look_for_match(previous: nn.Attention, attention: nn.Attention, slow: Tensor) -> None:
    """Let the first head attend to positions whose previous token, as ``previous`` wrote it there, is its own token.

    The query maps a token as the values of that head do; the key undoes its output projection.
    """
    _, _, values = _rows(previous)
    written = previous.out.weight[:, : previous.head_dim]
    compared = torch.cat((slow, slow)).float()[:, None]
    queries, keys, _ = _rows(attention)
    for rows, wanted in ((queries, values), (keys, torch.linalg.pinv(written))):
        wanted = compared * wanted
        rms = (wanted.square().sum() / (compared.sum() * wanted.shape[1])).sqrt()
        rows.copy_(math.sqrt(MATCH) * wanted / rms)


def _rows(attention: nn.Attention) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of the first head's queries, keys and values, each (head_dim, width)."""
    size, weight = attention.head_dim, attention.qkv.weight
    starts = (0, attention.heads * size, (attention.heads + attention.kv_heads) * size)
    first, second, third = (weight[start : start + size] for start in starts)
    return first, second, third


def _turns_fast(attention: nn.Attention) -> Tensor:
    """Of each pair of features that turns together: whether it turns by ``FAST`` radians a position."""
    cosines, _ = attention.rotation(2, torch.empty(0))
    return cosines[1, : attention.head_dim // 2] <= math.cos(FAST)

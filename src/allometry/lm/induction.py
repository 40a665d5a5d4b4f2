"""A start at which a decoder can copy: attention heads that are wired as an induction circuit.

To continue "… ab … a" with b, a head of one layer tells every position which token stands before it, and a head of a
later layer looks for the position whose previous token is the present one (Olsson et al. 2022, arXiv 2209.11895). From
random weights small models find this circuit late, each seed at another time, if at all: two seeds of one model of
270 k parameters ended 4.5 % apart, most of it on text that had occurred before in the window. Averaging does not help
there: a run got so far or it did not, and a ladder cannot see which its target will do. Wired from the start, all seeds
use the circuit early (``benchmarks/induction.py``). Training may change it, as all weights. A start of attention that
resembles what training ends at is due to Trockman & Kolter 2023 (arXiv 2305.09828).

The heads use the rotary position embedding: pairs of features that turn fast tell the distance of one position, slow
ones hardly turn within a context and compare tokens. The stream is divided so that nothing else disturbs the
comparison: one direction is common to all tokens, a few hold the previous token, the rest the token itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import nn

PREVIOUS = 12.0  # the logit of the position before, from the common part of all embeddings alone
MATCH = 6.0  # the mean logit of a match; sharper heads learn worse (docs/log.md)
MATCHING = 2  # layers after the first that have a head which looks for matches; two differ less between seeds than one
COPY = 0.45  # of a token's scale in the readout: what the first such head writes when it looks at the token
FAST = 0.1  # radians a position: pairs that turn at least so fast tell distances
GRID = 2.0**-16  # of the weights that are computed, so that a start is the same for any order of additions


@dataclass(frozen=True)
class _Stream:
    """Orthogonal directions of the residual stream, as rows of length 1, in float64 (see :func:`_set`).

    What is orthogonal to ``common`` and ``previous`` holds the token itself; ``read`` is the part that is compared.
    """

    common: Tensor  # (1, width)
    previous: Tensor  # (compared, width)
    read: Tensor  # (compared, width)
    slow: Tensor  # (compared,), the features of a head that compare tokens

    @classmethod
    def divide(cls, attention: nn.Attention) -> _Stream:
        """By a random rotation; the previous token gets less than half of the stream, however narrow that is."""
        width, slow = attention.width, ~_turns_fast(attention)
        features = torch.cat((slow, slow)).nonzero().flatten()[: (width - 1) // 2]
        parts = (1, len(features), len(features))
        columns, _ = torch.linalg.qr(torch.randn(width, width)[:, : sum(parts)].double())
        common, previous, read = columns.T.split(parts)
        return cls(common, previous, read, features)

    @property
    def kept(self) -> int:
        """The number of directions that hold the token itself."""
        return self.common.shape[1] - 1 - len(self.slow)


@torch.no_grad()
def wire_induction(model: nn.Decoder) -> None:
    """Wire the first heads of the first layers of a fresh decoder; one of a single layer gets the first head only.

    The directions are drawn from PyTorch's generator; embeddings and readout keep their scale.
    """
    table = model.embedding.weight
    if table.is_meta:
        return  # there are shapes only
    first, *others = model.stack.layers
    stream = _Stream.divide(first.attention)
    width, taken = table.shape[1], torch.cat((stream.common, stream.previous))
    own = _without(table.double(), taken) * math.sqrt(width / stream.kept)
    _set(table, (own + math.sqrt(width) * stream.common) * math.sqrt(0.5))
    _look_back(first.attention, stream)
    if not others or not len(stream.slow):
        return
    _tell_previous(first, stream)
    for layer in others[:MATCHING]:
        _look_for_match(layer.attention, stream, _scale_of_match(first, stream))
    if not model.tied:
        _read_copies(model, others[0].attention, own)


def _set(weight: Tensor, values: Tensor) -> None:
    """Set a weight to values in float64, rounded: the order in which threads add up then changes no bit."""
    weight.copy_((values / GRID).round() * GRID)


def _look_back(attention: nn.Attention, stream: _Stream) -> None:
    """Let the first head attend to the position before, whatever the tokens: it reads the common direction only."""
    fast = _turns_fast(attention)
    query = torch.cat((fast, torch.zeros_like(fast))).float()
    cos, sin = attention.rotation(2, query)
    key = nn.functional.rope(query.expand(2, -1), cos, sin)[1]  # turned on by one position: aligned with the next query
    # The normed embedding has the common direction at √½ of its scale.
    strength = math.sqrt(PREVIOUS * math.sqrt(attention.head_dim) / float(query @ query) * 2)
    queries, keys, _ = _rows(attention)
    _set(queries, strength * query[:, None] * stream.common)
    _set(keys, strength * key[:, None] * stream.common)


def _tell_previous(layer: nn.TransformerBlock, stream: _Stream) -> None:
    """Let what the first head reads of a token go to the directions of the previous one, and nothing else of the layer.

    No head passes on the common direction, which averages over many positions would keep where all else cancels.
    """
    attention = layer.attention
    unit = math.sqrt(attention.width)
    values = attention.qkv.weight[-attention.kv_heads * attention.head_dim :]
    read = _without(values.double(), stream.common)
    read[stream.slow] = unit * stream.read
    _set(values, read)
    _set(layer.mlp.down.weight, _without(layer.mlp.down.weight.T.double(), stream.previous).T)
    out = _without(attention.out.weight.T.double(), stream.previous).T
    out[:, stream.slow] = unit * stream.previous.T
    _set(attention.out.weight, out)


def _without(values: Tensor, directions: Tensor) -> Tensor:
    """The rows of ``values`` without their parts along ``directions``."""
    return values - values @ directions.T @ directions


def _look_for_match(attention: nn.Attention, stream: _Stream, scale: float) -> None:
    """Let the first head attend to positions whose previous token is its own token.

    ``scale`` is the mean square of what is compared, before it is strengthened: token by token as it was written.
    """
    strength = math.sqrt(MATCH * math.sqrt(attention.head_dim) / (len(stream.slow) * scale))
    queries, keys, _ = _rows(attention)
    for rows, read in ((queries, stream.read), (keys, stream.previous)):
        looks = torch.zeros(rows.shape, dtype=torch.float64)
        looks[stream.slow] = strength * math.sqrt(attention.width) * read
        _set(rows, looks)


def _scale_of_match(layer: nn.TransformerBlock, stream: _Stream) -> float:
    """The mean product of one compared feature of a token, as it stands in the stream, and as ``layer`` told it on.

    A norm before the output projection strengthens a head that looks at one position where others average over many.
    """
    keep, share = layer.weights[0]()
    attention = layer.attention
    gain = math.sqrt(attention.heads) if attention.norm is not None else 1.0
    return 0.5 * attention.width / stream.kept * keep * share * gain


def _read_copies(model: nn.Decoder, attention: nn.Attention, own: Tensor) -> None:
    """Let the readout of each token read what the first head of ``attention`` writes when it looks at that token."""
    _, _, values = _rows(attention)
    written = own @ values.T.double() @ attention.out.weight[:, : attention.head_dim].T.double()
    written *= COPY / written.square().mean().sqrt()
    _set(model.readout.weight, math.sqrt(1 - COPY**2) * model.readout.weight + written)


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

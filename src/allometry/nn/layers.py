"""Unit-scaled layers. Weights start as unit normals; every layer maps unit scale to unit scale.

Each layer that owns parameters names their **role** (input, hidden, output) in ``roles``; a
:class:`ResidualStack` says how many branches its parameters share. :mod:`allometry.nn.parametrization` turns that
into learning rates. Roles belong to names in the module tree and never to tensors, so that they outlive whatever
replaces the tensors (sharding, loading, copying).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import functional as F
from .scale import residual_taus


class Linear(nn.Module):
    """``x @ weight.T`` at unit scale: (…, in_features) → (…, out_features).

    ``gain`` multiplies the output: the folded factor of the operation before.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "hidden"}

    def __init__(self, in_features: int, out_features: int, *, gain: float = 1.0):
        super().__init__()
        self.in_features, self.out_features, self.gain = in_features, out_features, gain
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit-normal weights, from torch's global generator."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, gain=self.gain)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, gain={self.gain:g}"


class Readout(Linear):
    """The last map, to logits: fan_in^-1 forward, so that logits start small at any width, fan_in^-½ backward.

    The two differ on a cut edge: everything below sees its gradient times √fan_in, which Adam does not notice.
    Source: u-μP (arXiv 2407.17465), table 2; of the backward factors that are in use we take 1/√fan_in.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "output"}

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain / math.sqrt(self.in_features)
        return F.linear(x, self.weight, gain=gain, backward_gain=self.gain)


class Embedding(nn.Module):
    """A table of unit-normal rows: (…) integer tokens → (…, embedding_dim)."""

    roles: ClassVar[dict[str, str]] = {"weight": "input"}

    def __init__(self, num_embeddings: int, embedding_dim: int):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit-normal rows, from torch's global generator."""
        nn.init.normal_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class RMSNorm(nn.Module):
    """Each row over its root mean square; no trained gain, as in u-μP."""

    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.eps)


class Attention(nn.Module):
    """Causal self-attention with rotary positions: (batch, length, width) → (batch, length, width).

    A norm stands before the output projection: averages of values shrink, and by how much depends on the text, the
    position and the depth. After the norm the projection reads unit scale at all of them.

    Raises:
        ValueError: ``heads`` does not divide ``width``, or a head has an odd number of dimensions.
    """

    def __init__(self, width: int, heads: int, *, multiplier: float = 1.0):
        super().__init__()
        if heads < 1 or width % (2 * heads):
            raise ValueError(f"heads: {heads} heads do not split width {width} into parts of an even size")
        self.heads, self.multiplier = heads, multiplier
        self.qkv = Linear(width, 3 * width)
        self.norm = RMSNorm()
        self.out = Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = F.rope(qkv[:2], cos, sin).unbind(0)
        y = F.causal_attention(q, k, qkv[2], multiplier=self.multiplier)
        return self.out(self.norm(y.transpose(1, 2).reshape(batch, length, width)))


class MLP(nn.Module):
    """The gated MLP ``down(silu(gate) · up)``: (…, width) → (…, width).

    The factor of the gate is folded into the last GEMM.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden)
        self.down = Linear(hidden, width, gain=F.SWIGLU_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.swiglu(*self.gate_up(x).chunk(2, -1)))


class TransformerBlock(nn.Module):
    """One attention branch and one MLP branch on the residual stream, each after a norm, each with its τ."""

    def __init__(self, width: int, heads: int, hidden: int, taus: tuple[float, float], *, multiplier: float = 1.0):
        super().__init__()
        self.taus = taus
        self.norm = RMSNorm()
        self.attention = Attention(width, heads, multiplier=multiplier)
        self.mlp = MLP(width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = F.residual_add(x, self.attention(self.norm(x), cos, sin), self.taus[0])
        return F.residual_add(x, self.mlp(self.norm(x)), self.taus[1])


class ResidualStack(nn.Module):
    """``layers`` transformer blocks over one residual stream of unit scale from end to end.

    ``alpha_res`` and ``alpha_ratio`` are u-μP's weights of the branches (see :func:`residual_taus`). The rotary
    tables reach to ``context`` positions; a shorter sequence uses their beginning.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        context: int,
        *,
        alpha_res: float = 1.0,
        alpha_ratio: float = 1.0,
        alpha_attention: float = 1.0,
    ):
        super().__init__()
        self.branches = 2 * layers
        taus = residual_taus(self.branches, alpha_res, alpha_ratio)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, hidden, (taus[2 * i], taus[2 * i + 1]), multiplier=alpha_attention)
            for i in range(layers)
        )
        self.register_buffer("cos", torch.empty(context, width // heads), persistent=False)
        self.register_buffer("sin", torch.empty(context, width // heads), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the rotary tables, which no checkpoint holds: after ``to_empty`` they would stay empty otherwise."""
        for table, values in zip((self.cos, self.sin), F.rope_tables(*self.cos.shape), strict=True):
            table.copy_(values)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if length > self.cos.shape[0]:
            raise ValueError(f"x: {length} positions, but the stack was built for a context of {self.cos.shape[0]}")
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return x

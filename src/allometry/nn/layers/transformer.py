"""The transformer at unit scale: attention, MLP, the residual stack and a decoder.

Two things keep every tensor near unit scale at any depth and length. One is a norm before the output projection of
attention: averages of values shrink by an amount that depends on the text, the position and the depth, which no factor
can know. The other is a residual stream whose two sides add up to variance 1. In the backward pass each branch works at
unit scale, and its weight is applied where it left the stream, so the gradient of the stream is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional as F
from ..ops.activations import ACTIVATIONS, GATES, activation_scale, gated_halves
from ..ops.autograd import Constants
from ..schemes import Base, scheme
from .kv_cache import KVCache, Rotation
from .with_parameters import UNIT, Embedding, Linear, Parametrized, Readout, RMSNorm

NORMS = ("pre", "post")


class Attention(nn.Module):
    """Self-attention: (batch, length, width) → (batch, length, width).

    ``kv_heads`` fewer than ``heads`` share keys and values (grouped queries); ``window`` is the number of positions
    that a query sees, itself included; ``qk_norm`` divides each query and key by its root mean square; logits are
    ``multiplier · q·k/√head_dim``. A norm stands before the output projection, which therefore reads unit scale for any
    values; without it (``out_norm=False``, as in Llama) that projection reads averages of values, which are smaller.

    Raises:
        ValueError: ``heads`` does not divide ``width``, ``kv_heads`` does not divide ``heads``, an odd head under rope.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        causal: bool = True,
        rope: bool = True,
        qk_norm: bool = False,
        window: int | None = None,
        *,
        multiplier: float = 1.0,
        out_norm: bool = True,
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or width % heads:
            raise ValueError(f"heads: {heads} heads do not divide width {width}")
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"kv_heads: {kv_heads} does not divide {heads} heads")
        if rope and width // heads % 2:
            raise ValueError(f"heads: {width // heads} dimensions a head; rope needs an even number")
        if window is not None and window < 1:
            raise ValueError(f"window: {window} positions; a query sees at least itself")
        if window is not None and not causal:
            raise ValueError(f"window: {window} with causal=False; a window looks back, so leave one of the two")
        self.width, self.heads, self.kv_heads, self.head_dim = width, heads, kv_heads, width // heads
        self.causal, self.rope, self.qk_norm, self.window = causal, rope, qk_norm, window
        self.multiplier = Constants(multiplier)
        self.qkv = Linear(width, (heads + 2 * kv_heads) * self.head_dim)
        self.norm = RMSNorm(width) if out_norm else None
        self.out = Linear(width, width)

    @property
    def backward_ratio(self) -> float:
        """The gradient that this module passes on, over the true one."""
        return self.qkv.backward_ratio * self.out.backward_ratio

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        onto: Tensor | None = None,
        keep: float = 1.0,
        share: float = 1.0,
        cache: tuple[KVCache, int] | None = None,
    ) -> Tensor:
        """``rotation`` are tables of :func:`~allometry.nn.functional.rope_tables`, made here if not given.

        ``cache`` is a cache and the layer of it that is this attention's.
        """
        if x.dim() != 3:
            raise ValueError(f"x: shape {tuple(x.shape)}; attention reads (batch, length, width)")
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
        if self.qk_norm or self.rope:
            qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), 1)
            if self.qk_norm:
                qk = F.rms_norm(qk, qk.shape[-1:])
            if self.rope:
                qk = F.rope(qk, *(rotation or self.rotation(length, qk)))
            if torch.compiler.is_compiling():  # which keeps the strides of the first length (PyTorch 2.13)
                qk = qk.contiguous()
            q, k = qk.split((self.heads, self.kv_heads), 1)
        else:
            q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), 1)
        (multiplier,) = self.multiplier()
        if cache is not None:
            store, layer = cache
            y = store.attend(layer, q, k, v, self.window, multiplier)
        else:
            # No gain: the norm that follows removes any factor; without it a stock attention must be the same.
            y = F.attention(q, k, v, causal=self.causal, window=self.window, multiplier=multiplier, scaled=False)
        y = y.transpose(1, 2).reshape(batch, length, width)
        return self.out(y if self.norm is None else self.norm(y), onto, keep, share)

    def rotation(self, length: int, like: Tensor) -> Rotation:
        """The rotary tables of ``length`` positions, in the type and place of ``like``."""
        return F.rope_tables(length, self.head_dim, first=0, base=10000.0, device=like.device, dtype=like.dtype)


class MLP(nn.Module):
    """``down(act(up(x)))``, or gated ``down(act(gate(x)) · up(x))``: (…, width) → (…, width).

    ``activation`` is "swiglu", "geglu" (gated), "relu", "relu2", "gelu", "silu", "tanh", "sigmoid" or "softplus". The
    factor of a gate goes into its product, those of the others into the last GEMM.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "swiglu", bias: bool = False):
        super().__init__()
        functions = ACTIVATIONS | GATES
        if activation not in functions:
            raise ValueError(f"activation: {activation!r} is unknown; there are {', '.join(map(repr, functions))}")
        hidden = default_hidden(width, activation) if hidden is None else hidden
        self.activation, self.gated = activation, activation in GATES
        factors = activation_scale(activation)
        self.factor = Constants(factors.forward)
        self.up = Linear(width, hidden * (2 if self.gated else 1), bias)
        self.down = Linear(hidden, width, bias, gain=UNIT if self.gated else factors)

    @property
    def backward_ratio(self) -> float:
        """The gradient that this module passes on, over the true one."""
        return self.up.backward_ratio * self.down.backward_ratio

    def forward(self, x: Tensor, onto: Tensor | None = None, keep: float = 1.0, share: float = 1.0) -> Tensor:
        y = self.up(x)
        if self.gated:
            y = gated_halves(self.activation, y, *self.factor())
        else:
            y = ACTIVATIONS[self.activation](y)
        return self.down(y, onto, keep, share)


def default_hidden(width: int, activation: str = "swiglu") -> int:
    """The usual width of an MLP: 4·width, or 8/3·width for gated ones, up to a multiple of 8."""
    return 8 * math.ceil(width / 3) if activation in GATES else 4 * width


class TransformerBlock(Parametrized):
    """One attention branch and one MLP branch on the residual stream: (batch, length, width) → the same.

    ``norm`` "pre" puts an RMSNorm at the head of each branch; "post" at its end, on what is added. ``options`` go to
    :class:`Attention`. A block alone counts as a stack of one layer; :class:`ResidualStack` sets its position.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        activation: str = "swiglu",
        norm: str = "pre",
        eps: float = 1e-6,
        **options,
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm: {norm!r} is unknown; 'pre' or 'post'")
        self.norm, self.eps = norm, Constants(eps)
        self.attention = Attention(width, heads, **options)
        self.mlp = MLP(width, hidden, activation)
        self.place(0, 2)

    def place(self, first: int, branches: int) -> None:
        """Set the position: branches ``first`` and ``first + 1`` of a stream with ``branches`` of them."""
        self.first, self.branches = first, branches
        self.refactor()

    def refactor(self) -> None:
        residual = scheme(self.scheme).residual
        pairs = (residual(self.first + i, self.branches, self.base) for i in range(2))
        self.weights = tuple(Constants(*pair) for pair in pairs)

    def forward(self, x: Tensor, rotation: Rotation | None = None, cache: tuple[KVCache, int] | None = None) -> Tensor:
        if rotation is None and self.attention.rope:
            rotation = self.attention.rotation(x.shape[1], x)
        x = self._branch(x, 0, self.attention, rotation, **({} if cache is None else {"cache": cache}))
        return self._branch(x, 1, self.mlp)

    def _branch(self, x: Tensor, i: int, branch: Attention | MLP, *arguments: Any, **options: Any) -> Tensor:
        (eps,), (keep, share) = self.eps(), self.weights[i]()
        returned = share / branch.backward_ratio
        if self.norm == "pre":
            y, skip = F.residual_split(x, keep, returned, norm=True, eps=eps)
            return branch(y, *arguments, onto=skip, keep=keep, share=share, **options)
        y, skip = F.residual_split(x, keep, returned)
        y = branch(y, *arguments, **options)
        return F.residual_add(F.rms_norm(y, y.shape[-1:], eps=eps), skip, keep, share)

    def extra_repr(self) -> str:
        return f"norm={self.norm!r}, " + "; ".join("keep={:.3f}, share={:.3f}".format(*w()) for w in self.weights)


class ResidualStack(nn.Module):
    """Transformer blocks over one residual stream of unit scale from end to end: (batch, length, width) → the same.

    Each block gets its position among the branches; its residual weights and its learning rate depend on it.
    """

    def __init__(self, blocks: Iterable[TransformerBlock]):
        super().__init__()
        blocks = list(blocks)
        if not blocks:
            raise ValueError("blocks: none given; a stack needs at least one block")
        self.blocks = nn.ModuleList(blocks)
        for i, block in enumerate(blocks):
            block.place(2 * i, self.branches)

    @property
    def layers(self) -> Sequence[TransformerBlock]:
        """:attr:`blocks`, with the type of its items."""
        return self.blocks  # pyright: ignore[reportReturnType]  # ModuleList does not state the type of its items

    @property
    def branches(self) -> int:
        """The number of residual branches of the stream."""
        return 2 * len(self.blocks)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        if cache is not None:
            rotation = cache.rotation()
            for layer, block in enumerate(self.blocks):
                x = block(x, rotation, (cache, layer))
            return x
        first: Any = self.blocks[0]  # perhaps wrapped, for checkpointing or sharding
        attention = first.attention
        rotation = attention.rotation(x.shape[1], x) if attention.rope else None
        for block in self.blocks:
            x = block(x, rotation)
        return x


def _tie_again(decoder: Decoder, _) -> None:
    """Tie again after a load that assigned tensors. A module-level function, so that a decoder can be pickled."""
    decoder._tie()


class Decoder(nn.Module):
    """A causal language model: (batch, length) integer tokens → (batch, length, vocab_size) logits.

    ``options`` go to :class:`TransformerBlock` and :class:`Attention`. ``tied`` uses one table for embedding and
    readout. ``compute`` is the type of all computation between the two, by default that of the weights.
    """

    def __init__(
        self,
        vocab_size: int,
        layers: int,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        tied: bool = False,
        compute: torch.dtype | None = None,
        **options,
    ):
        super().__init__()
        self.compute = compute
        self.embedding = Embedding(vocab_size, width)
        self.stack = ResidualStack(TransformerBlock(width, heads, hidden, **options) for _ in range(layers))
        self.norm = RMSNorm(width)
        self.readout = Readout(width, vocab_size)
        self.tied = tied
        self._tie()
        self.register_load_state_dict_post_hook(_tie_again)

    def _tie(self) -> None:
        if self.tied:
            self.readout.weight = self.embedding.weight

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)  # to_empty and similar calls create a tensor for each name
        self._tie()
        return self

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """With a ``cache`` (of :meth:`cache`), ``tokens`` follow the texts in it, and are added to them."""
        if tokens.dim() != 2:
            raise ValueError(f"tokens: shape {tuple(tokens.shape)}; a decoder reads (batch, length)")
        x = self.embedding(tokens)
        x = x if self.compute is None else x.to(self.compute)
        if cache is None:
            return self.readout(self.norm(self.stack(x)))
        cache.begin(tokens)
        x = self.stack(x, cache)
        cache.end()
        return self.readout(self.norm(x))

    def cache(self, context: int, rows: int = 1) -> KVCache:
        """An empty cache for ``rows`` texts of at most ``context`` tokens.

        Raises:
            ValueError: attention is not causal, so that what follows would change what was read.
        """
        attention = self.stack.layers[0].attention
        if not attention.causal:
            raise ValueError("causal: False; a position would change with what follows, so nothing can be kept")
        return KVCache(
            rows,
            context,
            layers=len(self.stack.blocks),
            kv_heads=attention.kv_heads,
            head_dim=attention.head_dim,
            rotary=attention.rope,
            device=self.embedding.weight.device,
            dtype=self.compute or self.embedding.weight.dtype,
        )


__all__ = ["MLP", "Attention", "Base", "Decoder", "ResidualStack", "TransformerBlock", "default_hidden"]

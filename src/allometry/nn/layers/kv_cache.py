"""Keys and values of the tokens that a decoder has read, so that each further token costs one position, not all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.attention import attention
from ..ops.rotary import rope_tables

Rotation = tuple[Tensor, Tensor]


class KVCache:
    """The keys and values of ``rows`` texts of at most ``context`` tokens each, layer by layer.

    ``decoder(tokens, cache)`` reads ``tokens`` (rows, n) as what follows the texts in the cache, adds them to it, and
    returns logits of those n positions alone. Rows may have different lengths; :meth:`row` gives one of them. The
    logits are those of the whole text read at once, to rounding. For inference: a gradient does not reach the cache.

    Args:
        layers: keys and values have this many layers,
        kv_heads: this many heads,
        head_dim: of this size. :meth:`Decoder.cache` takes all three from the model.

    Raises:
        ValueError: ``rows`` or ``context`` below 1; and on reading, more tokens than are left of the context.
    """

    def __init__(
        self,
        rows: int,
        context: int,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        rotary: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if rows < 1 or context < 1:
            raise ValueError(f"rows, context: {rows}, {context}; a cache holds at least one position of one text")
        shape = (layers, 2, rows, kv_heads, context, head_dim)
        self._tensors = torch.zeros(shape, device=device, dtype=dtype)
        self._tables = (
            rope_tables(context, head_dim, first=0, base=10000.0, device=device, dtype=dtype) if rotary else None
        )
        self._lengths = [0] * rows
        self._owner: tuple[KVCache, int] | None = None
        self._places = _Places(self._lengths, 0, torch.device(device))

    @property
    def rows(self) -> int:
        return self._tensors.shape[2]

    @property
    def context(self) -> int:
        """The most tokens that a row holds."""
        return self._tensors.shape[4]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The tokens that each row holds."""
        return tuple(self._lengths)

    @property
    def nbytes(self) -> int:
        return self._tensors.numel() * self._tensors.element_size()

    def row(self, index: int) -> KVCache:
        """One row as a cache of its own, on the same memory; what is read into it is in this cache too."""
        part = KVCache.__new__(KVCache)
        part._tensors, part._tables = self._tensors[:, :, index : index + 1], self._tables
        part._lengths, part._owner, part._places = [self._lengths[index]], (self, index), self._places
        return part

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """The keys and the values of a layer, each (rows, kv_heads, context, head_dim); not a copy."""
        keys, values = self._tensors[index]
        return keys, values

    def forget(self) -> None:
        """Empty all rows."""
        self._set_lengths([0] * self.rows)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, in this order."""
        self._tensors = self._tensors[:, :, list(rows)]
        self._lengths = [self._lengths[row] for row in rows]

    def begin(self, tokens: Tensor) -> None:
        """State that ``tokens`` (rows, n) are read next; every layer then adds its part, and :meth:`end` follows."""
        if tokens.shape[0] != self.rows:
            raise ValueError(f"tokens: {tokens.shape[0]} rows, but the cache was made for {self.rows}")
        longest = max(self._lengths)
        if longest + tokens.shape[1] > self.context:
            raise ValueError(
                f"tokens: {tokens.shape[1]} more after {longest}, but the cache holds {self.context} positions"
            )
        self._places = _Places(self._lengths, tokens.shape[1], self._tensors.device)

    def end(self) -> None:
        """State that all layers have added the tokens of :meth:`begin`."""
        self._set_lengths([length + self._places.new for length in self._lengths])

    def advance(self) -> None:
        """State that one token was added to each row by way of :meth:`layer`."""
        self._set_lengths([length + 1 for length in self._lengths])

    def _set_lengths(self, lengths: list[int]) -> None:
        self._lengths = lengths
        if self._owner is not None:
            owner, index = self._owner
            owner._set_lengths([*owner._lengths[:index], *lengths, *owner._lengths[index + 1 :]])

    def rotation(self) -> Rotation | None:
        """The rotary tables of the tokens that are read: (n, head_dim), or (rows, 1, n, head_dim)."""
        if self._tables is None:
            return None
        places = self._places
        if places.uniform:
            last = places.first + places.new
            return self._tables[0][places.first : last], self._tables[1][places.first : last]
        return self._tables[0][places.positions][:, None], self._tables[1][places.positions][:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, multiplier: float) -> Tensor:
        """Attention of the new rows to all that a layer has read; ``k`` and ``v`` are added to it first."""
        places, (keys, values) = self._places, self._tensors[layer]
        last = places.first + places.new
        if places.uniform:
            keys[:, :, places.first : last], values[:, :, places.first : last] = k, v
            keys, values = keys[:, :, :last], values[:, :, :last]
            return attention(q, keys, values, window=window, multiplier=multiplier, scaled=False)
        index = places.rows, slice(None), places.positions
        keys[index], values[index] = k.transpose(1, 2), v.transpose(1, 2)
        keys, values = keys[:, :, :last], values[:, :, :last]
        options: dict[str, Any] = {} if q.shape[1] == k.shape[1] else {"enable_gqa": True}
        factor = multiplier / math.sqrt(q.shape[3])
        mask = places.mask(window)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=factor, **options)


class _Places:
    """Where new tokens go: from ``first`` on in every row, or at positions of each row's own."""

    def __init__(self, lengths: Sequence[int], new: int, device: torch.device):
        self.new, self.first = new, max(lengths)
        self.uniform = min(lengths) == self.first
        if self.uniform:
            return
        starts = torch.tensor(lengths, device=device)
        self.rows = torch.arange(len(lengths), device=device)[:, None]
        self.positions = starts[:, None] + torch.arange(new, device=device)

    def mask(self, window: int | None) -> Tensor:
        """Which keys each new token sees: (rows, 1, new, keys)."""
        keys = torch.arange(self.first + self.new, device=self.positions.device)
        back = self.positions[:, None, :, None] - keys
        return back >= 0 if window is None else (back >= 0) & (back < window)

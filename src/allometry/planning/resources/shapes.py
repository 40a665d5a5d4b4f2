"""Real configurations: from a number of parameters to a transformer whose depth, width and heads train well.

- Width: a multiple of 128 from 2048 on, of 64 from 256 on, of 16 below: what matrix units divide by.
- Depth: 4·(width/128)^0.6 up to width 4096, width/128 above, as in common practice (12 layers at 768, 32 at 4096, 64 at
  8192). Between 0.8 and 1.25 times that, where the loss hardly depends on it (arXiv 2001.08361, section 3.1), the depth
  is free to meet the size.
- Heads of 128 from width 2048 on, of 64 from 256 on; the hidden layer is 8/3 of the width, rounded up.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from ...errors import UserError
from ...quantities import format_count, require_positive

if TYPE_CHECKING:
    from ...config.model import DecoderConfig

_MOST_WIDTH = 65_536
_FREEDOM = (0.8, 1.25)
# Two shapes as near to the size as 1 % are told apart by their depth: one 50 % off weighs as much as 1 % of the size.
_DEPTH_WEIGHT = 0.025


class Shape(Protocol):
    """A model configuration, as far as a plan must know it: its non-embedding count and exact FLOPs a token.

    With the fields of ``allometry.config.model.DecoderConfig`` a plan also knows the other counts and the memory.
    """

    num_params: int
    flops_per_token: float


# The attribute of a configuration that holds each count of parameters.
COUNTS = {
    "unknown": "num_params",
    "non_embedding": "num_params",
    "matmul": "num_params_matmul",
    "total": "num_params_total",
}


def size_of(model: Shape, count: str) -> float:
    """The parameters of a configuration as a law counts them: "non_embedding", "matmul", "total" or "unknown".

    Raises:
        UserError: the configuration does not say that count.
    """
    name = COUNTS.get(count, "num_params")
    if not hasattr(model, name):
        raise UserError(f"the law counts {count} parameters, and the shape has no {name}")
    return float(getattr(model, name))


@dataclass(frozen=True)
class Shapes:
    """A call gives the configuration nearest to a number of non-embedding parameters.

    The vocabulary counts in FLOPs (the head) and memory, the context in both through attention. The default vocabulary
    is GPT-2's, rounded up to a multiple of 128.
    """

    vocab_size: int = 50_304
    context: int = 2048

    def __post_init__(self) -> None:
        require_positive(vocab_size=self.vocab_size, context=self.context)
        for name in ("vocab_size", "context"):
            value = getattr(self, name)
            if value != int(value) or value < 2:
                raise UserError(f"{name.replace('_', ' ')} must be a whole number from 2 up, not {value:g}")
            object.__setattr__(self, name, int(value))

    def __call__(self, num_params: float) -> DecoderConfig:
        """The nearest configuration.

        Raises:
            UserError: the number is not above zero, or beyond the largest shape (about 2e13).
        """
        require_positive(num_params=num_params)
        table = _table()
        if num_params > 1.5 * table[-1][0]:
            raise UserError(
                f"a model of {num_params:.3g} parameters is beyond the shapes known here ({format_count(table[-1][0])})"
            )
        first = bisect_left(table, (0.97 * num_params,))
        last = bisect_right(table, (1.03 * num_params,))
        near = table[max(first - 1, 0) : last + 1]
        _, width, layers = min(near, key=lambda each: _distance(num_params, *each))
        return self.of(width, layers)

    def of(self, width: int, layers: int) -> DecoderConfig:
        """The configuration of a width and depth."""
        from ...config.model import DecoderConfig

        return DecoderConfig(
            width=width,
            layers=layers,
            head_dim=_head_dim(width),
            hidden=_hidden(width),
            vocab_size=self.vocab_size,
            context=self.context,
        )


def _distance(wanted: float, num_params: int, width: int, layers: int) -> float:
    return abs(math.log(num_params / wanted)) + _DEPTH_WEIGHT * abs(math.log(layers / _usual_layers(width)))


@cache
def _table() -> tuple[tuple[int, int, int], ...]:
    """All shapes as (parameters, width, layers), by size."""
    found = []
    for width in _widths():
        usual = _usual_layers(width)
        per_layer = 4 * width**2 + 3 * width * _hidden(width)
        for layers in range(max(2, math.ceil(_FREEDOM[0] * usual)), math.floor(_FREEDOM[1] * usual) + 1):
            found.append((layers * per_layer, width, layers))
    return tuple(sorted(found))


def _widths() -> list[int]:
    spans = ((16, 256, 16), (256, 2048, 64), (2048, 16_384, 128), (16_384, _MOST_WIDTH + 1, 512))
    return [width for first, last, step in spans for width in range(first, last, step)]


def _usual_layers(width: int) -> float:
    return max(4.0, 4 * (width / 128) ** 0.6) if width < 4096 else width / 128


def _head_dim(width: int) -> int:
    wanted = 128 if width >= 2048 else 64 if width >= 256 else 32 if width >= 128 else 16
    return wanted if width % wanted == 0 else 16


def _hidden(width: int) -> int:
    multiple = 256 if width >= 1024 else 64 if width >= 256 else 16
    return multiple * math.ceil(8 * width / 3 / multiple)

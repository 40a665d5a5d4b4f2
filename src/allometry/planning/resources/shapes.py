"""Real configurations: from a number of parameters to a transformer of usual depth, width and heads.

- Width: from 1024 on a multiple of 512 (of 1024 from 4096 on), so that there are 8, 16, 24 … heads of 64 or 128, which
  tensor parallelism over 2, 4 or 8 devices divides; below, of 64 or 16, so that matrix units are fully used.
- Depth: 4·(width/128)^0.6 up to width 4096, width/128 above, as in common practice (12 layers at 768, 32 at 4096, 64 at
  8192). The depth may be 0.6 to 1.7 times that to meet the size: there the loss hardly depends on it (arXiv
  2001.08361, section 3.1), and the nearest to the usual depth is taken.
- Heads of 128 where 8 divides their number, else of 64; the hidden layer is 8/3 of the width, rounded up.
- From 3B parameters on, 8 heads of keys and values are shared by all heads of queries (arXiv 2305.13245), and the
  hidden layer grows by what that saves.
- The vocabulary is rounded up to a multiple of 128 where it is large, as frameworks pad it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

from ...errors import UserError
from ...quantities import format_count, require_positive

_MOST_WIDTH = 65_536
_FREEDOM = (0.6, 1.7)
# Of shapes within 1 % of the size the depth decides: a depth 50 % off weighs as much as 1 % of the size.
_DEPTH_WEIGHT = 0.025
GROUPED_FROM, KV_HEADS = 3e9, 8
PADDED_FROM, PADDING = 1024, 128


class Shape(Protocol):
    """A model configuration as every plan needs it: its non-embedding parameters and exact FLOPs a token.

    It is a dataclass, or has ``to_dict``. A ``CountedShape`` and a ``DecoderShape`` let a plan say more.
    """

    @property
    def num_params(self) -> int: ...

    @property
    def flops_per_token(self) -> float: ...


@runtime_checkable
class CountedShape(Shape, Protocol):
    """A shape that has every count of its parameters, as all of ``allometry.config.model`` do.

    ``row_tokens`` is the length of one row of a batch.
    """

    @property
    def num_params_matmul(self) -> int: ...

    @property
    def num_params_total(self) -> int: ...

    @property
    def row_tokens(self) -> int: ...


@runtime_checkable
class DecoderShape(CountedShape, Protocol):
    """A decoder, ``allometry.config.model.DecoderConfig``, from whose fields the memory of a training follows."""

    @property
    def layers(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def kv_width(self) -> int: ...

    @property
    def hidden(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context(self) -> int: ...


@runtime_checkable
class _WithDict(Protocol):
    def to_dict(self) -> Mapping[str, Any]: ...


def size_of(model: Shape, counted: str) -> float:
    """The parameters of a configuration as a law counts them: "non_embedding", "matmul", "total" or "unknown".

    Raises:
        UserError: the configuration does not have that count.
    """
    if counted not in ("matmul", "total"):
        return float(model.num_params)
    if not isinstance(model, CountedShape):
        raise UserError(f"the law counts {counted} parameters, and the shape has no num_params_{counted}")
    return float(model.num_params_matmul if counted == "matmul" else model.num_params_total)


def counts_of(model: Shape) -> dict[str, float]:
    """The counts that a shape has, and its FLOPs a token, by name."""
    counts: dict[str, float] = {"num_params": model.num_params}
    if isinstance(model, CountedShape):
        counts |= {"num_params_matmul": model.num_params_matmul, "num_params_total": model.num_params_total}
    return counts | {"flops_per_token": model.flops_per_token}


def mfu_flops_per_token(model: Shape) -> float:
    """FLOPs of a token as a model FLOPs utilisation counts them: 6·N + 12·layers·width·context, attention not halved.

    By arXiv 2204.02311, appendix B; N with the output head, without recomputation. A shape that is no decoder has its
    own FLOPs a token.
    """
    if not isinstance(model, DecoderShape):
        return float(model.flops_per_token)
    return 6.0 * model.num_params_matmul + 12.0 * model.layers * model.width * model.context


def row_tokens_of(model: Shape) -> int:
    """Tokens in one row of a batch; 1 for a shape that does not have it."""
    return model.row_tokens if isinstance(model, CountedShape) else 1


def record_of(model: Shape) -> dict[str, Any]:
    """A configuration as a plain dictionary: by its ``to_dict``, or the fields of the dataclass.

    Raises:
        UserError: it is neither.
    """
    if isinstance(model, _WithDict):
        return dict(model.to_dict())
    if is_dataclass(model) and not isinstance(model, type):
        return asdict(model)
    raise UserError("the shape must return a configuration that is a dataclass, or has to_dict")


@dataclass(frozen=True)
class Shapes:
    """A call gives the configuration nearest to a number of non-embedding parameters.

    The vocabulary adds to FLOPs (through the head) and memory, the context to both through attention. A vocabulary of
    1024 or more is rounded up to a multiple of 128; the default is GPT-2's.
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
        if self.vocab_size >= PADDED_FROM:
            object.__setattr__(self, "vocab_size", PADDING * math.ceil(self.vocab_size / PADDING))

    def __call__(self, num_params: float) -> DecoderShape:
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
        _, width, layers, grouped = min(near, key=lambda each: _distance(num_params, *each[:3]))
        return self.of(width, layers, grouped=grouped)

    def of(self, width: int, layers: int, *, grouped: bool = False) -> DecoderShape:
        """The configuration of a width and depth; ``grouped``: its queries share keys and values."""
        from ...config.model import DecoderConfig

        return DecoderConfig(
            width=width,
            layers=layers,
            head_dim=_head_dim(width),
            kv_heads=KV_HEADS if grouped else None,
            hidden=_hidden(width, grouped),
            vocab_size=self.vocab_size,
            context=self.context,
        )


def _distance(target: float, num_params: int, width: int, layers: int) -> float:
    return abs(math.log(num_params / target)) + _DEPTH_WEIGHT * abs(math.log(layers / _usual_layers(width)))


@cache
def _table() -> tuple[tuple[int, int, int, bool], ...]:
    """All shapes as (parameters, width, layers, whether queries share keys and values), by size."""
    shapes = []
    for width in _widths():
        usual = _usual_layers(width)
        for layers in range(max(2, math.ceil(_FREEDOM[0] * usual)), math.floor(_FREEDOM[1] * usual) + 1):
            for grouped in (False, True) if width >= 2048 else (False,):
                kv_width = KV_HEADS * _head_dim(width) if grouped else width
                per_layer = 2 * width * (width + kv_width) + 3 * width * _hidden(width, grouped)
                if (layers * per_layer >= GROUPED_FROM) == grouped:
                    shapes.append((layers * per_layer, width, layers, grouped))
    return tuple(sorted(shapes))


def _widths() -> list[int]:
    spans = ((16, 256, 16), (256, 512, 64), (512, 1024, 128), (1024, 4096, 512), (4096, _MOST_WIDTH + 1, 1024))
    return [width for first, last, step in spans for width in range(first, last, step)]


def _usual_layers(width: int) -> float:
    return max(4.0, 4 * (width / 128) ** 0.6) if width < 4096 else width / 128


def _head_dim(width: int) -> int:
    if width >= 1024:
        return 128 if width >= 2048 and width % 1024 == 0 else 64
    usual = 64 if width >= 256 else 32 if width >= 128 else 16
    return usual if width % usual == 0 else 16


def _hidden(width: int, grouped: bool = False) -> int:
    """8/3 of the width, or 7/2 where keys and values are shared (Llama 3, Mistral), rounded up."""
    multiple = 256 if width >= 1024 else 64 if width >= 256 else 16
    return multiple * math.ceil(width * (7 / 2 if grouped else 8 / 3) / multiple)

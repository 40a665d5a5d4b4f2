"""The step of one or several decoders as one call of ``cpp/decoder.h``: forward, losses, gradients.

Sequence by sequence, with working memory that is kept from step to step and does not grow with the batch.
"""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ... import nn
from ...nn.ops.products import over_rows
from .build import decoder_functions

_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
PANEL = 64  # tokens; positions are padded up to it
LEFT_OUT = -100  # a target without a loss, as PyTorch has it
GROUPS = 8  # of a model's sequences, at most, as in cpp/decoder.h; each is one thread's

Weighted = nn.Embedding | nn.Linear


class _Linear(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("weight", "paired", "grad")),
        *(("fan_in", _SIZE), ("fan_out", _SIZE)),
        *(("output", _FLOAT), ("grad_input", _FLOAT), ("grad_weight", _FLOAT)),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
        *((name, _FLOAT) for name in ("eps", "mixed_eps", "attention", "gate")),
        *(("keep", 2 * _FLOAT), ("back", 2 * _FLOAT)),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        *(("blocks", ctypes.POINTER(_Block)), ("readout", _Linear)),
        *((name, _POINTER) for name in ("embedding", "cos", "sin", "embedding_grad")),
        *((name, _SIZE) for name in ("layers", "width", "head", "hidden", "classes", "positions")),
        *((name, _FLOAT) for name in ("eps", "loss", "embedding_factor")),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in ("models", "sequences", "length")),
        *((name, _POINTER) for name in ("tokens", "targets", "losses")),
        ("add", _SIZE),
    )


class WholeStep:
    """The step of ``models`` of one shape, each on a batch of its own of ``shape`` (sequences, length).

    No value depends on the number of threads, or on the other models. ``losses`` is of that shape; ``grads`` holds each
    model's gradients, in the order of :func:`weights_in_order`. Without ``training`` there are losses only.
    """

    def __init__(self, models: Sequence[nn.Decoder], shape: tuple[int, int], dtype: torch.dtype, training: bool):
        self.run, memory = decoder_functions()
        self.ways = (dtype == torch.bfloat16, training)
        self.threads, self.parts = torch.get_num_threads(), over_rows(1)
        self.used_threads = min(self.threads, len(models) * min(GROUPS, shape[0]))  # others would find no work
        self.shape = (len(models), *shape)
        self.stamp = 0  # of the step whose values are there
        self.losses = torch.empty(self.shape)
        self.tables = _turned_tables(models[0], shape[1])
        self.grads = [[torch.empty_like(w) for w in weights_in_order(model)] if training else [] for model in models]
        self.places = [_Place(module) for model in models for module in modules_in_order(model)]
        self.owners = [*models]
        self.weights = [place.weight for place in self.places]
        self.flat_grads = [grad for of_model in self.grads for grad in of_model]
        self.paired: list[Tensor] = []  # weights in BF16
        self.blocks = []  # which the decoders point to
        per_row = over_rows(shape[0] * shape[1])
        places = iter([grad.data_ptr() for of_model in self.grads for grad in of_model])
        self.models = (_Decoder * len(models))(*(self._decoder(model, per_row, places) for model in models))
        self.batch = _Batch(*self.shape, 0, 0, self.losses.data_ptr(), 0)
        self.batch_address = ctypes.addressof(self.batch)
        self.memory = torch.empty(memory(self.models, self.batch_address, *self.ways, self.used_threads))

    def fits(self, models: Sequence[nn.Decoder], shape: tuple[int, ...]) -> bool:
        """Whether it serves these models and this shape (models, sequences, length) as they are now."""
        same = len(models) == len(self.owners) and all(map(operator.is_, models, self.owners))
        same = same and shape == self.shape and self.threads == torch.get_num_threads() and self.parts == over_rows(1)
        return same and all(place.holds() for place in self.places)

    def __call__(self, tokens: Tensor, targets: Tensor, add: bool = False) -> None:
        """Leaves losses and gradients of (models, sequences, length), or (sequences, length) of one model.

        With ``add`` the gradients are added to what is there.
        """
        self.stamp += 1
        tokens, targets = tokens.contiguous(), targets.contiguous()
        self.batch.tokens, self.batch.targets, self.batch.add = tokens.data_ptr(), targets.data_ptr(), add
        if self.run(self.models, self.batch_address, *self.ways, self.memory.data_ptr(), self.used_threads):
            refuse(tokens, targets, self.models[0].classes)

    def mean_losses(self) -> list[float]:
        """Of each model's batch; what is left out counts as zero."""
        return self.losses.view(self.shape[0], -1).mean(1, dtype=torch.float64).tolist()

    def _decoder(self, model: nn.Decoder, per_row: float, places: Iterator[int]) -> _Decoder:
        place = lambda: next(places, 0)
        attention, classes = model.stack.layers[0].attention, model.readout.out_features
        embedding_grad = place()
        blocks = (_Block * len(model.stack.blocks))()
        for block, layer in zip(blocks, model.stack.layers, strict=True):
            self._describe(block, layer, per_row, place)
        self.blocks.append(blocks)
        return _Decoder(
            blocks,
            self._linear(model.readout, per_row, place()),
            *(model.embedding.weight.data_ptr(), *(table.data_ptr() for table in self.tables), embedding_grad),
            *(len(blocks), attention.width, attention.head_dim, model.stack.layers[0].mlp.down.in_features, classes),
            *(self.tables[0].shape[1], *model.norm.eps()),
            *(classes / (classes - 1) ** 0.5, classes**0.5 * per_row),
        )

    def _describe(self, block: _Block, layer: nn.TransformerBlock, per_row: float, place: Callable[[], int]) -> None:
        attention, mlp = layer.attention, layer.mlp
        assert attention.norm is not None  # a plain decoder has it
        (attention_keep, attention_share), (mlp_keep, mlp_share) = (weights() for weights in layer.weights)
        block.qkv = self._linear(attention.qkv, per_row, place())
        block.out = self._linear(attention.out, per_row, place(), attention_share)
        block.up = self._linear(mlp.up, per_row, place())
        block.down = self._linear(mlp.down, per_row, place(), mlp_share)
        (block.eps,), (block.mixed_eps,), (block.gate,) = layer.eps(), attention.norm.eps(), mlp.factor()
        block.attention = attention.multiplier()[0] / math.sqrt(attention.head_dim)
        block.keep = attention_keep, mlp_keep
        block.back = attention_share / attention.backward_ratio, mlp_share / mlp.backward_ratio

    def _linear(self, layer: nn.Linear, per_row: float, grad: int, share: float = 1.0) -> _Linear:
        output, grad_input, grad_weight = layer.factors()
        paired = 0
        if self.ways[0]:
            halves = layer.out_features * -(-layer.in_features // 2), -(-layer.out_features // 2) * layer.in_features
            self.paired.append(torch.empty(sum(halves)))
            paired = self.paired[-1].data_ptr()
        sizes = layer.weight.data_ptr(), paired, grad, layer.in_features, layer.out_features
        return _Linear(*sizes, share * output, grad_input, grad_weight * per_row)


class _Place:
    """Where a module holds its weight, so that one put in its place is noticed."""

    def __init__(self, module: Weighted):
        self.parameters, self.weight = module._parameters, module.weight
        self.address = module.weight.data_ptr()

    def holds(self) -> bool:
        weight = self.parameters["weight"]
        return weight is self.weight and self.weight.data_ptr() == self.address


def _turned_tables(model: nn.Decoder, length: int) -> list[Tensor]:
    """Cosine and sine of the rotary positions, (half a head, padded positions)."""
    size = model.stack.layers[0].attention.head_dim
    cos, sin = nn.functional.rope_tables(-(-length // PANEL) * PANEL, size)
    return [table[:, size // 2 :].t().contiguous() for table in (cos, sin)]


def modules_in_order(model: nn.Decoder) -> list[Weighted]:
    """All modules with a weight, in the order in which the forward pass meets them."""
    modules: list[Weighted] = [model.embedding]
    for block in model.stack.layers:
        modules += [block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down]
    return [*modules, model.readout]


def weights_in_order(model: nn.Decoder) -> list[Tensor]:
    """All weights in that order."""
    return [module.weight for module in modules_in_order(model)]


def check(tokens: Tensor, targets: Tensor) -> None:
    """Refuse what would make a kernel read outside its tensors."""
    for name, values in (("tokens", tokens), ("targets", targets)):
        if values.dtype != torch.int64 or values.shape != tokens.shape or values.dim() != 2:
            raise ValueError(f"{name}: {values.dtype} of shape {tuple(values.shape)}; integers of (batch, length)")


def refuse(tokens: Tensor, targets: Tensor, classes: int) -> None:
    """Say which tokens are outside the table, if any are; a target that is left out is none."""
    for name, values in (("tokens", tokens), ("targets", targets[targets != LEFT_OUT])):
        if not len(values):
            continue
        low, high = torch.aminmax(values)
        if low < 0 or high >= classes:
            raise IndexError(f"{name}: from {low.item()} to {high.item()}, but there are {classes} tokens")

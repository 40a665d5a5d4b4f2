"""Which parameters of a model enter a matrix product or a convolution, seen while it computes a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...checks.probe import tensors_in
from .run_batches import Loss, evaluate, undisturbed

# Names of PyTorch's basic operations, without the variant, that multiply tensors by each other along an axis.
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "addr", "linear", "matmul"}
_FRAGMENTS = ("conv", "dot_product", "attention", "lstm", "gru", "rnn", "linear", "embedding_bag")


def in_products(model: nn.Module, batch: Any, loss: Loss | None, parameters: Sequence[Tensor]) -> set[int]:
    """The ids of those ``parameters`` that enter a product while ``model`` computes ``batch``.

    A tensor that is computed from parameters alone (a transposed, normalised or cast weight) counts as they do.
    """
    watch = _Watch(parameters)
    with undisturbed(model), torch.no_grad(), watch:
        evaluate(model, batch, loss)
    return watch.used


class _Watch(TorchDispatchMode):
    def __init__(self, parameters: Iterable[Tensor]):
        super().__init__()
        self.used: set[int] = set()
        # What is computed from which parameters, by storage; the tensors are held, so that no storage is used again.
        self.origins: dict[int, frozenset[int]] = {}
        self.held: list[Tensor] = []
        for parameter in parameters:
            self._mark(parameter, frozenset([id(parameter)]))

    def _mark(self, tensor: Tensor, origin: frozenset[int]) -> None:
        self.origins[tensor.untyped_storage().data_ptr()] = origin
        self.held.append(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        operands = [tensor for _, tensor in tensors_in([args, kwargs or {}], "operand")]
        origins = [self.origins.get(tensor.untyped_storage().data_ptr(), frozenset()) for tensor in operands]
        if any(origins):
            name = func.overloadpacket.__name__.strip("_")
            if name in _PRODUCTS or any(fragment in name for fragment in _FRAGMENTS):
                self.used.update(*origins)
            elif all(origins):
                for _, tensor in tensors_in(result, "result"):
                    self._mark(tensor, frozenset().union(*origins))
        return result

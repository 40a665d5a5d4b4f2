"""What a model counts: parameters by every convention, and FLOPs of its products. PyTorch modules, and Keras models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class ModuleCounts:
    """Parameters of a model; FLOPs forward and backward for one unit of data, None if no example was given.

    ``num_params`` counts as ``counted`` says: without tables that are only looked up and without the head where they
    can be told ("non_embedding"), else all parameters ("total").
    """

    num_params: int
    counted: str
    num_params_total: int
    num_params_matmul: int | None
    flops_per_token: float | None
    notes: tuple[str, ...] = ()


def count_module(model: Any, run_example: Callable[[], Any] | None = None, units: int | None = None) -> ModuleCounts:
    """Count a model.

    Args:
        model: a ``torch.nn.Module``, or anything with ``count_params()``, as Keras models have.
        run_example: a function without arguments that runs the model forward on an example, for the FLOPs.
        units: of data in the example (tokens, images).

    Raises:
        UserError: it is no model, or has no parameters.
    """
    if callable(getattr(model, "count_params", None)):  # Keras, whatever its backend
        total = int(model.count_params())
        return ModuleCounts(
            _some(total), "total", total, None, None, ("num_params: all parameters of the Keras model",)
        )
    if not callable(getattr(model, "named_modules", None)):
        raise UserError(f"model: a {type(model).__name__} is no model whose parameters can be counted; give num_params")
    return _count_torch(model, run_example, units)


def _count_torch(model: Any, run_example: Callable[[], Any] | None, units: int | None) -> ModuleCounts:
    parameters = {id(p): p for p in model.parameters()}
    total = _some(sum(p.numel() for p in parameters.values()))
    # A table is looked up; the head multiplies by as many rows as a table has entries. A tied head is both.
    tables, heads, tied = {}, {}, {}
    sizes = {module.num_embeddings for module in model.modules() if hasattr(module, "num_embeddings")}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is None or id(weight) not in parameters:
            continue
        if hasattr(module, "num_embeddings"):
            tables[id(weight)] = weight.numel()
        elif getattr(module, "out_features", None) in sizes:
            heads[id(weight)] = weight.numel()
    tied = tables.keys() & heads.keys()
    matmul = total - sum(size for key, size in tables.items() if key not in tied)
    inner = matmul - sum(heads.values())
    notes = [f"{total} parameters in all"]
    if tables:
        notes.append(f"{sum((tables | heads).values())} of them in embeddings and head, which num_params leaves out")
    flops = None
    if run_example is not None:
        flops = _flops(run_example) / (units or 1)
        notes.append("FLOPs: three times those of the forward pass on the example, by PyTorch's counter")
    return ModuleCounts(_some(inner), "non_embedding", total, matmul, flops, tuple(notes))


def _some(count: int) -> int:
    if count < 1:
        raise UserError("the model has no parameters to count; give num_params")
    return count


def _flops(run_example: Callable[[], Any]) -> float:
    """FLOPs of the example forward and backward; the backward pass is two products for each one of the forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run_example()
    return 3.0 * counter.get_total_flops()

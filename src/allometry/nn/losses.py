"""Losses whose value is PyTorch's own and whose gradients are at unit scale."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .gemm import check_float
from .scale import scale

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``F.cross_entropy`` in nats of (rows, classes) logits, each counted row's gradient at unit scale.

    The value carries no factor. At equal logits a row's gradient has root mean square √(V−1)/V; it carries the
    inverse, and the number of counted rows besides where the loss is their mean: rows whose target is
    ``ignore_index`` count neither in the mean nor in the factor. Source: arXiv 2303.11257, table A.2.

    Raises:
        ValueError: an unknown reduction, or fewer than two classes.
    """
    check_float(logits=logits)
    _check_reduction(reduction)
    classes = logits.shape[-1] if logits.dim() <= 2 else logits.shape[1]
    if classes < 2:
        raise ValueError(f"logits: {classes} class leaves nothing to learn; there must be at least 2")
    factor = classes / (classes - 1) ** 0.5
    if reduction == "mean":
        factor = factor * (targets != ignore_index).sum().float().clamp(min=1)
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    return F.cross_entropy(scale(logits, 1.0, factor), targets, **options)


def mse_loss(predictions: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """``F.mse_loss``, the gradient at unit scale for unit-normal predictions and targets.

    The gradient 2(p − t) has root mean square √8; it carries the inverse, times the number of entries for a mean.
    """
    check_float(predictions=predictions, targets=targets)
    _check_reduction(reduction)
    factor = 8**-0.5 * (predictions.numel() if reduction == "mean" else 1)
    return F.mse_loss(scale(predictions, 1.0, factor), scale(targets, 1.0, factor), reduction=reduction)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: {reduction!r} is unknown; there are {', '.join(map(repr, REDUCTIONS))}")

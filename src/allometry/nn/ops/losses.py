"""Losses whose value is PyTorch's own and whose gradients are at unit scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_float, check_shape
from .scale import scale

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``F.cross_entropy`` in nats of (rows, classes) logits, each counted row's gradient at unit scale.

    The value carries no factor. At equal logits a row's gradient has root mean square √(V−1)/V; it carries the
    inverse, and for a mean also the number of counted rows. Rows whose target is ``ignore_index`` count neither in the
    mean nor in the factor. Source: arXiv 2303.11257, table A.2.

    Raises:
        ValueError: an unknown reduction, or fewer than two classes.
    """
    check_float(logits=logits)
    check_loss(reduction, label_smoothing)
    classes = logits.shape[-1] if logits.dim() <= 2 else logits.shape[1]
    if classes < 2:
        raise ValueError(f"logits: {classes} class leaves nothing to learn; there must be at least 2")
    # Smoothing moves the target towards equality, where the gradient is 0.
    factor = classes / (classes - 1) ** 0.5 / (1 - label_smoothing)
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    loss = F.cross_entropy(scale(logits, 1.0, factor), targets, **options)
    if reduction != "mean":
        return loss
    if targets.is_floating_point():  # a distribution for each row
        return scale(loss, 1.0, float(logits.numel() // classes))
    # The factor applies before the mean divides by it, so nothing underflows.
    return scale(loss, 1.0, (targets != ignore_index).sum().to(torch.float64).clamp(min=1))


def mse_loss(predictions: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """``F.mse_loss``, the gradient at unit scale for unit-normal predictions and targets.

    The gradient 2(p − t) has root mean square √8; it carries the inverse, times the number of entries for a mean.
    """
    check_float(predictions=predictions)
    check_shape("targets", targets, predictions.shape, "mse_loss")
    check_loss(reduction)
    factor = 8**-0.5 * (predictions.numel() if reduction == "mean" else 1)
    return F.mse_loss(scale(predictions, 1.0, factor), scale(targets, 1.0, factor), reduction=reduction)


def check_loss(reduction: str, label_smoothing: float = 0.0) -> None:
    """Raise for an unknown reduction, and for a smoothing that leaves no target."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: {label_smoothing} is not a share; give 0 ≤ ε < 1")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: {reduction!r} is unknown; there are {', '.join(map(repr, REDUCTIONS))}")

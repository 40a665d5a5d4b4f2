"""Losses whose value is PyTorch's own and whose gradients are at unit scale."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_float, check_left_out, check_shape
from .scale import scale

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``F.cross_entropy`` in nats of logits (rows, classes), each counted row's gradient at unit scale.

    The value carries no factor. At equal logits a row's gradient has root mean square √(V−1)/V; it carries the
    inverse, and for a mean also the number of counted rows. Rows whose target is ``ignore_index`` count neither in the
    mean nor in the factor. Source: arXiv 2303.11257, table A.2.

    Raises:
        ValueError: an unknown reduction, fewer than two classes, ``weight`` or what PyTorch has given up.
    """
    check_float(input=input)
    check_left_out("cross_entropy", weight=weight, size_average=size_average, reduce=reduce)
    check_loss(reduction, label_smoothing)
    classes = input.shape[-1] if input.dim() <= 2 else input.shape[1]
    if classes < 2:
        raise ValueError(f"input: {classes} class leaves nothing to learn; there must be at least 2")
    # Smoothing moves the target towards equality, where the gradient is 0.
    factor = classes / (classes - 1) ** 0.5 / (1 - label_smoothing)
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    loss = F.cross_entropy(scale(input, 1.0, factor), target, **options)
    if reduction != "mean":
        return loss
    if target.is_floating_point():  # a distribution for each row
        return scale(loss, 1.0, float(input.numel() // classes))
    # The factor applies before the mean divides by it, so nothing underflows.
    return scale(loss, 1.0, (target != ignore_index).sum().to(torch.float64).clamp(min=1))


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: float = 1.0, share: float = 1.0
) -> Tensor:
    """(1 − share)·cross-entropy of the targets + share·τ²·cross-entropy of the teacher's probabilities.

    Shapes: (rows, classes) logits of both, (rows,) targets; the mean over rows, in nats. In the second part both sides
    are softened by the temperature τ; it is τ² times the Kullback–Leibler divergence from the teacher, plus τ² times
    the teacher's entropy. A row's gradient carries the factor of :func:`cross_entropy`: at equal logits its root mean
    square is 1 against a certain teacher, and less against one that spreads its probability. No gradient reaches the
    teacher. Source: arXiv 1503.02531, section 2.

    Raises:
        ValueError: shapes that differ, ``temperature`` not above 0, or ``share`` outside 0 to 1.
    """
    check_shape("teacher_logits", teacher_logits, logits.shape, "distillation_loss")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: {temperature}; give a finite number above 0")
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is not a share of the loss; give 0 ≤ share ≤ 1")
    probabilities = F.softmax(teacher_logits.detach() / temperature, -1)
    taught = share * temperature**2 * cross_entropy(logits / temperature, probabilities)
    # Both parts carry the same constant, so their sum has the true gradient times it.
    return taught if share == 1 else taught + (1 - share) * cross_entropy(logits, targets)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """``F.mse_loss``, the gradient at unit scale for unit-normal predictions (input) and targets.

    The gradient 2(p − t) has root mean square √8; it carries the inverse, times the number of entries for a mean.
    """
    check_float(input=input)
    check_left_out("mse_loss", weight=weight, size_average=size_average, reduce=reduce)
    check_shape("target", target, input.shape, "mse_loss")
    check_loss(reduction)
    factor = 8**-0.5 * (input.numel() if reduction == "mean" else 1)
    return F.mse_loss(scale(input, 1.0, factor), scale(target, 1.0, factor), reduction=reduction)


def check_loss(reduction: str, label_smoothing: float = 0.0) -> None:
    """Raise for an unknown reduction, and for a smoothing that leaves no target."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: {label_smoothing} is not a share; give 0 ≤ ε < 1")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: {reduction!r} is unknown; there are {', '.join(map(repr, REDUCTIONS))}")

"""Rotary position embedding, whose backward pass is the opposite rotation. Source: arXiv 2104.09864."""

from __future__ import annotations

import torch
from torch import Tensor

from .autograd import Function, call


class _Rope(Function):
    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return (grad * cos).addcmul_(grad.roll(grad.shape[-1] // 2, -1), sin, value=-1), None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_):
        cos, sin = ctx.saved_tensors
        return tangent * cos + tangent.roll(tangent.shape[-1] // 2, -1) * sin


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head by its position: (…, positions, head_dim). A rotation keeps the scale."""
    return call(_Rope, x, cos, sin)


def rope_tables(
    positions: int,
    head_dim: int,
    *,
    first: int = 0,
    base: float = 10000.0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine for positions ``first`` to ``first + positions − 1``, each (positions, head_dim).

    Raises:
        ValueError: ``head_dim`` is odd.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim: {head_dim} is odd; a rotation needs pairs")
    device = torch.device(device)
    # Angles in float64 if the device has it: at position 8192 a float32 angle is off by 5e-4.
    wide = {"device": device, "dtype": torch.float32 if device.type == "mps" else torch.float64}
    half = head_dim // 2
    frequency = base ** (-torch.arange(half, **wide) / half)
    angle = torch.outer(torch.arange(first, first + positions, **wide), frequency)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

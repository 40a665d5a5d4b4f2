"""Checks of the arguments of an operation: shapes, types, constraints."""

from __future__ import annotations

from torch import Tensor

CONSTRAINTS = (None, "output")


def check_float(**tensors: Tensor | None) -> None:
    """Raise for tensors that cannot have unit scale: integers, complex numbers, tensors without elements."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {type(tensor).__name__} is not a tensor; give a real floating-point tensor")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: {tensor.dtype} has no unit scale; give a real floating-point tensor")
        if not tensor.numel():
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} has a dimension of size 0; every size must be ≥ 1")


def check_shape(name: str, tensor: Tensor, shape: tuple, of: str) -> None:
    """Raise unless ``tensor`` has the shape that ``of`` needs: nothing is broadcast."""
    check_float(**{name: tensor})
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, but {of} needs {tuple(shape)}")


def check_left_out(operation: str, **arguments: object) -> None:
    """Raise for an argument of PyTorch's that has no counterpart at unit scale, unless it is None."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}: {operation} at unit scale has none; leave it out, or take torch.nn.functional's")


def check_constraint(constraint: str | None) -> None:
    if constraint not in CONSTRAINTS:
        raise ValueError(
            f"constraint: {constraint!r} is unknown; None (a factor for each direction) or 'output' (the true gradient)"
        )

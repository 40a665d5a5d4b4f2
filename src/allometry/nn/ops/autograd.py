"""Autograd functions that are fast in eager mode and right under every transform of PyTorch.

PyTorch has two styles of autograd functions. ``torch.func`` requires the style with ``setup_context``, which costs some
80 microseconds a call, since PyTorch inspects its signature each time; the older style is four times as fast. And
``torch.compile`` refuses any function with a forward-mode rule. A :class:`Function` is therefore written once, in the
new style, with its forward-mode rule under the name ``tangent``; :func:`call` applies the form that the current mode of
execution takes.

With ``dynamic=True`` the compiler treats every float of a module as a variable, and cannot carry variables into a
function's backward pass. :class:`Constants` holds floats that the compiler treats as constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.autograd import forward_ad

transforming = torch._C._are_functorch_transforms_active  # PyTorch's own ``apply`` calls it too


class NamedArguments(torch.autograd.Function):
    """``torch.autograd.Function`` for the type checker: PyTorch declares ``*args``, and our rules name theirs."""

    forward: ClassVar[Callable[..., Any]]
    setup_context: ClassVar[Callable[..., Any]]
    backward: ClassVar[Callable[..., Any]]


class Function(NamedArguments):
    """A ``torch.autograd.Function`` with ``forward``, ``setup_context``, ``backward`` and ``tangent``.

    Forward mode differentiates the value, so ``tangent`` uses the forward factor only.
    """

    generate_vmap_rule = True
    tangent: ClassVar[Callable[..., Any]]
    transformed: ClassVar[type[Function]]  # the form for torch.func
    eager: ClassVar[type[Function]]  # the older, faster style
    apply_eager: ClassVar[Callable[..., Any]]  # its ``apply``, without the questions that ``call`` has answered

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "jvp" in cls.__dict__:  # one of the two forms that are created below
            return
        common = {"jvp": cls.tangent, "__module__": cls.__module__}
        cls.transformed = type(cls.__name__, (cls,), common)
        compute, remember = cls.forward, cls.setup_context

        def forward(ctx, *arguments):
            output = compute(*arguments)
            remember(ctx, arguments, output)
            return output

        old = {"forward": forward, "setup_context": torch.autograd.Function.setup_context, "generate_vmap_rule": False}
        old |= {name: staticmethod(old[name]) for name in ("forward", "setup_context")}
        cls.eager = type(cls.__name__, (cls,), common | old)
        below: Any = super(torch.autograd.Function, cls.eager)
        cls.apply_eager = below.apply


def call(function: type[Function], *arguments):
    """Apply ``function``, in the form that the current mode of execution takes.

    Where nothing can ask for a derivative it is the plain forward pass: for one row of a small model PyTorch's
    bookkeeping costs more than the operation.
    """
    if torch.compiler.is_compiling():
        return function.apply(*arguments)
    if transforming():
        return function.transformed.apply(*arguments)
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return function.forward(*arguments)
    return function.apply_eager(*arguments)


class Constants:
    """Floats that are also kept as text: compiled code reads them back from it as guarded constants."""

    def __init__(self, *values: float):
        self.values = values
        self.text = tuple(map(repr, values))

    def __call__(self) -> tuple[float, ...]:
        return tuple(float(text) for text in self.text) if torch.compiler.is_compiling() else self.values

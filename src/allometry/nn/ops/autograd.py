"""What makes our functions fast in eager mode and right under every transform of PyTorch.

An autograd function comes in two styles. The one with ``setup_context`` is asked for by ``torch.func`` and costs some
80 microseconds a call, since PyTorch inspects its signature each time; the older one is four times as fast. And
``torch.compile`` refuses any function with a forward-mode rule. So a :class:`Function` is written once, in the new
style, its forward-mode rule under the name ``tangent``, and :func:`call` applies the form that the mode of execution
takes.

Under ``dynamic=True`` the compiler takes every float of a module for a variable, and cannot carry variables into a
function's backward pass. :class:`Constants` hands it floats that it takes for what they are.
"""

from __future__ import annotations

import torch

transforming = torch._C._are_functorch_transforms_active  # what PyTorch's own apply asks


class Function(torch.autograd.Function):
    """A ``torch.autograd.Function`` with ``forward``, ``setup_context``, ``backward`` and ``tangent``.

    Forward mode differentiates the value, so ``tangent`` knows the forward factor only.
    """

    generate_vmap_rule = True

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "jvp" in cls.__dict__:  # one of the two made here
            return
        common = {"jvp": cls.tangent, "__module__": cls.__module__}
        cls.transformed = type(cls.__name__, (cls,), common)

        def forward(ctx, *arguments):
            output = cls.forward(*arguments)
            cls.setup_context(ctx, arguments, output)
            return output

        old = {"forward": forward, "setup_context": torch.autograd.Function.setup_context, "generate_vmap_rule": False}
        old |= {name: staticmethod(old[name]) for name in ("forward", "setup_context")}
        cls.eager = type(cls.__name__, (cls,), common | old)


def call(function: type[Function], *arguments):
    """Apply ``function``, in the form that the current mode of execution takes."""
    if torch.compiler.is_compiling():
        return function.apply(*arguments)
    return (function.transformed if transforming() else function.eager).apply(*arguments)


class Constants:
    """Floats kept as text besides, which the compiler reads back as constants, and guards."""

    def __init__(self, *values: float):
        self.values = values
        self.text = tuple(map(repr, values))

    def __call__(self) -> tuple[float, ...]:
        return tuple(float(text) for text in self.text) if torch.compiler.is_compiling() else self.values

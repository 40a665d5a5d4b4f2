"""What makes our functions work under every transform of PyTorch.

``torch.func.vmap`` wants ``generate_vmap_rule``, forward mode wants a ``jvp``, and ``torch.compile`` refuses a function
that has one. So a :class:`Function` writes its forward-mode rule under the name ``tangent``, and :func:`call` applies
the class itself while compiling, and otherwise its twin, on which the rule is called ``jvp``.

Under ``dynamic=True`` the compiler takes every float of a module for a variable, and cannot carry variables into a
function's backward pass. :class:`Constants` hands it floats that it takes for what they are.
"""

from __future__ import annotations

import torch


class Function(torch.autograd.Function):
    """A ``torch.autograd.Function`` with ``forward``, ``setup_context``, ``backward`` and ``tangent``.

    Forward mode differentiates the value, so ``tangent`` knows the forward factor only.
    """

    generate_vmap_rule = True

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "jvp" not in cls.__dict__:
            cls.eager = type(cls.__name__, (cls,), {"jvp": cls.tangent, "__module__": cls.__module__})


def call(function: type[Function], *arguments):
    """Apply ``function``, in the form that the current mode of execution takes."""
    return (function if torch.compiler.is_compiling() else function.eager).apply(*arguments)


class Constants:
    """Floats kept as text besides, which the compiler reads back as constants, and guards."""

    def __init__(self, *values: float):
        self.values = values
        self.text = tuple(map(repr, values))

    def __call__(self) -> tuple[float, ...]:
        return tuple(float(text) for text in self.text) if torch.compiler.is_compiling() else self.values

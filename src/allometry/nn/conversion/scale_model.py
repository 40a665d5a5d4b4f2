"""Scale an existing model: by constants known beforehand (``unit``) or by factors measured on examples."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from .measured.measured_factors import MEASURED_RULES, PARTS
from .measured.measured_rule import scale_measured
from .measured.run_batches import batches_of, inputs_of
from .plain_linear_maps import lower
from .unit.unit_rule import scale_unit


def scale_model(
    model: nn.Module,
    example: Any,
    rule: str = "unit",
    loss: Callable[..., Tensor] | None = None,
    inplace: bool = False,
    strict: bool = True,
    *,
    readout: str | None = None,
    parts: Collection[str] = PARTS,
    format: Any = None,
    running: bool = False,
    momentum: float = 0.1,
    power_of_two: bool = False,
) -> nn.Module:
    """Scale a plain ``torch.nn`` model; returns the scaled model, a copy unless ``inplace``.

    ``example`` is one batch, or an iterable of batches: a tensor, ``model(x)``; a tuple, ``model(*x)``; a dictionary,
    ``model(**x)``. With a ``loss`` a tuple is a pair (inputs, targets), and ``loss(output, targets)`` returns a scalar.

    ``rule`` "unit" is for a model that is **not trained yet**. It returns the unit-scaled counterpart, a new model with
    fresh weights from torch's global generator, in which every activation and gradient starts near unit scale. It does
    not use ``loss``; train with :func:`~allometry.nn.functional.cross_entropy`. ``readout`` names the module that is
    the output layer. :mod:`allometry.nn.conversion.unit.unit_rule` lists the operations that the rule knows.

    ``rule`` "absmax" or "rms" keeps the weights and the function of a model, trained or not, and brings the operands
    of its matrix products and convolutions near 1 (see :mod:`allometry.nn.conversion.measured.measured_factors`). The
    model is measured in its current mode: call ``train()`` first if training follows. Without ``loss`` no gradient is
    measured, and γ is 1 unless ``running``.

    - ``parts``: which of weight, activation and gradient to scale.
    - ``format``: the operands are rounded to it, in simulation; or a pair, the second for gradients.
    - ``running``: β and γ follow the training batches, each with ``momentum``.
    - ``power_of_two``: factors are rounded to powers of two; the outputs are then equal bit for bit.

    Parameters that enter no product (biases, gains, tokens, positions) stay as they are. Models of transformers are
    treated whole; their ``save_pretrained`` writes the plain weights. Before fine-tuning see
    :func:`~allometry.nn.finetune_groups`.

    Raises:
        ValueError: an unknown rule; an example that is not finite; a module or function that the rule does not know
            (with ``strict=False`` it stays as it is, with a warning).
        TypeError: an example that is not a batch; integers or complex numbers instead of real ones.
    """
    if rule not in ("unit", *MEASURED_RULES):
        raise ValueError(f"rule: {rule!r} is unknown; give 'unit', {' or '.join(map(repr, MEASURED_RULES))}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
    batches = batches_of(example)
    if rule == "unit":
        return scale_unit(model, inputs_of(model, batches[0], loss), inplace, strict, readout)
    scaled = lower(model if inplace else copy.deepcopy(model))
    options = {"parts": parts, "running": running, "momentum": momentum, "power_of_two": power_of_two}
    left = scale_measured(scaled, batches, rule, loss, strict, formats=_pair(format), **options)
    if left:
        listed = ", ".join(f"{name} ({why})" for name, why in left.items())
        warnings.warn(f"scale_model left as they are: {listed}", stacklevel=2)
    return scaled


def _pair(format: Any) -> tuple[Any, Any]:
    """The format of weights and activations, and that of gradients."""
    formats = tuple(format) if isinstance(format, tuple | list) else (format, format)
    if len(formats) != 2 or not all(item is None or hasattr(item, "cast") for item in formats):
        raise ValueError(f"format: {format!r}; give a number format with a cast method, or a pair of them")
    return formats

"""What a training of a few steps does to every activation at one width: all weights together, and one kind at a time.

The change of an activation is a sum of what each kind of weight contributes. At small widths several matter; at large
ones only the one that shrinks least does. So each kind is also trained alone, the others held.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.transformer import Attention
from ..ops.autograd import Constants
from ..parametrization import roles
from .objective import Objective, default_optimizer
from .probe import INPUT, untouched, watched

TOGETHER = "all"
EMBEDDING, HIDDEN, OUTPUT_WEIGHTS, OTHER = "input", "hidden", "output", "bias and gain"
_PARTS = {"input": EMBEDDING, "hidden": HIDDEN, "output": OUTPUT_WEIGHTS, "bias": OTHER, "gain": OTHER}


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trained parameters by kind; a table that is embedding and head is an embedding. Empty if one has no role."""
    try:
        by_name = roles(model)
    except ValueError:
        return {}
    seen: set[int] = set()
    parts: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and id(parameter) not in seen and name in by_name:
            seen.add(id(parameter))
            parts[_PARTS[by_name[name].kind]].append(parameter)
    return dict(parts)


def few_rows(batch: Any, most: int) -> Any:
    """The first of a batch's sequences, and of its positions, so that it has at most ``most`` rows where that can be.

    Sequences are cut where inputs are integers and the targets have their shape, as in a language model; other data
    keep whole samples, at least one.
    """
    tensors = _tensors(batch)
    if not tensors or any(tensor.ndim == 0 or len(tensor) != len(tensors[0]) for tensor in tensors):
        return batch
    first = tensors[0]
    sequences = (
        len(tensors) > 1
        and not first.is_floating_point()
        and first.ndim == 2
        and all(tensor.shape == first.shape and not tensor.is_floating_point() for tensor in tensors)
    )
    if sequences:
        length = min(first.shape[1], most)
        return _mapped(batch, lambda tensor: tensor[: max(1, most // length), :length])
    per_sample = first[0].numel() // (first.shape[-1] if first.is_floating_point() and first.ndim > 1 else 1)
    return _mapped(batch, lambda tensor: tensor[: max(1, most // max(1, per_sample))])


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _mapped(batch: Any, cut: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return cut(batch)
    if isinstance(batch, Mapping):
        return {key: _mapped(value, cut) for key, value in batch.items()}
    return tuple(_mapped(value, cut) for value in batch) if isinstance(batch, list | tuple) else batch


@contextmanager
def heads_held(model: nn.Module, head_dims: Mapping[str, int]) -> Iterator[None]:
    """Logits of attention times √(d₀/d): as if heads kept the dimensions ``head_dims`` that they have elsewhere."""
    before = []
    for name, attention in attentions(model).items():
        before.append((attention, attention.multiplier))
        (multiplier,) = attention.multiplier()
        attention.multiplier = Constants(multiplier * math.sqrt(head_dims[name] / attention.head_dim))
    try:
        yield
    finally:
        for attention, multiplier in before:
            attention.multiplier = multiplier


def attentions(model: nn.Module) -> dict[str, Attention]:
    """Our attentions in a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


class Trace:
    """By activation and step: mean squares of value and change, at one width and seed, with one part in training."""

    def __init__(self, model: nn.Module, rows: int):
        self.model, self.rows = type(model).__name__, rows
        self.start: dict[tuple[str, int], Tensor] = {}
        self.changes: dict[str, list[float]] = {}
        self.values: dict[str, list[float]] = {}
        self.early: set[str] = set()  # computed before any hidden weight
        self.final: set[str] = set()
        self.embedded: set[str] = set()  # by a module whose own weights are those of an embedding

    def record(self, model: nn.Module, objective: Objective, seed: int, held: set[int]) -> Tensor | None:
        """Run one forward pass and record it as the next step; its loss. ``held`` are the embedding's weights."""
        calls: dict[str, int] = defaultdict(int)
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
        begin, hidden = not self.start, False

        def activation(name: str, module: nn.Module, tensor: Tensor) -> None:
            nonlocal hidden
            if name.startswith(INPUT):
                return
            reading = name.endswith(INPUT)  # no weight of this module has been applied yet
            kinds = set() if reading else set(getattr(module, "roles", {}).values())
            # Children run before their containers; after the first hidden weight, every tensor may depend on one.
            hidden = hidden or bool(kinds & {"hidden", "output"})
            if begin and not hidden and ("input" in kinds or self.early):
                self.early.add(name)
            if begin and "output" in kinds:
                self.final.add(name)
            if begin and not reading and any(id(weight) in held for weight in module.parameters(recurse=False)):
                self.embedded.add(name)
            key = name, calls[name]
            calls[name] += 1
            x = tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)
            start = self.start.setdefault(key, x.clone())
            if start.shape != x.shape:
                raise ValueError(f"make_model: {name} has another shape at each step; its change cannot be measured")
            pool = sums[name]
            pool[0] += float(x.abs().square().sum())
            pool[1] += float((x - start).abs().square().sum())
            pool[2] += x.numel()

        torch.manual_seed(seed)  # the same dropout at each step
        with watched(model, activation) as watch:
            value = objective()
            self.final |= watch.outputs
        for name, (square, change, count) in sums.items():
            self.values.setdefault(name, []).append(math.sqrt(square / count))
            if not begin:
                self.changes.setdefault(name, []).append(math.sqrt(change / count))
        return value


def train_a_little(
    model: nn.Module,
    batch: Any,
    loss: Callable | None,
    steps: int,
    lr: float | None,
    optimizer: Callable | None,
    seed: int,
    part: str = TOGETHER,
) -> Trace:
    """Train the weights of one part a few steps, and record every activation; the model is left as it was."""
    objective = Objective(model, batch, loss)
    trace = Trace(model, objective.rows)
    with untouched(model, seed):
        parts = parts_of(model)
        table = {id(parameter) for parameter in parts.get(EMBEDDING, ())}
        trained = {id(parameter) for parameter in parts.get(part, ())}
        stepper = optimizer(model) if optimizer else default_optimizer(model, lr)
        for step in range(steps + 1):
            value = trace.record(model, objective, seed, table)
            if objective.is_upstream or value is None:
                raise ValueError("loss: there is none to train on; give loss, or targets in the batch")
            if step < steps:
                model.zero_grad(set_to_none=True)
                value.backward()
                for parameter in model.parameters() if part != TOGETHER else ():
                    if id(parameter) not in trained:
                        parameter.grad = None  # an optimiser passes it over
                stepper.step()
    return trace

"""The unit rule: rewrite a plain model's graph to unit scale, operation by operation.

- Linear maps, convolutions, tables, norms and activations become their counterparts (:mod:`.counterparts`).
- Functions are rewritten by :mod:`.rewrite_functions`, residual additions by :mod:`.rewriting`.
- An operation has a backward factor of its own only on a *cut edge*: an edge through which the whole gradient of the
  graph, or of the branch, passes. Everywhere else its gradient is the true one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from ...own_modules import is_ours
from ..plain_linear_maps import lower
from .branches import GraphStructure
from .counterparts import COUNTERPARTS, MEASURED, PASSING, MeasuredScale
from .graph import Values, mark_wrapped, path_of, trace
from .known_families import counterpart_of_family
from .rewrite_functions import rewrite_functions
from .rewrite_modules import check_parameters, is_leaf, rewrite_modules
from .rewriting import Rewriting


def scale_unit(
    model: nn.Module, example: Any, inplace: bool = False, strict: bool = True, readout: str | None = None
) -> nn.Module:
    """The unit-scaled counterpart of ``model``; see :func:`~allometry.nn.scale_model`.

    A chain of ``nn.Sequential`` keeps its modules' types; any other model becomes a ``torch.fx.GraphModule`` with the
    same module tree, valid for the arguments that the example gives. The model is traced in training mode.
    """
    if inplace and not _is_chain(model):
        raise ValueError("inplace: the unit rule makes a new model of anything but a chain of nn.Sequential")
    family = counterpart_of_family(model)
    if family is not None:
        return family.to(next(model.parameters()).device)
    if type(model) in COUNTERPARTS or isinstance(model, MEASURED):
        return scale_unit(nn.Sequential(model), example, False, strict, readout).get_submodule("0")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model = lower(model if inplace else copy.deepcopy(model))
    was_training = model.training
    model.train()
    scaled, left = _rewrite(model, example, strict, readout)
    if left:
        listed = ", ".join(f"{name} ({why})" for name, why in left.items())
        warnings.warn(f"scale_model left as they are: {listed}", stacklevel=3)
    return scaled.to(device).train(was_training)


def _is_chain(module: nn.Module) -> bool:
    if type(module) is nn.Sequential:
        return all(_is_chain(child) for child in module.children())
    return type(module) in COUNTERPARTS or isinstance(module, (*PASSING, *MEASURED))


def _rewrite(model: nn.Module, example: Any, strict: bool, readout: str | None) -> tuple[nn.Module, dict[str, str]]:
    """All steps: the rewritten model, and what was left as it is, with the reasons."""
    is_chain = _is_chain(model)
    graph, arguments = trace(model, example, is_leaf)
    with torch.random.fork_rng(devices=[]), _buffers_restored(model):
        values = Values(model, graph).of(arguments)
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(model.get_submodule(path_of(node)), nn.Softmax):
            node.meta["name"] = "softmax"
    rewriting = Rewriting(model, GraphStructure(graph, values), strict)
    check_parameters(rewriting)
    rewrite_modules(rewriting, readout)
    rewrite_functions(rewriting)
    rewriting.rewrite_residuals()
    for node in graph.nodes:
        if node.op == "call_function" and is_ours(node.target):
            mark_wrapped(node)
    graph.lint()
    scaled = fx.GraphModule(model, graph, type(model).__name__)
    if rewriting.measured:
        with torch.random.fork_rng(devices=[]), _buffers_restored(scaled):
            _Measuring(scaled, graph, set(rewriting.measured)).of(arguments)
    return (_as_chain(model, scaled, rewriting.measured) if is_chain else scaled), rewriting.left


def _as_chain(model: nn.Module, scaled: nn.Module, measured: list[fx.Node]) -> nn.Module:
    """``model`` with its own containers; each measured scale forms a pair with the module that it follows."""
    for node in measured:
        (operation,) = node.all_input_nodes
        path, name = path_of(operation), path_of(node)
        model._modules.pop(name, None)
        parent, _, last = path.rpartition(".")
        holder = model.get_submodule(parent)
        holder._modules[last] = nn.Sequential(holder.get_submodule(last), scaled.get_submodule(name))
    return model


class _Measuring(Values):
    """Runs a rewritten graph and sets each measured scale in turn, when all before it are at unit scale."""

    def __init__(self, module: nn.Module, graph: fx.Graph, measured: set[fx.Node]):
        super().__init__(module, graph)
        self.measured = measured

    def run_node(self, n: fx.Node) -> Any:
        if n in self.measured:
            measured = self.module.get_submodule(path_of(n))
            assert isinstance(measured, MeasuredScale)
            (operation,) = n.all_input_nodes
            forward = 1 / float(self.env[operation].detach().square().mean().sqrt().clamp(min=1e-30))
            measured.set(forward, self._backward(operation) if measured.free else forward)
        return super().run_node(n)

    def _backward(self, operation: fx.Node) -> float:
        """1 / (root mean square of the gradient that the operation alone passes on from a unit-normal gradient)."""
        leaves: list[Tensor] = []

        def leaf(source: fx.Node) -> Any:
            value = self.env[source]
            if isinstance(value, Tensor) and value.requires_grad:
                value = value.detach().requires_grad_()
                leaves.append(value)
            return value

        args, kwargs = map_arg((operation.args, operation.kwargs), leaf)
        y = getattr(self, operation.op)(operation.target, args, kwargs)
        (grad,) = torch.autograd.grad(y, leaves[:1], torch.randn_like(y))
        return 1 / float(grad.square().mean().sqrt().clamp(min=1e-30))


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Restore buffers (running means) at the end, except the factors that were measured."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if not name.endswith("_scale.factors"):
                    buffer.copy_(kept[name])

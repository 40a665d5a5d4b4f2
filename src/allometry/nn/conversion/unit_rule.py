"""The unit rule: a plain model's graph, rewritten operation by operation to unit scale.

Linear maps, convolutions, tables, norms and activations have counterparts (:mod:`.counterparts`). Operations that
only move entries pass. Those whose scale depends on how alike their inputs are (pooling, means, attention) are
followed by a factor measured once on the example. Numbers that only multiply are left out: scale is what the rule sets.

``x + f(x)`` becomes ``keep·x + share·f(x)`` with u-μP's weights by depth (arXiv 2407.17465, eqs. 10–14). Where f reads
nothing but x and nothing else reads f's inside, gradients inside are at unit scale and ``share`` is put back where f
split off; elsewhere the addition has its true gradient. An operation has a backward factor of its own only on a *cut
edge*, over which alone the gradient comes; everywhere else its gradient is the true one.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from .. import functional
from ..layers import stateless
from ..layers import with_parameters as layers
from ..ops.scale import exact_scale, scale
from ..own_modules import is_ours
from ..schemes import residual_taus
from .branches import ADD, MULTIPLY, PASS, Structure, name_of
from .counterparts import COUNTERPARTS, MEASURED, PASSING, DotProductAttention, MeasuredScale, ratio_of
from .graph import Values, trace, wrapped
from .plain_linear_maps import lower

ELEMENTWISE = {
    "relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "leaky_relu", "elu", "selu", "celu", "relu6", "hardtanh",
    "hardswish", "hardsigmoid", "mish", "softsign", "logsigmoid", "sin", "cos", "relu_", "tanh_", "sigmoid_",
}  # fmt: skip
MEASURE = {
    "scaled_dot_product_attention", "matmul", "bmm", "einsum", "mean", "sum", "amax", "max_pool1d", "max_pool2d",
    "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "softmax", "square", "pow", "sub",
    "interpolate", "boolean_dispatch", "fn",
}  # fmt: skip


def scale_unit(
    model: nn.Module, example: Any, inplace: bool = False, strict: bool = True, readout: str | None = None
) -> nn.Module:
    """The unit-scaled counterpart of ``model``; see :func:`~allometry.nn.scale_model`.

    A chain of ``nn.Sequential`` keeps its modules' types; any other model returns as a ``torch.fx.GraphModule`` with
    the same module tree. It is specialised to which arguments the example gives, and to the mode of training.
    """
    if inplace and not _is_chain(model):
        raise ValueError("inplace: the unit rule makes a new model of anything but a chain of nn.Sequential")
    if type(model) in COUNTERPARTS:
        return scale_unit(nn.Sequential(model), example, False, strict, readout)[0]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model = lower(model if inplace else copy.deepcopy(model))
    was_training = model.training
    model.train()
    rewriting = Rewriting(model, example, strict, readout)
    scaled = rewriting.run()
    if readout is not None and not rewriting.readout_found:
        raise ValueError(f"readout: {readout!r} is no linear map of the model")
    if rewriting.left:
        listed = ", ".join(f"{name} ({why})" for name, why in rewriting.left.items())
        warnings.warn(f"scale_model left as they are: {listed}", stacklevel=3)
    return scaled.to(device).train(was_training)


def _is_chain(module: nn.Module) -> bool:
    if type(module) is nn.Sequential:
        return all(_is_chain(child) for child in module)
    return type(module) in COUNTERPARTS or isinstance(module, (*PASSING, *MEASURED))


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one node of the graph: it has a counterpart, or has no children to look into."""
    known = type(module) in COUNTERPARTS or isinstance(module, (*PASSING, *MEASURED))
    return known or (type(module).__module__.startswith("torch.nn") and not list(module.children()))


class Rewriting(Structure):
    """One model on its way; the steps in the order of :meth:`run`."""

    def __init__(self, model: nn.Module, example: Any, strict: bool, readout: str | None):
        self.model, self.example, self.strict, self.readout = model, example, strict, readout
        self.readout_found, self.chain = False, _is_chain(model)
        self.left: dict[str, str] = {}
        self.measured: list[fx.Node] = []

    def run(self) -> nn.Module:
        self.graph, self.arguments = trace(self.model, self.example, is_leaf)
        with torch.random.fork_rng(devices=[]), _buffers_kept(self.model):
            values = Values(self.model, self.graph).of(self.arguments)
        for node in self.graph.nodes:
            if node.op == "call_module" and isinstance(self.model.get_submodule(node.target), nn.Softmax):
                node.meta["name"] = "softmax"
        self.analyse(self.graph, values)
        self._check_parameters()
        self._modules()
        self._functions()
        self._residual_additions()
        for node in self.graph.nodes:
            if node.op == "call_function" and is_ours(node.target):
                wrapped(node)
        self.graph.lint()
        if self.chain:
            return self._chain()
        scaled = fx.GraphModule(self.model, self.graph, type(self.model).__name__)
        self._measure(scaled)
        return scaled

    def _refuse(self, where: str, why: str) -> None:
        if self.strict:
            raise ValueError(
                f"model: the unit rule cannot treat {where} ({why}); strict=False leaves it as it is, with a warning"
            )
        self.left[where] = why

    def _check_parameters(self) -> None:
        for path, module in self.model.named_modules():
            own = [name for name, _ in module.named_parameters(recurse=False)]
            if own and type(module) not in COUNTERPARTS:
                self._refuse(path or "(model)", f"{type(module).__name__} with parameters {', '.join(own)}")

    # What it becomes

    def _modules(self) -> None:
        """Every leaf by its counterpart: free to have a backward factor only if all its uses are on cut edges."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                calls.setdefault(node.target, []).append(node)
        paths = {id(module): path for path, module in self.model.named_modules()}
        made: dict[str, nn.Module] = {}
        tied: dict[int, nn.Parameter] = {}
        uses: dict[str, list[fx.Node]] = {}
        for path, nodes in calls.items():
            uses.setdefault(paths[id(self.model.get_submodule(path))], []).extend(nodes)
        for path, nodes in uses.items():
            plain = self.model.get_submodule(path)
            if isinstance(plain, PASSING):
                continue
            if isinstance(plain, MEASURED):
                for node in nodes:
                    self._measure_after(node)
                continue
            if type(plain) not in COUNTERPARTS:
                self._refuse(path, type(plain).__name__)
                continue
            made[path] = self._counterpart(path, plain, None if self.free.issuperset(nodes) else "output", tied)
            for branch in self.branches:
                if branch.inside.intersection(nodes):
                    made[path].branches = len(self.branches)
                branch.ratio *= ratio_of(made[path]) ** len(branch.cut.intersection(nodes))
        for path, module in self.model.named_modules(remove_duplicate=False):
            if (first := paths.get(id(module))) in made:
                self.left.pop(path, None)
                self._exchange(path, made[first])

    def _exchange(self, path: str, module: nn.Module) -> None:
        if not path:
            self.root = module
            return
        parent, _, name = path.rpartition(".")
        self.model.get_submodule(parent)._modules[name] = module

    def _counterpart(self, path: str, plain: nn.Module, constraint: str | None, tied: dict) -> nn.Module:
        try:
            if path == self.readout and isinstance(plain, nn.Linear):
                self.readout_found = True
                bias = plain.bias is not None
                module = layers.Readout(plain.in_features, plain.out_features, bias, constraint=constraint)
            else:
                module = COUNTERPARTS[type(plain)](plain, constraint)
        except ValueError as error:
            self._refuse(path, f"{type(plain).__name__}: {error}")
            return plain
        for name, parameter in plain.named_parameters(recurse=False):
            new = getattr(module, name)
            if new.shape == parameter.shape:
                module._parameters[name] = tied.setdefault(id(parameter), new)
                module._parameters[name].requires_grad_(parameter.requires_grad)
        return module

    def _measure_after(self, node: fx.Node, free: bool = True) -> None:
        name = f"{node.name}_scale"
        free = free and node in self.free and not any(node in branch.inside for branch in self.branches)
        self.model.add_module(name, MeasuredScale(free))
        after = self._after(node, lambda: self.graph.call_module(name, (node,)))
        self.measured.append(after)

    def _after(self, node: fx.Node, make: Callable[[], fx.Node]) -> fx.Node:
        with self.graph.inserting_after(node):
            after = make()
        self.active.add(after)
        node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
        for branch in self.branches:
            branch.skip = after if branch.skip is node else branch.skip
            branch.branch = after if branch.branch is node else branch.branch
            if node in branch.inside:
                branch.inside.add(after)
        return after

    def _functions(self) -> None:
        additions = {branch.node for branch in self.branches}
        for node in list(self.graph.nodes):
            if node.op not in ("call_function", "call_method") or node not in self.active:
                continue
            if node in self.plain or node in additions:
                continue
            name, inputs = name_of(node), self._inputs(node)
            if name in ELEMENTWISE:
                self._elementwise(node)
            elif name in ADD or name in MULTIPLY or name == "sub":
                self._arithmetic(node, name, inputs)
            elif name in MEASURE:
                if name == "scaled_dot_product_attention":
                    self._attention(node)
                self._measure_after(node, free=len(inputs) == 1)
            elif name == "dropout":
                self._dropout(node)
            elif name in ("cross_entropy", "mse_loss"):
                self._loss(node, name)
            elif name not in PASS:
                self._refuse(f"{name} in {self._where(node)}", "a function that it does not know")

    def _where(self, node: fx.Node) -> str:
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return stack[-1] if stack and stack[-1] else "the model's forward"

    def _elementwise(self, node: fx.Node) -> None:
        own = partial(
            _call, node.op, node.target, node.args[1:], {k: v for k, v in node.kwargs.items() if k != "input"}
        )
        forward, backward = exact_scale(own)
        if node not in self.free:
            backward = forward
        for branch in self.branches:
            if node in branch.cut:
                branch.ratio *= backward / forward
        self._after(node, lambda: self.graph.call_function(scale, (node, forward, backward)))

    def _arithmetic(self, node: fx.Node, name: str, inputs: list[fx.Node]) -> None:
        if len(inputs) == 2 and name in ADD:
            node.op, node.target, node.args, node.kwargs = "call_function", functional.add, tuple(inputs), {}
            for source in inputs:
                self._broadcast(source, node)
        elif len(inputs) == 2 and name in ("mul", "imul", "mul_"):
            return  # independent factors at unit scale have a product at unit scale
        elif len(inputs) == 1 and name in MULTIPLY and not self.sizes.keys() & set(node.all_input_nodes) - {*inputs}:
            node.replace_all_uses_with(inputs[0])
            for branch in self.branches:
                branch.skip = inputs[0] if branch.skip is node else branch.skip
                branch.branch = inputs[0] if branch.branch is node else branch.branch
            self.graph.erase_node(node)
        else:
            self._measure_after(node, free=len(inputs) == 1)

    def _broadcast(self, source: fx.Node, addition: fx.Node) -> None:
        """A table's rows added to every example (positions): their gradient is a sum over the examples."""
        sizes = [self.sizes.get(source), self.sizes.get(addition)]
        alone = source.op == "call_module" and len(source.users) == 1 and not self._inputs(source)
        if alone and None not in sizes and sizes[0] < sizes[1]:
            factor = (sizes[0] / sizes[1]) ** 0.5
            self._after(source, lambda: self.graph.call_function(scale, (source, 1.0, factor)))

    def _dropout(self, node: fx.Node) -> None:
        p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        name = f"{node.name}_module"
        self.model.add_module(name, stateless.Dropout(p))
        source = self._inputs(node)[0]
        node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}

    def _attention(self, node: fx.Node) -> None:
        """Its dropout is a number in the graph, and would stay in evaluation: a module knows the mode."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        options = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        if p := options.pop("dropout_p", 0.0):
            name = f"{node.name}_module"
            self.model.add_module(name, DotProductAttention(p))
            node.op, node.target, node.args, node.kwargs = "call_module", name, (), options

    def _loss(self, node: fx.Node, name: str) -> None:
        options = {key: value for key, value in node.kwargs.items() if value is not None}
        if len(node.args) > 2 or options.keys() - {"ignore_index", "reduction", "label_smoothing", "target"}:
            self._refuse(f"{name} in {self._where(node)}", "class weights, or arguments by position after the second")
            return
        args = (*node.args, options.pop("target")) if "target" in options else node.args
        if name == "mse_loss":
            options = {"reduction": options.get("reduction", "mean")}
        node.target, node.args, node.kwargs = getattr(functional, name), args, options

    def _residual_additions(self) -> None:
        for branch, tau in zip(self.branches, residual_taus(len(self.branches)), strict=True):
            keep, share = (1 + tau**2) ** -0.5, tau * (1 + tau**2) ** -0.5
            node, skip = branch.node, branch.skip
            if not branch.inside:
                node.op, node.target, node.kwargs = "call_function", true_add, {}
                node.args = (branch.branch, skip, keep, share)
                continue
            with self.graph.inserting_after(skip):
                split = self.graph.call_function(functional.residual_split, (skip, keep, share / branch.ratio))
            with self.graph.inserting_after(split):
                kept = self.graph.call_function(operator.getitem, (split, 1))
                entered = self.graph.call_function(operator.getitem, (split, 0))
            for user in list(skip.users):
                if user in branch.inside:
                    user.replace_input_with(skip, entered)
            for outer in self.branches:
                if skip in outer.inside or (outer.skip is skip and node in outer.inside):
                    outer.inside |= {split, kept, entered}
            node.op, node.target, node.kwargs = "call_function", functional.residual_add, {}
            node.args = (branch.branch, kept, keep, share)

    # What is measured

    def _chain(self) -> nn.Module:
        """A chain keeps its own containers; what is measured after a module stands beside it in one of its own."""
        numbers = {node.args[0].target: node.target for node in self.measured}
        scaled = fx.GraphModule(self.model, self.graph)
        self._measure(scaled)
        root = getattr(self, "root", self.model)
        for path, name in numbers.items():
            number = scaled.get_submodule(name)
            self.model._modules.pop(name, None)
            parent, _, last = path.rpartition(".")
            holder = self.model.get_submodule(parent)
            if path:
                holder._modules[last] = nn.Sequential(holder._modules[last], number)
            else:
                root = nn.Sequential(self.model, number)
        return root

    def _measure(self, scaled: fx.GraphModule) -> None:
        if not self.measured:
            return
        with torch.random.fork_rng(devices=[]), _buffers_kept(scaled):
            _Measuring(scaled, self.graph, set(self.measured)).of(self.arguments)


class _Measuring(Values):
    """Runs a rewritten graph and sets each measured factor when its turn comes, all before being at unit scale."""

    def __init__(self, module: nn.Module, graph: fx.Graph, measured: set[fx.Node]):
        super().__init__(module, graph)
        self.measured = measured

    def run_node(self, node: fx.Node) -> Any:
        if node in self.measured:
            number: MeasuredScale = self.module.get_submodule(node.target)
            (operation,) = node.args
            forward = 1 / float(self.env[operation].detach().square().mean().sqrt().clamp(min=1e-30))
            number.set(forward, self._backward(operation) if number.free else forward)
        return super().run_node(node)

    def _backward(self, operation: fx.Node) -> float:
        """One over the root mean square of the gradient that the operation alone passes on from a unit-normal one."""
        leaves: list[Tensor] = []

        def leaf(source: fx.Node) -> Any:
            value = self.env[source]
            if isinstance(value, Tensor) and value.requires_grad:
                value = value.detach().requires_grad_()
                leaves.append(value)
            return value

        args, kwargs = fx.node.map_arg((operation.args, operation.kwargs), leaf)
        y = getattr(self, operation.op)(operation.target, args, kwargs)
        (grad,) = torch.autograd.grad(y, leaves[:1], torch.randn_like(y))
        return 1 / float(grad.square().mean().sqrt().clamp(min=1e-30))


def true_add(branch: Tensor, skip: Tensor, keep: float, share: float) -> Tensor:
    """``keep·skip + share·branch`` with its true gradients, for a branch that cannot be cut out."""
    return torch.add(skip * keep, branch, alpha=share)


def _call(op: str, target: Any, rest: tuple, kwargs: dict, x: Tensor) -> Tensor:
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    return getattr(x.clone(), target)(*rest, **kwargs) if op == "call_method" else target(x.clone(), *rest, **kwargs)


class _buffers_kept:
    """Buffers (running means) as they were, but for the factors that were measured."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __enter__(self) -> None:
        self.kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def __exit__(self, *_) -> None:
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if not name.endswith("_scale.factors"):
                    buffer.copy_(self.kept[name])

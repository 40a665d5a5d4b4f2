"""The functions and methods that a model calls, under the unit rule.

Operations that only move entries stay. Elementwise functions get their exact constants. Operations whose scale depends
on how similar their inputs are (pooling, means, attention) are followed by a scale measured on the example. Numbers
that only multiply are left out, since the rule sets the scale.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, fx

from ... import functional
from ...layers import stateless
from ...ops.scale import exact_scale, scale
from .branches import ADD, MULTIPLY, PASS, name_of
from .counterparts import DotProductAttention
from .rewriting import Rewriting

ELEMENTWISE = {
    "relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "leaky_relu", "elu", "selu", "celu", "relu6", "hardtanh",
    "hardswish", "hardsigmoid", "mish", "softsign", "logsigmoid", "sin", "cos", "relu_", "tanh_", "sigmoid_",
}  # fmt: skip
MEASURE = {
    "scaled_dot_product_attention", "matmul", "bmm", "einsum", "mean", "sum", "amax", "max_pool1d", "max_pool2d",
    "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "softmax", "square", "pow", "sub",
    "interpolate", "boolean_dispatch", "fn",
}  # fmt: skip


def rewrite_functions(rewriting: Rewriting) -> None:
    """Rewrite every function and method call that a gradient passes, except logits and residual additions."""
    structure = rewriting.structure
    additions = {branch.node for branch in structure.branches}
    for node in list(rewriting.graph.nodes):
        if node.op not in ("call_function", "call_method") or node not in structure.active:
            continue
        if node not in structure.logits and node not in additions:
            _rewrite(rewriting, node, name_of(node))


def _rewrite(rewriting: Rewriting, node: fx.Node, name: str) -> None:
    if name in ELEMENTWISE:
        _elementwise(rewriting, node)
    elif name in ADD or name in MULTIPLY or name == "sub":
        _arithmetic(rewriting, node, name)
    elif name in MEASURE:
        single = len(rewriting.structure.inputs(node)) == 1
        if name == "scaled_dot_product_attention":
            _attention(rewriting, node)
        rewriting.measure_after(node, free=single)
    elif name == "dropout":
        _dropout(rewriting, node)
    elif name in ("cross_entropy", "mse_loss"):
        _loss(rewriting, node, name)
    elif name not in PASS:
        rewriting.refuse(f"{name} in {_where(node)}", "a function that it does not know")


def _where(node: fx.Node) -> str:
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return stack[-1] if stack and stack[-1] else "the model's forward"


def _elementwise(rewriting: Rewriting, node: fx.Node) -> None:
    """Multiply by the function's constants; the backward one is its own on a cut edge only."""
    structure = rewriting.structure
    options = {name: value for name, value in node.kwargs.items() if name != "input"}
    forward, backward = exact_scale(partial(_call, node.op, node.target, node.args[1:], options))
    if node not in structure.free:
        backward = forward
    for branch in structure.branches:
        if node in branch.cut:
            branch.ratio *= backward / forward
    structure.insert_after(node, lambda: rewriting.graph.call_function(scale, (node, forward, backward)))


def _call(op: str, target: Any, rest: tuple, kwargs: dict, x: Tensor) -> Tensor:
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    return getattr(x.clone(), target)(*rest, **kwargs) if op == "call_method" else target(x.clone(), *rest, **kwargs)


def _arithmetic(rewriting: Rewriting, node: fx.Node, name: str) -> None:
    structure = rewriting.structure
    inputs = structure.inputs(node)
    others = set(node.all_input_nodes) - set(inputs)
    if len(inputs) == 2 and name in ADD:
        node.op, node.target, node.args, node.kwargs = "call_function", functional.add, tuple(inputs), {}
        for source in inputs:
            _broadcast(rewriting, source, node)
    elif len(inputs) == 2 and name in ("mul", "imul", "mul_"):
        return  # independent factors at unit scale have a product at unit scale
    elif len(inputs) == 1 and name in MULTIPLY and not structure.sizes.keys() & others:
        structure.remove(node, inputs[0])
    else:
        rewriting.measure_after(node, free=len(inputs) == 1)


def _broadcast(rewriting: Rewriting, source: fx.Node, addition: fx.Node) -> None:
    """Scale the gradient of a table whose rows are added to every example (positions): it is a sum over examples."""
    structure = rewriting.structure
    own, whole = structure.sizes.get(source), structure.sizes.get(addition)
    is_table = source.op == "call_module" and len(source.users) == 1 and not structure.inputs(source)
    if is_table and own is not None and whole is not None and own < whole:
        factor = (own / whole) ** 0.5
        structure.insert_after(source, lambda: rewriting.graph.call_function(scale, (source, 1.0, factor)))


def _dropout(rewriting: Rewriting, node: fx.Node) -> None:
    p: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
    source = rewriting.structure.inputs(node)[0]
    rewriting.call_module_instead(node, stateless.Dropout(p), (source,), {})


def _attention(rewriting: Rewriting, node: fx.Node) -> None:
    """Replace a call with dropout, a number that would stay in evaluation, by a module, which knows the mode."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    options: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if p := options.pop("dropout_p", 0.0):
        rewriting.call_module_instead(node, DotProductAttention(p), (), options)


def _loss(rewriting: Rewriting, node: fx.Node, name: str) -> None:
    options: dict[str, Any] = {key: value for key, value in node.kwargs.items() if value is not None}
    if len(node.args) > 2 or options.keys() - {"ignore_index", "reduction", "label_smoothing", "target"}:
        where = f"{name} in {_where(node)}"
        rewriting.refuse(where, "class weights, or arguments by position after the second")
        return
    args = (*node.args, options.pop("target")) if "target" in options else node.args
    if name == "mse_loss":
        options = {"reduction": options.get("reduction", "mean")}
    node.target, node.args, node.kwargs = getattr(functional, name), args, options

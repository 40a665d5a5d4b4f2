"""A model's graph as ``torch.fx`` records it, and the value of each node on an example."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

# These functions create tensors from numbers. fx does not record them, since none of their arguments is a tensor.
CREATORS = ("arange", "zeros", "ones", "full", "empty", "linspace", "tril_indices", "triu_indices")


class Untraceable(ValueError):
    """``forward`` does something that a graph cannot hold."""


class Tracer(fx.Tracer):
    """Follows ``forward``; an ``if`` or ``assert`` on shapes takes the branch that the example takes."""

    proxy_buffer_attributes = True  # without it a mask could not be cut to the length of the input

    # Unpickling a graph constructs a tracer without arguments, and uses none of its values.
    def __init__(self, leaf: Callable[[nn.Module], bool] = bool, values: dict[str, Any] | None = None):
        super().__init__()
        self.leaf, self.values = leaf, values or {}
        self.known: dict[fx.Node, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.leaf(m)

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self._value(obj.node)
        if isinstance(value, Tensor):
            raise Untraceable("an if or assert on the values of a tensor")
        return bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator:
        try:
            return super().iter(obj)
        except TraceError:
            items = range(len(self._value(obj.node)))
            return iter([self.create_proxy("call_function", operator.getitem, (obj, i), {}) for i in items])

    def _value(self, node: fx.Node) -> Any:
        if node not in self.known:
            self.known[node] = self._compute(node)
        return self.known[node]

    @torch.no_grad()
    def _compute(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.values[str(node.target)]
        args, kwargs = map_arg((node.args, node.kwargs), self._value)
        if node.op == "get_attr":
            return _attribute(self.root, path_of(node))
        if node.op == "call_module":
            return self.root.get_submodule(path_of(node))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def path_of(node: fx.Node) -> str:
    """The path that a node reads an attribute from, or at which its module stands."""
    return str(node.target)


def _attribute(root: nn.Module, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def bind(model: nn.Module, example: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors that an example gives to ``forward``, and the constants and defaults of other arguments, by name."""
    signature = inspect.signature(model.forward)
    if isinstance(example, dict):
        bound = signature.bind(**example)
    elif isinstance(example, tuple | list):
        bound = signature.bind(*example)
    else:
        bound = signature.bind(example)
    given = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if name in given and parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise Untraceable(f"forward takes *{name}, and a graph needs named arguments")
    rest = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if name not in given and parameter.default is not parameter.empty
    }
    constants = {name: value for name, value in given.items() if value is None or isinstance(value, bool)}
    return {name: value for name, value in given.items() if name not in constants}, rest | constants


def trace(model: nn.Module, example: Any, leaf: Callable[[nn.Module], bool]) -> tuple[fx.Graph, list[Any]]:
    """The graph of ``model``, for the arguments that ``example`` gives; and the values of its placeholders.

    Raises:
        ValueError: ``forward`` cannot be traced.
    """
    try:
        values, constants = bind(model, example)
        with _creators_recorded():
            graph = Tracer(leaf, values).trace(model, concrete_args=constants or None)
    except (TraceError, TypeError, RuntimeError, AttributeError, KeyError, Untraceable) as error:
        raise ValueError(f"model: the forward of {type(model).__name__} cannot be traced: {error}") from error
    order = [name for name in inspect.signature(model.forward).parameters if name in values | constants]
    _require_constants(graph)
    return graph, [(values | constants)[name] for name in order]


def _require_constants(graph: fx.Graph) -> None:
    """Replace fx's own checks of constant arguments by :func:`require`, which names the argument and can be pickled."""
    for node in list(graph.nodes):
        node.type = None  # an annotation that is a string cannot be pickled
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "_assert_is_none":
            _require(node, node.args[0], None)
        elif node.target is torch._assert and _compares_placeholder(node.args[0]):
            compared = node.args[0]
            source, expected = compared.args
            _require(node, source, expected)
            graph.erase_node(compared)


def _compares_placeholder(compared: Any) -> bool:
    return getattr(compared, "target", None) is operator.eq and compared.args[0].op == "placeholder"


def _require(node: fx.Node, source: Any, expected: Any) -> None:
    node.target, node.args = require, (source, expected, source.name.rpartition("_")[0] or source.name)


def require(value: Any, expected: Any, name: str) -> None:
    """Raise if an argument differs from the constant that the graph was traced with."""
    if isinstance(value, Tensor) or value != expected:
        given = "a tensor" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{name}: {given}, but the model was scaled for {expected!r}; give scale_model an example that has it"
        )


@contextmanager
def _creators_recorded() -> Iterator[None]:
    originals = {name: getattr(torch, name) for name in CREATORS}
    try:
        for name, function in originals.items():
            setattr(torch, name, _recorded(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)


def _recorded(function: Callable) -> Callable:
    def wrapper(*args, **kwargs):
        proxies: list[fx.Proxy] = []
        pytree.tree_map_only(fx.Proxy, proxies.append, (args, kwargs))
        if not proxies:
            return function(*args, **kwargs)
        proxy = proxies[0].tracer.create_proxy("call_function", create, (function.__name__, *args), kwargs)
        mark_wrapped(proxy.node)
        return proxy

    return wrapper


def create(name: str, *args, **kwargs) -> Tensor:
    """Call ``torch.arange`` or another of :data:`CREATORS`, as one node of a graph."""
    return getattr(torch, name)(*args, **kwargs)


def mark_wrapped(node: fx.Node) -> None:
    """Mark a node's function: it is not traced into when the graph is unpickled."""
    node.meta["is_wrapped"] = True


class Values(fx.Interpreter):
    """Runs a graph on an example and keeps the value of every node."""

    def __init__(self, module: nn.Module, graph: fx.Graph):
        super().__init__(module, garbage_collect_values=False, graph=graph)

    def of(self, arguments: list[Any]) -> dict[fx.Node, Any]:
        """The value of every node. Floating-point inputs require gradients, which marks all that depends on them."""
        self.run(*map(_differentiable, arguments))
        return self.env


def _differentiable(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value

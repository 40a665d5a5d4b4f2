"""A model's graph as ``torch.fx`` records it, with what each node is on an example."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

# Functions that make tensors from numbers: fx does not see them, for none of their arguments is a tensor.
MAKERS = ("arange", "zeros", "ones", "full", "empty", "linspace", "tril_indices", "triu_indices")


class Untraceable(ValueError):
    """``forward`` does what a graph cannot hold."""


class Tracer(fx.Tracer):
    """Follows ``forward`` on an example, whose answer is given to what is asked of shapes (by ``assert`` or ``if``)."""

    proxy_buffer_attributes = True  # or a mask could not be cut to the length of the input

    # Unpickling a graph makes a tracer without arguments, and asks it for no value.
    def __init__(self, leaf: Callable[[nn.Module], bool] = bool, values: dict[str, Any] | None = None):
        super().__init__()
        self.leaf, self.values = leaf, values or {}
        self.known: dict[fx.Node, Any] = {}

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return self.leaf(module)

    def to_bool(self, proxy: fx.Proxy) -> bool:
        value = self._value(proxy.node)
        if isinstance(value, Tensor):
            raise Untraceable("an if or assert on the values of a tensor")
        return bool(value)

    def iter(self, proxy: fx.Proxy) -> Iterator:
        try:
            return super().iter(proxy)
        except fx.proxy.TraceError:
            return iter([proxy[i] for i in range(len(self._value(proxy.node)))])

    def _value(self, node: fx.Node) -> Any:
        if node not in self.known:
            self.known[node] = self._compute(node)
        return self.known[node]

    @torch.no_grad()
    def _compute(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.values[node.target]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
        if node.op == "get_attr":
            return _attribute(self.root, node.target)
        if node.op == "call_module":
            return self.root.get_submodule(node.target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)


def _attribute(root: nn.Module, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def bind(model: nn.Module, example: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of ``forward`` that an example gives, by name, and the defaults of the others."""
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
    """The graph of ``model``, specialised to the arguments that ``example`` gives; and the values of its placeholders.

    Raises:
        ValueError: ``forward`` cannot be traced.
    """
    try:
        values, constants = bind(model, example)
        with _makers_recorded():
            graph = Tracer(leaf, values).trace(model, concrete_args=constants or None)
    except (fx.proxy.TraceError, TypeError, RuntimeError, AttributeError, KeyError, Untraceable) as error:
        raise ValueError(f"model: the forward of {type(model).__name__} cannot be traced: {error}") from error
    order = [name for name in inspect.signature(model.forward).parameters if name in values | constants]
    _require_constants(graph)
    return graph, [(values | constants)[name] for name in order]


def _require_constants(graph: fx.Graph) -> None:
    """Exchange fx's own checks of what a graph was specialised to for ones that say so, and that can be pickled."""
    for node in list(graph.nodes):
        node.type = None  # an annotation that is a string cannot be pickled
        is_none = node.op == "call_function" and node.target.__name__ == "_assert_is_none"
        compares = node.target is torch._assert and getattr(node.args[0], "target", None) is operator.eq
        if is_none or (compares and node.args[0].args[0].op == "placeholder"):
            source, expected = (node.args[0], None) if is_none else node.args[0].args
            compared = None if is_none else node.args[0]
            node.target, node.args = require, (source, expected, source.name.rpartition("_")[0] or source.name)
            if compared is not None:
                graph.erase_node(compared)


def require(value: Any, expected: Any, name: str) -> None:
    """Hold an argument to what the graph was made for."""
    if isinstance(value, Tensor) or value != expected:
        given = "a tensor" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            f"{name}: {given}, but the model was scaled for {expected!r}; give scale_model an example that has it"
        )


@contextmanager
def _makers_recorded() -> Iterator[None]:
    originals = {name: getattr(torch, name) for name in MAKERS}
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
        torch.utils._pytree.tree_map_only(fx.Proxy, proxies.append, (args, kwargs))
        if not proxies:
            return function(*args, **kwargs)
        made = proxies[0].tracer.create_proxy("call_function", make, (function.__name__, *args), kwargs)
        return wrapped(made.node) and made

    return wrapper


def make(name: str, *args, **kwargs) -> Tensor:
    """``torch.arange`` and its like, as one node of a graph."""
    return getattr(torch, name)(*args, **kwargs)


def wrapped(node: fx.Node) -> fx.Node:
    """Mark a node's function as one that is not to be looked into when the graph is unpickled."""
    node.meta["is_wrapped"] = True
    return node


class Values(fx.Interpreter):
    """Runs a graph on an example and keeps what every node gave."""

    def __init__(self, module: nn.Module, graph: fx.Graph):
        super().__init__(module, garbage_collect_values=False, graph=graph)

    def of(self, arguments: list[Any]) -> dict[fx.Node, Any]:
        """The value of every node. Inputs of real numbers ask for gradients, so that what depends on them shows."""
        self.run(*map(_differentiable, arguments))
        return self.env


def _differentiable(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value

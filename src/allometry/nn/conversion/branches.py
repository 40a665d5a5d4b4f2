"""What a graph's nodes are to each other: residual branches, attention logits, cut edges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

PASS = {
    "view", "reshape", "transpose", "permute", "flatten", "unflatten", "contiguous", "squeeze", "unsqueeze", "chunk",
    "split", "unbind", "getitem", "expand", "expand_as", "repeat", "repeat_interleave", "movedim", "swapaxes", "cat",
    "concat", "stack", "roll", "flip", "clone", "to", "float", "type_as", "t", "T", "mT", "neg", "narrow", "select",
    "index_select", "gather", "size", "dim", "getattr", "view_as", "tile", "pad", "_assert", "masked_fill",
    "checkpoint", "rearrange", "double", "half", "bfloat16", "type", "detach", "numel", "ne", "eq",
}  # fmt: skip
ADD, MULTIPLY = {"add", "iadd", "add_"}, {"mul", "imul", "mul_", "truediv", "itruediv", "div", "div_"}
LOGITS = PASS | MULTIPLY | ADD | {"sub", "masked_fill", "where"}


@dataclass
class Branch:
    """A residual addition ``skip + branch`` at ``node``; ``inside`` is what runs between, if it can be cut out."""

    node: fx.Node
    skip: fx.Node
    branch: fx.Node
    inside: set[fx.Node] = field(default_factory=set)
    cut: set[fx.Node] = field(default_factory=set)
    ratio: float = 1.0


class Structure:
    """A graph analysed on an example: ``active`` are the nodes that a gradient passes, ``sizes`` their elements."""

    def analyse(self, graph: fx.Graph, values: dict[fx.Node, Any]) -> None:
        """Find out; ``values`` are what every node gave on the example."""
        self.graph = graph
        self.sizes = {node: value.numel() for node, value in values.items() if isinstance(value, Tensor)}
        self.active = {node for node, value in values.items() if _needs_gradient(value)}
        self.plain = self._logits()
        self.branches = self._residuals()
        self.free = self._free()

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self.active]

    def _users(self, node: fx.Node) -> list[fx.Node]:
        return [user for user in node.users if user in self.active or user.op == "output"]

    def _logits(self) -> set[fx.Node]:
        """What stands between a product of queries and keys and its softmax: it keeps the scale that it has."""
        found: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node not in self.active or name_of(node) != "softmax":
                continue
            todo = self._inputs(node)
            while todo:
                before = todo.pop()
                if name_of(before) in LOGITS:
                    found.add(before)
                    todo += self._inputs(before)
                elif name_of(before) in ("matmul", "bmm", "einsum"):
                    found.add(before)
        return found

    def _residuals(self) -> list[Branch]:
        above: dict[fx.Node, set[fx.Node]] = {}
        branches = []
        for node in self.graph.nodes:
            if node not in self.active:
                continue
            inputs = self._inputs(node)
            above[node] = set().union(*(above.get(i, set()) | {i} for i in inputs)) if inputs else set()
            if name_of(node) not in ADD or len(inputs) != 2 or node in self.plain:
                continue
            a, b = inputs
            if a in above[b] or b in above[a]:
                skip, end = (a, b) if a in above[b] else (b, a)
                inside = {n for n in above[end] | {end} if skip in above.get(n, ())}
                branches.append(Branch(node, skip, end, inside if self._closed(inside, skip, node) else set()))
        return branches

    def _closed(self, inside: set[fx.Node], skip: fx.Node, end: fx.Node) -> bool:
        return all(
            all(source in inside or source is skip for source in self._inputs(node))
            and all(user in inside or user is end for user in self._users(node))
            for node in inside
        )

    def _free(self) -> set[fx.Node]:
        """The nodes whose one input comes over a cut edge, of the whole graph or of the innermost branch around."""
        free = self._cut([n for n in self.graph.nodes if n in self.active])
        for branch in self.branches:
            order = [n for n in self.graph.nodes if n in branch.inside]
            cut = self._cut(order, branch.skip)
            inner = set().union(*(b.inside for b in self.branches if b.inside < branch.inside))
            branch.cut = cut - inner
            free |= branch.cut
        return free

    def _cut(self, order: Iterable[fx.Node], entry: fx.Node | None = None) -> set[fx.Node]:
        """Nodes at which all that is still to be used is their one input, which nothing else uses."""
        order = list(order)
        members = set(order)
        inside = lambda node: [u for u in self._users(node) if u in members or (entry is None and u.op == "output")]
        pending = {entry: len(inside(entry))} if entry is not None else {}
        found = set()
        for node in order:
            inputs = self._inputs(node)
            # ``list(pending)`` is empty for the first operation of all, as are its inputs.
            if list(pending) == inputs and all(pending[source] == 1 for source in inputs):
                found.add(node)
            for source in inputs:
                if source in pending:
                    pending[source] -= 1
                    if not pending[source]:
                        del pending[source]
            if users := inside(node):
                pending[node] = len(users)
        return found


def name_of(node: fx.Node) -> str:
    """What a node calls, by its last name: ``relu`` for F.relu, torch.relu and x.relu(); "" for other modules."""
    if node.op == "call_method":
        return node.target
    if node.op != "call_function":
        return node.meta.get("name", "")
    return getattr(node.target, "__name__", str(node.target)).removeprefix("_")


def _needs_gradient(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_needs_gradient(item) for item in value)
    return isinstance(value, Tensor) and value.requires_grad

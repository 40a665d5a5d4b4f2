"""How the nodes of a graph relate: residual branches, attention logits, cut edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """A residual addition ``skip + branch`` at ``node``.

    ``inside`` are the nodes between the two, if nothing else uses them; ``cut`` are those of them on cut edges;
    ``ratio`` is the gradient that the branch passes on, divided by the true one.
    """

    node: fx.Node
    skip: fx.Node
    branch: fx.Node
    inside: set[fx.Node] = field(default_factory=set)
    cut: set[fx.Node] = field(default_factory=set)
    ratio: float = 1.0


class GraphStructure:
    """A graph analysed on an example, and kept up to date while nodes are inserted and removed.

    ``active`` are the nodes that a gradient passes, ``sizes`` their numbers of elements; ``logits`` are the nodes
    between queries · keys and the softmax; ``branches`` the residual additions; ``free`` the nodes on cut edges.
    """

    def __init__(self, graph: fx.Graph, values: dict[fx.Node, Any]):
        self.graph = graph
        self.sizes = {node: value.numel() for node, value in values.items() if isinstance(value, Tensor)}
        self.active = {node for node, value in values.items() if _needs_gradient(value)}
        self.logits = self._find_logits()
        self.branches = self._find_residuals()
        self.free = self._find_free()

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The active nodes that ``node`` reads."""
        return [source for source in node.all_input_nodes if source in self.active]

    def insert_after(self, node: fx.Node, create: Callable[[], fx.Node]) -> fx.Node:
        """Insert the node that ``create`` returns; all that read ``node`` read the new one instead."""
        with self.graph.inserting_after(node):
            after = create()
        self.active.add(after)
        node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
        self._redirect(node, after)
        for branch in self.branches:
            if node in branch.inside:
                branch.inside.add(after)
        return after

    def remove(self, node: fx.Node, source: fx.Node) -> None:
        """Remove ``node``; all that read it read ``source`` instead."""
        node.replace_all_uses_with(source)
        self._redirect(node, source)
        self.graph.erase_node(node)

    def _redirect(self, old: fx.Node, new: fx.Node) -> None:
        for branch in self.branches:
            branch.skip = new if branch.skip is old else branch.skip
            branch.branch = new if branch.branch is old else branch.branch

    def _users(self, node: fx.Node) -> list[fx.Node]:
        return [user for user in node.users if user in self.active or user.op == "output"]

    def _find_logits(self) -> set[fx.Node]:
        """The nodes between a product of queries and keys and its softmax. They keep their scale."""
        logits: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node not in self.active or name_of(node) != "softmax":
                continue
            todo = self.inputs(node)
            while todo:
                before = todo.pop()
                if name_of(before) in LOGITS:
                    logits.add(before)
                    todo += self.inputs(before)
                elif name_of(before) in ("matmul", "bmm", "einsum"):
                    logits.add(before)
        return logits

    def _find_residuals(self) -> list[Branch]:
        above: dict[fx.Node, set[fx.Node]] = {}
        branches = []
        for node in self.graph.nodes:
            if node not in self.active:
                continue
            inputs = self.inputs(node)
            above[node] = set().union(*(above.get(i, set()) | {i} for i in inputs)) if inputs else set()
            if name_of(node) not in ADD or len(inputs) != 2 or node in self.logits:
                continue
            a, b = inputs
            if a in above[b] or b in above[a]:
                skip, end = (a, b) if a in above[b] else (b, a)
                inside = {n for n in above[end] | {end} if skip in above.get(n, ())}
                branches.append(Branch(node, skip, end, inside if self._closed(inside, skip, node) else set()))
        return branches

    def _closed(self, inside: set[fx.Node], skip: fx.Node, end: fx.Node) -> bool:
        return all(
            all(source in inside or source is skip for source in self.inputs(node))
            and all(user in inside or user is end for user in self._users(node))
            for node in inside
        )

    def _find_free(self) -> set[fx.Node]:
        """The nodes whose one input is a cut edge, of the whole graph or of the innermost branch around them."""
        free = self._cut([n for n in self.graph.nodes if n in self.active])
        for branch in self.branches:
            order = [n for n in self.graph.nodes if n in branch.inside]
            cut = self._cut(order, branch.skip)
            inner = set().union(*(b.inside for b in self.branches if b.inside < branch.inside))
            branch.cut = cut - inner
            free |= branch.cut
        return free

    def _cut(self, order: Iterable[fx.Node], entry: fx.Node | None = None) -> set[fx.Node]:
        """The nodes whose one input is the only value still to be used, and is used by no other node."""
        order = list(order)
        members = set(order)
        inside = lambda node: [u for u in self._users(node) if u in members or (entry is None and u.op == "output")]
        pending: dict[fx.Node, int] = {} if entry is None else {entry: len(inside(entry))}
        cut = set()
        for node in order:
            inputs = self.inputs(node)
            # ``list(pending)`` is empty for the first operation of all, as are its inputs.
            if list(pending) == inputs and all(pending[source] == 1 for source in inputs):
                cut.add(node)
            for source in inputs:
                if source in pending:
                    pending[source] -= 1
                    if not pending[source]:
                        del pending[source]
            if users := inside(node):
                pending[node] = len(users)
        return cut


def name_of(node: fx.Node) -> str:
    """The last name of the function that a node calls: ``relu`` for F.relu, torch.relu and x.relu(); "" for modules."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function":
        return node.meta.get("name", "")
    return getattr(node.target, "__name__", str(node.target)).removeprefix("_")


def _needs_gradient(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_needs_gradient(item) for item in value)
    return isinstance(value, Tensor) and value.requires_grad

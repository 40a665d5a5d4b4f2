"""A model's graph while the unit rule rewrites it, and its residual additions.

``x + f(x)`` becomes ``keep·x + share·f(x)`` with u-μP's weights by depth (arXiv 2407.17465, eqs. 10–14). If f reads
nothing but x, and nothing else reads the inside of f, the gradients inside are at unit scale and ``share`` is put back
where f split off; elsewhere the addition has its true gradient.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from ... import functional
from ...schemes import residual_taus
from .branches import Branch, GraphStructure
from .counterparts import MeasuredScale


class Rewriting:
    """A model and its graph; ``left`` are the parts that stay unchanged, ``measured`` the nodes of measured scales."""

    def __init__(self, model: nn.Module, structure: GraphStructure, strict: bool):
        self.model, self.structure, self.graph, self.strict = model, structure, structure.graph, strict
        self.left: dict[str, str] = {}
        self.measured: list[fx.Node] = []

    def refuse(self, where: str, why: str) -> None:
        """Raise, or note it in ``left`` unless ``strict``."""
        if self.strict:
            raise ValueError(
                f"model: the unit rule cannot treat {where} ({why}); strict=False leaves it as it is, with a warning"
            )
        self.left[where] = why

    def measure_after(self, node: fx.Node, free: bool = True) -> None:
        """Insert a measured scale after ``node``, with a backward factor of its own if ``free`` and on a cut edge."""
        name = f"{node.name}_scale"
        inside = any(node in branch.inside for branch in self.structure.branches)
        self.model.add_module(name, MeasuredScale(free and node in self.structure.free and not inside))
        self.measured.append(self.structure.insert_after(node, lambda: self.graph.call_module(name, (node,))))

    def call_module_instead(self, node: fx.Node, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Let ``node`` call ``module``, which becomes a child of the model, with these arguments."""
        name = f"{node.name}_module"
        self.model.add_module(name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", name, args, kwargs

    def rewrite_residuals(self) -> None:
        """Give every residual addition its weights, and its branch the gradient at unit scale if it can be cut out."""
        branches = self.structure.branches
        for branch, tau in zip(branches, residual_taus(len(branches)), strict=True):
            keep, share = (1 + tau**2) ** -0.5, tau * (1 + tau**2) ** -0.5
            if branch.inside:
                self._split(branch, keep, share)
            else:
                node = branch.node
                node.op, node.target, node.kwargs = "call_function", true_add, {}
                node.args = (branch.branch, branch.skip, keep, share)

    def _split(self, branch: Branch, keep: float, share: float) -> None:
        node, skip = branch.node, branch.skip
        with self.graph.inserting_after(skip):
            split = self.graph.call_function(functional.residual_split, (skip, keep, share / branch.ratio))
        with self.graph.inserting_after(split):
            kept = self.graph.call_function(operator.getitem, (split, 1))
            entered = self.graph.call_function(operator.getitem, (split, 0))
        for user in list(skip.users):
            if user in branch.inside:
                user.replace_input_with(skip, entered)
        for outer in self.structure.branches:
            if skip in outer.inside or (outer.skip is skip and node in outer.inside):
                outer.inside |= {split, kept, entered}
        node.op, node.target, node.kwargs = "call_function", functional.residual_add, {}
        node.args = (branch.branch, kept, keep, share)


def true_add(branch: Tensor, skip: Tensor, keep: float, share: float) -> Tensor:
    """``keep·skip + share·branch`` with its true gradients, for a branch that cannot be cut out."""
    return torch.add(skip * keep, branch, alpha=share)

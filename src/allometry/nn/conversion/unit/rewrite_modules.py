"""The modules of a model under the unit rule: each is replaced by its counterpart."""

from __future__ import annotations

from torch import fx, nn

from ...layers import with_parameters as layers
from .counterparts import COUNTERPARTS, MEASURED, PASSING, ratio_of
from .graph import path_of
from .rewriting import Rewriting


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one node of the graph: it has a counterpart, or no children to trace into."""
    known = type(module) in COUNTERPARTS or isinstance(module, (*PASSING, *MEASURED))
    return known or (type(module).__module__.startswith("torch.nn") and not list(module.children()))


def check_parameters(rewriting: Rewriting) -> None:
    """Refuse every module that owns parameters and has no counterpart."""
    for path, module in rewriting.model.named_modules():
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own and type(module) not in COUNTERPARTS:
            rewriting.refuse(path or "(model)", f"{type(module).__name__} with parameters {', '.join(own)}")


def rewrite_modules(rewriting: Rewriting, readout: str | None) -> None:
    """Replace every leaf module by its counterpart, the module at the path ``readout`` by a Readout.

    A counterpart may have a backward factor of its own only if all uses of the module are on cut edges.
    """
    model, structure = rewriting.model, rewriting.structure
    paths = {id(module): path for path, module in model.named_modules()}
    counterparts: dict[str, nn.Module] = {}
    tied: dict[int, nn.Parameter] = {}
    for path, nodes in _uses(rewriting, paths).items():
        plain = model.get_submodule(path)
        if isinstance(plain, PASSING):
            continue
        if isinstance(plain, MEASURED):
            for node in nodes:
                rewriting.measure_after(node)
        elif type(plain) not in COUNTERPARTS:
            rewriting.refuse(path, type(plain).__name__)
        else:
            constraint = None if structure.free.issuperset(nodes) else "output"
            module = counterparts[path] = _counterpart(rewriting, path, constraint, tied, path == readout)
            for branch in structure.branches:
                if branch.inside.intersection(nodes):
                    module.__dict__["branches"] = len(structure.branches)  # read by nn.parametrization
                branch.ratio *= ratio_of(module) ** len(branch.cut.intersection(nodes))
    if readout is not None and not isinstance(counterparts.get(readout), layers.Readout):
        raise ValueError(f"readout: {readout!r} is not a linear map of the model")
    for path, module in model.named_modules(remove_duplicate=False):
        if (first := paths.get(id(module))) in counterparts:
            rewriting.left.pop(path, None)
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent)._modules[name] = counterparts[first]


def _uses(rewriting: Rewriting, paths: dict[int, str]) -> dict[str, list[fx.Node]]:
    """The nodes that call each module, by the module's first path."""
    uses: dict[str, list[fx.Node]] = {}
    for node in rewriting.graph.nodes:
        if node.op == "call_module":
            module = rewriting.model.get_submodule(path_of(node))
            uses.setdefault(paths[id(module)], []).append(node)
    return uses


def _counterpart(
    rewriting: Rewriting, path: str, constraint: str | None, tied: dict[int, nn.Parameter], is_readout: bool
) -> nn.Module:
    plain = rewriting.model.get_submodule(path)
    try:
        if is_readout and isinstance(plain, nn.Linear):
            bias = plain.bias is not None
            module = layers.Readout(plain.in_features, plain.out_features, bias, constraint=constraint)
        else:
            module = COUNTERPARTS[type(plain)](plain, constraint)
    except ValueError as error:
        rewriting.refuse(path, f"{type(plain).__name__}: {error}")
        return plain
    for name, parameter in plain.named_parameters(recurse=False):
        new = module.get_parameter(name)
        if new.shape == parameter.shape:
            shared = module._parameters[name] = tied.setdefault(id(parameter), new)
            shared.requires_grad_(parameter.requires_grad)
    return module

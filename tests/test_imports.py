"""The arrows of the design: which room may import which, and that torch stays where it is needed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import allometry

SOURCE = Path(allometry.__file__).parent
ROOMS = {"nn", "lm", "runs", "laws", "planning", "report", "cli"}
COMMON = {"errors", "files", "quantities"}

# What a room may import when it is imported, and what only inside a function.
ALLOWED = {
    "errors": (set(), set()),
    "quantities": ({"errors"}, set()),
    "files": (set(), set()),
    "schedule": (set(), set()),
    "config": (COMMON | {"schedule"}, set()),
    "nn": (set(), set()),
    "runs": (COMMON | {"config", "schedule"}, set()),
    "lm": (COMMON | {"config", "schedule", "runs", "nn"}, set()),
    "laws": (COMMON, {"runs"}),
    "planning": (COMMON | {"config", "schedule", "laws"}, set()),
    "report": (COMMON | {"config", "schedule", "runs", "laws", "planning"}, set()),
    "cli": (COMMON | {"config", "schedule", "runs", "laws", "planning", "report"}, {"lm", "nn"}),
    "__init__": (set(), set()),
    "__main__": ({"cli"}, set()),
}
# Third-party libraries that a room may touch at all, standard library aside; None: no rule but that on torch.
LIBRARIES = {
    "nn": {"torch", "rich"},  # rich within functions, for tables
    "laws": {"numpy", "scipy", "pyarrow"},  # pyarrow within functions, to read files
    "planning": {"numpy", "scipy"},  # scipy within functions
    "config": {"pydantic", "tomli_w"},
    "runs": {"numpy", "scipy", "pyarrow", "tokenizers", "datasets", "huggingface_hub"}  # most within functions
    | {"ray", "submitit"},
}
TORCH_ROOMS = {"nn", "lm"}


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every absolute module name that a file imports, and whether as soon as it is imported itself."""
    package = ["allometry", *path.relative_to(SOURCE).parent.parts]
    found = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, eager) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            # `from .. import nn` names rooms; `from ..nn import x` names one.
            if base == ["allometry"]:
                found.extend((f"allometry.{alias.name}", eager) for alias in node.names)
            else:
                found.append((".".join(base), eager))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, eager and not inside)

    visit(ast.parse(path.read_text()), True)
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_arrows(path):
    room = room_of(path)
    eager_rooms, lazy_rooms = ALLOWED[room]
    for module, eager in imports(path):
        parts = module.split(".")
        if parts[0] == "allometry":
            other = parts[1] if len(parts) > 1 else "__init__"
            allowed = {room, "__version__"} | eager_rooms | (set() if eager else lazy_rooms)
            assert other in allowed, f"{room} imports {module}" + (" at module level" if eager else "")
        elif parts[0] not in sys.stdlib_module_names:
            assert parts[0] in LIBRARIES.get(room, {parts[0]}), f"{room} imports {module}"
            if parts[0] in ("torch", "safetensors"):
                assert room in TORCH_ROOMS or (room == "cli" and not eager), f"{room} imports {module}"


def test_the_scan_sees_what_it_is_for():
    """Relative and absolute forms, at module level and within functions."""
    found = set(imports(SOURCE / "lm" / "model.py"))
    assert {("torch", True), ("allometry.nn", True), ("allometry.config.run", True)} <= found
    assert ("allometry.runs.study", False) in imports(SOURCE / "laws" / "observations.py")
    assert not any(module.startswith("allometry.config.run") for module, _ in imports(SOURCE / "schedule.py"))


def modules_after(code: str) -> set[str]:
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_nn_room_loads_nothing_else_of_ours():
    loaded = modules_after("import allometry.nn")
    ours = {name for name in loaded if name.split(".")[0] == "allometry"}
    assert "allometry.nn.layers.with_parameters" in ours
    assert not {name for name in ours if name != "allometry" and not name.startswith("allometry.nn")}


def test_no_room_but_nn_and_lm_loads_torch():
    names = [
        ".".join(("allometry", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in FILES
        if room_of(path) not in TORCH_ROOMS and path.name != "__main__.py"
    ]
    assert {
        "allometry.laws.fitting.fit",
        "allometry.planning.plan_record",
        "allometry.runs.study",
        "allometry.config.run",
    } <= set(names)
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert set(names) <= loaded
    assert not {"torch", "safetensors"} & loaded


def test_importing_the_package_loads_no_library():
    assert not {"numpy", "torch", "scipy", "pydantic"} & modules_after("import allometry")

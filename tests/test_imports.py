"""The arrows of the house: imports run one way between rooms, sub-rooms and files; torch stays where it is needed."""

import ast
import json
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import allometry

SOURCE = Path(allometry.__file__).parent
GROUND = {
    *("arithmetic", "cards", "errors", "extras", "files"),
    *("installed_extras", "plugins", "quantities", "text_table"),
}

# What a room may import when it is imported itself, and what only within a function, so that it costs nothing until
# it is needed.
ALLOWED = {
    "errors": (set(), set()),
    "cards": (set(), set()),
    "installed_extras": (set(), set()),
    "arithmetic": ({"errors"}, set()),
    "extras": ({"errors"}, set()),
    "files": (set(), set()),
    "plugins": ({"errors"}, set()),
    "text_table": (set(), set()),
    "quantities": ({"errors"}, set()),
    "config": (GROUND, set()),
    "nn": (set(), set()),
    "data": (GROUND | {"config"}, set()),
    "runs": (GROUND | {"config", "data"}, set()),
    "ladder": (GROUND | {"config", "runs"}, set()),
    "tasks": (GROUND | {"config", "data", "nn"}, set()),
    "lm": (GROUND | {"config", "data", "runs", "nn", "tasks"}, set()),
    "trainers": (GROUND | {"config", "data", "runs", "nn", "tasks", "lm"}, set()),
    "laws": (GROUND, {"runs"}),
    "planning": (GROUND | {"laws"}, {"config"}),
    "report": (GROUND | {"config", "runs", "laws", "planning"}, set()),
    "workflow": (GROUND | {"config", "data", "runs", "ladder", "laws", "planning"}, {"lm", "report"}),
    "cli": (
        GROUND | {"config", "data", "runs", "ladder", "laws", "planning", "report", "workflow"},
        {"lm", "nn", "tasks", "trainers"},
    ),
    "recording": (GROUND | {"config", "runs"}, set()),
    "__init__": (set(), {"recording"}),
    "__main__": ({"cli"}, set()),
}
# Third-party libraries that a room may touch at all, standard library aside; a room that is not named: no rule.
LIBRARIES = {
    "nn": {"torch", "rich"},  # rich within functions, for tables
    "laws": {"numpy", "scipy", "pyarrow"},  # pyarrow within functions, to read files
    "planning": {"numpy", "scipy"},  # scipy within functions
    "config": {"pydantic", "tomli_w"},
    "data": {"numpy", "pyarrow", "tokenizers", "datasets", "huggingface_hub", "sklearn"},  # most within functions
    "runs": {"numpy", "scipy", "ray", "submitit"},  # all but NumPy within functions
    "ladder": {"numpy", "scipy"},
}
TORCH_ROOMS = {"nn", "tasks", "lm", "trainers"}
FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(("allometry", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every absolute name that a file imports, and whether as soon as it is imported itself.

    Of ours, it is the file that is named, also where a name comes out of a package: ``from ..laws import fit`` is an
    import of ``allometry.laws``, ``from ..laws import base`` of ``allometry.laws.base``.
    """
    package = ["allometry", *path.relative_to(SOURCE).parent.parts]
    names = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            names.extend((alias.name, eager) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                names.append((inner if inner in MODULES else base, eager))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, eager and not inside)

    visit(ast.parse(path.read_text()), True)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_arrows_between_rooms(path):
    room = room_of(path)
    eager_rooms, lazy_rooms = ALLOWED[room]
    for module, eager in imports(path):
        parts = module.split(".")
        if parts[0] == "allometry":
            other = parts[1] if len(parts) > 1 else "__init__"
            allowed = {room, "__init__"} | eager_rooms | (set() if eager else lazy_rooms)
            assert other in allowed, f"{room} imports {module}" + (" at module level" if eager else "")
        elif parts[0] not in sys.stdlib_module_names:
            assert parts[0] in LIBRARIES.get(room, {parts[0]}), f"{room} imports {module}"
            if parts[0] in ("torch", "safetensors"):
                lazy = room in ("cli", "recording") and not eager
                assert room in TORCH_ROOMS or lazy, f"{room} imports {module}"


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle, the first again at the end; nothing where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle():
    """Counted are imports within functions too: one there hides a circle and does not open it."""
    edges = {module: {name for name, _ in imports(path)} & set(MODULES) - {module} for module, path in MODULES.items()}
    assert circle(edges) == []


@pytest.mark.parametrize("room", sorted({room_of(path) for path in FILES if path.parent != SOURCE}))
def test_no_sub_rooms_import_each_other_in_a_circle(room):
    def sub_room(module: str) -> str | None:
        parts = module.split(".")
        folder = SOURCE.joinpath(*parts[1:3])
        return parts[2] if len(parts) > 2 and parts[1] == room and folder.is_dir() else None

    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if (here := sub_room(module)) is not None:
            there = {sub_room(name) for name, _ in imports(path)} - {None, here}
            edges.setdefault(here, set()).update(there)
    assert circle(edges) == []


def test_a_room_has_a_dozen_files_at_most_and_says_what_is_in_it():
    folders = {path.parent for path in FILES}
    for folder in folders:
        assert len([path for path in FILES if path.parent == folder and path.name != "__init__.py"]) <= 14, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_no_import_is_for_the_type_checker_alone():
    assert [path for path in FILES if "TYPE_CHECKING" in path.read_text()] == []


def test_the_scan_sees_what_it_is_for(tmp_path):
    """Relative and absolute forms, at module level and within functions; a circle is a circle."""
    assert {("torch", True), ("allometry.nn", True), ("allometry.config.model", True)} <= set(
        imports(SOURCE / "lm" / "decoder.py")
    )
    assert ("allometry.runs.study", False) in imports(SOURCE / "laws" / "run_files" / "from_study.py")
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def modules_after(code: str) -> set[str]:
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_nn_room_loads_nothing_else_of_ours():
    loaded = modules_after("import allometry.nn")
    ours = {name for name in loaded if name.split(".")[0] == "allometry"}
    assert "allometry.nn.layers" in ours
    assert not {name for name in ours if name != "allometry" and not name.startswith("allometry.nn")}


def test_no_room_but_those_of_torch_loads_it():
    names = [module for module, path in MODULES.items() if room_of(path) not in {*TORCH_ROOMS, "__main__"}]
    assert {"allometry.laws.fitting.fit", "allometry.planning.make_plan", "allometry.runs.study"} <= set(names)
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert set(names) <= loaded
    assert not {"torch", "safetensors"} & loaded


def test_importing_the_package_loads_no_library():
    assert not {"numpy", "torch", "scipy", "pydantic"} & modules_after("import allometry")

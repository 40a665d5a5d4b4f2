"""One name, one thing: classes, files and modules; and no variable whose name says nothing of what it holds."""

import ast
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import allometry

SOURCE = Path(allometry.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
WORDS = {"found", "made", "told", "said"}
# A command and a configuration are named after the thing; each room with a Protocol has its contract and its catalog.
MAY_REPEAT = {"contract", "catalog", "__init__", "__main__"}


def place(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def twice(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: where for name, where in places.items() if len(where) > 1}


def identifiers(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return {name.strip("_") for name in names}


def test_a_public_class_name_stands_once():
    places = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(place(path))
    assert twice(places) == {}


def test_a_file_name_stands_once():
    places = defaultdict(list)
    for path in FILES:
        if path.relative_to(SOURCE).parts[0] not in ("cli", "config") and path.stem not in MAY_REPEAT:
            places[path.stem].append(place(path))
    assert twice(places) == {}


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=place)
def test_no_module_is_hidden_by_a_function_of_its_package(path):
    name = ".".join(("allometry", *path.parent.relative_to(SOURCE).parts))
    modules = {other.stem for other in path.parent.glob("*.py")} | {
        other.name for other in path.parent.iterdir() if (other / "__init__.py").exists()
    }
    package = import_module(name)
    for module in modules - {"__init__", "__main__"}:
        assert isinstance(getattr(package, module, package), ModuleType), f"{name}.{module}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_name_says_what_it_holds(path):
    assert not identifiers(TREES[path]) & WORDS

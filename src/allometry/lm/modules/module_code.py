"""The code of a user's model: read, fingerprinted with what it imports from its folder, kept in the study, loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import UserError
from ...files import replace_file, write_json

MANIFEST = "family.json"
FOLDER = "family"  # of a study

_kept: dict[str, Path] = {}  # where the code of a fingerprint lies in a study
_loaded: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class Code:
    """A function of a file: its name, the file's name, and every file of the folder that it needs, by relative path."""

    source: str
    function: str
    main: str
    files: dict[str, bytes]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return digest.hexdigest()[:16]


def read_code(source: str) -> Code:
    """The code that ``file.py:function`` names, and what it imports from its own folder.

    Raises:
        UserError: there is no such file or function, or the file does not run.
    """
    path, _, name = source.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise UserError(f"family {source!r}: write the file and the function in it, as model.py:Net")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"family {source}: {file} is no file")
    folder = file.resolve().parent
    module, neighbours = _execute(file.resolve(), folder, source)
    if not callable(getattr(module, name, None)):
        raise UserError(f"family {source}: {file} has no function or class {name}")
    files = {file.name: file.read_bytes()}
    files |= {each.relative_to(folder).as_posix(): each.read_bytes() for each in neighbours}
    code = Code(source, name, file.name, files)
    _loaded[code.fingerprint] = module
    return code


def keep(code: Code, study: Path) -> None:
    """Write the code into a study, so that the study can be gone on with wherever it is."""
    folder = study / FOLDER
    for name, content in code.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, content)
    value = {"source": code.source, "function": code.function, "main": code.main, "files": sorted(code.files)}
    write_json(folder / MANIFEST, value | {"fingerprint": code.fingerprint})


def code_of(source: str, study: Path) -> Code:
    """The code that the user names, or, where that file is gone, what the study keeps of it.

    Raises:
        UserError: there is none, or it does not run.
    """
    kept = None if Path(source.rpartition(":")[0]).is_file() else offer(study)
    return kept if kept is not None and kept.source == source else read_code(source)


def offer(study: Path) -> Code | None:
    """Let :func:`function_of` find the code that a study keeps; that code, if it keeps any.

    Raises:
        UserError: the code is not what was kept.
    """
    manifest = study / FOLDER / MANIFEST
    if not manifest.is_file():
        return None
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
        files = {name: (study / FOLDER / name).read_bytes() for name in value["files"]}
        code = Code(value["source"], value["function"], value["main"], files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest}: not readable ({error}); put the study's family folder back") from None
    if code.fingerprint != value["fingerprint"] or not all(_inside(name) for name in files):
        raise UserError(f"{study / FOLDER}: its code was changed since the study began; put it back")
    _kept[code.fingerprint] = study / FOLDER / code.main
    return code


def function_of(code: str, source: str, function: str) -> Callable[..., Any]:
    """The function whose code has a fingerprint: as it was loaded, or from a study, or from where the user named it.

    Raises:
        UserError: it is in none of them.
    """
    if code not in _loaded and code in _kept:
        _loaded[code], _ = _execute(_kept[code], _kept[code].parent, source)
    if code not in _loaded:
        present = read_code(source)
        if present.fingerprint != code:
            raise UserError(f"family {source}: its code is not the code of this run any more; put that back")
    return getattr(_loaded[code], function)


def _inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _execute(file: Path, folder: Path, source: str) -> tuple[ModuleType, list[Path]]:
    """Run a file as a module of its own; also the files of its folder that it imported."""
    spec = importlib.util.spec_from_file_location(f"family of {file}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"family {source}: {file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    with user_code(source), _first_on_path(folder):
        spec.loader.exec_module(module)
    neighbours = []
    for name in set(sys.modules) - before:
        place = getattr(sys.modules[name], "__file__", None)
        path = Path(place).resolve() if place and Path(place).is_file() else None
        if path is not None and folder in path.parents and not {"site-packages", "dist-packages"} & set(path.parts):
            neighbours.append(path)
            del sys.modules[name]  # another study may have a file of that name
    return module, neighbours


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def user_code(source: str) -> Iterator[None]:
    """Any exception of the user's code is one line that names its place.

    Raises:
        UserError: the body raised.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".py")]
        ours = str(Path(__file__).parents[2])
        own = [f for f in frames if not f.filename.startswith(ours) and "site-packages" not in f.filename]
        own = own or [f for f in frames[-1:] if not isinstance(error, SyntaxError)]  # which names its own place
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        message = " ".join(str(error).split())
        raise UserError(f"family {source}: raised {type(error).__name__}: {message}{place}") from error

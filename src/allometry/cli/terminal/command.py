"""What every command has: --quiet, --verbose, examples under its help, and the next command at its end."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the answer and errors; no progress, no notes.", metavar="")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print versions, the time taken, and traces.", metavar="")
]
Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version, what is installed, and what each extra adds.", metavar=""),
]
OF_TEXT = ("text", "distilled_text")  # tasks
_KINDS: dict[Any, str] = {bool: "", int: "COUNT", float: "NUMBER", str: "TEXT", Path: "PATH"}
_KINDS |= {list[str]: "TEXT", list[Path]: "PATH", list[int]: "COUNT"}
_WRITTEN = {"output": "--output", "html": "--html"}  # options that name a file to write
_ADDRESS = re.compile(r"(https?|ftp|s3|gs|hf):/")  # as Path leaves it
_COMMON = {"quiet": Quiet, "verbose": Verbose}


class EndsWith(typer.Exit):
    """The end of a command with an exit status, and with the command to give next."""

    def __init__(self, status: int, following: list[str]) -> None:
        super().__init__(status)
        self.following = following


def with_common_options(function: Callable[..., list[str] | None]) -> Callable[..., None]:
    """The command with --quiet and --verbose, which ends with the next command that ``function`` returns.

    The help shows in words what an option takes. The next command is printed to be copied: its parts are quoted for a
    shell.
    """
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    parameters = [each.replace(annotation=hints[each.name]) for each in signature.parameters.values()]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint)
        for name, hint in _COMMON.items()
    ]

    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> None:
        from .output import choose_volume, note, volume

        choose_volume(quiet=quiet, verbose=verbose)
        volume["command"] = function.__name__
        begun = time.monotonic()
        if verbose:
            note(_versions())
        try:
            _check_files(options)
            following = function(*arguments, **options)
        except typer.Exit as end:
            following = getattr(end, "following", None)
            if options.get("dry_run"):  # its cost was shown
                following = [part for part in the_same_with() if part != "--dry-run"]
            if following and not options.get("json"):
                note(f"next: {shlex.join(following)}", verbatim=True)
            raise
        if following and not options.get("json"):
            note(f"next: {shlex.join(following)}", verbatim=True)
        if verbose:
            note(f"{time.monotonic() - begun:.1f} s")

    for parameter in parameters:
        _name_kind(parameter.annotation)
    result: Any = command
    result.__signature__ = signature.replace(parameters=parameters)
    result.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    del result.__wrapped__  # typer would read the signature of the function inside
    return result


def _check_files(options: dict[str, Any]) -> None:
    """Refuse to write over a file that is read, two answers to one file, and a table from standard input.

    Raises:
        UserError: one of these.
    """
    from ...errors import UserError

    written = {name: Path(options[name]) for name in _WRITTEN if isinstance(options.get(name), Path)}
    read = [one for name, value in options.items() if name not in _WRITTEN for one in _paths_in(value)]
    if any(isinstance(one, Path) and one == Path("-") for one in read):
        raise UserError("-: standard input is not read here; save it as a file and give its name")
    for address in (str(one) for one in read if isinstance(one, Path) and _ADDRESS.match(str(one))):
        name = address.replace(":/", "://", 1)
        raise UserError(f"{name}: nothing is loaded from the network; download the file first")
    for name, path in written.items():
        if path.is_file() and any(_is_file(one) and path.samefile(one) for one in read):
            raise UserError(f"{path}: is read by this command; give {_WRITTEN[name]} another name")
    if len({path.absolute() for path in written.values()}) < len(written):
        raise UserError(f"{next(iter(written.values()))}: {' and '.join(_WRITTEN.values())} need different names")


def _paths_in(value: Any) -> list[Path | str]:
    """The paths and texts of an argument."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str | Path)]


def _is_file(value: Path | str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # a text that can be no path
        return False


def _name_kind(annotation: Any) -> None:
    """Show in the help what an option takes, in words; a flag takes nothing."""
    kind, options = getattr(annotation, "__origin__", None), getattr(annotation, "__metadata__", ())
    for option in options:
        if isinstance(option, OptionInfo) and option.metavar is None:
            option.metavar = next((word for known, word in _KINDS.items() if kind in (known, known | None)), None)


class FlagsWithoutKind:
    """A command whose help names no type beside a flag: also beside those that typer adds itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for parameter in params:
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
        return params


class PlainCommand(FlagsWithoutKind, TyperCommand):
    """One command."""


class PlainGroup(FlagsWithoutKind, TyperGroup):
    """All commands."""


def the_same_with(*more: str) -> list[str]:
    """The command that is running, with more options."""
    return ["allometry", *sys.argv[1:], *more]


def without_options(parts: list[str], *names: str) -> list[str]:
    """A command without these options and what each of them takes."""
    kept, skip = [], False
    for part in parts:
        if not skip and part.split("=")[0] not in names:
            kept.append(part)
        skip = not skip and part in names
    return kept


def use_of_run(study: Any, record: Any) -> list[str]:
    """The command that writes with a run; empty where it is no model of text, or its weights are not here."""
    from ...config.model import DecoderConfig

    if record is None or record.external or record.config.task.name not in OF_TEXT:
        return []
    can_write = isinstance(record.config.model, DecoderConfig) and study.weights_path(record.id).is_file()
    return ["allometry", "generate", f"{study.path}/{record.id}"] if can_write else []


def free_name(name: str) -> str:
    """A name that no file in this folder has."""
    path, number = Path(name), 2
    while Path(name).exists():
        name, number = f"{path.stem}-{number}{path.suffix}", number + 1
    return name


def examples(*lines: str) -> str:
    """The end of a command's help: what a user would type."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def _versions() -> str:
    from ... import __version__
    from ...installed_extras import base_versions, version_of

    versions = {"allometry": __version__, **base_versions(), "torch": version_of("torch")}
    return ", ".join(f"{name} {value}" for name, value in versions.items() if value)

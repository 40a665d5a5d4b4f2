"""``allometry``: the commands, and the one place where a user's mistake becomes one line and an exit status.

Each command declares its options in a file of its own, and imports what it needs when it runs, so that ``--help`` stays
fast.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
import traceback
from typing import Any

import typer

from ..errors import UserError
from ..extras import EXTRAS, how_to_install
from . import audit, data, doctor, fit, import_runs, ladder, plan, predict, quickstart, report, runs, scale, train
from .models import distill, evaluate, export, finetune, generate
from .terminal.command import PlainCommand, PlainGroup, Quiet, Verbose, Version, examples, with_common_options

app = typer.Typer(
    name="allometry",
    cls=PlainGroup,
    help="How big a model, on how many tokens, with which batch and learning rate, and which loss will it reach? "
    "Measured on your own text and machine.",
    epilog=examples("allometry quickstart", "allometry fit runs.csv", "allometry COMMAND --help"),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = {
    "quickstart": (quickstart.quickstart, quickstart.EXAMPLES),
    "ladder": (ladder.ladder, ladder.EXAMPLES),
    "runs": (runs.runs, runs.EXAMPLES),
    "data": (data.data, data.EXAMPLES),
    "import": (import_runs.import_runs, import_runs.EXAMPLES),
    "fit": (fit.fit, fit.EXAMPLES),
    "predict": (predict.predict, predict.EXAMPLES),
    "plan": (plan.plan, plan.EXAMPLES),
    "scale": (scale.scale, scale.EXAMPLES),
    "train": (train.train, train.EXAMPLES),
    "report": (report.report, report.EXAMPLES),
    "audit": (audit.audit, audit.EXAMPLES),
    "generate": (generate.generate, generate.EXAMPLES),
    "evaluate": (evaluate.evaluate, evaluate.EXAMPLES),
    "export": (export.export, export.EXAMPLES),
    "finetune": (finetune.finetune, finetune.EXAMPLES),
    "distill": (distill.distill, distill.EXAMPLES),
    "doctor": (doctor.doctor, doctor.EXAMPLES),
}
for name, (function, lines) in COMMANDS.items():
    app.command(name, cls=PlainCommand, epilog=examples(*lines))(with_common_options(function))

# What the parser of options says of a value, and the same in plain words.
_PLAIN = tuple(
    (re.compile(rf"^Invalid value for '?(.+?)'?: Input should be {finding}(?:, .*)?$"), words)
    for finding, words in (
        ("a valid integer", r"\1 takes a whole number"),
        ("a valid number", r"\1 takes a number, such as 0.5 or 1e3"),
        ("a finite number", r"\1 takes a finite number"),
        ("greater than or equal to (.+?)", r"\1 must be \2 or more"),
        ("less than or equal to (.+?)", r"\1 must be \2 or less"),
        ("greater than (.+?)", r"\1 must be above \2"),
        ("less than (.+?)", r"\1 must be below \2"),
    )
)
INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM
# What typer raises for options that do not parse: a sentence, which must not become a box of five lines.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Version = False, quiet: Quiet = False, verbose: Verbose = False) -> None:
    from .terminal.output import answer, choose_volume

    choose_volume(quiet=quiet, verbose=verbose)
    if version:
        from .terminal.installation import installation

        answer(installation())
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit status 2."""
    from .terminal.output import reset_volume

    reset_volume()
    try:
        _run(_on_termination())
    finally:
        reset_volume()


def _run(ended: list[int]) -> None:
    """Run the command; ``ended`` is filled when the process is asked to end."""
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        if status:  # a command that ran, and whose answer is no
            sys.exit(status)
    except (KeyboardInterrupt, typer.Abort):
        _complain("stopped; what was finished is saved, and the same command again continues")
        sys.exit(TERMINATED if ended else INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED and ended:  # a command that was stopped and had something to say itself
            sys.exit(TERMINATED)
        raise
    except Exception as error:
        message = _mistake(error)
        if message is None:  # a fault of ours
            raise
        _complain(message)
        sys.exit(2)


def _mistake(error: Exception) -> str | None:
    """The line for an error that a user can correct; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return how_to_install(error.name)
    if isinstance(error, UsageError):
        return _usage(error)
    if isinstance(error, OSError):  # a full disk or a folder without permission: no fault of ours, so no trace
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return None


def _on_termination() -> list[int]:
    """Let SIGTERM do what Ctrl-C does; the list that is returned holds a number once it has come."""
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    return came


def _usage(error: Any) -> str:
    """What is wrong with the options, and where they are explained."""
    command = error.ctx.command_path if error.ctx else " ".join(["allometry", *_begun()])
    message = error.format_message().rstrip(".")
    for pattern, words in _PLAIN:
        message = pattern.sub(words, message)
    return f"{message}{' See' if message.endswith('?') else '; see'} {command} --help"


def _begun() -> list[str]:
    """The name of the command that was typed; nothing where it is none."""
    return sys.argv[1:2] if sys.argv[1:2] and not sys.argv[1].startswith("-") else []


def _complain(message: str) -> None:
    from .terminal.output import as_options, volume

    if volume["verbose"]:
        traceback.print_exc()
    print("allometry:", " ".join(as_options(message).split()), file=sys.stderr)


if __name__ == "__main__":
    main()

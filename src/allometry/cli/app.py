"""``allometry``: the commands, and the one place where a user's mistake becomes one line and an exit status.

Each command declares its options in a file of its own, and imports what it needs when it runs, so that ``--help`` stays
fast.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import UserError
from ..extras import EXTRAS, how_to_install
from .audit import audit
from .data import data
from .fit import fit
from .import_runs import import_runs
from .ladder import ladder
from .models.distill import distill
from .models.evaluate import evaluate
from .models.export import export
from .models.finetune import finetune
from .models.generate import generate
from .plan import plan
from .predict import predict
from .quickstart import quickstart
from .report import report
from .runs import runs
from .scale import scale
from .train import train

app = typer.Typer(
    name="allometry",
    help="How big a model, on how many tokens, with which batch and learning rate, and what loss will it reach?",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    quickstart,
    ladder,
    runs,
    data,
    fit,
    predict,
    plan,
    scale,
    train,
    audit,
    generate,
    evaluate,
    export,
    finetune,
    distill,
    report,
)
for command in COMMANDS:
    app.command()(command)
app.command("import")(import_runs)

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM
# What typer raises for options that do not parse: a sentence, which must not become a box of five lines.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"allometry {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit status 2."""
    ended = _on_termination()
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        if status:  # a command that ran, and whose answer is no
            sys.exit(status)
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:  # a fault of ours
            raise
        _complain(how_to_install(error.name))
        sys.exit(2)
    except UsageError as error:
        _complain(_usage(error))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        _complain("stopped; what a study has so far is saved, and the same command goes on from here")
        sys.exit(TERMINATED if ended else INTERRUPTED)
    except OSError as error:  # a full disk or a folder without permission: no fault of ours, so no trace
        _complain(f"{error.filename or 'output'}: {error.strerror or error}")
        sys.exit(2)


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
    command = error.ctx.command_path if error.ctx else "allometry"
    return f"{error.format_message().rstrip('.')}; see {command} --help"


def _complain(message: str) -> None:
    from .terminal.output import as_options

    print("allometry:", " ".join(as_options(message).split()), file=sys.stderr)


if __name__ == "__main__":
    main()

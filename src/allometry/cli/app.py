"""``allometry``: the commands, and the one place where mistakes become one line and an exit status.

Commands live in modules of their own, imported when they run, so that ``--help`` stays fast.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import UserError
from ..extras import EXTRAS, how_to_install

app = typer.Typer(
    name="allometry",
    help="How big a model, on how many tokens, with which batch and learning rate, and what loss will it reach?",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM
Json = Annotated[bool, typer.Option("--json", help="Print a machine's answer (JSON) on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; xla is experimental.")]
Engine = Annotated[str, typer.Option(help="Where the ladder is trained: local, ray or slurm.")]
Gpus = Annotated[float, typer.Option(min=0, help="On a cluster: GPUs of each worker; 0.5 is half of one.")]
Level = Annotated[float, typer.Option(help="Level of the interval.")]
TrackerName = Annotated[
    list[str] | None,
    typer.Option(help="Log to a tracker as well: tensorboard, wandb (offline) or mlflow; in trackers/ of the study."),
]


# What typer raises for options that do not parse: a sentence, which must not become a box of five lines.
UsageError = typer.BadParameter.__base__


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"allometry {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def quickstart(
    data: Annotated[
        str,
        typer.Option(help="A text file, a folder of them, one that `data` wrote, or stdlib: Python's own sources."),
    ] = "stdlib",
    minutes: Annotated[float, typer.Option(help="What the whole may take on this machine.")] = 3.0,
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial weights and of the order of the text.")] = 0,
    engine: Engine = "local",
    device: Device = "auto",
    gpus: Gpus = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained and its cost; stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before training.")] = False,
    tracker: TrackerName = None,
    json: Json = False,
) -> None:
    """Real text to a plan that comes true: ladder, law, plan, prediction, proof, report."""
    from .quickstart import quickstart as run

    where = {"engine": engine, "device": device, "gpus": gpus}
    options = {"dry_run": dry_run, "yes": yes, "tracker_names": tracker or [], "as_json": json}
    run(data=data, minutes=minutes, out=out, seed=seed, where=where, **options)


@app.command()
def ladder(
    study: Annotated[
        Path, typer.Argument(help="What to train: a TOML file with data, and minutes or widths and tokens.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("study"),
    engine: Engine = "local",
    device: Device = "auto",
    gpus: Gpus = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained and its cost; stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before training.")] = False,
    tracker: TrackerName = None,
    json: Json = False,
) -> None:
    """Train a ladder of small models; the cost comes first. The same command again goes on where it stopped."""
    from .quickstart import ladder as run

    where = {"engine": engine, "device": device, "gpus": gpus}
    run(study, out=out, where=where, dry_run=dry_run, yes=yes, tracker_names=tracker or [], as_json=json)


@app.command()
def data(
    source: Annotated[
        str,
        typer.Argument(
            help="A file or folder of text, JSONL or Parquet (also .gz, .bz2, .zst), stdlib, or a Hugging Face name."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the corpus; studies take it as their data.")],
    tokenizer: Annotated[
        str, typer.Option(help="bytes; bpe:8192, trained on this text; gpt2; or the path of a tokenizer.json.")
    ] = "bytes",
    text_field: Annotated[str, typer.Option(help="Field or column of the text, in JSONL and Parquet.")] = "text",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hugging Face data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split; train by default.")] = None,
    json: Json = False,
) -> None:
    """Text to packed tokens, split into training and held-out text. The same command again goes on where it stopped."""
    from .data import data as run

    run(source, out=out, tokenizer=tokenizer, text_field=text_field, config=config, split=split, as_json=json)


@app.command()
def fit(
    source: Annotated[
        Path, typer.Argument(help="A study, or a table of runs (CSV, TSV, JSONL, Parquet): parameters, tokens, loss.")
    ],
    law: Annotated[
        list[str] | None,
        typer.Option(help="chinchilla, skaling, power, kaplan, farseer, …; default: several, weighted by a backtest."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Which column holds a field: loss=c4_loss; a number fills it: lr=0.01.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only these rows: dataset=c4.")] = None,
    counted: Annotated[
        str | None, typer.Option(help="Which parameters to take: non_embedding, total or matmul.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="For a single law: log_squares, huber or squares.", rich_help_panel="One law")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Where huber turns linear; 0.001 by default.", rich_help_panel="One law")
    ] = None,
    isoflop: Annotated[
        bool, typer.Option("--isoflop", help="The best size for each budget, from the minima of the budgets run.")
    ] = False,
    level: Level = 0.9,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the fit; a study's: fit.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Fit scaling laws to a table of runs, test them on its largest runs, and weigh them."""
    from .fit import fit as run

    table = {"columns": column, "where": where, "counted": counted}
    run(
        source,
        table,
        names=law,
        objective=objective,
        delta=delta,
        isoflop=isoflop,
        level=level,
        output=output,
        as_json=json,
    )


@app.command()
def predict(
    source: Annotated[Path | None, typer.Argument(help="fit.json, or a study that has one.")] = None,
    params: Annotated[str | None, typer.Option(help="Parameters, counted as the fit counts them: 1e9, 1.5B.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens: 20e9, 20B.")] = None,
    batch: Annotated[str | None, typer.Option(help="Tokens of a batch, for a law that reads it.")] = None,
    unique: Annotated[str | None, typer.Option(help="Unique tokens, for a law of repeated data.")] = None,
    level: Level = 0.9,
    metric: Annotated[float | None, typer.Option(help="A measured value to carry over by a power law.")] = None,
    from_params: Annotated[str | None, typer.Option(help="Parameters of the measured model.")] = None,
    from_tokens: Annotated[str | None, typer.Option(help="Tokens of the measured model.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Exponent of parameters; a fit of the power law gives it.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Exponent of tokens.")] = None,
    json: Json = False,
) -> None:
    """The loss of a model that is not trained yet: by a fit, or from one measured model by a power law."""
    from .fit import predict as run

    point = {"num_params": params, "tokens": tokens, "batch_tokens": batch, "unique_tokens": unique}
    carry = {"metric": metric, "from_params": from_params, "from_tokens": from_tokens, "alpha": alpha, "beta": beta}
    run(source, point, level=level, carry=carry, as_json=json)


@app.command()
def plan(
    source: Annotated[Path | None, typer.Argument(help="fit.json, or a study that has one.")] = None,
    flops: Annotated[str | None, typer.Option(help="Budget in FLOPs: 1e21.")] = None,
    hours: Annotated[
        float | None, typer.Option(help="Or by hours on a device; without one, at the study's speed.")
    ] = None,
    cost: Annotated[str | None, typer.Option(help="Or by money, with --price.")] = None,
    loss: Annotated[float | None, typer.Option(help="Or the loss to reach: what does it take?")] = None,
    params: Annotated[str | None, typer.Option(help="Fix the size; with --tokens: what does it take?")] = None,
    tokens: Annotated[str | None, typer.Option(help="Fix the tokens.")] = None,
    device: Annotated[str | None, typer.Option(help="h100, a100, …", rich_help_panel="Machine")] = None,
    count: Annotated[
        int | None, typer.Option(help="How many devices; 1 by default.", rich_help_panel="Machine")
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(help="Share of the device's peak that is reached; 0.4 by default.", rich_help_panel="Machine"),
    ] = None,
    flops_per_second: Annotated[
        str | None, typer.Option(help="Instead of a device: a measured rate.", rich_help_panel="Machine")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Price of one device for an hour.", rich_help_panel="Machine")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Bytes of a device, if not the table's: 80G.", rich_help_panel="Machine")
    ] = None,
    tokens_available: Annotated[
        str | None, typer.Option(help="Different tokens there are; more are repeated.", rich_help_panel="Data and use")
    ] = None,
    inference_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens to serve afterwards; the budget pays for them too.", rich_help_panel="Data and use"),
    ] = None,
    vocab: Annotated[
        str | None, typer.Option(help="Size of the vocabulary; 50304 by default.", rich_help_panel="Model and training")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Context in tokens; 2048 by default.", rich_help_panel="Model and training")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Published rule for batch and rate; step_law by default.", rich_help_panel="Model and training"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="A study with runs to go on with; the budget is then what is left.", rich_help_panel="Data and use"
        ),
    ] = None,
    level: Level = 0.9,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the plan; a study's: plan.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Size, tokens, shape, batch, rate and schedule for a budget or a goal, with the loss to expect."""
    from .plan import plan as run

    amounts = {"flops": flops, "hours": hours, "cost": cost, "loss": loss, "num_params": params, "tokens": tokens}
    machine = {"device": device, "num_devices": count, "mfu": mfu, "flops_per_second": flops_per_second}
    machine |= {"price_per_hour": price, "memory": memory}
    data = {"tokens_available": tokens_available, "inference_tokens": inference_tokens}
    run(
        source,
        budget=amounts | machine | data,
        how={"rule": rule, "vocab": vocab, "context": context},
        level=level,
        resume=resume,
        output=output,
        as_json=json,
    )


@app.command()
def scale(
    params: Annotated[str, typer.Option(help="Size of the baseline (model size M).")],
    batch: Annotated[str, typer.Option(help="Its batch B, in whatever unit.")],
    lr: Annotated[float, typer.Option(help="Its learning rate L.")],
    factor: Annotated[float, typer.Option(help="How many times larger the model is to be.")],
    tokens: Annotated[str | None, typer.Option(help="Tokens of the baseline; they grow with the size.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only these rules.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw, adam or sgd.")] = "adamw",
    json: Json = False,
) -> None:
    """Carry a baseline to another size by every rule side by side."""
    from .plan import scale as run

    run(params, batch, lr, factor, tokens=tokens, names=rule, optimizer=optimizer, as_json=json)


@app.command()
def train(
    source: Annotated[Path, typer.Argument(help="plan.json of a study, or a run's TOML.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study; by default the one the plan lies in.")] = None,
    device: Device = "auto",
    parallel: Annotated[
        str, typer.Option(help="Under torchrun: ddp, fsdp, or auto, by what fits into memory.")
    ] = "auto",
    tracker: TrackerName = None,
    json: Json = False,
) -> None:
    """Train a plan or one run, also under torchrun; with a plan, say how close the prediction came."""
    from .train import train as run

    run(source, out=out, device=device, parallel=parallel, tracker_names=tracker or [], as_json=json)


@app.command()
def audit(
    target: Annotated[
        str,
        typer.Argument(
            help="module:function or FILE.py:function: returns (model, batch) or (model, batch, loss); or STUDY/RUN."
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(min=0, help="Train so many steps on the batch and measure again; widths: 4.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of those steps; 0.1 for our layers, else 0.001.")
    ] = None,
    coord_check: Annotated[
        bool,
        typer.Option("--coord-check", help="Does training depend on the width? By function(width) → (model, batch)."),
    ] = False,
    widths: Annotated[str | None, typer.Option(help="For --coord-check; 64,128,256,512 by default.")] = None,
    json: Json = False,
) -> None:
    """Are this model's tensors at a healthy scale? Exit status 1 when not."""
    from .audit import audit as run

    run(target, steps=steps, lr=lr, coord_check=coord_check, widths=widths, as_json=json)


@app.command()
def generate(
    run: Annotated[str, typer.Argument(help="STUDY/RUN, as quickstart/3f2a; or STUDY alone for its best run.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "def ",
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="How many tokens to write.")] = 400,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Json = False,
) -> None:
    """Write text with any run of a study."""
    from .train import generate as write

    write(run, prompt=prompt, tokens=tokens, temperature=temperature, seed=seed, as_json=json)


@app.command()
def report(
    study: Annotated[Path, typer.Argument(help="Folder of a study.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to; default: report.html in the study.")
    ] = None,
    json: Json = False,
) -> None:
    """One HTML file that opens offline: pictures, runs, law, plan, proof."""
    from .report import report as run

    run(study, output=output, as_json=json)


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit status 2."""
    ended = _on_termination()
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        if status:  # a command that ran and says no
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
        _complain(
            f"{error.format_message().rstrip('.')}; see {error.ctx.command_path if error.ctx else 'allometry'} --help"
        )
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        _complain("stopped; what a study has so far is saved, and the same command goes on from here")
        sys.exit(TERMINATED if ended else INTERRUPTED)
    except OSError as error:  # a full disk, a folder that may not be written: no fault of ours to trace
        _complain(f"{error.filename or 'output'}: {error.strerror or error}")
        sys.exit(2)


def _on_termination() -> list[int]:
    """Let SIGTERM do what Ctrl-C does; the list that is returned says whether it came."""
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    return came


def _complain(message: str) -> None:
    print("allometry:", " ".join(message.split()), file=sys.stderr)


if __name__ == "__main__":
    main()

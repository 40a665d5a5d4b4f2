"""``plan``: what to train for a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.command import free_name, the_same_with
from .terminal.complete import device_names, rule_names
from .terminal.options import Json, Level, pairs

MACHINE, DATA, MODEL = "Machine", "Data and use", "Model and training"
EXAMPLES = (
    "allometry plan quickstart --hours 1",
    "allometry plan fit.json --flops 1e21",
    "allometry plan fit.json --device h100 --count 8 --hours 72 --price 2.5 -o plan.json",
    "allometry plan fit.json --tokens 100B",
    "allometry plan fit.json --loss 2.5",
    "allometry plan experts.json --flops 1e21",
    "allometry plan finetunes.json --loss 1.2 --at model=gpt2",
)
Source = Annotated[Path | None, typer.Argument(help="fit.json, or a study that has one.")]
Flops = Annotated[str | None, typer.Option(metavar="NUMBER", help="Budget in FLOPs: 1e21.")]
Hours = Annotated[float | None, typer.Option(help="Or by hours on a device; without one, at the study's speed.")]
Cost = Annotated[str | None, typer.Option(metavar="NUMBER", help="Or by money, with --price.")]
Loss = Annotated[float | None, typer.Option(help="Or the loss to reach: what does it take?")]
Params = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Or the size: which tokens suit it? With another budget: fix it.")
]
Tokens = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="Or the tokens: which size suits them? With another budget: fix them."),
]
DeviceToPlan = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="h100, a100, b200, mi300x, rtx4090, tpu-v5p, …; a name that is not known lists all.",
        rich_help_panel=MACHINE,
        autocompletion=device_names,
    ),
]
Count = Annotated[int | None, typer.Option(help="How many devices; 1 by default.", rich_help_panel=MACHINE)]
Mfu = Annotated[
    float | None,
    typer.Option(help="Share of the device's peak that is reached; 0.4 by default.", rich_help_panel=MACHINE),
]
Speed = Annotated[
    str | None,
    typer.Option(
        "--flops-per-second", metavar="NUMBER", help="Instead of a device: a measured speed.", rich_help_panel=MACHINE
    ),
]
Price = Annotated[float | None, typer.Option(help="Price of one device for an hour.", rich_help_panel=MACHINE)]
Memory = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="Bytes of a device, if not the table's: 80GB, 80GiB.", rich_help_panel=MACHINE),
]
TokensAvailable = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="Different tokens there are; more are repeated.", rich_help_panel=DATA),
]
InferenceTokens = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER", help="Tokens to serve afterwards; the budget pays for them too.", rich_help_panel=DATA
    ),
]
Vocab = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Size of the vocabulary; 50304 by default.", rich_help_panel=MODEL)
]
Context = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Context in tokens; 2048 by default.", rich_help_panel=MODEL)
]
RuleName = Annotated[
    str | None,
    typer.Option(
        "--rule",
        help="Published rule for batch and learning rate; step_law by default.",
        rich_help_panel=MODEL,
        autocompletion=rule_names,
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        help="For a law of a fine-tuning's samples: its other inputs and groups, model=gpt2; repeat it.",
        rich_help_panel=DATA,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(help="A study with runs to go on with; the budget is then what is left.", rich_help_panel=DATA),
]
NothingWritten = Annotated[bool, typer.Option("--dry-run", help="Show the plan; write nothing.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the plan; a study's: plan.json.")]


def plan(
    source: Source = None,
    flops: Flops = None,
    hours: Hours = None,
    cost: Cost = None,
    loss: Loss = None,
    params: Params = None,
    tokens: Tokens = None,
    device: DeviceToPlan = None,
    count: Count = None,
    mfu: Mfu = None,
    flops_per_second: Speed = None,
    price: Price = None,
    memory: Memory = None,
    tokens_available: TokensAvailable = None,
    inference_tokens: InferenceTokens = None,
    vocab: Vocab = None,
    context: Context = None,
    rule: RuleName = None,
    at: At = None,
    resume: Resume = None,
    level: Level = 0.9,
    dry_run: NothingWritten = False,
    output: Output = None,
    json: Json = False,
) -> list[str] | None:
    """Choose size, tokens, shape, batch and learning rate for a budget or a goal, with the loss to expect."""
    from .. import workflow
    from ..errors import UserError
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal

    amounts = {
        **_numbers({"flops": flops, "cost": cost, "params": params, "tokens": tokens}),
        **_numbers({"flops_per_second": flops_per_second}),
        **_numbers({"tokens_available": tokens_available, "inference_tokens": inference_tokens}),
        **_given(hours=hours, loss=loss, device=device, num_devices=count, mfu=mfu, price_per_hour=price),
        **_bytes(memory),
    }
    model = {"rule": rule, **_numbers({"vocab": vocab, "context": context})}
    saving = {"level": level, "output": output, "listener": Terminal(as_json=json)}
    law = None if source is None or resume is not None else workflow.load_forecast(source)
    if source is not None and law is not None:
        given = [option for option in ("rule", "vocab_size", "context") if model.get(option) is not None]
        return _by_inputs(
            source, law, pairs(at, "--at"), given, {**amounts, **saving, "dry_run": dry_run}, as_json=json
        )
    if at:
        raise UserError("--at is for a law of samples: fit one with --target and --input samples, and write it with -o")
    result = _planned(source, resume, amounts, model, saving, dry_run=dry_run)
    answer_json(result.to_json()) if json else answer(result.summary())
    if resume is not None:
        return _next_of_rest(resume, output, result, dry_run=dry_run)
    return None if source is None else _next(source, output, result, dry_run=dry_run)


def _by_inputs(
    source: Path, law: Any, at: dict[str, str], of_models: list[str], options: dict[str, Any], *, as_json: bool
) -> list[str]:
    """The plan by a law of named inputs; then ask the law about it."""
    from .. import workflow
    from ..errors import UserError
    from .terminal.output import answer, answer_json

    if of_models:
        flags = ", ".join(f"--{name.removesuffix('_size')}" for name in of_models)
        raise UserError(f"{flags}: for plans by a law of model size and tokens; leave out")
    result = workflow.plan_by_inputs(law, at=at, **options)
    answer_json(result.to_json()) if as_json else answer(result.summary())
    numbers = {name: f"{value:.4g}".replace("e+", "e") for name, value in workflow.planned_point(law, result).items()}
    point = [part for name, value in (numbers | at).items() for part in ("--at", f"{name}={value}")]
    return ["allometry", "predict", str(source), *point]


def _planned(
    source: Path | None,
    resume: Path | None,
    amounts: dict[str, Any],
    model: dict[str, Any],
    saving: dict[str, Any],
    *,
    dry_run: bool,
) -> Any:
    """A plan by a fit or a study, or one for what is left of a study's budget."""
    from .. import workflow
    from ..errors import UserError

    if resume is not None:
        workflow.refuse_model_options(**model)
        return workflow.resume_plan(resume, fit=source, **saving | ({"output": None} if dry_run else {}), **amounts)
    if source is None:
        raise UserError("give a fit.json or a study, or --resume STUDY")
    return workflow.plan(source, **model, dry_run=dry_run, **saving, **amounts)


LIBRARY_NAMES = {"params": "num_params", "vocab": "vocab_size"}  # option → argument, where they differ


def _numbers(options: dict[str, str | None]) -> dict[str, Any]:
    """The numbers that were given, by the names that the library has for them; ``options`` is option → text."""
    from ..quantities import parse_number

    return {
        LIBRARY_NAMES.get(name, name): parse_number(text, f"--{name.replace('_', '-')}")
        for name, text in options.items()
        if text is not None
    }


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _bytes(memory: str | None) -> dict[str, float]:
    from ..quantities import parse_bytes

    return {} if memory is None else {"memory": parse_bytes(memory, "--memory")}


def _next_of_rest(study: Path, output: Path | None, continuation: Any, *, dry_run: bool) -> list[str]:
    """To write the best plan that can be trained, then to train it in its study."""
    if not any(each.plan.run for each in continuation.alternatives):
        return ["allometry", "report", str(study)]
    command = [part for part in the_same_with() if not dry_run or part != "--dry-run"]
    if output is None:
        return [*command, "-o", free_name("plan.json")]
    return command if dry_run else ["allometry", "train", str(output), "--out", str(study)]


def _next(source: Path, output: Path | None, plan: Any, *, dry_run: bool) -> list[str]:
    """To train the plan of a study, else to ask the fit about the planned model."""
    if dry_run and (source.is_dir() or output is not None):
        return [part for part in the_same_with() if part != "--dry-run"]
    if plan.run is not None and output is not None:
        return ["allometry", "train", str(output)]
    if plan.run is not None and source.is_dir() and not (source / "outcome.json").is_file():
        return ["allometry", "train", str(source / "plan.json")]
    from ..quantities import format_count

    numbers = ("--params", format_count(plan.num_params), "--tokens", format_count(plan.tokens))
    return ["allometry", "predict", str(source), *numbers]

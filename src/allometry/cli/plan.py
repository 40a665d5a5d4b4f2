"""``plan``: what to train for a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.options import Json, Level

MACHINE, DATA, MODEL = "Machine", "Data and use", "Model and training"


def plan(
    source: Annotated[Path | None, typer.Argument(help="fit.json, or a study that has one.")] = None,
    flops: Annotated[str | None, typer.Option(help="Budget in FLOPs: 1e21.")] = None,
    hours: Annotated[
        float | None, typer.Option(help="Or by hours on a device; without one, at the study's speed.")
    ] = None,
    cost: Annotated[str | None, typer.Option(help="Or by money, with --price.")] = None,
    loss: Annotated[float | None, typer.Option(help="Or the loss to reach: what does it take?")] = None,
    params: Annotated[
        str | None, typer.Option(help="Or the size: which tokens suit it? With another budget: fix it.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Or the tokens: which size suits them? With another budget: fix them.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="h100, a100, …", rich_help_panel=MACHINE)] = None,
    count: Annotated[int | None, typer.Option(help="How many devices; 1 by default.", rich_help_panel=MACHINE)] = None,
    mfu: Annotated[
        float | None,
        typer.Option(help="Share of the device's peak that is reached; 0.4 by default.", rich_help_panel=MACHINE),
    ] = None,
    flops_per_second: Annotated[
        str | None, typer.Option(help="Instead of a device: a measured speed.", rich_help_panel=MACHINE)
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Price of one device for an hour.", rich_help_panel=MACHINE)
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Bytes of a device, if not the table's: 80GB, 80GiB.", rich_help_panel=MACHINE)
    ] = None,
    tokens_available: Annotated[
        str | None, typer.Option(help="Different tokens there are; more are repeated.", rich_help_panel=DATA)
    ] = None,
    inference_tokens: Annotated[
        str | None,
        typer.Option(help="Tokens to serve afterwards; the budget pays for them too.", rich_help_panel=DATA),
    ] = None,
    vocab: Annotated[
        str | None, typer.Option(help="Size of the vocabulary; 50304 by default.", rich_help_panel=MODEL)
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Context in tokens; 2048 by default.", rich_help_panel=MODEL)
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="Published rule for batch and learning rate; step_law by default.", rich_help_panel=MODEL),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="A study with runs to go on with; the budget is then what is left.", rich_help_panel=DATA),
    ] = None,
    level: Level = 0.9,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; write nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write the plan; a study's: plan.json.")
    ] = None,
    json: Json = False,
) -> None:
    """Size, tokens, shape, batch, learning rate and schedule for a budget or a goal, with the loss to expect."""
    from .. import workflow
    from ..errors import UserError
    from ..quantities import parse_bytes
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal

    numbers = _numbers(
        {
            "--flops": ("flops", flops),
            "--cost": ("cost", cost),
            "--params": ("num_params", params),
            "--tokens": ("tokens", tokens),
            "--flops-per-second": ("flops_per_second", flops_per_second),
            "--tokens-available": ("tokens_available", tokens_available),
            "--inference-tokens": ("inference_tokens", inference_tokens),
        }
    )
    others = {"hours": hours, "loss": loss, "device": device, "num_devices": count, "mfu": mfu, "price_per_hour": price}
    if memory is not None:
        numbers["memory"] = parse_bytes(memory, "--memory")
    amounts = numbers | {name: value for name, value in others.items() if value is not None}
    sizes = _numbers({"--vocab": ("vocab_size", vocab), "--context": ("context", context)})
    listener = Terminal(as_json=json)
    if resume is not None:
        workflow.refuse_model_options(rule=rule, **sizes)
        result = workflow.resume_plan(resume, fit=source, level=level, output=output, listener=listener, **amounts)
    elif source is not None:
        result = workflow.plan(
            source, level=level, rule=rule, **sizes, output=output, dry_run=dry_run, listener=listener, **amounts
        )
    else:
        raise UserError("give a fit.json or a study, or --resume STUDY")
    answer_json(result.to_json()) if json else answer(result.summary())


def _numbers(options: dict[str, tuple[str, str | None]]) -> dict[str, Any]:
    """The numbers that were given, by the names that the library has for them; ``options`` is flag → (name, text)."""
    from ..quantities import parse_number

    return {name: parse_number(text, flag) for flag, (name, text) in options.items() if text is not None}

"""``finetune``: a pretrained model on a ladder of sample counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UserError
from ...quantities import parse_number
from ..terminal.options import Json

EXAMPLES = (
    "allometry finetune model/ --data pairs.jsonl --out tuned",
    "allometry finetune model/ --data pairs.jsonl --out tuned --samples 200,400,800 --loss 1.5",
)


def finetune(
    model: Annotated[str, typer.Argument(help="A folder, a GGUF file, or a hub name that is in the local cache.")],
    data: Annotated[Path, typer.Option(help="JSONL of prompt and completion, text, or text and label; or a text.")],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    samples: Annotated[str, typer.Option(help="Sample counts of the ladder, with commas between.")] = "200,400,800",
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-4,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 8,
    context: Annotated[int, typer.Option(min=2, help="The most tokens of an example.")] = 512,
    held_out: Annotated[int, typer.Option(min=2, help="Examples that no training sees.")] = 100,
    rule: Annotated[str, typer.Option(help="Scale operands by absmax or rms; or none.")] = "absmax",
    format: Annotated[str | None, typer.Option(help="Cast operands: bf16, fp8, mxfp4 …; simulated.")] = None,
    patience: Annotated[int, typer.Option(min=0, help="End after so many counts without a lower loss; 0: never.")] = 2,
    loss: Annotated[float | None, typer.Option(help="How many samples does this held-out loss need?")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the examples.")] = 0,
    json: Json = False,
) -> list[str] | None:
    """Fine-tune a pretrained model on several numbers of samples, and predict what more samples would give."""
    from ...workflow.models.finetune_model import finetune as run
    from ..terminal.output import answer, answer_json
    from ..terminal.progress import Terminal

    counts = tuple(int(parse_number(part.strip(), "--samples")) for part in samples.split(","))
    if loss is not None and not 0 < loss < math.inf:
        raise UserError(f"--loss {loss:g}: give a finite number above zero")
    options = {"lr": lr, "batch": batch, "rule": rule, "format": format, "patience": patience, "seed": seed}
    tuned = run(
        model, data, out, context=context, held_out=held_out, listener=Terminal(as_json=json), counts=counts, **options
    )
    needed = None if loss is None else tuned.samples_for(loss)
    if json:
        plan = {"note": needed} if isinstance(needed, str) else None if needed is None else needed.to_json()
        answer_json(tuned.to_json() | ({} if plan is None else {"samples_for_loss": plan}))
        return None
    answer(f"before      {tuned.before:.4f}")
    for record in tuned.records:
        right = f"  accuracy {record.scores['accuracy'].value:.3f}" if "accuracy" in record.scores else ""
        scored = "diverged" if record.loss is None else f"{record.loss:.4f} ± {record.loss_se:.4f}{right}"
        answer(f"{record.tokens:<11} {scored}")
    if tuned.law is not None:
        answer(tuned.law.summary())
    if needed is not None:
        answer(needed if isinstance(needed, str) else needed.summary())
    if tuned.best is not None:
        answer(f"model       {tuned.best}")
    return ["allometry", "runs", str(out)]

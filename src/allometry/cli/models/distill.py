"""``distill``: the rungs of a study, taught by a larger model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...quantities import format_count, format_flops
from ..terminal.options import Device, Json

EXAMPLES = (
    "allometry distill quickstart --teacher quickstart/3f2a --out students",
    "allometry distill study --teacher model/ --out students --width 24 --share 0.5",
)


def distill(
    study: Annotated[Path, typer.Argument(help="The study whose rungs are the students.")],
    teacher: Annotated[str, typer.Option(help="STUDY/RUN, a folder of transformers, a GGUF file, or a hub name.")],
    out: Annotated[Path, typer.Option(help="Folder of the students' study.")],
    width: Annotated[
        list[int] | None, typer.Option(help="Only rungs of this width; default: all smaller than the teacher.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the teacher's and the student's probabilities.")] = 1.0,
    share: Annotated[float, typer.Option(help="Of the teacher in the loss; the rest is the text's own.")] = 1.0,
    device: Device = "auto",
    json: Json = False,
) -> list[str] | None:
    """Train the rungs of a study again with a teacher, and compare each with its run without one."""
    from ...workflow.models.distill_study import distill as run
    from ..terminal.output import answer, answer_json
    from ..terminal.progress import Terminal

    options = {"widths": tuple(width or ()), "temperature": temperature, "share": share, "device": device}
    distilled = run(study, teacher, out, listener=Terminal(as_json=json), **options)
    if json:
        answer_json(distilled.to_json())
        return None
    size = format_count(distilled.teacher_params)
    answer(f"teacher     {distilled.teacher}: {size} parameters, loss {distilled.teacher_loss:.4f}")
    answer(f"its cost    {format_flops(distilled.teacher_flops)} FLOPs, beside the students' own")
    answer(f"{'params':>8} {'tokens':>8} {'alone':>8} {'taught':>8} {'change':>8}")
    for student in distilled.students:
        alone, taught = student.alone.loss, student.taught.loss
        sizes = f"{format_count(student.taught.num_params):>8} {format_count(student.taught.tokens):>8}"
        if alone is None or taught is None:
            answer(f"{sizes} {'diverged':>8}")
        else:
            answer(f"{sizes} {alone:8.4f} {taught:8.4f} {taught / alone - 1:+8.2%}")
    return ["allometry", "report", str(study), str(out)]

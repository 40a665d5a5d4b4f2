"""``generate``: text from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Json


def generate(
    run: Annotated[str, typer.Argument(help="STUDY/RUN, as quickstart/3f2a; or STUDY alone for its best run.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "def ",
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="How many tokens to write.")] = 400,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Json = False,
) -> None:
    """Write text with any run of a study."""
    from ..errors import UserError
    from ..runs.study import find_run
    from .terminal.output import answer, answer_json

    if temperature < 0:
        raise UserError(f"--temperature {temperature:g}: must be 0 or more")
    study, record = find_run(Path(run))
    from ..lm.generate import generate as write

    text = write(study, record, prompt, tokens=tokens, temperature=temperature, seed=seed)
    answer_json({"run": record.id, "prompt": prompt, "text": text}) if json else answer(text)

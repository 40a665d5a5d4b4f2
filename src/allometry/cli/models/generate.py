"""``generate``: text from a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UserError
from ..terminal.command import free_name
from ..terminal.options import Json, Run

DEFAULT_PROMPT = "def "

EXAMPLES = (
    'allometry generate quickstart --prompt "def " --tokens 200',
    "allometry generate quickstart/3f2a --temperature 0 --json",
)


def generate(
    run: Run,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What the text begins with; -: standard input. Again for a batch.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with a prompt on each line: a batch.")] = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="How many tokens to write.")] = 400,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this probability; 1: all.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from tokens this many times as likely as the best; 0: all.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: fewer repetitions.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be given again.")] = None,
    context_end: Annotated[
        str, typer.Option(help="When the context is full: slide (forget its older half) or stop.")
    ] = "slide",
    cut_prompt: Annotated[
        bool, typer.Option("--cut-prompt", help="Read the end of a prompt that is longer than the context.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Prompt number i of a batch draws by seed + i.")] = 0,
    json: Json = False,
) -> list[str]:
    """Write text with a run of a study. Ctrl-C stops it and keeps the text."""
    from ...runs.study import find_run

    texts = _prompts(prompt or [], prompts)
    study, record = find_run(Path(run))
    from ...lm.generate import Writing
    from ...lm.generate import generate as write
    from ...lm.inference.sampling import Sampling
    from ..terminal.output import answer_json, note

    sampling = Sampling(repetition_penalty, temperature, top_k, top_p, min_p, seed)
    streamed = len(texts) == 1 and not json
    show = _show if streamed else lambda number, piece: None
    written = write(study, record, texts, Writing(tokens, sampling, tuple(stop or ()), context_end, cut_prompt, show))
    if json:
        values = [{"run": record.id} | text.to_json() for text in written]
        answer_json(values[0] if len(values) == 1 else values)
    elif streamed:
        print()
    else:
        for number, text in enumerate(written, 1):
            print(f"--- {number} of {len(written)}\n{text.text}")
    for line in _notes(written):
        note(line)
    if any(text.finish == "interrupted" for text in written):
        sys.exit(130)  # 143 after SIGTERM: see app.py
    return ["allometry", "export", run, "--to", free_name("model")]


def _show(number: int, piece: str) -> None:
    print(piece, end="", flush=True)


def _prompts(given: list[str], file: Path | None) -> list[str]:
    """The prompts of both options; "-" is standard input."""
    texts = [sys.stdin.read() if text == "-" else text for text in given]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
        texts += [line for line in lines if line]
        if not texts:
            raise UserError(f"{file}: no prompt in it; write one on each line")
    return texts or [DEFAULT_PROMPT]


def _notes(written: list[Any]) -> list[str]:
    """Speed, and what a reader of the text must know."""
    from ...quantities import plural

    count, seconds = sum(text.tokens for text in written), max(text.seconds for text in written)
    lines = [f"{plural(count, 'token')}, {count / seconds:.0f} a second" if seconds else plural(count, "token")]
    if forgot := sum(text.forgot for text in written):
        times = "once" if forgot == 1 else f"{forgot} times"
        lines.append(f"the context was full {times}: the model forgot its older half and went on")
    if any(text.finish == "context" for text in written):
        lines.append("ended where the context is full; --context-end slide goes on")
    if any(text.finish == "interrupted" for text in written):
        lines.append("stopped; this is the text so far")
    return lines

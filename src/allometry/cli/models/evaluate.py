"""``evaluate``: a run's bits a byte on any text, and its scores on tasks of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UserError
from ..terminal.command import free_name
from ..terminal.options import Json, Run

EXAMPLES = (
    "allometry evaluate quickstart --text page.txt",
    "allometry evaluate quickstart --tasks lambada_openai --limit 100",
)


def evaluate(
    run: Run,
    text: Annotated[list[Path] | None, typer.Option(help="A file of UTF-8 text; may be given again.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-eval, by name, with commas between.")] = None,
    include: Annotated[Path | None, typer.Option(help="A folder of task files (YAML) of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many documents of each task.")] = None,
    json: Json = False,
) -> list[str] | None:
    """Score a run: bits per byte on texts, which compare across tokenizers, and tasks of lm-eval, offline."""
    from ...extras import require
    from ...runs.study import find_run
    from ..terminal.output import answer, answer_json

    if not text and not tasks:
        raise UserError("give --text FILE or --tasks NAME: there is nothing to score")
    require("torch", "safetensors", *(["transformers", "lm_eval"] if tasks else []))
    texts = {str(path): _read(path) for path in text or []}
    study, record = find_run(Path(run))
    from ...lm.evaluate import score_tasks, score_text
    from ...lm.generate import load_model, tokenizer_of

    model, tokenizer = load_model(study, record, precision="fp32"), tokenizer_of(study, record)
    scores = {name: score_text(model, tokenizer, content) for name, content in texts.items()}
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    of_tasks = score_tasks(model, tokenizer, names, include, limit) if names else {}
    if json:
        of_texts = {name: score.to_json() for name, score in scores.items()}
        answer_json({"run": record.id, "texts": of_texts, "tasks": of_tasks})
        return None
    for name, score in scores.items():
        bits = f"{score.bits_per_byte:.4f} ± {score.bits_per_byte_se:.4f} bits a byte"
        answer(f"{name}: {bits}, {score.loss:.4f} nats a token ({score.tokens} tokens, {score.num_bytes} bytes)")
    for name, values in of_tasks.items():
        answer(f"{name}: {_in_words(values)}")
    return ["allometry", "export", run, "--to", free_name("model")]


def _in_words(values: dict[str, Any]) -> str:
    return ", ".join(f"{metric.removesuffix(',none')} {value:.4f}" for metric, value in values.items())


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give the text files in it, each with --text") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None

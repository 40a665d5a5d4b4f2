"""Scores of a trained run on other texts, and on tasks of lm-evaluation-harness."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.tokenizer import Tokenizer
from ..errors import UserError
from .decoder import LanguageModel
from .export.hugging_face_folder import write_hugging_face
from .inference.write_texts import threads_for_model

ROWS = 16  # windows that are computed together


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text: nats a token, bits a byte with the error over windows; what was counted."""

    loss: float
    bits_per_byte: float
    bits_per_byte_se: float
    tokens: int
    num_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "loss": self.loss,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_se": self.bits_per_byte_se,
            "tokens": self.tokens,
            "bytes": self.num_bytes,
        }


def score_text(model: LanguageModel, tokenizer: Tokenizer, text: str) -> TextScore:
    """The loss of a model on a text, in windows of its context one after another, as held-out text is scored.

    Every byte counts: the first token is predicted from the end of a document before it (of a line, for bytes). The
    text is read as UTF-8; what the tokenizer changes (case, spaces) is scored as changed, over the bytes as given.

    Raises:
        UserError: an empty text, or the model's losses are not finite.
    """
    tokens = tokenizer.encode(text)
    if not tokens:
        raise UserError("the text is empty: there is nothing to score")
    end = getattr(tokenizer, "end", None)
    tokens = [*(tokenizer.encode("\n") if end is None else [end]), *tokens]
    num_bytes = len(text.encode(errors="surrogateescape"))
    context = model.config.context
    windows = [tokens[first : first + context + 1] for first in range(0, len(tokens) - 1, context)]
    totals = torch.tensor(_window_losses(model, windows), dtype=torch.float64)
    if not bool(totals.isfinite().all()):
        raise UserError("the model's losses are not finite: its training diverged; take another run")
    counts = torch.tensor([len(window) - 1 for window in windows], dtype=torch.float64)
    bits = totals.sum().item() / math.log(2) / num_bytes
    spread = (totals - counts * totals.sum() / counts.sum()).square().sum().sqrt().item() / math.log(2) / num_bytes
    count = len(tokens) - 1
    return TextScore(totals.sum().item() / count, bits, spread, count, num_bytes)


def _window_losses(model: LanguageModel, windows: Sequence[Sequence[int]]) -> list[float]:
    """The summed cross-entropy of each window in nats, where all but the last are equally long."""
    losses: list[float] = []
    with torch.no_grad(), threads_for_model(sum(parameter.numel() for parameter in model.parameters())):
        for part in [*_chunks(windows[:-1]), windows[-1:]]:
            rows = torch.tensor(part)
            of_tokens = model.token_losses(rows[:, :-1], rows[:, 1:])
            losses += of_tokens.double().sum(1).tolist()
    return losses


def _chunks(windows: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    return [windows[first : first + ROWS] for first in range(0, len(windows), ROWS)]


def score_tasks(
    model: LanguageModel, tokenizer: Tokenizer, tasks: Sequence[str], include: Path | None, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Scores of lm-evaluation-harness on the exported model, offline: task to metric to value.

    ``include`` is a folder of task files. Texts longer than the context are cut by the harness.

    Raises:
        UserError: a task is unknown or needs the network, or the model has no stock class.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    manager = TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise UserError(f"--tasks {unknown[0]}: lm-eval has no such task; --include names a folder of task files")
    end = getattr(tokenizer, "end", None)
    prefix = tokenizer.encode("\n")[-1] if end is None else end
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        write_hugging_face(model, tokenizer, path)
        options = {"pretrained": str(path), "dtype": "float32", "prefix_token_id": prefix}
        try:
            results = lm_eval.simple_evaluate(
                model="hf", model_args=options, tasks=list(tasks), task_manager=manager, device="cpu", limit=limit
            )
        except (OSError, ValueError, ConnectionError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"--tasks {','.join(tasks)}: lm-eval cannot run it here: {first}") from None
    scores = (results or {}).get("results", {})
    return {
        task: {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for task, values in scores.items()
    }

"""Small configurations, records and texts for tests."""

import json
import random
from pathlib import Path

from allometry.config.model import DecoderConfig
from allometry.config.run import RunConfig
from allometry.config.task import TextConfig
from allometry.config.training import TrainConfig
from allometry.runs.record import RunRecord

MODEL = {"width": 16, "layers": 2, "hidden": 24, "head_dim": 8, "vocab_size": 32, "context": 16}
TRAIN = {"tokens": 100_000, "batch_tokens": 256, "lr": 0.5}


def model_config(**changes) -> DecoderConfig:
    return DecoderConfig(**{**MODEL, **changes})


def run_config(model: dict | None = None, source: str = "text", fingerprint: str = "f00d", **train) -> RunConfig:
    return RunConfig(
        model=model_config(**(model or {})),
        task=TextConfig(source=source, fingerprint=fingerprint),
        train=TrainConfig(**{**TRAIN, **train}),
    )


def record(config: RunConfig, loss: float | None = 2.5, kind: str = "ladder", status: str = "finished") -> RunRecord:
    return RunRecord(
        run=config,
        kind=kind,
        status=status,
        loss=loss,
        loss_se=None if loss is None else 0.01,
        train_loss=loss,
        seconds=1.5,
        flops_spent=1e9,
        tokens_per_second=1e4,
        finished_at="2026-01-01T00:00:00+00:00",
    )


def drawn_words(path: Path, lines: int) -> Path:
    """A text of words drawn evenly from two hundred, ten a line, at ``path``."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(200)]
    path.write_text("\n".join(" ".join(rng.choices(words, k=10)) for _ in range(lines)))
    return path


WORDS = ["".join(random.Random(n).choices("abcdefgh", k=2 + n % 7)) for n in range(300)]


def word_lines(count: int, seed: int = 0) -> str:
    """``count`` lines of nine words each, drawn evenly from ``WORDS``."""
    rng = random.Random(str(seed))
    return "\n".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(count)) + "\n"


def study_toml(text: Path, **settings: object) -> str:
    """The TOML of a study on ``text`` with a context of 32."""
    values = {"data": str(text), "context": 32} | settings
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def run_toml(text: Path, tokens: int) -> str:
    """The TOML of a run of a small model on ``text``."""
    model = "width = 32\nlayers = 2\nhidden = 80\ncontext = 32\n"
    train = f"tokens = {tokens}\nbatch_tokens = 256\nlr = 0.4\n"
    return f"data = {json.dumps(str(text))}\n[model]\n{model}[train]\n{train}"

"""What would a plan have said for models that were trained? Size, tokens, batch, learning rate and hours, side by side.

The law is Chinchilla's with the constants of arXiv 2404.10102 (total parameters, MassiveText), whatever the model's own
data, so sizes compare orders of magnitude only: nobody publishes the ladder of a large model. Batch and rate are the
default rule's, Step Law (arXiv 2503.04715), at the model's own size and tokens; hours are those of the machine that was
used, at an MFU of 0.4.

What was trained was copied by hand from the place that `source` names; a figure that no report gives is None. Where a
report rounds the size, it is counted here from the shape of the checkpoint that was published.

    python benchmarks/known_models.py [--markdown FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allometry import planning
from allometry.laws import LAWS, Prediction
from allometry.quantities import format_count

CONSTANTS = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


@dataclass(frozen=True)
class Published:
    """Chinchilla's law with published constants, as a predictor; it counts all parameters."""

    counted: str = "total"

    def predict(self, num_params, tokens, level=0.9):
        value = LAWS["chinchilla"].loss(CONSTANTS, num_params, tokens)
        return Prediction(value, value, value, level)


@dataclass(frozen=True)
class Checkpoint:
    """The shape of a published decoder with gated feed-forward layers, and embedding and head apart."""

    layers: int
    width: int
    feed_forward: int
    keys: int  # width of keys, and of values
    vocabulary: int
    normed_heads: bool = False  # queries and keys have gains
    biased: bool = False  # queries, keys and values have biases

    @property
    def params(self) -> int:
        """All parameters."""
        layer = 2 * self.width**2 + 2 * self.width * self.keys + 3 * self.width * self.feed_forward + 2 * self.width
        layer += self.normed_heads * (self.width + self.keys) + self.biased * (self.width + 2 * self.keys)
        return 2 * self.vocabulary * self.width + self.layers * layer + self.width

    def __str__(self) -> str:
        return (
            f"{self.params:,} parameters counted from the checkpoint's shape: {self.layers} layers, "
            f"width {self.width}, feed-forward {self.feed_forward}, keys {self.keys}, vocabulary {self.vocabulary}"
            f"{', gains of queries and keys' if self.normed_heads else ''}{', biases' if self.biased else ''}"
        )


@dataclass(frozen=True)
class Trained:
    """A model as its report describes it; None where it does not say."""

    name: str
    size: float | Checkpoint
    tokens: float
    vocabulary: int
    context: int
    device: str
    mfu: float
    batch: float | None
    lr: float | None
    device_hours: float | None
    source: str

    @property
    def params(self) -> float:
        """All parameters; of a mixture of experts the active ones."""
        return self.size.params if isinstance(self.size, Checkpoint) else self.size

    @property
    def sources(self) -> str:
        """Where each of its figures stands."""
        return f"{self.source}; {self.size}" if isinstance(self.size, Checkpoint) else self.source


LLAMA_2 = "arXiv 2307.09288: table 1 (tokens, rate, batch of 4M), table 2 (A100 hours)"
LLAMA_3 = "arXiv 2407.21783, table 3 (rate); tokens (15T+) and H100 hours: model card of Llama 3.1; batch not stated"
OLMO_2 = "arXiv 2501.00656, table 3 (rate, batch of {} sequences of 4096), section 2.3 (tokens, with mid-training)"

LLAMA_2_7B = Checkpoint(32, 4096, 11008, 4096, 32_000)
LLAMA_2_70B = Checkpoint(80, 8192, 28672, 1024, 32_000)
LLAMA_3_8B = Checkpoint(32, 4096, 14336, 1024, 128_256)
LLAMA_3_70B = Checkpoint(80, 8192, 28672, 1024, 128_256)
OLMO_2_7B = Checkpoint(32, 4096, 11008, 4096, 100_352, normed_heads=True)
OLMO_2_13B = Checkpoint(40, 5120, 13824, 5120, 100_352, normed_heads=True)
QWEN_72B = Checkpoint(80, 8192, 29568, 1024, 152_064, biased=True)

MODELS = (
    Trained(
        "Chinchilla 70B", 70e9, 1.4e12, 32_000, 2048, "tpu-v4", 0.4, 3e6, 1e-4, None,
        "arXiv 2203.15556, table 4 (size, rate, batch 1.5M, then 3M), section 1 (tokens)",
    ),
    Trained("Llama 2 7B", LLAMA_2_7B, 2e12, 32_000, 4096, "a100", 0.4, 4e6, 3e-4, 184_320, LLAMA_2),
    Trained("Llama 2 70B", LLAMA_2_70B, 2e12, 32_000, 4096, "a100", 0.4, 4e6, 1.5e-4, 1_720_320, LLAMA_2),
    Trained("Llama 3.1 8B", LLAMA_3_8B, 15e12, 128_256, 8192, "h100", 0.4, None, 3e-4, 1_460_000, LLAMA_3),
    Trained("Llama 3.1 70B", LLAMA_3_70B, 15e12, 128_256, 8192, "h100", 0.4, None, 1.5e-4, 7_000_000, LLAMA_3),
    Trained(
        "Llama 3.1 405B", 405e9, 15.6e12, 128_256, 8192, "h100", 0.4, 16e6, 8e-5, 30_840_000,
        "arXiv 2407.21783, section 3.4.1 (rate; batch 4M, 8M after 252M tokens, 16M after 2.87T), section 1 (size, "
        "tokens); H100 hours: model card of Llama 3.1",
    ),
    Trained("OLMo 2 7B", OLMO_2_7B, 4.05e12, 100_352, 4096, "h100", 0.4, 4.2e6, 3e-4, None, OLMO_2.format(1024)),
    Trained("OLMo 2 13B", OLMO_2_13B, 5.6e12, 100_352, 4096, "h100", 0.4, 8.4e6, 9e-4, None, OLMO_2.format(2048)),
    Trained(
        "DeepSeek V3 (37B active)", 37e9, 14.8e12, 129_280, 4096, "h800", 0.4, 62.9e6, 2.2e-4, 2_664_000,
        "arXiv 2412.19437, section 4.2 (rate; batch 3072, then 15360 sequences of 4K), section 1 (active size, "
        "tokens, hours of pre-training)",
    ),
    Trained(
        "Qwen 2.5 72B", QWEN_72B, 18e12, 152_064, 4096, "a100", 0.4, None, None, None,
        "arXiv 2412.15115 (tokens, up to 18T); batch, rate and hours not stated",
    ),
)  # fmt: skip


def row(model: Trained) -> list[str]:
    """One line: what was trained / what the plan says."""
    shape = planning.Shapes(model.vocabulary, model.context)
    flops = 6 * model.params * model.tokens
    best = planning.plan(Published(), planning.Budget(flops=flops), shape=shape)
    machine = planning.Budget(
        num_params=model.params, tokens=model.tokens, device=model.device, num_devices=1, mfu=model.mfu
    )
    same = planning.plan(Published(), machine, shape=shape)
    hours = (same.seconds or np.nan) / 3600
    show = lambda value, form=format_count: "–" if value is None else form(value)
    return [
        model.name,
        f"{flops:.1e}",
        f"{format_count(model.params)} / {format_count(best.num_params)}",
        f"{format_count(model.tokens)} / {format_count(best.tokens)}",
        f"{show(model.batch)} / {format_count(same.batch)}",
        f"{show(model.lr, '{:.2g}'.format)} / {same.lr:.2g}",
        f"{show(model.device_hours)} / {format_count(hours)} {model.device}",
    ]


def markdown() -> str:
    """The table, and under it where each figure of what was trained stands."""
    head = ["model", "6ND", "parameters", "tokens", "batch (tokens)", "learning rate", "device hours"]
    lines = [head, ["---"] * len(head), *map(row, MODELS)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    sources = "\n".join(f"- {model.name}: {model.sources}." for model in MODELS)
    return f"{table}\n\nSources:\n\n{sources}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    options = parser.parse_args()
    text = markdown()
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""How fast a model writes: tokens a second on keys and values that are kept, against the whole window at every token.

    python benchmarks/inference.py [--output benchmarks/results/inference.json]

One thread, one text, FP32; a prompt of 20 bytes, then 300 tokens at a context of 128, so that the context fills and
slides. "window" is what the same model would write at if each token took a pass over the last 128, which is how
allometry wrote before. Tokens a second are of the processor's time (the best of three), which other work on the
machine disturbs least; both include sampling.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from allometry.config.model import DecoderConfig
from allometry.data.tokenizer import Bytes
from allometry.files import write_json
from allometry.lm.decoder import LanguageModel, build
from allometry.lm.inference.sampling import Sampling
from allometry.lm.inference.write_texts import Writing, write_texts

SHAPES = ((64, 4), (128, 6), (256, 8), (512, 8))  # width, layers: 0.2M to 25M parameters
CONTEXT, PROMPT, TOKENS = 128, "a" * 20, 300


def seconds_a_token(write: Callable[[int], None], tokens: int) -> float:
    """Of the processor, the best of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        write(tokens)
        times.append((time.process_time() - start) / tokens)
    return min(times)


def by_the_window(model: LanguageModel, tokens: int) -> None:
    """A pass over the last 128 tokens for each token."""
    sampling, written = Sampling(), list(PROMPT.encode() * CONTEXT)[:CONTEXT]  # as when the window is full
    generator = sampling.generator()
    with torch.no_grad():
        for _ in range(tokens):
            logits = model(torch.tensor([written[-CONTEXT:]]))[0, -1]
            written.append(sampling.choose(logits, written, generator))


def measure(width: int, layers: int) -> dict[str, float]:
    hidden = 8 * -(-width // 3)
    model = build(DecoderConfig(width=width, layers=layers, hidden=hidden, context=CONTEXT), 0).eval()
    ours = seconds_a_token(lambda tokens: write_texts(model, Bytes(), [PROMPT], Writing(tokens)) and None, TOKENS)
    batch = seconds_a_token(lambda tokens: write_texts(model, Bytes(), [PROMPT] * 8, Writing(tokens)) and None, 60) / 8
    window = seconds_a_token(lambda tokens: by_the_window(model, tokens), 200 if width < 256 else 60)
    return {
        "width": width,
        "layers": layers,
        "num_params": model.config.num_params,
        "tokens_per_second": round(1 / ours, 1),
        "tokens_per_second_batch_of_8": round(1 / batch, 1),
        "tokens_per_second_window": round(1 / window, 1),
        "times_as_fast": round(window / ours, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        rows.append(measure(*shape))
        print(rows[-1], flush=True)
    if options.output:
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        write_json(options.output, {"machine": machine, "context": CONTEXT, "tokens": TOKENS, "rows": rows})


if __name__ == "__main__":
    main()

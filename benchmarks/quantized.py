"""What quantisation costs in loss and gains in size and speed: formats by where their scales come from.

    python benchmarks/quantized.py run STUDY/RUN [--windows 40] [--output benchmarks/results/quantized.json]
    python benchmarks/quantized.py pretrained FOLDER --text FILE [--windows 24] [--context 128] [--output …]

Held-out loss in nats a token of a model whose linear layers are quantised, weights and inputs or weights alone: of a
trained run (hidden layers; held-out text of its study), or of a language model of transformers (all its layers; windows
spread over a text). The first windows are the example that "rms" and "absmax" measure, the others are scored. All else
counts as float32 in the sizes. Results are added to the output under "run" or "pretrained".

Speed, one thread, of a pretrained model: seconds of a pass over one token (as in writing, keys and values left out) and
over a window, in float32, in bfloat16, and with the integer product of PyTorch ("int8", "dynamic"): the median of the
rounds, in which the three take turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allometry import nn
from allometry.data.corpus import load_corpus
from allometry.files import write_json
from allometry.lm.finetuning.pretrained_model import load_pretrained
from allometry.lm.generate import load_model
from allometry.nn.precision.formats import MX, NVFP4Format, by_name
from allometry.runs.study import find_run
from allometry.tasks.windows import held_out_windows

FORMATS = ("int8", "fp8", "mxfp8", "mxfp6", "mxfp4", "nvfp4")
SCALES = ("unit", "rms", "absmax", "dynamic")
ROWS = 4  # windows that are scored at a time


@dataclass(frozen=True)
class Subject:
    """A model, how its logits are asked for, and windows of tokens and targets, of which ``example`` are not scored."""

    model: torch.nn.Module
    logits: Callable[[torch.nn.Module, Tensor], Tensor]
    tokens: Tensor
    targets: Tensor
    example: int

    def examples(self) -> list[Any]:
        return list(self.tokens[: self.example].split(ROWS))

    def loss(self, model: torch.nn.Module) -> float:
        """The mean over the windows that are scored."""
        sides = zip(self.tokens[self.example :].split(ROWS), self.targets[self.example :].split(ROWS), strict=True)
        total, count = 0.0, 0
        with torch.no_grad():
            for tokens, targets in sides:
                logits = self.logits(model, tokens).flatten(0, 1)
                total += torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").item()
                count += targets.numel()
        return round(total / count, 4)


def of_run(path: Path, windows: int) -> tuple[Subject, dict[str, Any]]:
    study, record = find_run(path)
    model = load_model(study, record, "fp32")
    tokens, targets = held_out_windows(load_corpus(study.corpus_path).held_out, model.config.context, windows)
    facts = {"num_params": model.config.num_params, "context": model.config.context, "windows": windows}
    return Subject(model, lambda each, tokens: each(tokens), tokens, targets, 8), facts


def of_pretrained(folder: Path, text: Path, windows: int, context: int) -> tuple[Subject, dict[str, Any]]:
    model, tokenizer = load_pretrained(str(folder))
    ids = torch.tensor(tokenizer.encode(text.read_text(errors="replace"), add_special_tokens=False))
    tokens, targets = held_out_windows(ids.numpy(), context, windows)
    logits = lambda each, tokens: each(input_ids=tokens, use_cache=False).logits
    num_params = sum(parameter.numel() for parameter in model.parameters())
    facts = {"model": folder.name, "num_params_total": num_params, "context": context, "windows": windows}
    return Subject(model.eval(), logits, tokens, targets, 4), facts


def table(subject: Subject, formats: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each format, the plain model first."""
    yield {"format": "float32", "loss": subject.loss(subject.model), "bytes": nn.quantized_bytes(subject.model)}
    for form in formats:
        row: dict[str, Any] = {"format": form}
        own_scales = form != "int8" and isinstance(by_name(form), MX | NVFP4Format)
        for scales in SCALES:
            for name, cast in (("", True), ("_weights_only", False)):
                if own_scales and scales != "unit":  # the blocks' own: nothing else is looked at
                    row[f"loss_{scales}{name}"] = row[f"loss_unit{name}"]
                    continue
                example = subject.examples()
                small = nn.quantize(subject.model, form, scales=scales, example=example, activations=cast)
                row[f"loss_{scales}{name}"] = subject.loss(small)
                row["bytes"] = nn.quantized_bytes(small) if scales == "unit" else row["bytes"]
        yield row


def speeds(subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a pass over one token and over a window, of each way that has kernels of its own."""
    ways = {
        "float32": subject.model,
        "bfloat16": copy.deepcopy(subject.model).to(torch.bfloat16),
        "int8 dynamic": nn.quantize(subject.model, "int8", scales="dynamic"),
    }
    times: dict[tuple[str, int], list[float]] = {(name, length): [] for name in ways for length in (1, 128)}
    with torch.no_grad():
        for _ in range(rounds):
            for name, length in times:
                begin = time.process_time()
                subject.logits(ways[name], subject.tokens[:1, :length])
                times[name, length].append(time.process_time() - begin)
    median = lambda name, length: round(statistics.median(times[name, length][1:]), 5)
    return [{"way": name, "seconds_1_token": median(name, 1), "seconds_128_tokens": median(name, 128)} for name in ways]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("run", "pretrained"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, help="of a pretrained model")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.kind == "run":
        subject, facts = of_run(options.model, options.windows)
    else:
        subject, facts = of_pretrained(options.model, options.text, options.windows, options.context)
    rows = []
    for row in table(subject, options.formats):
        rows.append(row)
        print(row, flush=True)
    value: dict[str, Any] = {"model": facts, "rows": rows}
    if options.kind == "pretrained":
        value["speed"] = speeds(subject, options.rounds)
        print(*value["speed"], sep="\n")
    if options.output:
        kept = json.loads(options.output.read_text()) if options.output.exists() else {}
        write_json(options.output, kept | {options.kind: value})


if __name__ == "__main__":
    main()

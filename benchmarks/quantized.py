"""What quantisation costs in loss and gains in size and speed: formats by where their scales come from.

    python benchmarks/quantized.py run STUDY/RUN [--windows 40] [--output benchmarks/results/quantized.json]
    python benchmarks/quantized.py pretrained FOLDER --data TEXT [--windows 24] [--context 128] [--output …]
    python benchmarks/quantized.py classifier FOLDER --data JSONL [--windows 200] [--context 48] [--output …]

Held-out loss in nats a token of a model whose linear layers are quantised, weights and inputs or weights alone: of a
trained run (hidden layers; held-out text of its study), of a language model of transformers (all its layers; windows
spread over a text), or of a classifier that ``finetune.py`` has tuned (texts held out from it). The first windows are
the example that "rms" and "absmax" measure, the others are scored. All else counts as float32 in the sizes. Results are
added to the output under the kind.

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

import numpy as np
import torch
from torch import Tensor

from allometry import nn
from allometry.data.corpus import load_corpus
from allometry.files import write_json
from allometry.lm.finetuning.examples import batch_of, labels_in, read_examples, split
from allometry.lm.finetuning.pretrained_model import load_pretrained
from allometry.lm.generate import load_model
from allometry.nn.precision.formats import MX, NVFP4Format, by_name
from allometry.nn.precision.quantized import SCALES
from allometry.runs.study import find_run
from allometry.tasks.windows import held_out_windows

FORMATS = ("int8", "fp8", "mxfp8", "mxfp6", "mxfp4", "nvfp4")
ROWS = 4  # windows that are scored at a time


@dataclass(frozen=True)
class Subject:
    """A model, batches of what it reads with what it should say, and how its logits are asked for.

    The first ``example`` batches are what scales are measured on; the others are scored.
    """

    model: torch.nn.Module
    logits: Callable[[torch.nn.Module, Any], Tensor]
    batches: list[tuple[Any, Tensor]]
    example: int

    def examples(self) -> list[Any]:
        return [inputs for inputs, _ in self.batches[: self.example]]

    def score(self, model: torch.nn.Module) -> dict[str, float]:
        """The mean loss, and of a classifier the share that it names rightly."""
        total, right, count = 0.0, 0, 0
        with torch.no_grad():
            for inputs, targets in self.batches[self.example :]:
                logits = self.logits(model, inputs).flatten(0, -2)
                total += torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").item()
                right += int((logits.argmax(1) == targets.flatten()).sum())
                count += targets.numel()
        accuracy = {"accuracy": round(right / count, 4)} if self.batches[0][1].dim() == 1 else {}
        return {"loss": round(total / count, 4)} | accuracy


def of_run(options: argparse.Namespace) -> tuple[Subject, dict[str, Any]]:
    study, record = find_run(options.model)
    model = load_model(study, record, "fp32")
    sides = held_out_windows(load_corpus(study.corpus_path).held_out, model.config.context, options.windows)
    facts = {"num_params": model.config.num_params, "context": model.config.context, "windows": options.windows}
    return Subject(model, lambda each, tokens: each(tokens), _batches(sides), 2), facts


def of_pretrained(options: argparse.Namespace) -> tuple[Subject, dict[str, Any]]:
    model, tokenizer = load_pretrained(str(options.model))
    ids = tokenizer.encode(options.data.read_text(errors="replace"), add_special_tokens=False)
    sides = held_out_windows(np.array(ids), options.context, options.windows)
    logits = lambda each, tokens: each(input_ids=tokens, use_cache=False).logits
    return Subject(model.eval(), logits, _batches(sides), 1), _facts(model, options)


def of_classifier(options: argparse.Namespace) -> tuple[Subject, dict[str, Any]]:
    """A fine-tuned one; scored on the texts that its training held out (``finetune.py``)."""
    labels = labels_in(options.data)
    model, tokenizer = load_pretrained(str(options.model), labels)
    encode = lambda text: tokenizer.encode(text, truncation=True, max_length=options.context)
    examples = read_examples(options.data, encode, None, options.context, labels)
    held_out = split(examples, 0, options.windows)[1]
    parts = [batch_of(held_out[first : first + 10]) for first in range(0, len(held_out), 10)]
    batches = [({key: part[key] for key in ("input_ids", "attention_mask")}, part["labels"]) for part in parts]
    return Subject(model.eval(), lambda each, inputs: each(**inputs).logits, batches, 2), _facts(model, options)


KINDS = {"run": of_run, "pretrained": of_pretrained, "classifier": of_classifier}


def _batches(sides: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(side.split(ROWS) for side in sides), strict=True))


def _facts(model: torch.nn.Module, options: argparse.Namespace) -> dict[str, Any]:
    num_params = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": options.name or options.model.name,
        "num_params_total": num_params,
        "context": options.context,
        "windows": options.windows,
    }


def table(subject: Subject, formats: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each format, the plain model first."""
    yield {"format": "float32", "bytes": nn.quantized_bytes(subject.model), **subject.score(subject.model)}
    for form in formats:
        row: dict[str, Any] = {"format": form}
        scored: dict[str, float] = {}
        own_scales = form != "int8" and isinstance(by_name(form), MX | NVFP4Format)
        for scales in SCALES:
            for name, cast in (("", True), ("_weights_only", False)):
                if own_scales and scales != "unit":  # the blocks' own: nothing else is looked at
                    row |= {f"{key}_{scales}{name}": row[f"{key}_unit{name}"] for key in scored}
                    continue
                example = subject.examples()
                small = nn.quantize(subject.model, form, scales=scales, example=example, activations=cast)
                scored = subject.score(small)
                row |= {f"{key}_{scales}{name}": value for key, value in scored.items()}
                row["bytes"] = nn.quantized_bytes(small) if scales == "unit" else row["bytes"]
        yield row


def speeds(subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a pass over one token and over 128, of each way that has kernels of its own."""
    ways = {
        "float32": subject.model,
        "bfloat16": copy.deepcopy(subject.model).to(torch.bfloat16),
        "int8 dynamic": nn.quantize(subject.model, "int8", scales="dynamic"),
    }
    times: dict[tuple[str, int], list[float]] = {(name, length): [] for name in ways for length in (1, 128)}
    tokens = subject.batches[0][0][:2].reshape(1, -1)
    with torch.no_grad():
        for _ in range(rounds):
            for name, length in times:
                begin = time.process_time()
                subject.logits(ways[name], tokens[:, :length])
                times[name, length].append(time.process_time() - begin)
    median = lambda name, length: round(statistics.median(times[name, length][1:]), 5)
    return [{"way": name, "seconds_1_token": median(name, 1), "seconds_128_tokens": median(name, 128)} for name in ways]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, help="a text, or for a classifier its JSONL")
    parser.add_argument("--windows", type=int, default=40, help="of a text; or texts that were held out")
    parser.add_argument("--name", help="of a pretrained model, for the results")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject, facts = KINDS[options.kind](options)
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

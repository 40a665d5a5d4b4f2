"""What quantisation costs in loss: formats by where their scales come from (unit, rms, absmax).

    python benchmarks/quantized.py STUDY/RUN [--windows 40] [--output benchmarks/results/quantized.json]

Held-out loss in nats a token of a trained run whose hidden layers are quantised, weights and inputs or weights alone;
the first 8 windows are the example that "rms" and "absmax" measure, the others are scored. Sizes count embedding and
head in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from allometry import nn
from allometry.data.corpus import load_corpus
from allometry.files import write_json
from allometry.lm.generate import load_model
from allometry.runs.study import find_run
from allometry.tasks.windows import held_out_windows

FORMATS = ("int8", "fp8", "mxfp8", "mxfp6", "mxfp4", "nvfp4")
SCALES = ("unit", "rms", "absmax")
EXAMPLE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, record = find_run(options.run)
    model = load_model(study, record, "fp32")
    text = load_corpus(study.corpus_path).held_out
    tokens, targets = held_out_windows(text, model.config.context, options.windows)

    def loss(each: torch.nn.Module) -> float:
        with torch.no_grad():
            logits = each(tokens[EXAMPLE:]).flatten(0, 1)
        return round(torch.nn.functional.cross_entropy(logits, targets[EXAMPLE:].flatten()).item(), 4)

    rows = [{"format": "float32", "loss": loss(model), "bytes": nn.quantized_bytes(model)}]
    for form in FORMATS:
        row = {"format": form, "bytes": nn.quantized_bytes(nn.quantize(model, form))}
        for scales in SCALES:
            for name, cast in (("", True), ("_weights_only", False)):
                small = nn.quantize(model, form, scales=scales, example=tokens[:EXAMPLE], activations=cast)
                row[f"loss_{scales}{name}"] = loss(small)
        rows.append(row)
        print(row, flush=True)
    if options.output:
        shape = {"num_params": model.config.num_params, "context": model.config.context, "windows": options.windows}
        write_json(options.output, {"model": shape, "rows": rows})


if __name__ == "__main__":
    main()

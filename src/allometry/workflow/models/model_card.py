"""The card of an exported model: what it is, how it was trained, what was predicted of it and what came out."""

from __future__ import annotations

from ...errors import UserError
from ...planning import Outcome, Plan
from ...quantities import format_count, format_flops, plural
from ...runs.record import RunRecord
from ...runs.study import Study
from ..fits.study_fit import load_fit

_HEAD = """---
library_name: {library}
pipeline_tag: text-generation
tags: [allometry, unit-scaling, u-mup, scaling-laws]
---

# {title}
"""
_TRANSFORMERS = """
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")          # {architecture}: a stock class, no custom code
tokenizer = AutoTokenizer.from_pretrained(".")
inputs = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))
```

The weights are {dtype}. The model was trained at unit scale; every factor of that is inside the weights here, so the
function is the same. Use float32 or bfloat16{float16}.
"""
_LLAMA = """
## Use

```
llama-cli -m model.gguf -p "{prompt}" -n 50 -no-cnv        # or: llama-server -m model.gguf
```

The weights are {dtype}; the architecture of llama.cpp is {architecture}.
"""
_LIMITS = """## Limits

A small language model for study: it was trained on the text above and on nothing else, it has no instructions and no
filter, and what it writes is not to be relied on."""


def title_of(record: RunRecord) -> str:
    """The name of the exported model."""
    return f"allometry {format_count(record.num_params)}, run {record.id}"


def model_card(study: Study, record: RunRecord, *, architecture: str, dtype: str, gguf: bool) -> str:
    """The card as Markdown. Law, plan and outcome are in it where the study has them for this run."""
    text = _HEAD.format(library="gguf" if gguf else "transformers", title=title_of(record))
    use = {"architecture": architecture, "dtype": dtype, "prompt": "def " if "stdlib" in record.data else "The "}
    if gguf:
        text += _LLAMA.format(**use)
    else:
        float16 = ": float16 loses the small weights of its MLPs" if architecture.startswith("BitNet") else ""
        text += _TRANSFORMERS.format(float16=float16, **use)
    parts = [_training(record), _prediction(study, record), _law(study), _LIMITS]
    return text + "".join(f"\n{part}\n" for part in parts if part)


def _training(record: RunRecord) -> str:
    config = record.config
    decoder, task = config.decoder, config.text
    heads = f"{decoder.heads} heads of {decoder.head_dim}"
    if decoder.kv_heads not in (None, decoder.heads):
        heads += f", {decoder.kv_heads} of keys and values"
    rows = [
        (
            "parameters",
            f"{format_count(decoder.num_params)} non-embedding, {format_count(decoder.num_params_total)} in all",
        ),
        ("shape", f"{decoder.layers} layers of width {decoder.width}, {heads}, hidden {decoder.hidden}"),
        ("context", plural(decoder.context, "token")),
        ("vocabulary", f"{decoder.vocab_size} ({task.tokenizer})"),
        ("text", f"{task.source}, fingerprint {task.fingerprint}"),
        ("trained on", f"{format_count(config.tokens)} tokens, {format_flops(config.flops)} FLOPs"),
        ("learning rate", f"{config.train.lr:.3g} (base rate of u-μP), batch {config.train.batch_tokens} tokens"),
        ("seed", str(config.train.seed)),
        ("finished", record.finished_at),
    ]
    if record.loss is not None:
        error = "" if record.loss_se is None else f" ± {record.loss_se:.2g}"
        bits = "" if record.bits_per_byte is None else f", {record.bits_per_byte:.4f} bits a byte"
        rows.append(("held-out loss", f"{record.loss:.4f}{error} nats a token{bits}"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## Training\n\n| | |\n|---|---|\n{table}"


def _prediction(study: Study, record: RunRecord) -> str:
    """What was predicted before the training, and what came out."""
    parts = []
    plan, outcome = _plan(study, record), _outcome(study, record)
    if outcome is not None:
        interval = "" if outcome.low is None else f" [{outcome.low:.4f}, {outcome.high:.4f}] at {outcome.level:.0%}"
        parts.append(
            f"Predicted before its training: loss {outcome.predicted:.4f}{interval}. Came out: {outcome.actual:.4f}; "
            f"the prediction was off by {abs(outcome.relative_error):.2%}."
        )
    if plan is not None:
        parts.append(f"The plan:\n\n```\n{plan.summary()}\n```")
    return "## Prediction and outcome\n\n" + "\n\n".join(parts) if parts else ""


def _plan(study: Study, record: RunRecord) -> Plan | None:
    value = study.read("plan.json")
    try:
        plan = None if value is None else Plan.from_json(value)
    except UserError:  # of another version: the card does without it
        return None
    return plan if plan is not None and plan.run == record.config.to_dict() else None


def _outcome(study: Study, record: RunRecord) -> Outcome | None:
    value = study.read("outcome.json")
    try:
        outcome = None if value is None else Outcome.from_json(value)
    except UserError:
        return None
    return outcome if outcome is not None and outcome.run == record.id else None


def _law(study: Study) -> str:
    try:
        fit = load_fit(study.path)
    except UserError:
        return ""
    return f"## The law of its ladder\n\n```\n{fit.summary()}\n```"

"""What a column may hold by the words of its name, where the name as a whole is none of those known."""

from __future__ import annotations

import re

_SAME = {
    "tok": "tokens", "toks": "tokens", "token": "tokens", "param": "params", "parameter": "params",
    "parameters": "params", "weights": "params", "updates": "steps", "update": "steps", "iterations": "steps",
    "iteration": "steps", "iters": "steps", "iter": "steps", "step": "steps", "nll": "loss", "xent": "loss",
    "ce": "loss", "entropy": "loss", "validation": "val", "valid": "val", "eval": "val", "evaluation": "val",
    "heldout": "val", "held": "val", "holdout": "val", "test": "val", "dev": "val", "gpu": "gpus", "tpu": "gpus",
    "tpus": "gpus", "device": "gpus", "devices": "gpus", "ranks": "gpus", "rank": "gpus", "processes": "gpus",
    "process": "gpus", "workers": "gpus", "sequence": "seq", "seqs": "seq", "len": "length", "bs": "batch",
    "bsz": "batch",
}  # fmt: skip
_MANY = {"num", "n", "number", "of", "count", "total", "all", "the", "my"}
_TOKENS = {"train", "training", "trained", "on", "seen", "consumed", "processed", "cumulative", "so", "far", "d"}
# Field → a word that its name must have, and those that may stand beside it.
_FIELDS = {
    "accumulation": ("accum", {"grad", "gradient", "ga", "steps", "freq"} | _MANY),
    "batch_tokens": ("tokens", {"batch", "per", "size", "in", "steps", "global"} | _MANY),
    "tokens": ("tokens", _TOKENS | _MANY),
    "num_params": ("params", {"model", "trainable", "size"} | _MANY),
    "loss": ("loss", {"val", "out", "cross", "final", "last", "best", "avg", "min", "end", "lm", "l"}),
    "steps": ("steps", {"max", "optimizer", "train", "training", "final"} | _MANY),
    "sequence_length": ("seq", {"length", "tokens", "per", "max", "train"}),
    "batch_sequences": ("batch", {"size", "per", "gpus", "micro", "local", "global", "effective", "train", "training"}
                        | _MANY),
    "processes": ("gpus", {"world", "size", "distributed"} | _MANY),
}  # fmt: skip
_SPLIT = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def words_of(name: str) -> list[str]:
    """The words of a name, each in one form: ``numTrainToks`` is num, train, tokens."""
    lower: list[str] = [str(word).lower() for word in _SPLIT.findall(name)]
    words = [_SAME.get(word, word) for word in lower]
    return ["accum" if word.startswith("accum") else word for word in words]


def field_of(name: str) -> str | None:
    """The field that a column holds by the words of its name; None if they leave it open."""
    words = words_of(name)
    if words in (["steps", "freq"], ["ga", "steps"]):  # fairseq's update_freq
        return "accumulation"
    if {"world", "size"} <= set(words) and not set(words) - {"world", "size", "distributed", "dp", "ddp"}:
        return "processes"
    for field, (needed, beside) in _FIELDS.items():
        if needed not in words or set(words) - beside - {needed}:
            continue
        if field == "batch_tokens" and not {"batch", "steps"} & set(words):
            continue
        return field
    return None


def kind_of_batch(name: str) -> str | None:
    """What a batch is of by the words of its name: "device", "whole", or None if they leave it open."""
    words = set(words_of(name))
    if words & {"gpus", "micro", "local"}:
        return "device"
    return "whole" if words & {"global", "effective", "total"} else None

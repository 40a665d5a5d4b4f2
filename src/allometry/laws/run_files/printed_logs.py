"""What training programs print: nanoGPT, nanochat (old and new), torchtitan. A log is known by its lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from ...quantities import parse_number
from .logged_run import Fact, LoggedRun, number

ANSI = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = r"([-+]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?|nan|inf)"
MOST_LINES_TO_JUDGE = 2000
LONGEST_LINE = 100_000

NANOGPT_PARAMETERS = re.compile(rf"number of parameters: {NUMBER}\s*([KMBT]?)")
NANOGPT_TOKENS = re.compile(rf"tokens per iteration will be: {NUMBER}")
NANOGPT_STEP = re.compile(rf"step (\d+): train loss {NUMBER}, val loss {NUMBER}")
NANOGPT_ITER = re.compile(rf"iter (\d+): loss {NUMBER},(?: lr {NUMBER},)? (?:time|dt)")
CHAT_STEP = re.compile(rf"step (\d+)(?:/(\d+))? .*?\| loss: {NUMBER}")
CHAT_BPB = re.compile(rf"Step (\d+) \| Validation bpb: {NUMBER}")
CHAT_LINES = {
    "tokens": re.compile(rf"Total number of training tokens: {NUMBER}"),
    "num_params_total": re.compile(rf"Number of parameters: {NUMBER}"),
    "num_params_matmul": re.compile(rf"[Nn]umber of scaling parameters: {NUMBER}"),
    "batch_tokens": re.compile(rf"Total batch size {NUMBER} =>"),
    "flops": re.compile(rf"Total training FLOPs estimate: {NUMBER}"),
}
CHAT_KEY_VALUE = re.compile(r"^(step|eval|summary|model|config)\s+\S+=\S")
CHAT_FACTS = {  # of the lines "summary" and "model", whose names may stand under "base."
    "num_params": "num_params_total",
    "num_scaling_params": "num_params_matmul",
    "tokens_trained": "tokens",
    "total_batch_size": "batch_tokens",
    "num_iterations": "steps",
    "total_training_flops": "flops",
}
TITAN_STEP = re.compile(rf"step:\s*(\d+)\s+loss:\s*{NUMBER}")
TITAN_VALIDATION = re.compile(rf"validate step:\s*(\d+)\s+loss:\s*{NUMBER}")
TITAN_SIZE = re.compile(rf"size: {NUMBER} total parameters")
TITAN_BATCH = re.compile(
    r"local batch size (\d+), global batch size (\d+), gradient accumulation steps (\d+), sequence length (\d+)"
)


def kind_of_log(path: Path) -> str:
    """Which program printed a file: "nanogpt", "nanochat", "torchtitan", or "" for none of them."""
    with path.open("rb") as file:
        if b"\x00" in file.read(4096):
            return ""  # no text
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in islice(_lines(file), MOST_LINES_TO_JUDGE):
            if NANOGPT_ITER.search(line) or NANOGPT_STEP.search(line):
                return "nanogpt"
            if TITAN_STEP.search(line):
                return "torchtitan"
            if CHAT_STEP.search(line) or CHAT_BPB.search(line) or _is_key_value(line):
                return "nanochat"
    return ""


def read_log(path: Path, kind: str) -> list[LoggedRun]:
    """The runs in a log that such a program printed; a log of curves has several."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = _lines(file)
        if kind == "nanogpt":
            return [_nanogpt(lines, path)]
        return [_torchtitan(lines, path)] if kind == "torchtitan" else _nanochat(lines, path)


def _nanogpt(lines: Iterable[str], path: Path) -> LoggedRun:
    run, estimates = LoggedRun("nanogpt", path.stem, path), []
    for line in lines:
        if match := NANOGPT_ITER.search(line):
            run.log(float(match[1]), {"train/loss": _number(match[2])})
            if match[3]:
                run.log(float(match[1]), {"lr": _number(match[3])})
        elif match := NANOGPT_STEP.search(line):
            run.log(float(match[1]), {"val/loss": _number(match[3])})
            estimates.append((float(match[1]), _number(match[2])))
        elif match := NANOGPT_PARAMETERS.search(line):
            count = parse_number(match[1] + match[2], str(path))
            run.facts["num_params_matmul"] = Fact(
                count, "'number of parameters', without positions, the tied head counted"
            )
        elif match := NANOGPT_TOKENS.search(line):
            run.facts["batch_tokens"] = Fact(_number(match[1]), "'tokens per iteration'")
    if "train/loss" not in run.series:
        for step, loss in estimates:
            run.log(step, {"train/loss": loss})
    return run


def _torchtitan(lines: Iterable[str], path: Path) -> LoggedRun:
    run = LoggedRun("torchtitan", path.stem, path)
    for line in lines:
        if match := TITAN_VALIDATION.search(line):
            run.log(float(match[1]), {"validation_metrics/loss": _number(match[2])})
        elif match := TITAN_STEP.search(line):
            run.log(float(match[1]), {"loss_metrics/global_avg_loss": _number(match[2])})
        elif match := TITAN_SIZE.search(line):
            run.facts["num_params_total"] = Fact(_number(match[1]), "'total parameters' of the log")
        elif match := TITAN_BATCH.search(line):
            batch = int(match[2]) * int(match[4])
            run.facts["batch_tokens"] = Fact(batch, "global batch size · sequence length of the log")
    return run


def _nanochat(lines: Iterable[str], path: Path) -> list[LoggedRun]:
    """The run of a log, or one for each line "model" of a log of curves; the loss is in bits a byte."""
    run, models = LoggedRun("nanochat", path.stem, path), []
    for line in lines:
        if _is_key_value(line):
            tag, values = _key_values(line)
            if tag == "model":
                models.append(_chat_model(values, path, len(models)))
            else:
                _chat_line(tag, values, run)
        elif match := CHAT_BPB.search(line):
            run.log(float(match[1]), {"val_bpb": _number(match[2])})
        elif match := CHAT_STEP.search(line):
            run.log(float(match[1]), {"train/loss": _number(match[3])})
        else:
            for name, pattern in CHAT_LINES.items():
                if match := pattern.search(line):
                    run.facts[name] = Fact(_number(match[1]), f"{match[0].split(':')[0].split(' =>')[0]!r} of the log")
    if not models or run.series:
        return [run, *models] if run.series or run.facts else models
    return models


def _chat_line(tag: str, values: dict[str, str], run: LoggedRun) -> None:
    """A line of the newer logs: ``step step=10 loss=3.1``, ``eval step=250 val_bpb=1.0``, ``summary num_params=…``."""
    if tag in ("summary", "config"):
        run.name = values.get("model_tag", run.name)
        _chat_facts(values, run, tag)
        return
    step = number(values.get("step", "").split("/")[0])
    if step >= 0:
        for name, value in values.items():
            if name == "val_bpb" or (tag == "step" and name in ("loss", "train_loss")):
                run.log(step, {"val_bpb" if name == "val_bpb" else "train/loss": number(value)})


def _chat_model(values: dict[str, str], path: Path, place: int) -> LoggedRun:
    """One model of a log of curves."""
    values = {name.removeprefix("base."): value for name, value in values.items()}
    run = LoggedRun("nanochat", values.get("model_tag") or f"{path.stem}/{place}", path)
    _chat_facts(values, run, "model")
    return run


def _chat_facts(values: dict[str, str], run: LoggedRun, tag: str) -> None:
    for name, field in CHAT_FACTS.items():
        if (value := number(values.get(name))) > 0:
            run.facts[field] = Fact(value, f"{name} of the line {tag!r}")
    if (loss := number(values.get("val_bpb"))) > 0:
        run.summary["val_bpb"] = loss
    if (depth := number(values.get("depth"))) > 0:
        run.settings["depth"] = int(depth)


def _is_key_value(line: str) -> bool:
    return bool(CHAT_KEY_VALUE.match(_after_tag(line)))


def _after_tag(line: str) -> str:
    """A line without the tag that a logger sets before it: ``[base] eval step=…``."""
    return re.sub(r"^(\[[^\]]*\]|<[^>]*>)\s*", "", line.strip())


def _key_values(line: str) -> tuple[str, dict[str, str]]:
    text = _after_tag(line)
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is not closed
        words = text.split()
    return words[0], dict(word.split("=", 1) for word in words[1:] if "=" in word)


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _lines(file: TextIO) -> Iterator[str]:
    """The lines without colours; one that is too long to be a line of a log comes in pieces."""
    while line := file.readline(LONGEST_LINE):
        yield ANSI.sub("", line)

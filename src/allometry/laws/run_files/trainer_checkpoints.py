"""Checkpoint folders of Hugging Face's Trainer: ``trainer_state.json``, ``config.json``, the header of the weights.

``training_args.bin`` beside them is a pickle, which runs code when it is opened; nothing opens it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from .logged_run import Fact, LoggedRun, flat, number

MOST_BYTES_OF_JSON = 1 << 28
MOST_BYTES_OF_HEADER = 100_000_000
# Names of tensors that are looked up and not multiplied, and of the head.
WORDS = re.compile(r"embed_tokens|wte|word_embeddings|embed_in|tok_embeddings")
EMBEDDINGS = re.compile(
    rf"{WORDS.pattern}|wpe|position_embeddings|embed_positions|token_type_embeddings|embeddings?\.weight$"
)
# Tensors of the routed experts, and the settings that say how many there are.
EXPERT = re.compile(r"(^|\.)experts\.")
NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")


def read_state(path: Path, root: Path) -> LoggedRun:
    """One run from the state of its last checkpoint.

    Args:
        path: the ``trainer_state.json``.
        root: the folder of the run.

    Raises:
        UserError: the state is no JSON of the Trainer.
    """
    state = _read_json(path)
    if not isinstance(state.get("log_history"), list):
        raise UserError(f"{path} has no log_history: it is no state of Hugging Face's Trainer")
    run = LoggedRun("hf_trainer", root.name, root)
    for row in state["log_history"]:
        if isinstance(row, dict):
            step = number(row.get("step"))
            values = {name: value for name, value in row.items() if name != "step"}
            run.log(max(step, 0.0), values)  # a row without a step stands before the first
    steps, planned = number(state.get("global_step")), number(state.get("max_steps"))
    if steps > 0:
        run.facts["steps"] = Fact(steps, "global_step of the last checkpoint")
    if steps < planned:
        run.status = "unfinished"
    if (seen := number(state.get("num_input_tokens_seen"))) > 0:
        run.facts["tokens"] = Fact(seen, "num_input_tokens_seen of the last checkpoint")
    if (cost := number(state.get("total_flos"))) > 0:
        run.facts["matmul_flops"] = Fact(cost, "total_flos")
    if (device := number(state.get("train_batch_size"))) > 0:
        run.settings["per_device_train_batch_size"] = int(device)
    _read_model(path.parent, run)
    return run


def _read_model(folder: Path, run: LoggedRun) -> None:
    """The counts of parameters, from the weights' headers, and the shape, from the configuration."""
    if (folder / "config.json").is_file():
        run.settings |= flat(_read_json(folder / "config.json"), "model_config.")
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        return
    shapes: dict[str, int] = {}
    for path in weights:
        shapes |= _tensor_sizes(path)
    embedded = sum(size for name, size in shapes.items() if EMBEDDINGS.search(name))
    head = sum(size for name, size in shapes.items() if HEAD.search(name))
    total, where = sum(shapes.values()), "in the header of the weights"
    tied = 0 if head else sum(size for name, size in shapes.items() if WORDS.search(name))
    multiplied = "all tensors but positions" if tied else "all tensors but embeddings"
    run.facts |= {
        "num_params_total": Fact(total, f"all tensors {where}"),
        "num_params_matmul": Fact(total - embedded + tied, f"{multiplied} {where}"),
        "num_params_non_embedding": Fact(total - embedded - head, f"all tensors but embeddings and head {where}"),
        # What Trainer multiplies by 6 and the tokens: no embedding, and so no tied head.
        "params_in_flos": Fact(total - embedded, ""),
    }
    _count_experts(run, shapes, total - embedded - head)


def _count_experts(run: LoggedRun, shapes: Mapping[str, int], non_embedding: int) -> None:
    """Of a model with experts, the parameters that are active for a token."""
    experts = sum(size for name, size in shapes.items() if EXPERT.search(name))
    facts = {key.rsplit(".", 1)[-1]: number(value) for key, value in run.settings.items()}
    many = next((facts[name] for name in NUM_EXPERTS if facts.get(name, 0) > 0), 0.0)
    active = facts.get("num_experts_per_tok", 0.0)
    if experts and 0 < active <= many:
        count = round(non_embedding - experts * (1 - active / many))
        how = f"all tensors but embeddings and head in the header of the weights, {active:g} of {many:g} experts"
        run.facts["num_params_active"] = Fact(count, how)


def _tensor_sizes(path: Path) -> dict[str, int]:
    """Name → number of elements, from the header of a safetensors file; the weights are not read.

    Raises:
        UserError: no such file, or cut short.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MOST_BYTES_OF_HEADER, path.stat().st_size - 8):
            raise UserError(f"{path} is no safetensors file, or cut short")
        head = file.read(length)
    try:
        header = json.loads(head)
        return {name: math.prod(map(int, one["shape"])) for name, one in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is no safetensors file, or damaged") from None


def _read_json(path: Path) -> dict[str, Any]:
    """A file of JSON that holds an object.

    Raises:
        UserError: it does not.
    """
    if path.stat().st_size > MOST_BYTES_OF_JSON:
        raise UserError(f"{path} holds more than {MOST_BYTES_OF_JSON >> 20} MiB, which is no state of one run")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{path} is not JSON ({reason}): cut short, or damaged") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no object of JSON")
    return value


def newest(states: Sequence[Path]) -> Path:
    """The state of the last checkpoint, by the step in the name of its folder."""

    def step(path: Path) -> float:
        match = re.search(r"checkpoint-(\d+)$", path.parent.name)
        return int(match[1]) if match else math.inf  # Trainer.save_state writes into the folder of the run, at the end

    return max(states, key=step)

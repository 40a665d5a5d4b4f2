"""Training state and weights on the disk; nothing is ever unpickled.

The state of a training under way (weights, AdamW's moments and step counts, a small JSON value) goes into a new sealed
folder each time (:mod:`allometry.runs.saved_states`), and the two newest are kept. The weights of a run that ended are
one safetensors file with a SHA-256 over all it holds, written beside the old one, synced, and renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import UserError
from ..files import replace_file
from ..runs import saved_states
from .families import Optimizer

_ENTRY = "allometry"  # of safetensors' metadata
STATE, META = "state.safetensors", "state.json"
PLACES = "DCP_SHARDING_INFO"  # where torch.distributed.checkpoint says in a file's header which rows it holds
PART_BYTES = 1 << 28  # of one file of a state
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def capture(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """A copy of everything that the next step depends on, by name, in the CPU's memory."""
    state = {}
    for name, parameter in model.named_parameters():
        state[f"model.{name}"] = parameter.detach().to("cpu", copy=True)
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{key}.{name}"] = value.detach().to("cpu", copy=True)
    for name, buffer in model.named_buffers():
        state[f"buffer.{name}"] = buffer.detach().to("cpu", copy=True)
    return state


def restore(model: nn.Module, optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """Put a captured state back, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"model.{name}"])
            moments = {
                key: state[f"{key}.{name}"].to(parameter.device, copy=True)
                for key in _MOMENTS
                if f"{key}.{name}" in state
            }
            optimizer.state[parameter].clear()
            optimizer.state[parameter].update(moments)
        for name, buffer in model.named_buffers():
            buffer.copy_(state[f"buffer.{name}"])


def save_state(
    parent: Path, tensors: dict[str, Tensor], meta: dict[str, Any], allowed: AbstractContextManager[Any]
) -> None:
    """A new folder under ``parent`` for the state at ``meta["step"]``; the newest two are kept.

    ``allowed`` is entered for what others can see: the claim on the trunk, which raises where that is lost.
    """
    with saved_states.writing(parent, name_of(meta["step"]), allowed) as folder:
        for number, part in enumerate(_parts(tensors)):
            # Bytes of a part stand in memory twice while they are written, and a whole large model would not fit.
            path = folder / STATE if number == 0 else folder / f"state-{number}.safetensors"
            path.write_bytes(save({name: tensors[name].contiguous() for name in part}))
        (folder / META).write_text(json.dumps(meta))
    with allowed:
        saved_states.prune(parent)


def _parts(tensors: dict[str, Tensor]) -> list[list[str]]:
    """The names of tensors in parts of at most :data:`PART_BYTES`, or of one tensor that is larger."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += tensor.nbytes
    return parts


def load_state(
    parent: Path, say: Callable[[str], None], beyond: int, upto: int, allowed: AbstractContextManager[Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest good state under ``parent`` after step ``beyond`` and up to step ``upto``, or None.

    ``say`` hears of damaged ones; they are deleted under ``allowed``.

    Raises:
        UserError: it is as it was sealed, but no state of a training.
    """
    if not any(beyond < step <= upto for step in steps(parent)):
        return None
    folder = saved_states.newest(parent, say, name_of(upto))
    with allowed:
        saved_states.delete(parent, folder.name if folder else "", name_of(upto))
    if folder is None or folder.name <= name_of(beyond):
        return None
    try:
        return _assemble(folder), json.loads((folder / META).read_bytes())
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{folder}: no state of a training ({error}); {advice(folder)}") from None


def _assemble(folder: Path) -> dict[str, Tensor]:
    """The tensors of a state; those that several processes wrote (:mod:`.shards`), from their rows."""
    parts: dict[str, list[tuple[list[int], Tensor]]] = defaultdict(list)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            places = json.loads((file.metadata() or {}).get(PLACES, "{}"))
            for name in file.keys():  # noqa: SIM118 (no mapping)
                parts[name].append((places.get(name, {}).get("saved_offsets", []), file.get_tensor(name)))
    ordered = {name: [part for _, part in sorted(pieces, key=lambda piece: piece[0])] for name, pieces in parts.items()}
    return {name: torch.cat(rows) if len(rows) > 1 else rows[0] for name, rows in ordered.items()}


def steps(parent: Path) -> list[int]:
    """The steps whose states are under ``parent``, damaged ones among them."""
    numbers = (folder.name.partition("step-")[2] for folder in saved_states.committed(parent))
    return [int(digits) for digits in numbers if digits.isdecimal()]


def name_of(step: int) -> str:
    """The folder of the state at a step; names sort as steps do."""
    return f"step-{step:08d}"


def write(
    path: Path, tensors: dict[str, Tensor], meta: dict[str, Any], allowed: AbstractContextManager[Any] | None = None
) -> None:
    """Write ``tensors`` and the JSON value ``meta`` to ``path``, atomically; ``allowed`` is entered for the rename."""
    text = json.dumps(meta, sort_keys=True)
    # One entry: safetensors writes several in an order that differs from process to process.
    metadata = {_ENTRY: json.dumps([text, digest(tensors, text)], separators=(",", ":"))}
    replace_file(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata), allowed)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises:
        UserError: there is no such file, or its content is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            entry = (file.metadata() or {}).get(_ENTRY, "[]")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); {advice(path)}") from None
    try:
        text, recorded = json.loads(entry)
    except ValueError:
        text, recorded = "", ""
    if recorded != digest(tensors, str(text)):
        raise UserError(f"{path}: its checksum does not match; {advice(path)}")
    return tensors, json.loads(text)


def advice(path: Path) -> str:
    """What to do about a damaged file or state; nothing is lost by it."""
    if path.parent.parent.name == "runs" and path.suffix == ".safetensors":
        study, run = path.parent.parent.parent, path.parent.name
        drop = shlex.join(["allometry", "runs", str(study), "--drop", run])
        return (
            f"put a copy of it back; without one, `{drop}` drops the run, and the command that trained it does so again"
        )
    return "move it out of the study and run the same command again, which goes on from the state before"


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """A SHA-256 over a text and all tensors: names, shapes, types and values."""
    hashed = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()

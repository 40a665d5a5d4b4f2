"""Training state in one safetensors file that vouches for itself; nothing is ever unpickled.

A file holds the weights, AdamW's moments and step counts, a small JSON value, and a SHA-256 over all of them. It is
written beside the old one, synced, and renamed into place, so a crash leaves the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import UserError
from ..files import replace_file

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A copy of everything that the next step depends on, by name."""
    state = {}
    for name, parameter in model.named_parameters():
        state[f"model.{name}"] = parameter.detach().clone()
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{key}.{name}"] = value.detach().clone()
    return state


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put a captured state back, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"model.{name}"])
            moments = {key: state[f"{key}.{name}"].clone() for key in _MOMENTS if f"{key}.{name}" in state}
            optimizer.state[parameter].clear()
            optimizer.state[parameter].update(moments)


def write(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write ``tensors`` and the JSON value ``meta`` to ``path``, atomically."""
    text = json.dumps(meta, sort_keys=True)
    metadata = {"meta": text, "sha256": _digest(tensors, text)}
    replace_file(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises:
        UserError: there is no such file, or its content is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run the same command again") from None
    if metadata.get("sha256") != _digest(tensors, metadata.get("meta", "")):
        raise UserError(f"{path}: its checksum does not match; delete it and run the same command again")
    return tensors, json.loads(metadata["meta"])


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

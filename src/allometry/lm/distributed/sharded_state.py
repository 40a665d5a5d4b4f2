"""The state of a training that several processes share, on the disk: each writes its part, any number can read it.

``torch.distributed.checkpoint`` writes one safetensors file a process, which says in its header which part of each
tensor it holds; so any number of processes, one among them, can go on from it. A sealed folder around the files
(:mod:`allometry.runs.saved_states`) supplies what it lacks: checksums, and a state that is whole or does not count. Its
own format keeps a pickle in ``.metadata``; that is not used, and no file is ever unpickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import (
    CheckpointException,  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
    HuggingFaceStorageReader,  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
    HuggingFaceStorageWriter,  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
)

from ...runs import saved_states
from ...runs.claims import Claim
from ..checkpoint import META, advice, name_of
from ..families import Optimizer
from .world import Told, World

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    world: World,
    parent: Path,
    model: nn.Module,
    optimizer: Optimizer,
    meta: dict[str, Any],
    claim: Claim | None,
) -> None:
    """A new sealed folder under ``parent`` for the state at ``meta["step"]``; the newest two are kept.

    ``claim`` is process 0's, which alone gives the folder its name.

    Raises:
        UserError: it cannot be written, or another process has taken the training over; the ones before it stay.
    """
    folder = Path(world.share(lambda: str(saved_states.begin(parent, name_of(meta["step"])).resolve())))
    state = {
        f"{key}.{name}": value.detach()
        for name, parameter in model.named_parameters()
        for key, value in [("model", parameter), *optimizer.state[parameter].items()]
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            dcp.save(state, storage_writer=writer)  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
    except CheckpointException as error:
        raise Told(f"{parent}: the state at step {meta['step']} cannot be saved: {_cause(error)}") from None
    world.share(lambda: _seal(folder, meta, claim))


def _seal(folder: Path, meta: dict[str, Any], claim: Claim | None) -> None:
    assert claim is not None  # only process 0 seals, and it holds the claim
    (folder / META).write_text(json.dumps(meta))
    saved_states.commit(folder, claim)
    with claim:
        saved_states.prune(folder.parent)


def load(
    world: World,
    places: Sequence[tuple[Path, int]],
    model: nn.Module,
    optimizer: Optimizer,
    say: Callable[[str], None],
    claim: Claim | None,
) -> dict[str, Any] | None:
    """Put the furthest good state back into model and optimiser; its JSON value, or None where there is none.

    ``places`` are folders of states, each with the last step that counts there. ``say`` hears of damaged ones.
    """
    newest = world.share(lambda: _find(places, say, claim))
    if newest is None:
        return None
    state = {}
    for name, parameter in model.named_parameters():
        moments = {key: torch.zeros_like(parameter.detach()) for key in _MOMENTS}
        moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter] = moments
        state |= {f"{key}.{name}": value for key, value in [("model", parameter.detach()), *moments.items()]}
    _read(Path(newest["folder"]), state)
    return newest["meta"]


def _read(folder: Path, state: dict[str, Tensor]) -> None:
    """Fill the tensors of ``state``, whole ones or this process's parts, in place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = HuggingFaceStorageReader(str(folder))
            dcp.load(state, storage_reader=reader)  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
    except CheckpointException as error:
        raise Told(f"{folder}: not a state of this run ({_cause(error)}); {advice(folder)}") from None


def _find(places: Sequence[tuple[Path, int]], say: Callable[[str], None], claim: Claim | None) -> dict[str, Any] | None:
    assert claim is not None  # only process 0 searches, and it holds the claim
    states = []
    for parent, last in places:
        folder = saved_states.newest(parent, say, name_of(last))
        with claim:  # what is damaged must not count among the two that are kept
            saved_states.delete(parent, folder.name if folder else "", name_of(last))
        if folder is not None:
            states.append({"folder": str(folder.resolve()), "meta": json.loads((folder / META).read_text())})
    return max(states, key=lambda state: state["meta"]["step"], default=None)


def _cause(error: CheckpointException) -> str:
    """What went wrong in the first process that failed, in one line."""
    first = next(iter(error.failures.values()))[0]
    return f"{getattr(first, 'strerror', None) or first}".strip().splitlines()[0]

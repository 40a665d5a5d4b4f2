"""Samples in memory: arrays that are read from the user's folder, split by their content, kept in the study, verified.

A sample is a row of every array of its side. The split is by a hash of the sample, so it does not depend on the order
in which files are samples; equal samples stand once.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...config.task import ImagesConfig, QuestionsConfig, SummariesConfig, TaskConfig, TranslationConfig
from ...errors import UserError
from ...files import replace_file, write_json
from ...quantities import plural

MANIFEST, ARRAYS = "samples.json", "samples.npz"
HELD_OUT_SHARE, LEAST_HELD_OUT, MOST_HELD_OUT = 0.1, 50, 2000
CONFIGS: dict[str, type[TaskConfig]] = {
    "images": ImagesConfig,
    "translation": TranslationConfig,
    "summaries": SummariesConfig,
    "questions": QuestionsConfig,
}
Side = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """The data of a task: the arrays of both sides by name, and ``facts`` that its configuration has as fields."""

    task_name: str
    source: str
    train: Side
    held_out: Side
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of samples to train on."""
        return len(next(iter(self.train.values())))

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.task_name.encode())
        for side in (self.train, self.held_out):
            for name, array in sorted(side.items()):
                digest.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def task(self, row_tokens: int = 1) -> TaskConfig:
        """The task of runs on these samples, whose rows count ``row_tokens`` units each."""
        given = {"source": self.source, "fingerprint": self.fingerprint, "train_tokens": self.size * row_tokens}
        return CONFIGS[self.task_name].parse(given | dict(self.facts), self.source)

    def describe(self) -> str:
        """One line for the user."""
        held_out = len(next(iter(self.held_out.values())))
        return f"{plural(self.size, 'sample')} to train on, {held_out} held out"

    def save(self, folder: Path) -> None:
        """Write them to a folder, the manifest last."""
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        sides = {"train": self.train, "held_out": self.held_out}
        named: dict[str, Any] = {f"{side}.{name}": a for side, arrays in sides.items() for name, a in arrays.items()}
        np.savez(buffer, **named)
        replace_file(folder / ARRAYS, buffer.getvalue())
        value = {"task": self.task_name, "source": self.source, "fingerprint": self.fingerprint}
        write_json(folder / MANIFEST, value | {"facts": dict(self.facts), "notes": list(self.notes)})

    @classmethod
    def load(cls, folder: Path, verify: bool = True) -> Samples:
        """Read back what :meth:`save` wrote.

        Raises:
            UserError: it is not there, or was changed.
        """
        try:
            value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
                sides: dict[str, dict[str, np.ndarray]] = {"train": {}, "held_out": {}}
                for name in arrays.files:
                    side, _, own = name.partition(".")
                    sides[side][own] = arrays[name]
            samples = cls(value["task"], value["source"], sides["train"], sides["held_out"], value["facts"])
            same = not verify or samples.fingerprint == value["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{folder}: no samples of a task ({error}); begin the study again") from None
        if not same:
            raise UserError(f"{folder}: its samples were changed since the study began; begin the study again")
        return samples


def split_samples(
    task_name: str,
    source: str,
    arrays: Side,
    facts: Mapping[str, Any],
    notes: tuple[str, ...] = (),
    near: Callable[[Side, int], bytes] | None = None,
) -> Samples:
    """Samples split by content: a tenth is held out; equal ones stand once.

    ``near(arrays, i)`` gives what two samples have in common that are nearly one; held-out samples whose like stands in
    the training data are counted in a note.

    Raises:
        UserError: there are too few.
    """
    count = len(next(iter(arrays.values())))
    digests = [hashlib.sha256(b"".join(array[i].tobytes() for array in arrays.values())).digest() for i in range(count)]
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    order = sorted(first)  # by digest: random, and the same for the same data
    held = min(MOST_HELD_OUT, round(HELD_OUT_SHARE * len(order)))
    if held < LEAST_HELD_OUT:
        raise UserError(f"{source}: {plural(len(order), 'sample')} are too few; {10 * LEAST_HELD_OUT} are the least")
    sides = [np.array(sorted(first[digest] for digest in part)) for part in (order[held:], order[:held])]
    if len(order) < count:
        notes = (*notes, f"{plural(count - len(order), 'sample')} left out that stood twice")
    if near is not None:
        known = {near(arrays, i) for i in sides[0]}
        common = sum(near(arrays, i) in known for i in sides[1])
        if common:
            share = f"{common} of {held} held-out samples ({100 * common / held:.1f}%)"
            notes = (*notes, f"{share} have a near copy in the training data: their score says less about new ones")
    train, held_out = ({name: array[side] for name, array in arrays.items()} for side in sides)
    return Samples(task_name, source, train, held_out, facts, notes)

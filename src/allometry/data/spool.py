"""The clean documents of a source on disk: written once, in chunks, and then read as often as necessary.

    text-00000.bin    documents one after another
    index-00000.npy   for each of them two halves of its hash (see split.py) and its length
    chunk-00000.json  where in the source the chunk ends, and the tally of items so far

The last of the three is written last and marks the chunk as complete.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..files import parse_json, replace_file, write_json
from ..quantities import plural
from .documents import Source
from .split import keys_of
from .tally import Tally

CHUNK = 64 * 1024**2  # bytes of text in a chunk, which ends after the document that reaches them


class Spool:
    """The chunks in a folder; :meth:`fill` continues where it was interrupted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tally, self.complete = Tally(), False
        self._place = (0, 0)
        self.ends: list[int] = []  # documents up to the end of each chunk
        while (marker := folder / f"chunk-{self.chunks:05d}.json").exists():
            value = parse_json(marker.read_text())
            self._place, self.complete = (value["part"], value["row"]), value["complete"]
            self.tally = Tally(**value["tally"])
            self.ends.append(self.tally.documents)

    @property
    def chunks(self) -> int:
        return len(self.ends)

    def fill(self, source: Source, say: Callable[[str], None] = lambda text: None) -> None:
        """Read the rest of the source; ``say`` receives a line after each chunk."""
        texts: list[bytes] = []
        size = 0
        for item in () if self.complete else source.items(*self._place):
            self._place = (item.part, item.row)
            if not (text := self.tally.add(item)):
                continue
            texts.append(text)
            size += len(text)
            if size >= CHUNK:
                self._commit(texts, complete=False)
                say(f"{plural(self.tally.documents, 'document')} read")
                texts, size = [], 0
        if not self.complete:
            self._commit(texts, complete=True)

    def index(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes (n, 2) and lengths (n) of all documents."""
        parts = [np.load(self.folder / f"index-{i:05d}.npy", allow_pickle=False) for i in range(self.chunks)]
        whole = np.concatenate(parts)
        return whole[:, :2], whole[:, 2].astype(np.int64)

    def documents(self, chunk: int) -> list[bytes]:
        """The documents of a chunk."""
        text = (self.folder / f"text-{chunk:05d}.bin").read_bytes()
        lengths = np.load(self.folder / f"index-{chunk:05d}.npy", allow_pickle=False)[:, 2].astype(np.int64)
        ends = np.cumsum(lengths).tolist()
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _commit(self, texts: list[bytes], *, complete: bool) -> None:
        index = io.BytesIO()
        lengths = np.array([len(text) for text in texts], np.uint64)
        np.save(index, np.column_stack([keys_of(texts), lengths]), allow_pickle=False)
        replace_file(self.folder / f"text-{self.chunks:05d}.bin", b"".join(texts))
        replace_file(self.folder / f"index-{self.chunks:05d}.npy", index.getvalue())
        part, row = self._place
        value = {"part": part, "row": row, "complete": complete, "tally": asdict(self.tally)}
        write_json(self.folder / f"chunk-{self.chunks:05d}.json", value)
        self.ends.append(self.tally.documents)
        self.complete = complete

"""Text to tokens: a corpus of bytes, split once into training and held-out documents.

The split is by document and by content: documents are ranked by the hash of their bytes and the first sixteenth is
held out; exact duplicates are dropped, so that no held-out document stands in the training text too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import replace_file

STDLIB = "stdlib"
HELD_OUT = 16  # one document in so many is held out
PIECE = 16 * 1024  # a corpus of few documents is cut, at line ends, into pieces of about so many bytes
SEPARATOR = b"\n\n\n"
_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", ".git", ".venv", "node_modules"})


@dataclass(frozen=True)
class Corpus:
    """Token arrays (uint8) of training and held-out text, and what they were made of."""

    train: np.ndarray
    held_out: np.ndarray
    source: str
    fingerprint: str
    documents: int
    duplicates: int
    skipped: int

    def describe(self) -> str:
        """One line for the user."""
        extra = [f"{self.duplicates} duplicates dropped"] if self.duplicates else []
        extra += [f"{self.skipped} files that are no text left out"] if self.skipped else []
        return (
            f"{self.documents} documents, {len(self.train) / 1e6:.2f} MB to train on, "
            f"{len(self.held_out) / 1e6:.2f} MB held out" + "".join(f"; {part}" for part in extra)
        )


def read_corpus(source: str) -> Corpus:
    """Read ``stdlib``, a text file or a folder of text files.

    ``stdlib`` is the source code of the running Python's standard library, without site-packages.

    Raises:
        UserError: nothing there, nothing readable as text, or too little of it to split.
    """
    documents: dict[bytes, bytes] = {}  # content hash → content, in the order of sorted paths
    duplicates = skipped = 0
    for raw in _documents(source):
        text = _clean(raw)
        if text is None:
            skipped += 1
        elif text:
            key = hashlib.sha256(text).digest()
            duplicates += key in documents
            documents.setdefault(key, text)
    if not documents:
        raise UserError(f"{source}: no text in it; give a UTF-8 text file or a folder of them")
    if len(documents) < 4 * HELD_OUT:
        size = min(PIECE, max(1, sum(map(len, documents.values())) // (4 * HELD_OUT)))
        pieces = {hashlib.sha256(p).digest(): p for text in documents.values() for p in _pieces(text, size)}
    else:
        pieces = documents
    # Rank by hash rather than by a threshold, so that a small corpus also gets its share of held-out text.
    ranked = sorted(pieces)
    held = set(ranked[: max(1, len(ranked) // HELD_OUT)])
    if len(ranked) < 2:
        raise UserError(
            f"{source}: {sum(map(len, pieces.values()))} bytes of text are too few to split; give 100 kB or more"
        )
    train = SEPARATOR.join(text for key, text in pieces.items() if key not in held)
    held_out = SEPARATOR.join(text for key, text in pieces.items() if key in held)
    digest = hashlib.sha256(train + b"\0held out\0" + held_out).hexdigest()[:16]
    arrays = (np.frombuffer(part, dtype=np.uint8) for part in (train, held_out))
    return Corpus(*arrays, source, digest, len(documents), duplicates, skipped)


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Write ``train.bin``, ``heldout.bin`` and, last, the manifest that vouches for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tokens in (("train.bin", corpus.train), ("heldout.bin", corpus.held_out)):
        replace_file(folder / name, tokens.tobytes())
    manifest = {
        "source": corpus.source,
        "fingerprint": corpus.fingerprint,
        "tokenizer": "bytes",
        "train_tokens": len(corpus.train),
        "heldout_tokens": len(corpus.held_out),
        "documents": corpus.documents,
        "duplicates": corpus.duplicates,
        "skipped": corpus.skipped,
    }
    replace_file(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def load_corpus(folder: Path) -> Corpus:
    """Read back what :func:`save_corpus` wrote, and check it against its fingerprint.

    Raises:
        UserError: there is none, or its bytes are not those that were written.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        names = ("source", "fingerprint", "documents", "duplicates", "skipped")
        source, fingerprint, *counts = (manifest[name] for name in names)
        train, held_out = ((folder / name).read_bytes() for name in ("train.bin", "heldout.bin"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no corpus that can be read here ({error}); start the study anew") from None
    if hashlib.sha256(train + b"\0held out\0" + held_out).hexdigest()[:16] != fingerprint:
        raise UserError(f"{folder}: the text changed since it was split; start the study anew")
    arrays = (np.frombuffer(part, dtype=np.uint8) for part in (train, held_out))
    return Corpus(*arrays, source, fingerprint, *counts)


def _documents(source: str) -> Iterator[bytes | None]:
    """The raw files of a source, in sorted order; None for one that cannot be read.

    Hidden files are left out, and so are folders of studies, which would feed a report back into its own corpus.
    """
    root = Path(sysconfig.get_path("stdlib") if source == STDLIB else source)
    if root.is_file():
        try:
            yield root.read_bytes()
        except OSError as error:
            raise UserError(f"{source}: {error.strerror}") from None
        return
    if not root.is_dir():
        raise UserError(f"{source}: no such file or folder")
    for folder, children, names in os.walk(root):
        if "study.json" in names:
            children.clear()
            continue
        children[:] = sorted(name for name in children if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (source != STDLIB or name.endswith(".py")):
                yield _read(Path(folder, name))


def _read(path: Path) -> bytes | None:
    """A file's bytes, or None if it cannot be read or begins like no text (so that large binaries are not loaded)."""
    try:
        with path.open("rb") as file:
            head = file.read(8192)
            return None if b"\0" in head else head + file.read()
    except OSError:
        return None


def _clean(raw: bytes | None) -> bytes | None:
    """UTF-8 text with line ends unified, or None for what is no text."""
    if raw is None or b"\0" in raw:
        return None
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").strip(b"\n")


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Cut a document at line ends (a line that is endless, anywhere) into pieces of about ``size`` bytes."""
    start = 0
    while start < len(text):
        line_end = re.compile(rb"\n").search(text, start + size, start + 2 * size)
        end = line_end.end() if line_end else start + size
        yield text[start:end]
        start = end

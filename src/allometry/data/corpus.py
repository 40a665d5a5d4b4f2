"""A corpus: training tokens and held-out tokens, prepared from text once and never changed.

A small text is read at once, as bytes (:func:`read_corpus`); any text can be prepared on disk, in bounded memory and
by any tokenizer (:mod:`allometry.data.packing`). Both ways split by :mod:`allometry.data.split`, so both give the same
text the same fingerprint if its tokens are bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.task import TextConfig
from ..errors import UserError
from ..files import replace_file
from ..quantities import plural
from .documents import MANIFEST, PIECE, STDLIB, is_corpus
from .near_duplicates import near_duplicates
from .shards import BYTES, Shards, fingerprint, open_shards, read_manifest, shard_of, write_manifest
from .sources import open_source
from .split import FEW, HELD_OUT, SEPARATOR, cut, keys_of, piece_size, split
from .tally import Tally, no_text, repeated, too_little
from .tokenizer import FILE, Bytes, Subwords, Tokenizer

__all__ = [
    "HELD_OUT",
    "PIECE",
    "SEPARATOR",
    "STDLIB",
    "Corpus",
    "load_corpus",
    "load_tokenizer",
    "read_corpus",
    "save_corpus",
]

MEMORY = 1 << 29  # a text of more bytes must be prepared on disk


@dataclass(frozen=True)
class Corpus:
    """Training tokens and held-out tokens, and where they come from.

    ``bytes_per_token`` is measured on the held-out text: it converts a loss in nats per token to bits per byte.
    ``notes`` report what was done to the text; ``folder`` holds the shards (None: the corpus is in memory).
    """

    train: np.ndarray | Shards
    held_out: np.ndarray | Shards
    source: str
    fingerprint: str
    documents: int
    duplicates: int
    skipped: int
    tokenizer: str = "bytes"
    vocab_size: int = 256
    bytes_per_token: float = 1.0
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    def task(self, source: str) -> TextConfig:
        """The task of runs on this corpus, for their records; ``source`` is the user's name for the corpus."""
        return TextConfig(
            source=source,
            fingerprint=self.fingerprint,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            train_tokens=len(self.train),
            bytes_per_token=self.bytes_per_token,
        )

    def check(self, context: int, vocab_size: int) -> None:
        """Check that a model can be trained on this corpus.

        Raises:
            UserError: the context is too long for the corpus, or the vocabulary is smaller than the tokenizer's.
        """
        for part, tokens, least in (
            ("training text", self.train, 2 * context + 1),
            ("held-out text", self.held_out, context + 1),
        ):
            if len(tokens) < least:
                raise UserError(
                    f"{self.source}: {len(tokens)} tokens of {part} are too few for a context of {context}; "
                    "give a shorter context or more text"
                )
        if vocab_size < self.vocab_size:
            raise UserError(
                f"vocab_size {vocab_size}: the text was packed by {self.tokenizer}, whose vocabulary has "
                f"{self.vocab_size} entries; leave vocab_size out, or set it to {self.vocab_size}"
            )

    def describe(self) -> str:
        """One line for the user."""
        unit, of = "MB", ""
        if self.tokenizer != "bytes":
            unit, of = "M tokens", f" ({self.tokenizer}: {self.bytes_per_token:.2f} bytes per token)"
        extra = [f"{plural(self.duplicates, 'duplicate')} dropped"] if self.duplicates else []
        extra += [f"{plural(self.skipped, 'file')} left out (not text)"] if self.skipped else []
        return (
            f"{plural(self.documents, 'document')}, {len(self.train) / 1e6:.2f} {unit} to train on, "
            f"{len(self.held_out) / 1e6:.2f} {unit} held out{of}" + "".join(f"; {part}" for part in extra)
        )


def read_corpus(source: str) -> Corpus:
    """Read the corpus in a folder that ``allometry data`` wrote, or the text of any other source as bytes, in memory.

    Raises:
        UserError: there is nothing, nothing is text, or the text is too little to split or too much for the memory.
    """
    if Path(source).is_dir() and is_corpus(os.listdir(source)):
        return load_corpus(Path(source))
    texts, tally = _read(source)
    whole = split(keys_of(texts))
    texts = [text for text, kept in zip(texts, whole.kept, strict=True) if kept]
    size = sum(map(len, texts))
    if len(texts) < FEW:
        texts = cut(texts, piece_size(size))
    chosen = split(keys_of(texts))
    if chosen.kept.sum() < 2:
        raise too_little(source, size)
    train, held_out = ([texts[i] for i in np.flatnonzero(side)] for side in (chosen.train, chosen.held_out))
    leaks = near_duplicates(lambda: held_out, train)
    arrays = [Bytes().pack(part, begun=False)[0] for part in (train, held_out)]
    return Corpus(
        train=arrays[0],
        held_out=arrays[1],
        source=source,
        fingerprint=fingerprint(arrays[:1], arrays[1:], ""),
        documents=int(whole.kept.sum()),
        duplicates=whole.copies,
        skipped=tally.skipped,
        notes=(*tally.notes(), *repeated(chosen.copies), leaks.describe()),
    )


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Write a corpus to a folder, the manifest last. Shards on the same disk are linked instead of copied."""
    folder.mkdir(parents=True, exist_ok=True)
    if corpus.folder is not None:
        value = read_manifest(corpus.folder)
        names = [shard["name"] for part in ("train", "held_out") for shard in value[part]]
        for name in names + [FILE] * bool(value["tokenizer"]["sha256"]):
            _link(corpus.folder / name, folder / name)
        replace_file(folder / MANIFEST, (corpus.folder / MANIFEST).read_bytes())
        return
    shards = {}
    for part, name in (("train", "train.bin"), ("held_out", "heldout.bin")):
        tokens = getattr(corpus, part)[:]
        replace_file(folder / name, tokens.tobytes())
        shards[part] = [shard_of(name, tokens, 0, len(tokens)).to_json()]
    names = ("source", "fingerprint", "documents", "duplicates", "skipped", "notes")
    value = {name: getattr(corpus, name) for name in names}
    write_manifest(folder, value | {"tokenizer": BYTES, "dtype": "uint8"} | shards)


def load_corpus(folder: Path, *, verify: bool = True) -> Corpus:
    """Open the corpus in a folder, with its tokens memory-mapped; with ``verify``, every byte is checked first.

    Raises:
        UserError: there is no corpus, its bytes have changed since it was written, or its tokenizer is another one.
    """
    value = read_manifest(folder)
    tokenizer = value["tokenizer"]
    content = _tokenizer_file(folder, tokenizer)
    if verify and content and Subwords(tokenizer["name"], content).vocab_size != tokenizer["vocab_size"]:
        raise UserError(
            f"{folder / MANIFEST}: {tokenizer['name']} does not have {tokenizer['vocab_size']} entries; prepare the "
            "text again"
        )
    train, held_out = (
        open_shards(folder, value[part], value["dtype"], verify=verify) for part in ("train", "held_out")
    )
    if max(shard["largest"] for part in ("train", "held_out") for shard in value[part]) >= tokenizer["vocab_size"]:
        raise UserError(f"{folder}: the shards hold tokens that {tokenizer['name']} does not know; prepare it again")
    names = ("source", "fingerprint", "documents", "duplicates", "skipped")
    return Corpus(
        train,
        held_out,
        **{name: value[name] for name in names},
        tokenizer=tokenizer["name"],
        vocab_size=tokenizer["vocab_size"],
        bytes_per_token=sum(s["bytes"] for s in value["held_out"]) / len(held_out),
        notes=tuple(value["notes"]),
        folder=folder,
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the corpus in a folder.

    Raises:
        UserError: there is no corpus, or its tokenizer is not the one by which it was packed.
    """
    tokenizer = read_manifest(folder)["tokenizer"]
    content = _tokenizer_file(folder, tokenizer)
    return Subwords(tokenizer["name"], content) if content else Bytes()


def _tokenizer_file(folder: Path, tokenizer: dict[str, Any]) -> bytes:
    """The content of ``tokenizer.json``; empty if the tokens are bytes."""
    if not tokenizer["sha256"]:
        return b""
    content = b""
    with contextlib.suppress(OSError):
        content = (folder / FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != tokenizer["sha256"]:
        raise UserError(
            f"{folder / FILE}: not the tokenizer that the shards were packed with ({tokenizer['name']}); put the "
            "original back, or prepare the text again"
        )
    return content


def _read(source: str) -> tuple[list[bytes], Tally]:
    """All documents of a source."""
    tally, texts, size = Tally(), [], 0
    for item in open_source(source).items(0, 0):
        if text := tally.add(item):
            texts.append(text)
            size += len(text)
        if size > MEMORY:
            raise UserError(
                f"{source}: more than {MEMORY >> 20} MB of text; prepare it with `allometry data {source} --out DIR`, "
                "and give DIR"
            )
    if not texts:
        raise no_text(source, tally)
    return texts, tally


def _link(origin: Path, target: Path) -> None:
    """Put a file at a second place: as a hard link if the disk allows it, else as a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(origin, target)
    except OSError:
        shutil.copyfile(origin, target)

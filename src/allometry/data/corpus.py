"""A corpus: tokens to train on and tokens held out, made from text once and the same ever after.

Small text is read whole, as bytes (:func:`read_corpus`); any text can be prepared on disk, in bounded memory and by
any tokenizer (:mod:`allometry.data.packing`). Both split by :mod:`allometry.data.split`, so the same text as bytes
has the same fingerprint, whichever way it came.
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
from .documents import MANIFEST, PIECE, STDLIB, is_corpus
from .near_duplicates import near_duplicates
from .shards import BYTES, Shards, fingerprint, open_shards, read_manifest, seal, shard_of
from .sources import open_source
from .split import FEW, HELD_OUT, SEPARATOR, cut, keys_of, piece_size, split
from .tally import Reading, no_text, repeated, too_little
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

MEMORY = 1 << 29  # bytes of text beyond which it is to be prepared on disk


@dataclass(frozen=True)
class Corpus:
    """Token arrays of training and held-out text, and what they were made of.

    ``bytes_per_token`` is that of the held-out text: it turns a loss in nats a token into bits a byte. ``notes`` say
    what was done to the text; ``folder`` is where the shards lie, None for a corpus in memory.
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
        """What runs on this text record of it; ``source`` is where the user said it is."""
        return TextConfig(
            source=source,
            fingerprint=self.fingerprint,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            train_tokens=len(self.train),
            bytes_per_token=self.bytes_per_token,
        )

    def check(self, context: int, vocab_size: int) -> None:
        """Whether a model can be trained on this text.

        Raises:
            UserError: its context is too long for the text, or its vocabulary smaller than the tokenizer's.
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
                f"{self.vocab_size} entries; leave vocab_size out, or give that"
            )

    def describe(self) -> str:
        """One line for the user."""
        unit, of = "MB", ""
        if self.tokenizer != "bytes":
            unit, of = "M tokens", f" ({self.tokenizer}: {self.bytes_per_token:.2f} bytes a token)"
        extra = [f"{self.duplicates} duplicates dropped"] if self.duplicates else []
        extra += [f"{self.skipped} files that are no text left out"] if self.skipped else []
        return (
            f"{self.documents} documents, {len(self.train) / 1e6:.2f} {unit} to train on, "
            f"{len(self.held_out) / 1e6:.2f} {unit} held out{of}" + "".join(f"; {part}" for part in extra)
        )


def read_corpus(source: str) -> Corpus:
    """The corpus in a folder that ``allometry data`` wrote; of any other source, its text as bytes, in memory.

    Raises:
        UserError: nothing there, nothing readable as text, too little of it to split, or too much for the memory.
    """
    if Path(source).is_dir() and is_corpus(os.listdir(source)):
        return load_corpus(Path(source))
    texts, reading = _read(source)
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
        *arrays,
        source=source,
        fingerprint=fingerprint(arrays[:1], arrays[1:], ""),
        documents=int(whole.kept.sum()),
        duplicates=whole.copies,
        skipped=reading.skipped,
        notes=(*reading.notes(), *repeated(chosen.copies), leaks.describe()),
    )


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Put a corpus into a folder, the manifest last. Shards that lie on the same disk are linked, not copied."""
    folder.mkdir(parents=True, exist_ok=True)
    if corpus.folder is not None:
        value = read_manifest(corpus.folder)
        names = [shard["name"] for part in ("train", "held_out") for shard in value[part]]
        for name in names + [FILE] * bool(value["tokenizer"]["sha256"]):
            _link(corpus.folder / name, folder / name)
        replace_file(folder / MANIFEST, (corpus.folder / MANIFEST).read_bytes())
        return
    shards = {}
    for part, name, tokens in (("train", "train.bin", corpus.train), ("held_out", "heldout.bin", corpus.held_out)):
        replace_file(folder / name, tokens.tobytes())
        shards[part] = [shard_of(name, tokens, 0, len(tokens)).to_json()]
    names = ("source", "fingerprint", "documents", "duplicates", "skipped", "notes")
    seal(folder, {name: getattr(corpus, name) for name in names} | {"tokenizer": BYTES, "dtype": "uint8"} | shards)


def load_corpus(folder: Path, *, verify: bool = True) -> Corpus:
    """The corpus in a folder, its tokens mapped; with ``verify``, every byte is checked first.

    Raises:
        UserError: there is none, its bytes are not those that were written, or its tokenizer is another.
    """
    value = read_manifest(folder)
    tokenizer = value["tokenizer"]
    content = _tokenizer_file(folder, tokenizer)
    if verify and content and Subwords(tokenizer["name"], content).vocab_size != tokenizer["vocab_size"]:
        raise UserError(
            f"{folder / MANIFEST}: {tokenizer['name']} has not {tokenizer['vocab_size']} entries; prepare the text anew"
        )
    train, held_out = (
        open_shards(folder, value[part], value["dtype"], verify=verify) for part in ("train", "held_out")
    )
    if max(shard["largest"] for part in ("train", "held_out") for shard in value[part]) >= tokenizer["vocab_size"]:
        raise UserError(f"{folder}: the shards hold tokens that {tokenizer['name']} does not know; prepare it anew")
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
        UserError: there is no corpus, or its tokenizer is not the one that it was packed with.
    """
    tokenizer = read_manifest(folder)["tokenizer"]
    content = _tokenizer_file(folder, tokenizer)
    return Subwords(tokenizer["name"], content) if content else Bytes()


def _tokenizer_file(folder: Path, tokenizer: dict[str, Any]) -> bytes:
    """The content of ``tokenizer.json``; empty where the tokens are bytes."""
    if not tokenizer["sha256"]:
        return b""
    content = b""
    with contextlib.suppress(OSError):
        content = (folder / FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != tokenizer["sha256"]:
        raise UserError(
            f"{folder / FILE}: not the tokenizer that the shards were packed with ({tokenizer['name']}); put the "
            "original back, or prepare the text anew"
        )
    return content


def _read(source: str) -> tuple[list[bytes], Reading]:
    """All documents of a source."""
    reading, texts, size = Reading(), [], 0
    for item in open_source(source).items(0, 0):
        if reading.take(item):
            texts.append(item.text)
            size += len(item.text)
        if size > MEMORY:
            raise UserError(
                f"{source}: more than {MEMORY >> 20} MB of text; prepare it with `allometry data {source} --out DIR`, "
                "and give DIR"
            )
    if not texts:
        raise no_text(source, reading)
    return texts, reading


def _link(origin: Path, target: Path) -> None:
    """The same file at another place: by a second name where the disk allows it, else by a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(origin, target)
    except OSError:
        shutil.copyfile(origin, target)

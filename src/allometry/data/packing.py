"""Prepare a corpus on disk from any text, in bounded memory; the process may be killed at any moment.

Documents are read into a spool, split by their hashes, packed chunk by chunk into shards, and the two parts of the
split are compared for near copies. The manifest is written last and makes the corpus exist. After an interruption, the
same call continues where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import lock_file, parse_json, replace_file, write_json
from ..quantities import plural
from .corpus import Corpus, load_corpus
from .documents import MANIFEST, PREPARING, Source
from .lossy_tokenizer import check_losses
from .near_duplicates import near_duplicates
from .shards import Shard, content, fingerprint, read_manifest, shard_of, write_manifest
from .split import FEW, Split, cut, keys_of, piece_size, split
from .spool import Spool
from .tally import no_text, repeated, too_little
from .tokenizer import FILE, Subwords, Tokenizer, open_tokenizer, train_bpe, trained_vocab_size

WORK, LOCK = "work", ".lock"
TRAINED_ON = 256 * 1024**2  # a BPE is trained on at most this many bytes of text, evenly sampled
QUIET_SECONDS = 10
PARTS = {"train": "train", "held_out": "heldout"}  # part of the split → beginning of its shards' names

Say = Callable[[str], None]


def prepare(source: Source, out: Path, tokenizer: str = "bytes", say: Say = lambda text: None) -> Corpus:
    """Pack the text of ``source`` into the folder ``out``; a corpus there of the same source and tokenizer is kept.

    Args:
        tokenizer: ``bytes``, ``bpe:8192``, ``gpt2`` or the path of a ``tokenizer.json``.
        say: receives progress, one line at a time.

    Raises:
        UserError: the source cannot be read or is too small, the tokenizer does not exist, or ``out`` holds something
            else. Nothing is left in ``out`` then, unless reading stopped half-way and can be continued.
    """
    given = None if trained_vocab_size(tokenizer) else open_tokenizer(tokenizer)
    request = {
        "source": source.name,
        "text": hashlib.sha256(json.dumps(source.identity, sort_keys=True).encode()).hexdigest(),
        "tokenizer": given.name if given else tokenizer,
        "sha256": given.sha256 if given else "",
    }
    with _claimed(out):
        _begin(out, request, say)
        if not (out / MANIFEST).exists():
            spool = Spool(out / WORK)
            try:
                spool.fill(source, _Paced(say))
                plan = _plan(spool, source.name)
                lossy = check_losses(given, plan.all_texts("held_out")) if isinstance(given, Subwords) else []
            except UserError:
                if spool.complete or not spool.chunks:
                    _empty(out)
                raise
            for note in lossy:
                say(note)
            _write_corpus(out, plan, request, given or _trained(out, tokenizer, plan, say), say, lossy)
        _clear(out)
        return load_corpus(out)


@dataclass(frozen=True)
class _Plan:
    """The split of a spool: which of its documents, or of their pieces, belong to which part.

    Attributes:
        whole: the split of the documents; it marks the copies among them.
        size: bytes of the pieces into which the documents are cut; None if they are not cut.
        units: the split of the units, which are the documents or their pieces.
        ends: the number of units up to the end of each chunk.
    """

    spool: Spool
    whole: Split
    size: int | None
    units: Split
    ends: np.ndarray

    def texts(self, chunk: int) -> dict[str, list[bytes]]:
        """The texts of a chunk that belong to ``train`` and to ``held_out``."""
        texts = self.spool.documents(chunk) if self.size is None else _pieces(self.spool, self.whole, chunk, self.size)
        start = self.ends[chunk] - len(texts)
        chosen = {part: np.flatnonzero(getattr(self.units, part)[start : self.ends[chunk]]) for part in PARTS}
        return {part: [texts[i] for i in places] for part, places in chosen.items()}

    def all_texts(self, part: str, every: int = 1) -> Iterator[bytes]:
        """The texts of a part in all chunks; with ``every``, an even sample of them."""
        seen = 0
        for chunk in range(self.spool.chunks):
            texts = self.texts(chunk)[part]
            yield from texts[-seen % every :: every]
            seen += len(texts)

    def begun(self, chunk: int, part: str) -> bool:
        """Whether earlier chunks have texts of a part."""
        return chunk > 0 and bool(getattr(self.units, part)[: self.ends[chunk - 1]].any())


def _plan(spool: Spool, source: str) -> _Plan:
    """The split of a complete spool."""
    keys, lengths = spool.index()
    if not len(keys):
        raise no_text(source, spool.tally)
    whole, size, units, ends = split(keys), None, None, spool.ends
    total = int(lengths[whole.kept].sum())
    if whole.kept.sum() < FEW:
        size = piece_size(total)
        pieces = [keys_of(_pieces(spool, whole, chunk, size)) for chunk in range(spool.chunks)]
        units, ends = split(np.concatenate(pieces)), np.cumsum([len(part) for part in pieces])
    plan = _Plan(spool, whole, size, units or whole, np.asarray(ends))
    if plan.units.kept.sum() < 2:
        raise too_little(source, total)
    return plan


def _trained(out: Path, name: str, plan: _Plan, say: Say) -> Tokenizer:
    """A BPE that is trained once on the training text."""
    path = out / FILE
    if not path.exists():
        say(f"training {name} on the training text")
        total = int(plan.spool.index()[1].sum())
        texts = plan.all_texts("train", every=1 + total // TRAINED_ON)
        tokenizer = train_bpe(name, trained_vocab_size(name), (text.decode("utf-8") for text in texts))
        replace_file(path, tokenizer.content)
    return Subwords(name, path.read_bytes())


def _write_corpus(
    out: Path, plan: _Plan, request: dict[str, Any], tokenizer: Tokenizer, say: Say, lossy: list[str]
) -> None:
    """Write the shards, compare the parts, write the manifest; ``lossy``: what the tokenizer loses."""
    if tokenizer.content and not (out / FILE).exists():
        replace_file(out / FILE, tokenizer.content)
    paced, packed = _Paced(say), []
    for chunk in range(plan.spool.chunks):
        packed.append(_pack(out, plan, chunk, tokenizer))
        paced(f"{chunk + 1} of {plural(plan.spool.chunks, 'chunk')} packed")
    shards = {part: [shard for each in packed if (shard := each[part]) is not None] for part in PARTS}
    leaks = near_duplicates(lambda: plan.all_texts("held_out"), plan.all_texts("train"))
    tally = plan.spool.tally
    notes = [*tally.notes(), *repeated(plan.units.copies if plan.size else 0), leaks.describe(), *lossy]
    if tokenizer.vocab_size < trained_vocab_size(tokenizer.name):
        notes.append(f"{tokenizer.name}: this text yields only {plural(tokenizer.vocab_size, 'entry', 'entries')}")
    train, held_out = (content(out, shards[part]) for part in PARTS)
    write_manifest(
        out,
        {
            "source": request["source"],
            "made_from": request,
            "fingerprint": fingerprint(train, held_out, tokenizer.sha256),
            "tokenizer": {name: getattr(tokenizer, name) for name in ("name", "vocab_size", "sha256")},
            "dtype": tokenizer.dtype.name,
            "documents": int(plan.whole.kept.sum()),
            "duplicates": plan.whole.copies,
            "skipped": tally.skipped,
            "notes": notes,
            "near_duplicates": leaks.to_json(),
            **{part: [shard.to_json() for shard in each] for part, each in shards.items()},
        },
    )


def _pack(out: Path, plan: _Plan, chunk: int, tokenizer: Tokenizer) -> dict[str, Shard | None]:
    """The shards of a chunk; they are written unless the chunk's marker exists."""
    marker = out / WORK / f"packed-{chunk:05d}.json"
    if not marker.exists():
        shards: dict[str, Any] = dict.fromkeys(PARTS)
        for part, texts in plan.texts(chunk).items():
            tokens, size = tokenizer.pack(texts, plan.begun(chunk, part))
            if len(tokens):
                name = f"{PARTS[part]}-{chunk:05d}.bin"
                replace_file(out / name, tokens.tobytes())
                shards[part] = shard_of(name, tokens, len(texts), size).to_json()
        write_json(marker, shards)
    return {part: shard and Shard(**shard) for part, shard in json.loads(marker.read_text()).items()}


def _pieces(spool: Spool, whole: Split, chunk: int, size: int) -> list[bytes]:
    """The pieces of a chunk's documents, without copies of earlier documents."""
    texts = spool.documents(chunk)
    kept = whole.kept[spool.ends[chunk] - len(texts) : spool.ends[chunk]]
    return cut([texts[i] for i in np.flatnonzero(kept)], size)


def _begin(out: Path, request: dict[str, str], say: Say) -> None:
    """Make ``out`` ready: keep what the same request has left there, and delete what an unfinished other one has.

    Raises:
        UserError: ``out`` holds a finished corpus of another request.
    """
    decisive = lambda value: {name: value.get(name) for name in ("text", "tokenizer", "sha256")}
    path = out / PREPARING
    if (out / MANIFEST).exists():
        existing = read_manifest(out).get("made_from", {})
        if decisive(existing) != decisive(request):
            raise UserError(
                f"{out}: already holds {existing.get('source', 'a study')} packed by "
                f"{existing.get('tokenizer', 'bytes')}, as that text was then; give another --out"
            )
        say(f"{out}: already prepared")
        return
    if path.exists() and decisive(parse_json(path.read_text())) != decisive(request):
        say(f"{out}: was begun with another text or tokenizer; starting again")
        _empty(out)
    if not path.exists():
        write_json(path, request)


def _empty(out: Path) -> None:
    """Delete everything that an unfinished preparation has written."""
    for entry in out.iterdir():
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _clear(out: Path) -> None:
    """Delete working files, and files that a kill left half written."""
    (out / PREPARING).unlink(missing_ok=True)
    shutil.rmtree(out / WORK, ignore_errors=True)
    for entry in out.glob(".*.*"):
        entry.unlink()


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Reserve the folder for this process; create it if necessary, and delete it if nothing was written.

    Raises:
        UserError: another process has reserved the folder, or it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give --out a folder")
    out.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in out.iterdir() if not entry.name.startswith((LOCK, f".{PREPARING}"))}
    if names and not names & {MANIFEST, PREPARING}:
        raise UserError(f"{out}: exists and is not a corpus; give another --out")
    with open(out / LOCK, "a") as file:
        try:
            lock_file(file, wait=False)
        except OSError:
            raise UserError(f"{out}: another process is preparing this; wait for it") from None
        try:
            yield
        finally:
            if all(entry.name == LOCK for entry in out.iterdir()):
                shutil.rmtree(out)


class _Paced:
    """Forwards a line at most every ten seconds."""

    def __init__(self, say: Say):
        self.say, self.last_line = say, time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.last_line > QUIET_SECONDS:
            self.last_line = time.monotonic()
            self.say(text)

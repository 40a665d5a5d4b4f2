"""Any text to packed tokens on disk, in bounded memory, and safe to kill at any moment.

Documents are read into a spool, split by their hashes, packed chunk by chunk into shards, and compared across the
split; the manifest comes last and makes the corpus exist. The same call again goes on where it was broken off.
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
from ..files import lock_file, replace_file, write_json
from .corpus import Corpus, load_corpus
from .documents import MANIFEST, PREPARING, Source
from .near_duplicates import near_duplicates
from .shards import Shard, content, fingerprint, read_manifest, seal, shard_of
from .split import FEW, Split, cut, keys_of, piece_size, split
from .spool import Spool
from .tally import no_text, repeated, too_little
from .tokenizer import FILE, Subwords, Tokenizer, open_tokenizer, train_bpe, trained_vocab_size

WORK, LOCK = "work", ".lock"
TRAINED_ON = 256 * 1024**2  # bytes of text, evenly taken, that a BPE is trained on at most
QUIET_SECONDS = 10
PARTS = {"train": "train", "held_out": "heldout"}  # and what their shards are called

Say = Callable[[str], None]


def prepare(source: Source, out: Path, tokenizer: str = "bytes", say: Say = lambda text: None) -> Corpus:
    """Pack the text of ``source`` into ``out``; what stands there already by the same source and tokenizer is kept.

    Args:
        tokenizer: ``bytes``, ``bpe:8192``, ``gpt2`` or the path of a ``tokenizer.json``.
        say: hears what is being done, a line at a time.

    Raises:
        UserError: the source cannot be read or is too small, there is no such tokenizer, or ``out`` holds something
            else. Nothing is left in ``out`` then, unless reading was broken off half-way and can go on.
    """
    given = None if trained_vocab_size(tokenizer) else open_tokenizer(tokenizer)
    wanted = {
        "source": source.name,
        "text": hashlib.sha256(json.dumps(source.identity, sort_keys=True).encode()).hexdigest(),
        "tokenizer": given.name if given else tokenizer,
        "sha256": given.sha256 if given else "",
    }
    with _claimed(out):
        _begin(out, wanted, say)
        if not (out / MANIFEST).exists():
            spool = Spool(out / WORK)
            try:
                spool.fill(source, _Paced(say))
                plan = _plan(spool, source.name)
            except UserError:
                if spool.complete or not spool.chunks:
                    _empty(out)
                raise
            _make(out, plan, wanted, given or _trained(out, tokenizer, plan, say), say)
        _clear(out)
        return load_corpus(out)


@dataclass(frozen=True)
class _Plan:
    """What each document (or piece of one, with ``size``) of a spool is for."""

    spool: Spool
    whole: Split  # of the documents
    size: int | None
    units: Split  # of the documents, or of their pieces
    ends: np.ndarray  # of the chunks, in units

    def texts(self, chunk: int) -> dict[str, list[bytes]]:
        """The texts of a chunk that are for ``train`` and ``held_out``."""
        texts = self.spool.documents(chunk) if self.size is None else _pieces(self.spool, self.whole, chunk, self.size)
        start = self.ends[chunk] - len(texts)
        chosen = {part: np.flatnonzero(getattr(self.units, part)[start : self.ends[chunk]]) for part in PARTS}
        return {part: [texts[i] for i in places] for part, places in chosen.items()}

    def all_texts(self, part: str, every: int = 1) -> Iterator[bytes]:
        """The texts of a part in all chunks, or an even choice of them."""
        seen = 0
        for chunk in range(self.spool.chunks):
            texts = self.texts(chunk)[part]
            yield from texts[-seen % every :: every]
            seen += len(texts)

    def begun(self, chunk: int, part: str) -> bool:
        """Whether there are texts for a part in earlier chunks."""
        return chunk > 0 and bool(getattr(self.units, part)[: self.ends[chunk - 1]].any())


def _plan(spool: Spool, source: str) -> _Plan:
    """The split of a complete spool."""
    keys, lengths = spool.index()
    if not len(keys):
        raise no_text(source, spool.reading)
    whole, size, units, ends = split(keys), None, None, spool.ends
    total = int(lengths[whole.kept].sum())
    if whole.kept.sum() < FEW:
        size = piece_size(total)
        found = [keys_of(_pieces(spool, whole, chunk, size)) for chunk in range(spool.chunks)]
        units, ends = split(np.concatenate(found)), np.cumsum([len(part) for part in found])
    plan = _Plan(spool, whole, size, units or whole, np.asarray(ends))
    if plan.units.kept.sum() < 2:
        raise too_little(source, total)
    return plan


def _trained(out: Path, name: str, plan: _Plan, say: Say) -> Tokenizer:
    """A BPE of the training text, made once."""
    path = out / FILE
    if not path.exists():
        say(f"training {name} on the training text")
        total = int(plan.spool.index()[1].sum())
        texts = plan.all_texts("train", every=1 + total // TRAINED_ON)
        made = train_bpe(name, trained_vocab_size(name), (text.decode("utf-8") for text in texts))
        replace_file(path, made.content)
    return Subwords(name, path.read_bytes())


def _make(out: Path, plan: _Plan, wanted: dict[str, Any], tokenizer: Tokenizer, say: Say) -> None:
    """Shards, comparison, manifest."""
    if tokenizer.content and not (out / FILE).exists():
        replace_file(out / FILE, tokenizer.content)
    paced, packed = _Paced(say), []
    for chunk in range(plan.spool.chunks):
        packed.append(_pack(out, plan, chunk, tokenizer))
        paced(f"{chunk + 1} of {plan.spool.chunks} chunks packed")
    shards = {part: [found[part] for found in packed if found[part] is not None] for part in PARTS}
    leaks = near_duplicates(lambda: plan.all_texts("held_out"), plan.all_texts("train"))
    reading = plan.spool.reading
    notes = [*reading.notes(), *repeated(plan.units.copies if plan.size else 0), leaks.describe()]
    if tokenizer.vocab_size < trained_vocab_size(tokenizer.name):
        notes.append(f"{tokenizer.name}: the text gives no more than {tokenizer.vocab_size} entries")
    seal(
        out,
        {
            "source": wanted["source"],
            "made_from": wanted,
            "fingerprint": fingerprint(*(content(out, found) for found in shards.values()), tokenizer.sha256),
            "tokenizer": {name: getattr(tokenizer, name) for name in ("name", "vocab_size", "sha256")},
            "dtype": tokenizer.dtype.name,
            "documents": int(plan.whole.kept.sum()),
            "duplicates": plan.whole.copies,
            "skipped": reading.skipped,
            "notes": notes,
            "near_duplicates": leaks.to_json(),
            **{part: [shard.to_json() for shard in found] for part, found in shards.items()},
        },
    )


def _pack(out: Path, plan: _Plan, chunk: int, tokenizer: Tokenizer) -> dict[str, Shard | None]:
    """The shards of a chunk, written unless its marker says that they are."""
    marker = out / WORK / f"packed-{chunk:05d}.json"
    if not marker.exists():
        made: dict[str, Any] = dict.fromkeys(PARTS)
        for part, texts in plan.texts(chunk).items():
            tokens, size = tokenizer.pack(texts, plan.begun(chunk, part))
            if len(tokens):
                name = f"{PARTS[part]}-{chunk:05d}.bin"
                replace_file(out / name, tokens.tobytes())
                made[part] = shard_of(name, tokens, len(texts), size).to_json()
        write_json(marker, made)
    return {part: found and Shard(**found) for part, found in json.loads(marker.read_text()).items()}


def _pieces(spool: Spool, whole: Split, chunk: int, size: int) -> list[bytes]:
    """The pieces of a chunk's documents that are no copies."""
    texts = spool.documents(chunk)
    kept = whole.kept[spool.ends[chunk] - len(texts) : spool.ends[chunk]]
    return cut([texts[i] for i in np.flatnonzero(kept)], size)


def _begin(out: Path, wanted: dict[str, str], say: Say) -> None:
    """Make ``out`` ready for what is wanted: as it is, if that was begun or made there, else empty.

    Raises:
        UserError: there is another corpus.
    """
    decisive = lambda value: {name: value.get(name) for name in ("text", "tokenizer", "sha256")}
    path = out / PREPARING
    if (out / MANIFEST).exists():
        there = read_manifest(out).get("made_from", {})
        if decisive(there) != decisive(wanted):
            raise UserError(
                f"{out}: holds {there.get('source', 'a study')} by {there.get('tokenizer', 'bytes')} already, as that "
                "text was then; give another --out, or delete the folder"
            )
        say(f"{out}: prepared already")
        return
    if path.exists() and decisive(json.loads(path.read_text())) != decisive(wanted):
        say(f"{out}: was begun with other text or another tokenizer; beginning anew")
        _empty(out)
    if not path.exists():
        write_json(path, wanted)


def _empty(out: Path) -> None:
    """Remove all that a corpus in the making put into its folder."""
    for entry in out.iterdir():
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _clear(out: Path) -> None:
    """Remove what only the making needed, and what a kill left of files half written."""
    (out / PREPARING).unlink(missing_ok=True)
    shutil.rmtree(out / WORK, ignore_errors=True)
    for entry in out.glob(".*.*"):
        entry.unlink()


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Hold the folder for this process; make it if need be, and remove it again if nothing came of it.

    Raises:
        UserError: another process is at it, or it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give --out a folder")
    out.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in out.iterdir() if not entry.name.startswith((LOCK, f".{PREPARING}"))}
    if names and not names & {MANIFEST, PREPARING}:
        raise UserError(f"{out}: exists and is no corpus; give another --out")
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
    """Passes on a line at most every ten seconds."""

    def __init__(self, say: Say):
        self.say, self.spoke = say, time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.spoke > QUIET_SECONDS:
            self.spoke = time.monotonic()
            self.say(text)

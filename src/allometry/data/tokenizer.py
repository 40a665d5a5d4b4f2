"""Text to tokens and back: raw bytes, or a byte-level BPE by the ``tokenizers`` library.

A tokenizer has the name that it has on the command line: ``bytes``; ``bpe:8192``, which is trained on the corpus
itself; ``gpt2``; or the path of a ``tokenizer.json``. A copy of the tokenizer is stored with the shards that it packed,
and is identified by its SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from ..errors import UserError
from .split import SEPARATOR

FILE = "tokenizer.json"
END = "<|endoftext|>"
_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")  # its names in published tokenizers
_HUB_SECONDS = 3.0  # until a hub that takes no connection counts as not there
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_BATCH_BYTES = 1 << 20  # the library needs about a hundred bytes of memory for each token of a batch
_GPT2 = ("openai-community/gpt2", 50257)


class Tokenizer(Protocol):
    """What a corpus needs of a tokenizer.

    ``content`` is its file and ``sha256`` the hash of that; both are empty if the name determines the tokenizer.
    """

    name: str
    vocab_size: int
    sha256: str
    content: bytes
    dtype: np.dtype

    def pack(self, texts: Sequence[bytes], begun: bool) -> tuple[np.ndarray, int]:
        """The tokens of documents, one after another, and the bytes of text that they stand for.

        A separator that is text counts as bytes; a token that means the end of a document stands for none.
        ``begun``: other documents come before these.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a prompt."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become the replacement character."""
        ...


class Bytes:
    """Every byte is a token; documents are separated by empty lines."""

    name, vocab_size, sha256, content, dtype = "bytes", 256, "", b"", np.dtype(np.uint8)

    def pack(self, texts: Sequence[bytes], begun: bool) -> tuple[np.ndarray, int]:
        joined = SEPARATOR.join([b"", *texts] if begun else texts)
        return np.frombuffer(joined, np.uint8), len(joined)

    def encode(self, text: str) -> list[int]:
        return list(text.encode(errors="surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


class Subwords:
    """A tokenizer from a ``tokenizer.json``.

    Its end-of-document token follows each document, or three line ends if it has no such token.

    Raises:
        UserError: the content is not a tokenizer.
    """

    def __init__(self, name: str, content: bytes):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises no other class
            raise UserError(f"{name}: not a tokenizer.json of the tokenizers library ({error})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "<|endoftext|>" inside a document is text; only this class marks the end of a document.
        self._tokenizer.encode_special_tokens = True
        self.name, self.content, self.sha256 = name, content, hashlib.sha256(content).hexdigest()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.vocab_size < 2:
            raise UserError(f"{name}: this tokenizer has no vocabulary; give another one")
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        self.end = next((i for name in _ENDS if (i := self._tokenizer.token_to_id(name)) is not None), None)
        self._separator = self.encode(SEPARATOR.decode()) if self.end is None else [self.end]

    def pack(self, texts: Sequence[bytes], begun: bool) -> tuple[np.ndarray, int]:
        # Two batches at once: while one is converted to Python, the library works on the other with all cores.
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(self._pack, _batches(texts)))
        between = 0 if self.end is not None else len(SEPARATOR)
        return np.concatenate([np.empty(0, self.dtype), *parts]), sum(map(len, texts)) + between * len(texts)

    def _pack(self, texts: list[str]) -> np.ndarray:
        tokens: list[int] = []
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            tokens += encoding.ids
            tokens += self._separator
        return np.fromiter(tokens, self.dtype, len(tokens))

    def encode(self, text: str) -> list[int]:
        # Bytes that the command line could not decode are lone surrogates here, which the library refuses.
        text = text.encode(errors="surrogateescape").decode(errors="replace")
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name; None if there is no such token."""
        return self._tokenizer.token_to_id(token)


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that has this name, unless it is one that must be trained.

    Raises:
        UserError: no tokenizer has that name, or its file cannot be read or fetched.
    """
    if name == "bytes":
        return Bytes()
    if name == "gpt2":
        return _gpt2()
    if not Path(name).is_file():
        raise UserError(f"--tokenizer {name}: give bytes, bpe:8192, gpt2, or the path of a tokenizer.json")
    try:
        return Subwords(Path(name).name, Path(name).read_bytes())
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from None


def trained_vocab_size(name: str) -> int:
    """The vocabulary size in a name like ``bpe:8192``; 0 for any other name.

    Raises:
        UserError: the size is too small to hold all bytes, or unreasonably large.
    """
    match = re.fullmatch(r"bpe:(\d{1,9})", name)
    if match is None:
        return 0
    size = int(match[1])
    if not 257 <= size <= 1 << 20:
        raise UserError(f"--tokenizer {name}: give a size from 257 (all bytes, and the end of a document) to {1 << 20}")
    return size


def train_bpe(name: str, size: int, texts: Iterable[str]) -> Subwords:
    """Train a byte-level BPE of at most ``size`` entries with GPT-2's pre-tokenizer; the result is deterministic."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return Subwords(name, tokenizer.to_str(pretty=True).encode())


def _batches(texts: Sequence[bytes]) -> Iterable[list[str]]:
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text.decode("utf-8"))
        length += len(text)
        if length >= _BATCH_BYTES:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _gpt2() -> Subwords:
    """GPT-2's tokenizer from the local cache of Hugging Face; it is downloaded into that cache if necessary."""
    import huggingface_hub

    repository, size = _GPT2
    reason = ""
    for local in (True, False):
        if not local and not hub_answers():
            reason = "huggingface.co does not answer"
            continue
        try:
            path = huggingface_hub.hf_hub_download(repository, FILE, local_files_only=local, etag_timeout=5)
            break
        except Exception as error:  # it raises any class that the layers below it raise
            reason = str(error).strip().splitlines()[0].rstrip(".")
    else:
        raise UserError(
            f"gpt2: its {FILE} is not in the local cache and cannot be downloaded ({reason}); on a machine with a "
            f"network run `hf download {repository} {FILE} --local-dir gpt2`, copy the file here, and give its path"
        )
    tokenizer = Subwords("gpt2", Path(path).read_bytes())
    if tokenizer.vocab_size != size:
        raise UserError(
            f"{path}: it has {tokenizer.vocab_size} entries, but GPT-2 has {size}; move it away, and the "
            "same command downloads it again"
        )
    return tokenizer


def hub_answers() -> bool:
    """Whether the hub takes a connection, asked once before a library retries for long; True behind a proxy."""
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    place = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        address = (place.hostname or "huggingface.co", place.port or (80 if place.scheme == "http" else 443))
        socket.create_connection(address, timeout=_HUB_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True

"""Text from tokens as they come: no character is shown in halves, and a stop string never."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ...data.tokenizer import Bytes, Tokenizer

_UNKNOWN = "\ufffd"  # what a decoder writes for bytes that are no character (yet)
_LONGEST = 4  # tokens that one character of UTF-8 can take


class TextStream:
    """The text of tokens that come one by one: pieces that together are the text of all of them."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace") if isinstance(tokenizer, Bytes) else None
        self._before: list[int] = []  # tokens shown last: how a token reads may depend on the one before it
        self._waiting: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        if self._bytes is not None:
            return self._bytes.decode(bytes(tokens))
        pieces = []
        for token in tokens:
            self._waiting.append(token)
            piece = self._piece()
            if not piece.endswith(_UNKNOWN) or len(self._waiting) > _LONGEST:
                pieces.append(piece)
                self._before, self._waiting = self._waiting, []
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back, at the end of the text."""
        if self._bytes is not None:
            return self._bytes.decode(b"", final=True)
        piece, self._waiting = self._piece(), []
        return piece

    def _piece(self) -> str:
        if not self._waiting:
            return ""
        shown = self.tokenizer.decode(self._before)
        return self.tokenizer.decode([*self._before, *self._waiting])[len(shown) :]


class StopStrings:
    """Cuts a text before the first of some strings; what may become one of them is held back."""

    def __init__(self, strings: Sequence[str]):
        self.strings = tuple(string for string in strings if string)
        self.stopped = False
        self._held = ""

    def push(self, piece: str) -> str:
        """The part of the text so far that may be shown now; nothing more after a stop."""
        if self.stopped:
            return ""
        text = self._held + piece
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, string) for string in self.strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return "" if self.stopped else held


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of ``text`` with which ``string`` begins."""
    return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)

"""Counts of documents read, empty and skipped; they become the notes of the corpus."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UserError
from ..quantities import plural
from .documents import Item

MOST_REASONS = 3


@dataclass
class Tally:
    """Counts of the items of a source.

    Attributes:
        documents: documents with text.
        empty: documents without text.
        skipped: items that are not text.
        unified: documents whose line ends were changed from CRLF to LF.
        reasons: why the first few items were skipped.
    """

    documents: int = 0
    empty: int = 0
    skipped: int = 0
    unified: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, item: Item) -> bytes | None:
        """Count an item; returns its text if it is a document, else None."""
        self.unified += item.unified and bool(item.text)
        if item.text is None:
            self.skipped += 1
            self.reasons += [item.why][: MOST_REASONS - len(self.reasons)]
        elif not item.text:
            self.empty += 1
        else:
            self.documents += 1
        return item.text or None

    def notes(self) -> list[str]:
        """What was done to the text, one line for each change."""
        unified = plural(self.unified, "document")
        lines = [f"line ends of {unified} were CRLF; they are LF now"] if self.unified else []
        lines += [f"{plural(self.empty, 'empty document')} left out"] if self.empty else []
        return lines + [f"left out: {why}" for why in self.reasons]


def no_text(source: str, tally: Tally) -> UserError:
    """The error for a source without a single document."""
    why = f" ({tally.reasons[0]})" if tally.reasons else ""
    return UserError(f"{source}: no text in it{why}; give a UTF-8 text file or a folder of them")


def too_little(source: str, size: int) -> UserError:
    """The error for a source that is too small to be split."""
    return UserError(f"{source}: {plural(size, 'byte')} of text is too little to split; give 100 kB or more")


def repeated(copies: int) -> list[str]:
    """The note on pieces that were dropped because an equal one was kept; empty if there are none."""
    return [f"{plural(copies, 'repeated piece')} of long documents dropped"] if copies else []

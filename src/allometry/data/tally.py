"""What was met while a source was read, so that nothing is left out or changed without a word."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UserError
from .documents import Item

MOST_REASONS = 3


@dataclass
class Reading:
    """Counts of documents, of empty ones, of what is no text, and of line ends that were unified."""

    documents: int = 0
    empty: int = 0
    skipped: int = 0
    unified: int = 0
    reasons: list[str] = field(default_factory=list)  # why the first few were left out

    def take(self, item: Item) -> bool:
        """Count an item; whether it is a document."""
        self.unified += item.unified and bool(item.text)
        if item.text is None:
            self.skipped += 1
            self.reasons += [item.why][: MOST_REASONS - len(self.reasons)]
        elif not item.text:
            self.empty += 1
        else:
            self.documents += 1
        return bool(item.text)

    def notes(self) -> list[str]:
        """What was done to the text, a line each."""
        lines = [f"line ends of {self.unified} documents were CRLF; they are LF now"] if self.unified else []
        lines += [f"{self.empty} empty documents left out"] if self.empty else []
        return lines + [f"left out: {why}" for why in self.reasons]


def no_text(source: str, reading: Reading) -> UserError:
    """The complaint about a source without a single document."""
    why = f" ({reading.reasons[0]})" if reading.reasons else ""
    return UserError(f"{source}: no text in it{why}; give a UTF-8 text file or a folder of them")


def too_little(source: str, size: int) -> UserError:
    """The complaint about a source that cannot be split."""
    return UserError(f"{source}: {size} bytes of text are too few to split; give 100 kB or more")


def repeated(copies: int) -> list[str]:
    """The note on pieces that were dropped because they are all alike."""
    return [f"{copies} repeated pieces of long documents dropped"] if copies else []

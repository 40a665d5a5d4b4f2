"""A result as a notebook shows it: a heading, a picture, four sentences for a newcomer, and the whole as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MOST_TEXT = 20_000  # characters of the full text; beyond, it is cut


@dataclass(frozen=True)
class Card:
    """What a notebook shows of a result.

    Attributes:
        heading: the result in a few words.
        what: what this kind of result is.
        says: what this one says.
        sure: how sure it is, and what speaks against it.
        following: what to do next; parts in backticks are shown as code.
        picture: inline SVG, by :class:`Chart`; may be empty.
        warnings: shown above all else.
        full: the whole result as text, folded away.
    """

    heading: str
    what: str
    says: str
    sure: str
    following: str
    picture: str = ""
    warnings: Sequence[str] = ()
    full: str = ""

    def html(self) -> str:
        """The card as HTML without any script or link; every text is escaped."""
        rows = {"What it is": self.what, "What it says": self.says, "How sure": self.sure, "Next": self.following}
        lines = "".join(
            f'<div style="margin:.25em 0"><b>{name}.</b> {_marked(text)}</div>' for name, text in rows.items() if text
        )
        warned = "".join(
            f'<div style="margin:.3em 0;padding-left:.6em;border-left:3px solid #d95f02">{_marked(text)}</div>'
            for text in self.warnings
        )
        shown = self.full if len(self.full) <= MOST_TEXT else f"{self.full[:MOST_TEXT]}\n…"
        full = f"<details><summary>All of it</summary><pre>{escape(shown)}</pre></details>" if shown else ""
        return (
            '<div class="allometry-card" style="max-width:46em;line-height:1.45">'
            f'<div style="font-size:1.1em;font-weight:600">{escape(self.heading)}</div>'
            f"{warned}{self.picture}{lines}{full}</div>"
        )


def _marked(text: str) -> str:
    """Escaped text in which what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))

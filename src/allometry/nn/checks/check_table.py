"""The table that the checks of this package print: as plain text, as a rich renderable, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

BAD, GOOD, QUIET, STRONG = "bad", "good", "quiet", "strong"
_RICH = {BAD: "red", GOOD: "green", QUIET: "dim", STRONG: "bold", "": ""}
_CSS = {BAD: "color:#b00020", GOOD: "color:#0a7a2f", QUIET: "opacity:.6", STRONG: "", "": ""}


@dataclass(frozen=True)
class CheckLine:
    """A row of cells, or a heading if there is only one; ``look`` is bad, good, quiet or empty."""

    cells: tuple[str, ...]
    look: str = ""


@dataclass(frozen=True)
class CheckTable:
    """A verdict, columns (the first aligned left), lines, and notes below."""

    verdict: CheckLine
    columns: tuple[str, ...]
    lines: tuple[CheckLine, ...]
    notes: tuple[str, ...] = ()

    def text(self, width: int = 100) -> str:
        """Plain text, in lines of at most ``width`` if the cells allow it."""
        return "\n".join(text for text, _ in self._layout(width))

    def rich(self) -> CheckTable:
        """The result of a ``__rich__`` method: rich shows the table itself."""
        return self

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """For rich: the same lines, in the width of the console and coloured."""
        from rich.text import Text

        for text, look in self._layout(options.max_width):
            yield Text(text, style=_RICH[look], no_wrap=True, overflow="fold")

    def _layout(self, width: int) -> list[tuple[str, str]]:
        """Lines of text, each with its look."""
        first, *rest = self.verdict.cells
        out = [(first, self.verdict.look or STRONG)]
        out += [(part, QUIET) for cell in rest for part in wrap(cell, width)]
        rows = [line.cells for line in self.lines if len(line.cells) > 1]
        widths = [max(map(len, column)) for column in zip(self.columns, *rows, strict=True)]
        widths[0] = min(widths[0], max(12, width - sum(widths[1:]) - len(widths) + 1))
        out += [("", ""), *((part, STRONG) for part in _aligned(self.columns, widths))]
        for line in self.lines:
            if len(line.cells) == 1:
                out.append((f"— {line.cells[0]}", STRONG))
            else:
                out += [(part, line.look) for part in _aligned(line.cells, widths)]
        if self.notes:
            out.append(("", ""))
        return out + [(part, "") for note in self.notes for part in _bullet(note, width)]

    def html(self) -> str:
        """An HTML fragment that needs no style sheet; everything in it is escaped."""
        first, *rest = self.verdict.cells
        out = [f'<div><p><b style="{_CSS[self.verdict.look]}">{escape(first)}</b>']
        out += [f"<br>{escape(cell)}" for cell in rest]
        out += ["</p><table><thead><tr>", *_cells(self.columns, "th"), "</tr></thead><tbody>"]
        for line in self.lines:
            if len(line.cells) == 1:
                span = f'colspan="{len(self.columns)}" style="text-align:left"'
                out.append(f"<tr><th {span}>{escape(line.cells[0])}</th></tr>")
            else:
                out += [f'<tr style="{_CSS[line.look]}">', *_cells(line.cells, "td"), "</tr>"]
        out.append("</tbody></table>")
        if self.notes:
            out += ["<ul>", *(f"<li>{escape(note)}</li>" for note in self.notes), "</ul>"]
        return "".join([*out, "</div>"])


def short(value: float) -> str:
    """Three digits: 0.0123, 1.04, 448, 5.7e4."""
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def spread(values: Sequence[float]) -> str:
    """One value, or the least and the greatest of several."""
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low}–{high}"


def percent(share: float) -> str:
    """A share as a percentage without the sign; a dot for zero."""
    if share == 0:
        return "·"
    return "<.1" if share < 0.0005 else f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One line, or two if the first cell is too long and gets its own line."""
    first, *rest = cells
    numbers = " ".join(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
    if len(first) <= widths[0]:
        return [f"{first.ljust(widths[0])} {numbers}"]
    return [first, f"{'':{widths[0]}} {numbers}"]


def _bullet(note: str, width: int) -> list[str]:
    return wrap(note, width, initial_indent="• ", subsequent_indent="  ", break_on_hyphens=False)


def _cells(cells: Sequence[str], tag: str) -> list[str]:
    align = lambda index: ' style="text-align:right"' if index else ' style="text-align:left"'
    return [f"<{tag}{align(index)}>{escape(cell)}</{tag}>" for index, cell in enumerate(cells)]

"""Every tensor's scale on a line of powers of two, as SVG: root mean square, largest entry, where formats end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from ..precision.formats import BF16, E4M3FN, E5M2, FP16, Format
from .check_table import percent

_LOWEST, _HIGHEST = -24, 20  # of the axis, in powers of two
_WIDTH, _LABEL, _LOSS, _LINE = 560, 300, 130, 16  # of the picture, in pixels
_SHADES = ((E5M2, 0.08), (E4M3FN, 0.14))  # opacities
COLOURS = ("#2a78c8", "#d0661a")  # before any training, and after it


def scale_picture(rows: Sequence[Any], steps: Sequence[int], form: Format) -> str:
    """The lines of tensors by name, in the order of execution; ``rows`` are those of an audit in one direction."""
    names = list(dict.fromkeys((row.name, row.kind) for row in rows))
    height = _LINE * (len(names) + 2)
    total = _LABEL + _WIDTH + _LOSS
    out = [
        f'<svg viewBox="0 0 {total} {height}" width="{total}" role="img" aria-label="scales of tensors" '
        'style="max-width:100%;height:auto" font-family="system-ui,sans-serif" font-size="11" fill="currentColor">'
    ]
    for shaded, opacity in _SHADES:
        left, right = _place(shaded.min_subnormal), _place(shaded.max)
        out.append(
            f'<rect x="{left:.1f}" y="{_LINE}" width="{right - left:.1f}" height="{height}" fill="#2a78c8" '
            f'fill-opacity="{opacity}"/>'
        )
    for power in range(_LOWEST, _HIGHEST + 1, 4):
        x = _place(2.0**power)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_LINE}" y2="{height}" stroke="#ccc" stroke-width=".5"/>')
        out.append(f'<text x="{x:.1f}" y="11" text-anchor="middle" fill-opacity=".65">2^{power}</text>')
    by_name = {(row.name, row.kind, row.step): row for row in rows}
    for number, (name, kind) in enumerate(names):
        there = [by_name[name, kind, step] for step in steps if (name, kind, step) in by_name]
        out += _line(name, kind, there, steps, form, _LINE * (number + 1.5))
    return "".join([*out, "</svg>"])


def _line(name: str, kind: str, rows: Sequence[Any], steps: Sequence[int], form: Format, middle: float) -> list[str]:
    bad = next((row for row in rows if not row.ok), None)
    label = name if len(name) <= 44 else f"…{name[-43:]}"
    title = f"{name} ({kind})" + ("" if bad is None else f": {bad.verdict}; {bad.advice}")
    look = ' fill="#c00020" font-weight="600"' if bad is not None else ""
    out = [f"<g><title>{escape(title)}</title>"]
    out.append(f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end"{look}>{escape(label)}</text>')
    for row in rows:
        y = middle + (0 if len(steps) == 1 else 3 * (1 if row.step else -1))
        colour = COLOURS[0 if row.step == steps[0] else 1]
        start, end = _place(row.rms), _place(row.largest)
        out.append(
            f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="1.5"/>'
            f'<circle cx="{start:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>'
        )
    out.append(
        f'<text x="{_LABEL + _WIDTH + 8}" y="{middle + 4:.1f}" fill-opacity=".65">{escape(_lost(rows, form))}</text>'
    )
    return [*out, "</g>"]


def _lost(rows: Sequence[Any], form: Format) -> str:
    """What the format of this direction, and FP16 and BF16, would lose at the last moment; empty if nothing."""
    last = rows[-1]
    names = "E4M3" if form is E4M3FN else form.name, FP16.name, BF16.name
    shares = {name: last.lost(name) for name in names if name in last.underflow}
    return ", ".join(f"{name} {percent(share)} %" for name, share in shares.items() if share >= 0.0005)


def _place(value: float) -> float:
    """Where a magnitude stands; what is beyond the axis stands at its end."""
    power = math.log2(value) if value > 0 and math.isfinite(value) else (_LOWEST if value == 0 else _HIGHEST)
    return _LABEL + _WIDTH * (min(max(power, _LOWEST), _HIGHEST) - _LOWEST) / (_HIGHEST - _LOWEST)

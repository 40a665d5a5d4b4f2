"""An audit as one page that opens offline: every tensor's scale on a line of powers of two, and where a format ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ..precision.formats import BF16, E4M3FN, E5M2, FP16, Format
from .audit import Audit, AuditRow
from .check_table import percent, short
from .verdicts import ACTIVATION, ACTIVATION_GRADIENT, PARAMETER, PARAMETER_GRADIENT

_FORWARD, _BACKWARD = (ACTIVATION, PARAMETER), (ACTIVATION_GRADIENT, PARAMETER_GRADIENT)
_LOWEST, _HIGHEST = -24, 20  # of the axis, in powers of two
_WIDTH, _LABEL, _LOSS, _LINE = 560, 300, 130, 16  # of the picture, in pixels
_SHADES = ((E5M2, "#eef3fb"), (E4M3FN, "#d7e5f8"))
_COLOURS = ("#1b5fa8", "#c2570c")  # before any training, and after it
_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1c1c;background:#fff}
svg{max-width:100%;height:auto;display:block}h2{margin-top:2rem}text{font:11px system-ui,sans-serif}
.bad{fill:#b00020;font-weight:600}.quiet{fill:#666}table{border-collapse:collapse}td,th{padding:.15rem .6rem}
@media(prefers-color-scheme:dark){body{background:#fff}}
"""


def audit_page(audit: Audit) -> str:
    """The page of an audit, as HTML without any script or link.

    Each line is a tensor: a dot at its root mean square, a bar from there to its largest entry. Shaded are the numbers
    that E4M3 and E5M2 hold. Forward and backward are two pictures; with ``steps`` each has both moments in two colours.
    """
    steps = sorted({row.step for row in audit.rows})
    verdict = "every tensor is healthy" if audit.ok else f"{len(audit.failures)} of {len(audit.rows)} tensors fail"
    moments = "".join(
        f'<span style="color:{colour}">●</span> {"before training" if step == 0 else f"after {step} steps"} '
        for step, colour in zip(steps, _COLOURS, strict=False)
    )
    value = "" if audit.value is None else f", {short(audit.value)}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Scales of {escape(audit.model)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Scales of {escape(audit.model)}: {escape(verdict)}</h1>",
        f"<p>Loss: {escape(audit.loss)}{value}. {moments}</p>",
        "<p>A dot is a tensor's root mean square, the bar reaches to its largest entry, on powers of two. Dark: what "
        "E4M3 holds; light: what E5M2 holds. On the right, the share of entries that a format would lose.</p>",
    ]
    for title, kinds, form in (("Forward", _FORWARD, E4M3FN), ("Backward", _BACKWARD, E5M2)):
        rows = [row for row in audit.rows if row.kind in kinds]
        parts.append(f"<h2>{title}</h2>")
        parts.append(_picture(rows, steps, form) if rows else "<p>Nothing was measured.</p>")
    parts.append(f"<h2>Table</h2>{audit._repr_html_()}</body></html>")
    return "".join(parts)


def _picture(rows: Sequence[AuditRow], steps: Sequence[int], form: Format) -> str:
    """The lines of tensors by name, in the order of execution."""
    names = list(dict.fromkeys((row.name, row.kind) for row in rows))
    height = _LINE * (len(names) + 2)
    total = _LABEL + _WIDTH + _LOSS
    out = [f'<svg viewBox="0 0 {total} {height}" width="{total}" role="img" aria-label="scales of tensors">']
    for shaded, colour in _SHADES:
        left, right = _place(shaded.min_subnormal), _place(shaded.max)
        out.append(f'<rect x="{left:.1f}" y="{_LINE}" width="{right - left:.1f}" height="{height}" fill="{colour}"/>')
    for power in range(_LOWEST, _HIGHEST + 1, 4):
        x = _place(2.0**power)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_LINE}" y2="{height}" stroke="#ccc" stroke-width=".5"/>')
        out.append(f'<text x="{x:.1f}" y="11" text-anchor="middle" class="quiet">2^{power}</text>')
    by_name = {(row.name, row.kind, row.step): row for row in rows}
    for number, (name, kind) in enumerate(names):
        there = [by_name[name, kind, step] for step in steps if (name, kind, step) in by_name]
        out += _line(name, kind, there, steps, form, _LINE * (number + 1.5))
    return "".join([*out, "</svg>"])


def _line(
    name: str, kind: str, rows: Sequence[AuditRow], steps: Sequence[int], form: Format, middle: float
) -> list[str]:
    bad = next((row for row in rows if not row.ok), None)
    label = name if len(name) <= 44 else f"…{name[-43:]}"
    title = f"{name} ({kind})" + ("" if bad is None else f": {bad.verdict}; {bad.advice}")
    look = ' class="bad"' if bad is not None else ""
    out = [f"<g><title>{escape(title)}</title>"]
    out.append(f'<text x="{_LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end"{look}>{escape(label)}</text>')
    for row in rows:
        y = middle + (0 if len(steps) == 1 else 3 * (1 if row.step else -1))
        colour = _COLOURS[0 if row.step == steps[0] else 1]
        start, end = _place(row.rms), _place(row.largest)
        out.append(
            f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="1.5"/>'
            f'<circle cx="{start:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>'
        )
    out.append(f'<text x="{_LABEL + _WIDTH + 8}" y="{middle + 4:.1f}" class="quiet">{escape(_lost(rows, form))}</text>')
    return [*out, "</g>"]


def _lost(rows: Sequence[AuditRow], form: Format) -> str:
    """What the format of this direction, and FP16 and BF16, would lose at the last moment; empty if nothing."""
    last = rows[-1]
    names = {"E4M3" if form is E4M3FN else form.name: form, FP16.name: FP16, BF16.name: BF16}
    shares = {name: last.lost(name) for name in names if name in last.underflow}
    return ", ".join(f"{name} {percent(share)} %" for name, share in shares.items() if share >= 0.0005)


def _place(value: float) -> float:
    """Where a magnitude stands; what is beyond the axis stands at its end."""
    power = math.log2(value) if value > 0 and math.isfinite(value) else (_LOWEST if value == 0 else _HIGHEST)
    return _LABEL + _WIDTH * (min(max(power, _LOWEST), _HIGHEST) - _LOWEST) / (_HIGHEST - _LOWEST)

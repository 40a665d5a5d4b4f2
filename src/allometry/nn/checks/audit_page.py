"""An audit as one page that opens offline: every tensor's scale on a line of powers of two, and where a format ends."""

from __future__ import annotations

from html import escape

from .audit import DIRECTIONS, Audit
from .check_table import short
from .scale_picture import COLOURS, scale_picture

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1c1c;background:#fff}
svg{display:block}h2{margin-top:2rem}table{border-collapse:collapse}td,th{padding:.15rem .6rem}
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
        for step, colour in zip(steps, COLOURS, strict=False)
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
    for title, kinds, form in DIRECTIONS:
        rows = [row for row in audit.rows if row.kind in kinds]
        parts.append(f"<h2>{title}</h2>")
        parts.append(scale_picture(rows, steps, form) if rows else "<p>Nothing was measured.</p>")
    parts.append(f"<h2>Table</h2>{audit.table_html()}</body></html>")
    return "".join(parts)

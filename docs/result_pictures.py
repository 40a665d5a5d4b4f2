"""Pictures of the committed results: the tournament's predictions against what came out, and how often intervals hold.

Written as SVG by hand: small, sharp at any size, dark where the reader's page is dark, with a title at each point.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from scipy.stats import beta

WIDTH, ROW, TOP, BOTTOM = 860, 15, 44, 50
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px; fill: #57606a }
  .head { font-size: 13px; font-weight: 600 } .grid { stroke: #d0d7de; stroke-width: 1 }
  .axis { stroke: #57606a; stroke-width: 1 } .range { stroke: #0969da; stroke-width: 5; opacity: .35 }
  .dot { fill: #0969da } .miss { fill: #cf222e } .missed { stroke: #cf222e; stroke-width: 5; opacity: .35 }
  .tuning { fill-opacity: .35 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .axis { stroke: #9198a1 }
    .range { stroke: #4493f8 } .dot { fill: #4493f8 } .miss { fill: #f85149 } .missed { stroke: #f85149 }
  }"""


def actual(study: dict) -> float:
    """The loss that came out; over several seeds of the target their mean."""
    return float(np.mean(study["actual"]))


def hits(study: dict) -> list[bool]:
    """Of each seed of the target: whether it came out inside the interval."""
    return [study["low"] <= loss <= study["high"] for loss in study["actual"]]


def held(study: dict) -> bool:
    """Whether most seeds came out inside."""
    return 2 * sum(hits(study)) >= len(study["actual"])


def label(study: dict) -> str:
    """The text, the seed and how far beyond the largest rung the target lies."""
    return f"{study['text']}, seed {study['seed']}, {study['compute_ratio']:.0f}×"


def title(study: dict) -> str:
    """What a pointer over a study reads."""
    seeds = len(study["actual"])
    within = ("inside" if held(study) else "outside") if seeds == 1 else f"{sum(hits(study))} of {seeds} seeds inside"
    return (
        f"{label(study)} ({study['group']}): predicted {study['predicted']:.4f} "
        f"[{study['low']:.4f}, {study['high']:.4f}], actual {actual(study):.4f}, {within} its 90 % interval"
    )


def tournament(studies: Sequence[dict]) -> str:
    """Left, predicted against actual loss; right, a row for each study: the interval and what came out, in per cent."""
    height = max(340, TOP + ROW * len(studies) + BOTTOM)
    inside = [hit for study in studies for hit in hits(study)]
    summary = f"{len(studies)} studies: {sum(inside)} of {len(inside)} targets lie inside the 90 % interval"
    parts = [*scatter(studies, min(height, 340)), *rows(studies, height)]
    return document(WIDTH, height, f"Predicted and actual losses. {summary}.", parts)


def document(width: int, height: int, description: str, parts: Sequence[str]) -> str:
    """The file: a description for who does not see it, the style, the parts."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}">'
    )
    return "\n".join([head, f"<style>{STYLE}\n</style>", *parts, "</svg>"]) + "\n"


def scatter(studies: Sequence[dict], height: int) -> list[str]:
    """Predicted against actual loss on logarithmic axes, with the diagonal."""
    left, right, top, bottom = 52, 372, TOP, height - BOTTOM
    values = np.array([[actual(s), s["predicted"], s["low"], s["high"]] for s in studies])
    low, high = np.log(values.min() / 1.03), np.log(values.max() * 1.03)
    x = lambda loss: left + (np.log(loss) - low) / (high - low) * (right - left)
    y = lambda loss: bottom - (np.log(loss) - low) / (high - low) * (bottom - top)
    parts = [f'<text class="head" x="{left}" y="20">Predicted against actual loss</text>']
    for tick in ticks(np.exp(low), np.exp(high)):
        parts += [
            f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}M{left} {y(tick):.1f}H{right}"/>',
            f'<text class="small" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>',
            f'<text class="small" x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>',
        ]
    parts += [
        f'<path class="axis" d="M{left} {bottom}L{right} {top}"/>',
        f'<text class="small" x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">'
        "actual, nats per token (above the diagonal: predicted too high)</text>",
    ]
    for s in studies:
        bar, dot = ("range", "dot") if held(s) else ("missed", "miss")
        at = x(actual(s))
        parts += [
            f"<g><title>{escape(title(s))}</title>",
            f'<path class="{bar}" d="M{at:.1f} {y(s["low"]):.1f}V{y(s["high"]):.1f}"/>',
            f'<circle class="{dot}" cx="{at:.1f}" cy="{y(s["predicted"]):.1f}" r="4"/></g>',
        ]
    return parts


def rows(studies: Sequence[dict], height: int) -> list[str]:
    """A row for each study: its interval and the actual loss, both relative to the prediction."""
    left, right, bottom = 552, WIDTH - 16, TOP + ROW * len(studies) + 6
    spans = [max(s["high"] / s["predicted"], s["predicted"] / s["low"]) - 1 for s in studies]
    errors = [abs(loss / s["predicted"] - 1) for s in studies for loss in s["actual"]]
    reach = max(0.02, *spans, *errors) * 1.1
    x = lambda ratio: (left + right) / 2 + (ratio - 1) / reach * (right - left) / 2
    parts = [f'<text class="head" x="{left - 142}" y="20">Each study, relative to its prediction</text>']
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if reach / step < 3.5)
    for tick in np.arange(-np.floor(reach / step), np.floor(reach / step) + 1) * step:
        parts += [
            f'<path class="{"grid" if tick else "axis"}" d="M{x(1 + tick):.1f} {TOP - 8}V{bottom}"/>',
            f'<text class="small" x="{x(1 + tick):.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{f'{tick:+.0%}' if tick else '0'}</text>",
        ]
    for number, s in enumerate(studies):
        at = TOP + ROW * number + ROW / 2
        bar, pale = "range" if held(s) else "missed", " tuning" if s["group"] == "tuning" else ""
        dots = [
            f'<circle class="{"dot" if hit else "miss"}{pale}" cx="{x(loss / s["predicted"]):.1f}" cy="{at}" r="4"/>'
            for loss, hit in zip(s["actual"], hits(s), strict=True)
        ]
        parts += [
            f"<g><title>{escape(title(s))}</title>",
            f'<text class="small" x="{left - 10}" y="{at + 4:.1f}" text-anchor="end">{escape(label(s))}</text>',
            f'<path class="{bar}" d="M{x(s["low"] / s["predicted"]):.1f} {at}H{x(s["high"] / s["predicted"]):.1f}"/>',
            *dots,
            "</g>",
        ]
    legend = "bar: 90 % interval · dots: what came out"
    if any(s["group"] == "tuning" for s in studies):
        legend += " · pale: texts used for choices"
    if not all(hit for s in studies for hit in hits(s)):
        legend += " · red: outside"
    parts.append(f'<text class="small" x="{right}" y="{bottom + 36}" text-anchor="end">{legend}</text>')
    return parts


def ticks(low: float, high: float) -> list[float]:
    """Round losses between two, at most six."""
    for step in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        found = [round(step * k, 2) for k in range(int(np.ceil(low / step)), int(high / step) + 1)]
        if len(found) <= 6:
            return found
    return [low, high]


def calibration(cells: dict[tuple[float, float], np.ndarray]) -> str:
    """Share of new runs inside, by noise and factor of compute (columns of a cell: error, half-width, inside)."""
    left, right, top, bottom = 60, 720, TOP, 270
    factors, noises = (sorted({key[axis] for key in cells}) for axis in (1, 0))
    least = 0.5
    y = lambda share: bottom - (share - least) / (1 - least) * (bottom - top)
    group = (right - left) / len(factors)
    parts = [f'<text class="head" x="{left}" y="20">New runs inside their 90 % interval</text>']
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts += [
            f'<path class="{"axis" if tick == 0.9 else "grid"}" d="M{left} {y(tick):.1f}H{right}"/>',
            f'<text class="small" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>',
        ]
    for place, factor in enumerate(factors):
        middle = left + group * (place + 0.5)
        parts.append(
            f'<text x="{middle:.0f}" y="{bottom + 38}" text-anchor="middle">{factor:g}× the largest compute</text>'
        )
        for number, noise in enumerate(noises):
            rows = cells.get((noise, factor))
            if rows is None:
                continue
            share, count = float(rows[:, 2].mean()), len(rows)
            low, high = (float(beta.ppf(q, share * count + 0.5, count - share * count + 0.5)) for q in (0.05, 0.95))
            x = middle + (number - (len(noises) - 1) / 2) * group * 0.19
            text = f"noise {noise:g} %, {factor:g}×: {share:.0%} of {count} new runs inside"
            parts += [
                f"<g><title>{escape(text)}</title>",
                f'<path class="range" d="M{x:.1f} {y(max(low, least)):.1f}V{y(high):.1f}"/>',
                f'<circle class="dot" cx="{x:.1f}" cy="{y(share):.1f}" r="4"/></g>',
                f'<text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{noise:g} %</text>',
            ]
    parts.append(
        f'<text class="small" x="{left}" y="{bottom + 60}">'
        "under each point: the noise of a run · bar: what so few tables leave open (90 %)</text>"
    )
    return document(right + 20, bottom + 74, "Share of new runs inside their 90 % intervals.", parts)


def badge(name: str, value: str) -> str:
    """A small label: a name and what holds."""
    left, right = (14 + round(6.6 * len(text)) for text in (name, value))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{escape(name)}: {escape(value)}">'
        f'<rect width="{left + right}" height="20" rx="3" fill="#555"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right - 3}z" fill="#0969da"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">{escape(name)}</text>'
        f'<text x="{left + right / 2}" y="14">{escape(value)}</text></g></svg>\n'
    )

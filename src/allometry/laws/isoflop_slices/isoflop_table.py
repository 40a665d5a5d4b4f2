"""The table of an IsoFLOP analysis: what its predictions need as plain numbers.

``isoflop_table`` writes it, ``report/scripts/isoflop_law.js`` evaluates it. With c = ln C − ``centre``, ``lines`` and
each of the ``draws`` ({"shape": […], "f8": base64 of little-endian doubles}) give:

- ``num_params`` and ``tokens``, (logarithm, exponent): N* or D* = exp(logarithm + exponent·c);
- ``loss``, (E, K, γ): L* = E + K·e^(−γ·c).

The value is that of ``lines``; its interval of a level lies between the quantiles of the draws (linear between two of
them), widened to hold the value. ``range`` are the least and the largest budget that have a minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..law_table import LEVELS, packed
from .isoflop import IsoFlop


def isoflop_table(isoflop: IsoFlop, levels: Sequence[float] = LEVELS) -> dict[str, Any]:
    """The table, ready for JSON.

    Args:
        levels: of the intervals that can be asked for.
    """
    flops = [one.flops for one in isoflop.accepted]
    return {
        "levels": list(levels),
        "centre": float(isoflop.centre),
        "range": [min(flops), max(flops)],
        "lines": {name: line.tolist() for name, line in isoflop.lines.items()},
        "draws": {name: packed(lines) for name, lines in isoflop.draws.items()},
    }

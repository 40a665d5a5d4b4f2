"""How a result shows itself in a notebook: a picture as inline SVG and four sentences; the standard library only.

- ``Card``: what it is, what it says, how sure it is, what to do next, as HTML in which all text is escaped;
- ``Chart``: dots, lines, bands and a target on two axes, each linear or logarithmic.

Colours are those of the page around (``currentColor``), so a card is readable on a dark page too.
"""

from .card import Card
from .chart import Chart

__all__ = ["Card", "Chart"]

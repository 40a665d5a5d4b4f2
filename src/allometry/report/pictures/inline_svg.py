"""A drawing within a page: colours that follow the page's scheme, points that say what they are, ids of its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from .canvas import BAND, FAINT, GRID, INK, NEAR, SOFT, TARGET, UNSEARCHED, WHITE, WIDE, Drawing

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# A colour that means something on the page → the page's variable for it; others are lifted where the page is dark.
VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    FAINT: "faint",
    BAND: "band",
    GRID: "hair",
    WHITE: "paper",
    TARGET: "target",
    WIDE: "wide",
    NEAR: "near",
    UNSEARCHED: "hair",
}
FONT = "'DejaVu Sans', Verdana, system-ui, sans-serif"  # wide ones, as the layout takes the first's widths
_COLOUR = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b", re.IGNORECASE)
_IDS = re.compile(r'(\bid="|href="#|url\(#)')


def on_page(drawn: Drawing, name: str, label: str) -> Markup:
    """A drawing twice, for a wide window and for a phone; the page shows one of them."""
    broad = inline(*drawn.for_page(slim=False), name=name, label=label, kind="plot broad")
    return broad + inline(*drawn.for_page(slim=True), name=f"{name}-slim", label=label, kind="plot slim")


def inline(text: str, titles: Mapping[str, Sequence[str]], *, name: str, label: str, kind: str) -> Markup:
    """The SVG of a drawing as an element of a page.

    Args:
        text: of the SVG, with text as text.
        titles: id of a group of points → what each point says, in their order.
        name: begins every id, so that the drawings of a page do not share any.
        label: alternative text.
        kind: class of the element.
    """
    root = ElementTree.fromstring(text)
    for group in root.iter(f"{SVG}g"):
        points = list(group.iter(f"{SVG}use"))
        words = titles.get(group.get("id", ""), ())
        if len(words) == len(points):  # else some lie outside, and it is not known which
            for point, word in zip(points, words, strict=True):
                ElementTree.SubElement(point, f"{SVG}title").text = word
    for parent in root.iter(f"{SVG}defs"):
        for style in parent.findall(f"{SVG}style"):
            parent.remove(style)  # it would style the whole page; the page says the same of its plots
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    ElementTree.register_namespace("", SVG[1:-1])
    ElementTree.register_namespace("xlink", XLINK[1:-1])
    body = ElementTree.tostring(root, encoding="unicode")
    body = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body).replace("'DejaVu Sans'", FONT)
    body = _COLOUR.sub(_follow, _IDS.sub(rf"\g<1>{name}-", body))
    return Markup(body.replace("<svg", f'<svg class="{kind}" role="img" aria-label="{escape(label)}"', 1))


def _follow(match: re.Match[str]) -> str:
    """A colour as the page's variable; another one as it is, and mixed with what the scheme asks for."""
    which, colour = match[1], match[2].lower()
    if colour in VARIABLES:
        return f"{which}: var(--{VARIABLES[colour]})"
    return f"{which}: {colour}; {which}: color-mix(in srgb, {colour}, var(--lift))"

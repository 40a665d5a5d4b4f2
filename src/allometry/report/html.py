"""Templates and scripts of the package to one page: all text escaped, each script allowed by its hash and no other."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
CONTENTS = "<!-- contents -->"  # where the links to the sections go
SECTION = re.compile(r'<section id="([\w-]+)">\s*<h2>([^<]*)</h2>')
FEWEST_SECTIONS = 4
EVERY_PAGE = ("hover.js", "sort.js")
# Characters that are invisible or change the direction of the text around them, as models of bytes may write them: they
# are shown by their symbols, or as the replacement character.
UNSEEN = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys(
        (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)), 0xFFFD
    )
)


@dataclass(frozen=True)
class Picture:
    """A drawn figure with its heading and caption."""

    heading: str
    caption: str
    svg: Markup


def rendered(template: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """A page from a template of ``templates``, with scripts of ``scripts`` in this order, then those of every page."""
    environment = Environment(
        loader=FunctionLoader(lambda name: packaged("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value.translate(UNSEEN) if type(value) is str else value,
    )
    # Markup: the scripts are ours, and hold nothing that ends a script element (a test looks).
    texts = [Markup(packaged("scripts", name)) for name in (*scripts, *EVERY_PAGE)]
    page = environment.get_template(template).render(policy=policy(texts), scripts=texts, **values)
    return page.replace(CONTENTS, contents_of(page), 1)


def contents_of(page: str) -> str:
    """Links to the sections of a page, which have an id and a heading; none where there are few."""
    sections = SECTION.findall(page)
    if len(sections) < FEWEST_SECTIONS:
        return ""
    links = " ".join(f'<a href="#{place}">{heading}</a>' for place, heading in sections)
    return f'<nav aria-label="Contents">{links}</nav>'


def policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy of a page with these scripts."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"{POLICY}; script-src {allowed}" if hashes else POLICY


def packaged(folder: str, name: str) -> str:
    """The text of a file that comes with the package."""
    return files("allometry.report").joinpath(folder, name).read_text(encoding="utf-8")

"""Docstrings as Markdown, for the reference on the site: an extension of griffe, which reads them."""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"(?:^(?:>>>|\.\.\.)(?: .*)?\n?)+", re.MULTILINE)
ROLE = re.compile(r":(?:mod|class|func|meth|attr|data):(`[^`]+`)")


class Docstrings(griffe.Extension):
    """Fences around code that a docstring shows with prompts; roles of Sphinx as plain code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = ROLE.sub(r"\1", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(lambda block: f"\n```pycon\n{block[0].rstrip()}\n```\n", text)

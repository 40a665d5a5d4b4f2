"""Data sets by their Hugging Face name, streamed by the ``datasets`` library (the extra ``datasets``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .documents import Item, Source, clean, text_of_row

# Data sets that papers on small language models use: short name → path and configuration.
KNOWN = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
    "tinystories": ("roneneldan/TinyStories", None),
    "c4": ("allenai/c4", "en"),
    "fineweb-edu": ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
}
_PATH = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
_TITLE = re.compile(r"\s*= [^=].* =\s*")  # each row of WikiText is a line; an article begins with its title


def open_data_set(name: str, *, text_field: str, config: str | None, split: str | None) -> Source:
    """The rows of a split (``train`` by default) as documents.

    Raises:
        UserError: the name is neither a file nor possible for a data set, ``datasets`` is not installed, or it cannot
            open the data set.
    """
    nothing = f"{name}: no such file or folder"
    if not re.fullmatch(_PATH, name) or ".." in name:
        raise UserError(nothing)
    for option, value in (("--config", config), ("--split", split)):
        if value is not None and not re.fullmatch(r"[\w.+-]+", value):
            raise UserError(f"{option} {value}: letters, digits, '.', '-', '+' and '_' only")
    path, default = KNOWN.get(name, (name, None))
    config, split = config or default, split or "train"
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{nothing}; for a Hugging Face data set of that name install the extra: pip install 'allometry[datasets]'"
        ) from None
    try:
        stream = datasets.load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # it raises whatever the layers below it raise
        raise UserError(
            f"{nothing}, and no data set that can be read here ({_first_line(error)}); where there is a network run "
            "the same command, and bring its --out folder here"
        ) from None
    identity = {"data_set": path, "config": config, "split": split, "text_field": text_field}
    return Source(name, identity, _Rows(name, stream, text_field, path == KNOWN["wikitext-103"][0]))


class _Rows:
    """Items of a streamed split."""

    def __init__(self, name: str, stream: Any, text_field: str, articles: bool):
        self.name, self.stream, self.text_field, self.articles = name, stream, text_field, articles

    def __call__(self, part: int = 0, row: int = 0) -> Iterator[Item]:
        for end, text in self._documents(self.stream.skip(row) if row else self.stream, row):
            raw = text.encode("utf-8", "surrogatepass")
            yield Item(0, end, *clean(raw), b"\r\n" in raw)

    def _documents(self, stream: Any, row: int) -> Iterator[tuple[int, str]]:
        """Texts (rows as they are, or lines joined to articles), each with the number of rows up to its end."""
        article: list[str] = []
        number = row
        for number, text in enumerate(self._texts(stream, row), row):
            if not self.articles:
                yield number + 1, text
                continue
            if _TITLE.fullmatch(text) and any(map(str.strip, article)):
                yield number, "".join(article)
                article = []
            article.append(text)
        if article:
            yield number + 1, "".join(article)

    def _texts(self, stream: Any, row: int) -> Iterator[str]:
        rows = iter(stream)
        while True:
            try:
                value = next(rows)
            except StopIteration:
                return
            except Exception as error:
                why = _first_line(error)
                raise UserError(
                    f"{self.name}: reading stopped at row {row} ({why}); the same command continues from there"
                ) from None
            row += 1
            yield text_of_row(value, self.text_field, f"{self.name}: row {row}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

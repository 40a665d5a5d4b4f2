"""Open the text that a user names: a file, a folder, Python's standard library, or a Hugging Face data set."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from ..errors import UserError
from .documents import STDLIB, Source, is_corpus
from .text_files import FileReader, file_facts, walk_files


def open_source(name: str, *, text_field: str = "text", config: str | None = None, split: str | None = None) -> Source:
    """The source that a name means: ``stdlib``, a file, a folder, or a Hugging Face data set.

    ``stdlib`` is the source code of the running Python's standard library, without site-packages.

    Raises:
        UserError: nothing has that name, or there is no text in it.
    """
    root = Path(sysconfig.get_path("stdlib") if name == STDLIB else name)
    if not name or "\0" in name or not root.exists():
        from .hugging_face import open_data_set

        return open_data_set(name, text_field=text_field, config=config, split=split)
    if config or split:
        raise UserError(f"{name}: --config and --split are for Hugging Face data sets; this is a file or folder")
    if root.is_dir() and is_corpus(os.listdir(root)):
        raise UserError(f"{name}: is already a prepared corpus; give the text from which it was prepared")
    suffix = ".py" if name == STDLIB else ""
    paths = [root] if root.is_file() else [path for path in walk_files(root) if path.name.endswith(suffix)]
    facts = [(str(path.relative_to(root)), *file_facts(path)) for path in paths]
    return Source(name, {"files": facts, "text_field": text_field}, FileReader(paths, text_field, len(paths) == 1))

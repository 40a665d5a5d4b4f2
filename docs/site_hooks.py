"""What the site needs beside the pages, so that the same pages can be read on GitHub: hooks of mkdocs.

- The navigation is the list in ``index.md``: its headings are the sections, its links the pages.
- A link that leads out of ``docs`` (an example, a result, CONTRIBUTING.md) leads to a copy of that file in the site;
  code and notebooks are shown as pages.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(\]\()([^)\s]+)(\))")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
OUTSIDE = "repository"  # the folder of the site that holds what lies outside of docs
SHOWN_AS_CODE = {".py": "python", ".toml": "toml", ".h": "cpp", ".txt": "text"}  # a browser would offer to save them


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation from the list in index.md."""
    text = (Path(config.docs_dir) / "index.md").read_text(encoding="utf-8")
    nav: list[dict] = [{"Home": "index.md"}]
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        pages = re.findall(r"^- \[([^\]]+)\]\(([^)]+)\)", body, flags=re.MULTILINE)
        entries = [{name.replace("`", ""): in_site(path)} for name, path in pages if shown(path)]
        nav.append({title.partition(":")[0]: entries})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Copies of the files outside of docs to which pages link, or pages that show them."""
    docs = Path(config.docs_dir)
    root = docs.parent
    to_read = sorted(docs.rglob("*.md"))
    known = {page.resolve() for page in to_read}
    while to_read:
        for target in targets(to_read.pop()):
            if target in known or docs in target.parents or root not in target.parents or not target.is_file():
                continue
            known.add(target)
            name = outside(target.relative_to(root))
            if target.suffix == ".ipynb":
                files.append(File.generated(config, name, content=from_notebook(target)))
            elif target.suffix in SHOWN_AS_CODE:
                files.append(File.generated(config, name, content=as_code(target)))
            else:
                files.append(File.generated(config, name, abs_src_path=str(target)))
            if target.suffix in (".md", ".ipynb"):
                to_read.append(target)
    in_nav = {
        path for section in config.nav[1:] for entries in section.values() for e in entries for path in e.values()
    }
    for file in files:
        if file.src_uri.startswith(OUTSIDE) and file.is_documentation_page() and file.src_uri not in in_nav:
            file.inclusion = file.inclusion.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they lead inside the site."""
    docs = Path(config.docs_dir)
    uri = Path(page.file.src_uri)
    if any(uri.name.endswith(f"{suffix}.md") for suffix in SHOWN_AS_CODE):
        return markdown
    source = docs.parent / uri.relative_to(OUTSIDE) if uri.parts[0] == OUTSIDE else docs / uri

    def inside(match: re.Match[str]) -> str:
        path, hash_sign, fragment = match[2].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = (source.parent / path).resolve()
        if docs in target.parents:
            name = target.relative_to(docs).as_posix()
        elif docs.parent in target.parents:
            name = outside(target.relative_to(docs.parent))
        else:
            return match[0]
        if target.is_dir():
            return match[0]
        return f"{match[1]}{os.path.relpath(name, uri.parent).replace(os.sep, '/')}{hash_sign}{fragment}{match[3]}"

    pieces = []
    end = 0
    for block in CODE.finditer(markdown):
        pieces += [LINK.sub(inside, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*pieces, LINK.sub(inside, markdown[end:])])


def targets(page: Path) -> Iterator[Path]:
    """The files to which a page links."""
    for _, target, _ in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            yield (page.parent / target.partition("#")[0]).resolve()


def shown(path: str) -> bool:
    """Whether a link of index.md belongs to the navigation: a page, or a notebook wherever it lies."""
    return not path.startswith("..") or path.endswith(".ipynb")


def in_site(path: str) -> str:
    """The page of the site for a link of index.md."""
    return outside(Path(path.removeprefix("../"))) if path.startswith("..") else path


def outside(path: Path) -> str:
    """The file of the site for a file outside of docs, by its path in the repository."""
    return f"{OUTSIDE}/{path.as_posix()}{'.md' if path.suffix in {*SHOWN_AS_CODE, '.ipynb'} else ''}"


def as_code(path: Path) -> str:
    """A page that shows a file."""
    text = path.read_text(encoding="utf-8").rstrip()
    return f"# `{path.name}`\n\n````{SHOWN_AS_CODE[path.suffix]}\n{text}\n````\n"


def from_notebook(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what the code printed where the notebook keeps it."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            printed = output.get("text") or output.get("data", {}).get("text/plain") or ""
            if printed:
                parts.append(f"```text\n{''.join(printed).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"

"""The pages: links lead somewhere, included examples are the files themselves, the reference lists every key."""

import json
import re
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin
from urllib.parse import unquote

import pytest
from pydantic.fields import FieldInfo

from allometry.config.base import Config
from allometry.config.model import DecoderConfig, DecoderOptions
from allometry.config.study import StudyConfig
from allometry.config.training import TrainConfig
from allometry.workflow.prepare import RunFile

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("benchmarks/**/*.md"))]
INCLUDED = re.compile(r"<!-- (examples/\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, fragment = unquote(target).partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert ROOT in there.parents, f"{target} leaves the repository"
        if fragment and there.suffix == ".md":
            assert fragment in anchors(there), target


def test_the_index_names_every_page():
    index = ROOT / "docs" / "index.md"
    named = {
        (index.parent / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)]+)\)", prose(index))
    }
    assert {page for page in ROOT.glob("docs/**/*.md") if page != index} <= named


def test_included_examples_are_the_files():
    included = {}
    for page in PAGES:
        included |= dict(INCLUDED.findall(page.read_text()))
    assert included == {f"examples/{path.name}": path.read_text() for path in ROOT.glob("examples/*.py")}


def kind(field: FieldInfo) -> str:
    """The type of a key and its limits, as the reference writes them."""
    hint = field.annotation
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {get_args(hint)[0].__name__}"
    if isinstance(hint, type) and issubclass(hint, Config):
        return "table"
    if get_origin(hint) is dict:
        return "dict"
    limits = []
    for limit in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("multiple_of", "multiple of")):
            if (value := getattr(limit, name, None)) is not None:
                limits.append(f"{sign} {'2^63' if value == 2**63 else value}")
    return ", ".join([hint.__name__, *limits])


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "–" if field.default is None or isinstance(field.default, Config) else f"`{json.dumps(field.default)}`"


@pytest.mark.parametrize(
    ("heading", "model"),
    [("study.toml", StudyConfig), ("[decoder]", DecoderOptions), ("[model]", DecoderConfig), ("[train]", TrainConfig)],
)
def test_the_reference_lists_every_key_with_its_type_and_default(heading, model):
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    section = text.split(f"## `{heading}`\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    listed = [(cells[0].removeprefix("| "), cells[1], cells[2]) for cells in rows]
    assert listed == [(f"`{name}`", kind(field), default(field)) for name, field in model.model_fields.items()]
    assert all(len(cells) == 4 for cells in rows)


def test_the_reference_knows_every_table_of_a_run_file():
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    for name in RunFile.model_fields:
        assert f"`{name}`" in text or f"`[{name}]`" in text

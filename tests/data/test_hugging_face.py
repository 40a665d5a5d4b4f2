"""Data sets by name: streamed by the ``datasets`` library, or by a stand-in for it."""

import sys
from types import SimpleNamespace

import pytest

from allometry.data import spool
from allometry.data.hugging_face import KNOWN
from allometry.data.packing import prepare
from allometry.data.sources import open_source
from allometry.errors import UserError


class Stream:
    """Rows as the library streams them; fails at row ``broken`` once."""

    def __init__(self, rows, skipped=0, broken=()):
        self.rows, self.skipped, self.broken = rows, skipped, list(broken)

    def skip(self, count):
        return Stream(self.rows, self.skipped + count)

    def __iter__(self):
        for number, row in enumerate(self.rows[self.skipped :], self.skipped):
            if number in self.broken:
                raise ConnectionError(f"lost at {number}.\nA long story")
            yield row


@pytest.fixture
def library(monkeypatch):
    """``datasets``, with what is put into ``sets`` and a list of its calls."""
    calls, sets = [], {}

    def load_dataset(path, config=None, *, split, streaming):
        calls.append((path, config, split, streaming))
        if path not in sets:
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed.\nMore")
        return sets[path]

    stand_in = SimpleNamespace(load_dataset=load_dataset, sets=sets, calls=calls)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


def texts(source, part=0, row=0):
    return [item.text.decode() for item in source.items(part, row)]


def test_rows_are_documents(library):
    library.sets["someone/some-set"] = Stream([{"body": f"row {n}", "id": n} for n in range(5)])
    source = open_source("someone/some-set", text_field="body", config="en", split="validation")
    assert texts(source) == [f"row {n}" for n in range(5)]
    assert library.calls == [("someone/some-set", "en", "validation", True)]
    assert texts(source, 0, 3) == ["row 3", "row 4"]


def test_short_names_and_defaults(library):
    for name, (path, config) in KNOWN.items():
        library.sets[path] = Stream([])
        open_source(name)
        assert library.calls[-1] == (path, config, "train", True)
    assert open_source("c4").identity != open_source("c4", config="de").identity


def test_the_lines_of_wikitext_are_joined_to_articles(library):
    lines = ["", " = One = \n", "", " A line . \n", " = = Section = = \n", " More = text . \n"]
    lines += [" = Two = \n", " End \n"]
    library.sets["Salesforce/wikitext"] = Stream([{"text": line} for line in lines])
    source = open_source("wikitext-103")
    one, two = source.items(0, 0)
    assert one.text == b" = One = \n A line . \n = = Section = = \n More = text . "
    assert two.text == b" = Two = \n End "
    assert texts(source, one.part, one.row) == [two.text.decode()]
    assert list(source.items(two.part, two.row)) == []


def test_a_stream_that_breaks_continues_where_it_stopped(library, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK", 1000)
    rows = [{"text": f"row {n} " * 20} for n in range(200)]
    library.sets["a/b"] = Stream(rows, broken=[120])
    with pytest.raises(UserError, match=r"stopped at row 120 \(lost at 120\); the same command continues"):
        prepare(open_source("a/b"), tmp_path / "c")
    library.sets["a/b"] = Stream(rows)
    broken = prepare(open_source("a/b"), tmp_path / "c")
    assert broken.documents == 200
    assert broken.fingerprint == prepare(open_source("a/b"), tmp_path / "d").fingerprint


def test_a_row_without_the_field_is_named(library):
    library.sets["a/b"] = Stream([{"content": "x", "id": 1}])
    with pytest.raises(UserError, match=r"row 1: no field 'text' \(there are content, id\)"):
        texts(open_source("a/b"))


def test_a_name_that_is_not_a_data_set(library):
    with pytest.raises(UserError, match="no such file or folder, and no data set that can be read here") as caught:
        open_source("nobody/nothing")
    assert "(Dataset 'nobody/nothing' doesn't exist on the Hub or cannot be accessed); where there is a network" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["../x", "a/b", "train[:1%]", "", "a b"])
def test_options_that_could_lead_elsewhere_are_not_passed_on(library, value):
    for option in ("config", "split"):
        with pytest.raises(UserError, match=f"--{option}"):
            open_source("a/b", **{option: value})
    assert library.calls == []


@pytest.mark.parametrize("name", ["../x", "a/../b", "a..b", "/x", "a/b/c", "a\0"])
def test_names_that_could_lead_elsewhere_are_not_passed_on(library, name):
    with pytest.raises(UserError, match=r"no such file or folder$"):
        open_source(name)
    assert library.calls == []


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"wikitext-103: no such file or folder; .*pip install 'allometry\[datasets\]'"):
        open_source("wikitext-103")


def test_the_real_library_streams_what_it_is_given(tmp_path, monkeypatch):
    """Its own reader of JSON, on a local folder that stands in for one on the hub."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "row {n}"}}\n' for n in range(9)))
    stream = datasets.load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", streaming=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    source = open_source("a/b")
    assert texts(source) == [f"row {n}" for n in range(9)]
    assert texts(source, 0, 7) == ["row 7", "row 8"]

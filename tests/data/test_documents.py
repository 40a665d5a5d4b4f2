"""Every kind of source: the same documents however they are stored, and one line for every damaged source."""

import bz2
import gzip
import json
import random
import re
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from allometry.data import text_files
from allometry.data.documents import PIECE, clean, pieces
from allometry.data.sources import open_source
from allometry.errors import UserError

TEXTS = ["a first text\nof two lines", "a second, with ä and 漢", "a third"]


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def jsonl(texts, field="text") -> bytes:
    return b"".join(json.dumps({"id": n, field: text}).encode() + b"\n" for n, text in enumerate(texts))


def texts_of(path, **options) -> list[bytes]:
    return [item.text for item in open_source(str(path), **options).items(0, 0) if item.text]


def refused(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        list(open_source(str(path), **options).items(0, 0))
    message = str(caught.value)
    assert "\n" not in message
    return message


EXPECTED = [text.encode() for text in TEXTS]

# ---- what is read


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstd)]
)
def test_rows_of_json_are_documents_compressed_or_not(tmp_path, suffix, pack):
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(pack(jsonl(TEXTS)))
    assert texts_of(path) == EXPECTED


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_compressed_text_is_the_text(tmp_path, pack):
    path = tmp_path / ("a.txt.gz" if pack is gzip.compress else "a.txt.zst")
    path.write_bytes(pack(EXPECTED[0] + b"\n"))
    assert texts_of(path) == EXPECTED[:1]


def test_columns_of_parquet_are_documents(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"n": [1, 2, 3], "text": TEXTS}), path, row_group_size=2)
    assert texts_of(path) == EXPECTED
    large = tmp_path / "large.parquet"
    parquet.write_table(pa.table({"body": pa.array(TEXTS, pa.large_string())}), large)
    assert texts_of(large, text_field="body") == EXPECTED


def test_a_folder_is_read_in_the_order_of_its_names_whatever_it_holds(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(jsonl(TEXTS[1:]))
    (tmp_path / "b.txt").write_text("plain")
    parquet.write_table(pa.table({"text": ["column"]}), tmp_path / "a.parquet")
    assert texts_of(tmp_path) == [b"column", b"plain", *EXPECTED[1:]]


def test_another_field_and_rows_without_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([None, "", "\n\n", *TEXTS], "body") + b"\n\n")
    items = list(open_source(str(path), text_field="body").items(0, 0))
    assert [item.text for item in items] == [b"", b"", b"", *EXPECTED]


def test_a_table_without_texts_in_a_folder_is_left_out_and_reported(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS, "body"))
    (tmp_path / "b.txt").write_text("plain")
    left_out, kept = open_source(str(tmp_path)).items(0, 0)
    assert (left_out.text, kept.text) == (None, b"plain")
    assert "line 1: no field 'text' (there are id, body)" in left_out.why


def test_line_ends_are_unified_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (tmp_path / "b.txt").write_bytes(b"three\nfour\n")
    items = list(open_source(str(tmp_path)).items(0, 0))
    assert [(item.text, item.unified) for item in items] == [(b"one\ntwo", True), (b"three\nfour", False)]


def test_lone_surrogates_in_json_are_not_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a \\ud800 b"}\n{"text": "good"}\n')
    items = list(open_source(str(path)).items(0, 0))
    assert [item.text for item in items] == [None, b"good"]
    assert "not UTF-8" in items[0].why


# ---- any place to go on from


@pytest.fixture
def mixed(tmp_path):
    """Every kind of file, one of them large enough to be cut."""
    (tmp_path / "a.jsonl").write_bytes(jsonl([f"row {n}" for n in range(5)] + ["", None]))
    (tmp_path / "b.txt").write_text("\n".join(f"line {n} of a large text" for n in range(4000)))
    (tmp_path / "c.bin").write_bytes(b"\0\1")
    parquet.write_table(pa.table({"text": [f"column {n}" for n in range(1100)]}), tmp_path / "d.parquet")
    (tmp_path / "e.jsonl").write_bytes(jsonl(["no such field"], "body"))
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(b"the last"))
    return tmp_path


def test_reading_continues_from_any_place(mixed, monkeypatch):
    monkeypatch.setattr(text_files, "LARGE", 50_000)
    whole = list(open_source(str(mixed)).items(0, 0))
    assert len(whole) > 1110
    assert sum(item.text is None for item in whole) == 2
    for place in [*range(16), 500, 531, *range(len(whole) - 4, len(whole))]:
        rest = list(open_source(str(mixed)).items(whole[place].part, whole[place].row))
        assert rest == whole[place + 1 :]


def test_places_increase(mixed):
    places = [(item.part, item.row) for item in open_source(str(mixed)).items(0, 0)]
    assert all(before < after for before, after in pairwise(places))


def test_a_source_is_another_when_a_file_changes(mixed):
    before = open_source(str(mixed)).identity
    assert open_source(str(mixed)).identity == before
    (mixed / "f.txt.gz").write_bytes(gzip.compress(b"the last one"))
    assert open_source(str(mixed)).identity != before


# ---- large texts


line_ends = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r", b" ", "ä".encode()])
bodies = st.lists(st.tuples(st.integers(0, 3 * PIECE), line_ends), max_size=8)


@given(bodies, st.sampled_from([b"", b"\xef\xbb\xbf", b"\n\n", b"\r\n"]), st.integers(1, 1 << 16))
def test_a_large_text_is_cut_as_if_it_were_in_memory(tmp_path_factory, parts, start, chunk):
    """Read in portions of any size, with line ends and characters across their borders."""
    raw = start + b"".join(b"x" * length + end for length, end in parts)
    path = tmp_path_factory.mktemp("large") / "a.txt"
    path.write_bytes(raw)

    class Portions:
        """A file that gives no more than ``chunk`` bytes at a time."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, size):
            return self.file.read(min(size, chunk) if size > 3 else size)

        def tell(self):
            return self.file.tell()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_open", lambda path: Portions(path.open("rb")))
        assert text_files._why_not_text(path) == ""
        cut = list(text_files._large_text(path))
    text, _ = clean(raw)
    assert [piece for piece, _, _ in cut] == list(pieces(text, PIECE))


def test_pieces_never_split_a_character():
    text = "漢".encode() * 50_000
    for size in (1, 2, 1000, PIECE):
        cut = list(pieces(text[:30_000], size))
        assert b"".join(cut) == text[:30_000]
        assert all(piece.decode() for piece in cut)


def test_a_large_file_that_is_not_text_is_detected_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LARGE", 10_000)
    path = tmp_path / "a.txt"
    for bad, why in ((b"\xff", "not UTF-8: byte 0xff"), (b"\0", "NUL"), ("ä".encode()[:1], "not UTF-8: byte 0xc3")):
        path.write_bytes(b"good text\n" * 3000 + bad)
        (item,) = open_source(str(path)).items(0, 0)
        assert item.text is None
        assert why in item.why


# ---- wrong input


def test_a_row_without_the_field_is_named_with_the_fields_it_has(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(TEXTS, "body"))
    assert "line 1: no field 'text' (there are id, body); --text-field" in refused(path)
    path.write_bytes(jsonl(TEXTS) + b'\n{"other": 1}\n')
    assert "line 5: no field 'text' (there are other)" in refused(path)
    path.write_bytes(b"[1, 2]\n")
    assert "line 1: no field 'text' (it is not an object)" in refused(path)
    path.write_bytes(jsonl(TEXTS) + b'{"text": 7}\n')
    assert "line 4: 'text' holds int, not text" in refused(path)


def test_a_column_that_is_missing_or_not_text(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"n": [1], "body": ["x"]}), path)
    assert "no field 'text' (there are n, body)" in refused(path)
    assert "column 'n' holds int64, not text" in refused(path, text_field="n")


def test_rows_that_are_not_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content in (b"plain text\n", b'{"text": "cut', b"\x80\x04K\x01."):  # the last is a pickle
        path.write_bytes(jsonl(TEXTS) + content)
        assert "line 4 is not a JSON value" in refused(path)


def test_one_endless_row_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_ROW", 1 << 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(["x" * (1 << 21)]))
    assert "line 1 is longer than 1 MB" in refused(path)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstd)])
@pytest.mark.parametrize("name", ["rows.jsonl", "a.txt"])
def test_a_broken_archive_is_named(tmp_path, suffix, pack, name):
    content = bytes(random.Random(0).choices(b"abcdefgh \n", k=50_000))
    whole = pack(jsonl([content.decode()] * 3) if name == "rows.jsonl" else content)
    path = tmp_path / f"{name}.{suffix}"
    damaged = [whole[: len(whole) // 2], b"not compressed at all", bytes(4) + whole[4:]]
    if suffix != "zst":  # whose frames have a checksum only if the writer wished
        damaged.append(whole[:2000] + bytes(50) + whole[2050:])
    for broken in damaged:
        path.write_bytes(broken)
        message = refused(path)
        assert str(path) in message
        assert "damaged or incomplete" in message
    assert refused(tmp_path).startswith(str(path))  # in a folder as well


def test_a_broken_parquet_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": [f"text {n}" * 50 for n in range(2000)]}), path)
    whole = path.read_bytes()
    for broken in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-4], whole[len(whole) // 2 :]):
        path.write_bytes(broken)
        assert re.search("not a complete Parquet file|damaged or incomplete", refused(path))


@pytest.mark.parametrize("name", ["../x", "/nowhere/x", "a/b/c", "a\0b", "x/../../y", "", "-x", "a b"])
def test_names_that_are_neither_files_nor_possible_data_sets(name):
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(name)


def test_options_of_data_sets_are_not_for_files(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert "Hugging Face" in refused(tmp_path, split="train")


def test_a_prepared_corpus_is_not_text(tmp_path):
    (tmp_path / "c").mkdir()
    for name in ("manifest.json", "train-00000.bin"):
        (tmp_path / "c" / name).write_text("{}")
    assert "already a prepared corpus" in refused(tmp_path / "c")
    (tmp_path / "a.txt").write_text("text")
    assert texts_of(tmp_path) == [b"text"]

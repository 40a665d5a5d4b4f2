"""Files of every kind, and what pretends to be one: read alike, or refused in one line without being opened."""

from __future__ import annotations

import gzip
import json
import lzma
import pickle
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allometry.errors import UserError
from allometry.laws import Observations
from allometry.laws.tables.file_formats import delimited, limits
from allometry.laws.tables.raw_table import from_arrow

COLUMNS = {"N": [1e6, 2e6], "D": [2e7, 4e7], "loss": [3.0, 2.8], "name": ["a", "b"]}
TEXT = "N,D,loss,name\n1e6,2e7,3,a\n2e6,4e7,2.8,b\n"
ROWS = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]


def by_name(value):
    """Names and words in a test's id, and of content its kind alone: compressed, it holds the time of day."""
    return None if isinstance(value, str) else "content"


def same(observations):
    assert observations.num_params.tolist() == COLUMNS["N"]
    assert observations.tokens.tolist() == COLUMNS["D"]
    assert observations.loss.tolist() == COLUMNS["loss"]
    assert observations.labels == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", TEXT.encode()),
        ("b.CSV", ("\ufeff" + TEXT).encode()),
        ("c.tsv", TEXT.replace(",", "\t").encode()),
        ("d.txt", TEXT.replace(",", " | ").encode()),
        ("e.csv", TEXT.replace("\n", "\r\n").encode()),
        ("f.csv", ("\n\n" + TEXT.replace("\n", "\n\n")).encode()),
        ("g.csv", b",N,D,loss,name,,\n0,1e6,2e7,3,a,,\n1,2e6,4e7,2.8,b,,\n"),
        ("g.tsv", b"\tN\tD\tloss\tname\n0\t1e6\t2e7\t3\ta\n1\t2e6\t4e7\t2.8\tb\n"),
        ("h.csv.gz", gzip.compress(TEXT.encode())),
        ("i.csv", gzip.compress(TEXT.encode())),
        ("j.jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
        ("k.jsonl.gz", gzip.compress("\n".join(map(json.dumps, ROWS)).encode())),
        ("k.jsonl", "\n".join(json.dumps(r | {"x": "\u2028"}, ensure_ascii=False) for r in ROWS).encode()),
        ("l.json", json.dumps(ROWS, indent=1).encode()),
        ("m.csv", b'N,D,loss,name\n"1,000,000",20M,"3.0",a\n2M, 4e7 ,2.8,"b"\n'),
    ],
    ids=by_name,
)
def test_text_in_its_usual_forms_reads_alike(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    same(Observations.read(tmp_path / name))


def test_parquet_reads_like_text_whatever_its_types(tmp_path):
    table = pa.table(
        {
            "N": pa.array([1_000_000, 2_000_000], pa.uint32()),
            "D": pa.array([20_000_000, 40_000_000], pa.decimal128(12, 2)),
            "loss": pa.array([3.0, 2.8]),
            "name": pa.array(["a", "b"]).dictionary_encode(),
            "done": [True, False],
            "when": pa.array([0, 1], pa.timestamp("s")),
            "curve": [[4.0, 3.0], [3.0]],
            "config": [{"lr": 1}, {"lr": 2}],
        }
    )
    for name in ("runs.parquet", "runs.csv"):  # known by its first bytes, too
        pq.write_table(table, tmp_path / name)
        observations = Observations.read(tmp_path / name)
        same(observations)
        assert "columns not read, because they hold neither numbers nor text: curve, config" in observations.notes


def test_blanks_in_parquet_are_blanks(tmp_path):
    table = pa.table({"N": [1e6, 2e6, 3e6], "D": [None, 2e7, 3e7], "loss": [3, None, 2], "name": ["a", "b", None]})
    table = table.append_column("flops", pa.array([1.2e14, 2.4e14, None]))
    pq.write_table(table, tmp_path / "runs.parquet")
    observations = Observations.read(tmp_path / "runs.parquet")
    assert observations.labels == ("a", "row 3")
    assert observations.tokens.tolist() == [2e7, 3e7]
    assert observations.flops.tolist() == [1.2e14, 5.4e14]


def test_frames_read_like_files():
    pandas = pytest.importorskip("pandas")
    same(Observations.read(pandas.DataFrame(COLUMNS)))
    nullable = pandas.DataFrame(COLUMNS).convert_dtypes()
    nullable.loc[2] = [3e6, 4e7, pandas.NA, "c"]
    same(Observations.read(nullable))
    with pytest.raises(UserError, match="more than one column is named 'N'"):
        Observations.read(pandas.DataFrame([[1, 2, 3]], columns=["N", "N", "loss"]))


class Series:
    """A column as polars has it: no pandas about it."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.array(self.values, dtype=object)


class Frame:
    columns = tuple(COLUMNS)

    def __getitem__(self, name):
        return Series(COLUMNS[name])


@pytest.mark.parametrize("frame", [COLUMNS, pa.table(COLUMNS), Frame(), ROWS], ids=["dict", "arrow", "frame", "list"])
def test_anything_with_named_columns_is_a_frame(frame):
    same(Observations.read(frame))


class Bomb:
    def __reduce__(self):
        return print, ("a pickle was opened",)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("runs.pkl", b"", "is a pickle, which runs code"),
        ("runs.pickle.xz", lzma.compress(pickle.dumps(Bomb())), "is a pickle, which runs code"),
        ("runs.csv", pickle.dumps(Bomb()), "is a pickle, which runs code"),
        ("runs.parquet", pickle.dumps(Bomb(), protocol=4), "is a pickle, which runs code"),
        ("runs.csv", pickle.dumps(Bomb(), protocol=0), "no column for num_params"),
        ("runs.csv.gz", gzip.compress(pickle.dumps(Bomb())), "is not text"),
        ("runs.xlsx", b"PK\x03\x04", "is a spreadsheet: save the sheet as CSV"),
        ("runs.csv", b"PK\x03\x04", "is an archive: unpack it"),
        ("runs.csv.xz", lzma.compress(TEXT.encode()), "is an archive: unpack it"),
        ("runs.csv", bytes(range(256)) * 9, "is not text"),
        ("runs.csv", "Größe,D,loss\n1,2,3\n".encode("latin-1"), "is not text in UTF-8"),
        ("runs.csv", TEXT.encode() + "1e6,2e7,3,Größe\n".encode("latin-1"), "is not text in UTF-8"),
        ("runs.jsonl", '{"N":"Größe"}'.encode("latin-1"), "is not text in UTF-8"),
        ("runs.csv", TEXT.encode("utf-32"), "is not text"),
        ("runs.csv.gz", gzip.compress(TEXT.encode() * 99)[:-20], "cannot be read"),
        ("runs.csv", b"N,D,loss\n1e6,2e7," + b"9" * 20_000_000, "cannot be read"),
        ("runs.csv", b"1," * 1_000_000, "columns, which is no table of runs"),
        ("runs.json", b"[" * 100_000, "nested too deeply"),
        ("runs.jsonl", b'{"N":1e6,"D":2e7,"loss":[4,3]}', "no column for loss"),
        ("runs.jsonl", b'{"N":1e6,"D":2e7,"loss":1' + b"0" * 400 + b"}", "not a number"),
        ("runs.jsonl", b'{"N":1e6,"D":2e7,"loss":1' + b"0" * 5000 + b"}", "cannot be read"),
        ("runs.parquet", b"PAR1" * 4, "cannot be read"),
        ("runs.parquet", TEXT.encode(), "cannot be read"),
        ("runs.parquet", b"", "cannot be read"),
    ],
    ids=by_name,
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        Observations.read(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert capsys.readouterr().out == ""


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        Observations.read("/dev/null")
    with pytest.raises(UserError, match="not a study"):
        Observations.read(tmp_path)
    with pytest.raises(UserError, match="cannot read runs from a int"):
        Observations.read(3)
    with pytest.raises(UserError, match="columns of different lengths"):
        Observations.read({"N": [1e6, 2e6], "D": [2e7], "loss": [3.0]})
    with pytest.raises(UserError, match="'N' is not one value a row"):
        Observations.read({"N": np.ones((2, 2)), "D": [2e7, 1e7], "loss": [3.0, 2.0]})
    with pytest.raises(UserError, match="the frame is empty"):
        Observations.read({"N": [], "D": [], "loss": []})


def test_a_table_too_large_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    """By what a Parquet file of a few kilobytes claims, and by the blocks of a CSV as they come."""
    monkeypatch.setattr(limits, "MOST_CELLS", 1_000_000)
    constant = pa.DictionaryArray.from_arrays(pa.array(np.zeros(400_000, np.int8)), pa.array([1e6]))
    pq.write_table(pa.table({name: constant for name in ("N", "D", "loss")}), tmp_path / "runs.parquet")
    assert (tmp_path / "runs.parquet").stat().st_size < 10_000
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("read all the same"))
    with pytest.raises(UserError, match="more than 1,000,000 cells, which is no table of runs"):
        Observations.read(tmp_path / "runs.parquet")
    (tmp_path / "runs.csv").write_text("N,D,loss\n" + "1e6,2e7,3\n" * 400_000)
    with pytest.raises(UserError, match="more than 1,000,000 cells"):
        Observations.read(tmp_path / "runs.csv")


def test_long_words_repeated_are_held_once(tmp_path):
    """As plain strings this would be 2 GB."""
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 100_000]))
    numbers = {name: np.full(20_000, value) for name, value in (("N", 1e6), ("D", 2e7), ("loss", 3.0))}
    pq.write_table(pa.table({**numbers, "note": words}), tmp_path / "runs.parquet", store_schema=False)
    pool = pa.default_memory_pool()
    before = pool.max_memory()
    assert len(Observations.read(tmp_path / "runs.parquet")) == 20_000
    assert pool.max_memory() < max(before, 200_000_000)


def test_numbers_come_out_of_arrow_whatever_lies_before_and_between_them():
    array = pa.array([1.0, None, 3.0, 4.0, None])
    assert np.array_equal(from_arrow(array[1:4], np.nan), [np.nan, 3, 4], equal_nan=True)
    assert from_arrow(pa.array([7, 8, 9], pa.int32())[1:], -1).tolist() == [8, 9]
    assert from_arrow(pa.array([None, None], pa.int32()), -1).tolist() == [-1, -1]


@pytest.mark.parametrize("small", [64, delimited.SMALL])
def test_cells_may_hold_line_ends_wherever_the_blocks_end(tmp_path, monkeypatch, small):
    monkeypatch.setattr(delimited, "BLOCK", 64)
    monkeypatch.setattr(delimited, "SMALL", small)
    rows = "".join(f'{n}e6,2e7,3,"a\n\n{n}"\n' for n in range(1, 40))
    (tmp_path / "runs.csv").write_text(f"N,D,loss,name\n{rows}")
    assert Observations.read(tmp_path / "runs.csv").labels == tuple(f"a\n\n{n}" for n in range(1, 40))


def test_extension_types_run_no_code(tmp_path):
    class Stranger(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.float64(), "test.stranger")

        def __arrow_ext_serialize__(self):
            return pickle.dumps(Bomb())

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            raise AssertionError("the type was brought to life")

    loss = pa.ExtensionArray.from_storage(Stranger(), pa.array([3.0, 2.8]))
    pq.write_table(
        pa.table({**{name: COLUMNS[name] for name in ("N", "D", "name")}, "loss": loss}), tmp_path / "x.parquet"
    )
    same(Observations.read(tmp_path / "x.parquet"))


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet"])
def test_reading_a_file_does_not_load_pandas(tmp_path, name):
    """Arrow loads it behind one's back, which takes longer than everything else that a fit does."""
    pytest.importorskip("pandas")
    table = pa.table({**COLUMNS, "corpus": ["x", None], "lr": pa.array([None, 1e-3])})
    if name == "runs.csv":
        (tmp_path / name).write_text("corpus,N,D,loss\nx,1e6,2e7,3\n,2e6,4e7,2.8\n")
    else:
        pq.write_table(table, tmp_path / name)
    code = (
        "import sys; from allometry.laws import Observations as O; O.read(sys.argv[1]); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_damaged_parquet_is_a_table_or_one_line(tmp_path):
    path = tmp_path / "runs.parquet"
    pq.write_table(pa.table({**COLUMNS, "curve": [[1.0], [2.0, 3.0]]}), path)
    whole, generator, refused = path.read_bytes(), random.Random(0), []
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 12)):
            damaged[generator.randrange(4, len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
        try:
            Observations.read(path)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert not any("\n" in line for line in refused)

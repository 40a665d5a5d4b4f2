"""``allometry data`` as a user meets it: a corpus, or one line and status 2."""

import gzip
import json
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers.builders import word_lines


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(word_lines(3000))
    return path


def test_a_text_becomes_a_corpus_and_the_answer_says_what_it_holds(cli, source, tmp_path):
    status, out, err = cli("data", source, "--out", tmp_path / "c")
    assert status == 0, err
    assert "1 document," in out
    assert "near copy" in err
    status, out, err = cli("data", source, "--out", tmp_path / "c", "--json")
    assert status == 0
    assert "already prepared" in err
    value = json.loads(out)
    assert value["tokenizer"]["name"] == "bytes"
    assert value["train_tokens"] + value["held_out_tokens"] > source.stat().st_size
    assert value["bytes_per_token"] == 1


def test_rows_by_a_bpe_in_one_command(cli, tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps({"body": word_lines(3, n)}) + "\n" for n in range(200)).encode()))
    arguments = ["data", path, "--out", tmp_path / "c", "--tokenizer", "bpe:400", "--text-field", "body", "--json"]
    status, out, err = cli(*arguments)
    assert status == 0, err
    value = json.loads(out)
    assert (value["tokenizer"]["name"], value["tokenizer"]["vocab_size"]) == ("bpe:400", 400)
    assert value["documents"] == 200
    assert value["bytes_per_token"] > 1.5


def test_line_ends_and_what_was_left_out_are_said(cli, tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "a.txt").write_bytes(word_lines(500, 1).replace("\n", "\r\n").encode())
    (folder / "b.txt").write_bytes(word_lines(500, 1).encode())  # the same but for its line ends
    (folder / "c.txt").write_bytes(b"\xff\xfe")
    (folder / "d.bin").write_bytes(b"\0")
    status, out, err = cli("data", folder, "--out", tmp_path / "c")
    assert status == 0, err
    assert "line ends of 1 document were CRLF; they are LF now" in err
    assert "c.txt: not UTF-8: byte 0xff at 0" in err
    assert "d.bin: binary" in err
    assert "1 document," in out
    assert "1 duplicate dropped" in out
    assert "2 files left out (not text)" in out


def test_held_out_text_that_stands_in_the_training_text_is_reported(cli, tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = [f"{word} {word_lines(9, n)}" for n in range(60) for word in ("one", "two")]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    status, _, err = cli("data", path, "--out", tmp_path / "c")
    assert status == 0
    assert "of 7 held-out documents have a near copy in the training text" in err
    assert "0 of 7" not in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no text in it"),
        ("a.txt", b"x", "1 byte of text is too little to split"),
        ("a.txt", b"good \xff", "not UTF-8: byte 0xff at 5; `iconv -t UTF-8` converts"),
        ("a.txt", b"\0" * 100, "binary"),
        ("a.pkl", b"\x80\x04K\x01.", "not UTF-8"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', "line 1: no field 'text' (there are body, id)"),
        ("a.jsonl", b'{"text": "x"}\n{"id": 1}\n', "line 2: no field 'text' (there are id)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2 is not a JSON value"),
        ("a.txt.gz", gzip.compress(b"text\n" * 1000, mtime=0)[:-20], "damaged or incomplete"),
        ("a.txt.zst", b"(\xb5/\xfd" + b"x" * 50, "damaged or incomplete"),
        ("a.parquet", b"PAR1 and nothing", "not a complete Parquet file"),
    ],
)
def test_a_source_that_will_not_do(refused, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    line = refused("data", path, "--out", tmp_path / "c")
    assert message in line
    assert name in line
    assert not (tmp_path / "c").exists()


def test_a_parquet_without_the_column(refused, tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"body": ["x"]}), path)
    assert "no field 'text' (there are body)" in refused("data", path, "--out", tmp_path / "c")


def test_names_that_are_nothing(refused, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    out = ("--out", tmp_path / "c")
    assert "no such file or folder" in refused("data", "../nothing", *out)
    assert "allometry[datasets]" in refused("data", "no-such-set", *out)
    assert "give bytes, bpe:8192, gpt2" in refused("data", source, *out, "--tokenizer", "words")
    assert "from 257" in refused("data", source, *out, "--tokenizer", "bpe:10")
    assert "Hugging Face" in refused("data", source, *out, "--split", "train")
    assert "missing option" in refused("data", source).lower()
    assert not (tmp_path / "c").exists()


def test_a_tokenizer_file_that_is_none_or_a_pickle(refused, source, tmp_path):
    for content in (b"{}", b"\x80\x04K\x01."):
        path = tmp_path / "tokenizer.json"
        path.write_bytes(content)
        assert "not a tokenizer.json" in refused("data", source, "--out", tmp_path / "c", "--tokenizer", path)


def test_an_out_that_belongs_to_something_else(cli, refused, source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    assert "is not a corpus" in refused("data", source, "--out", tmp_path / "mine")
    assert cli("data", source, "--out", tmp_path / "c")[0] == 0
    assert "already" in refused("data", source, "--out", tmp_path / "c", "--tokenizer", "bpe:300")
    assert "already a prepared corpus" in refused("data", tmp_path / "c", "--out", tmp_path / "d")


def test_a_corpus_changed_by_hand_is_refused_by_the_study(cli, refused, source, tmp_path):
    assert cli("data", source, "--out", tmp_path / "c")[0] == 0
    manifest = tmp_path / "c" / "manifest.json"
    whole = manifest.read_text()
    arguments = ("quickstart", "--data", tmp_path / "c", "--out", tmp_path / "q", "--dry-run")
    manifest.write_text(whole.replace('"documents": 1', '"documents": 2', 1))
    assert "was edited after" in refused(*arguments)
    manifest.write_text(whole)
    shard = tmp_path / "c" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert "the text changed" in refused(*arguments)
    assert not (tmp_path / "q").exists()


def test_a_study_of_a_corpus_is_the_study_of_its_text(cli, source, tmp_path):
    assert cli("data", source, "--out", tmp_path / "c")[0] == 0
    toml = tmp_path / "run.toml"
    ids = []
    for data in (source, tmp_path / "c"):
        toml.write_text(
            f'data = "{data}"\n[model]\nwidth = 16\nlayers = 1\nhidden = 16\ncontext = 32\n'
            "[train]\ntokens = 2000\nbatch_tokens = 256\nlr = 0.4\n"
        )
        status, out, err = cli("train", toml, "--out", tmp_path / "s" / str(len(ids)), "--json")
        assert status == 0, err
        ids.append({name: json.loads(out)[name] for name in ("id", "loss", "bits_per_byte")})
    assert ids[0] == ids[1]


def test_a_context_longer_than_the_text(refused, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(word_lines(40))
    toml = tmp_path / "run.toml"
    toml.write_text(
        f'data = "{path}"\n[model]\nwidth = 16\nlayers = 1\nhidden = 16\ncontext = 4096\n'
        "[train]\ntokens = 9000\nbatch_tokens = 4096\nlr = 0.4\n"
    )
    assert "too few for a context of 4096" in refused("train", toml, "--out", tmp_path / "s")

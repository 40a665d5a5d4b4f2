"""Text to shards: the same split as in memory, nothing is lost, and kills do not change the result."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from allometry import files
from allometry.data import near_duplicates, packing, spool
from allometry.data.corpus import load_corpus, load_tokenizer, read_corpus
from allometry.data.documents import Item, Source
from allometry.data.packing import prepare
from allometry.data.shards import Shards
from allometry.data.sources import open_source
from allometry.data.split import SEPARATOR
from allometry.errors import UserError

WORDS = ["".join(random.Random(n).choices("abcdefgh", k=2 + n % 7)) for n in range(500)]


def text(count: int, seed) -> str:
    rng = random.Random(str(seed))
    return "\n".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(count))


@pytest.fixture
def rows(tmp_path):
    """Two hundred documents, some of them copies."""
    path = tmp_path / "rows.jsonl"
    texts = [text(1 + n % 5, n % 180) for n in range(200)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(spool, "CHUNK", 4000)


def contents(folder) -> dict[str, str]:
    """Every file of a folder, by its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def documents(tokens, tokenizer) -> list[str]:
    return tokenizer.decode(tokens[:].tolist()).split("<|endoftext|>")[:-1]


# ---- the same split as in memory


def made_folder(root, sizes) -> Path:
    for number, size in enumerate(sizes):
        path = root / f"{number % 3}" / f"{number:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(size, number) + "\n")
    return root


@pytest.mark.parametrize(
    "sizes",
    [[3] * 80, [3] * 63, [2000], [1, 900, 2], [1 + n % 9 for n in range(130)]],
    ids=["whole", "few", "one", "uneven", "many"],
)
@pytest.mark.parametrize("chunk", [1, 4000])
def test_bytes_on_disk_are_the_corpus_in_memory(tmp_path, monkeypatch, sizes, chunk):
    """Also where every document is a chunk, and the first ones have nothing for one of the sides."""
    monkeypatch.setattr(spool, "CHUNK", chunk)
    root = made_folder(tmp_path / "t", sizes)
    (root / "copy.txt").write_text((root / "0" / "000.txt").read_text())
    (root / "crlf.txt").write_bytes(text(3, "crlf").replace("\n", "\r\n").encode())
    (root / "no.txt").write_bytes(b"\xff")
    whole = read_corpus(str(root))
    packed = prepare(open_source(str(root)), tmp_path / "c")
    assert packed.fingerprint == whole.fingerprint
    for one, other in ((packed.train, whole.train), (packed.held_out, whole.held_out)):
        assert one[:].tobytes() == other.tobytes()
    counts = ("documents", "duplicates", "skipped", "tokenizer", "vocab_size", "bytes_per_token", "notes")
    assert [getattr(packed, name) for name in counts] == [getattr(whole, name) for name in counts]
    assert any("CRLF" in note for note in packed.notes)


def test_a_known_text_keeps_its_fingerprint(tmp_path):
    """As the first version gave it: a study goes on only with the text that it was begun with."""
    root = made_folder(tmp_path / "t", [1 + n % 9 for n in range(130)])
    one = made_folder(tmp_path / "one", [2000])
    assert read_corpus(str(root)).fingerprint == "72ecff9ede6861c0"
    assert read_corpus(str(one)).fingerprint == "c9fedf49bb30b052"


def test_a_prepared_folder_is_a_source_of_a_study(tmp_path, rows):
    packed = prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    read = read_corpus(str(tmp_path / "c"))
    assert (read.fingerprint, read.tokenizer, read.folder) == (packed.fingerprint, "bpe:300", tmp_path / "c")


# ---- what is packed


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_every_document_is_there_once_on_one_side(tmp_path, rows, small_chunks, tokenizer):
    corpus = prepare(open_source(str(rows)), tmp_path / "c", tokenizer)
    assert isinstance(corpus.train, Shards)
    assert len(corpus.train.parts) > 3
    if tokenizer == "bytes":
        train, held_out = (part[:].tobytes().decode().split("\n\n\n") for part in (corpus.train, corpus.held_out))
    else:
        decoder = load_tokenizer(tmp_path / "c")
        train, held_out = (documents(part, decoder) for part in (corpus.train, corpus.held_out))
    assert sorted(train + held_out) == sorted({text(1 + n % 5, n % 180) for n in range(200)})
    assert len(held_out) == (len(train) + len(held_out)) // 16
    assert corpus.duplicates == 200 - len(train) - len(held_out)


def test_bytes_a_token_are_those_of_the_held_out_text(tmp_path, rows):
    corpus = prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    held_out = documents(corpus.held_out, load_tokenizer(tmp_path / "c"))
    assert corpus.bytes_per_token == sum(len(t.encode()) for t in held_out) / len(corpus.held_out)
    assert f"{corpus.bytes_per_token:.2f} bytes per token" in corpus.describe()
    assert corpus.train.dtype == np.uint16


@pytest.fixture
def trained_on(monkeypatch) -> list[str]:
    """The texts that a BPE is trained on."""
    seen: list[str] = []
    train = packing.train_bpe

    def record(name, size, texts):
        seen.extend(texts)
        return train(name, size, seen)

    monkeypatch.setattr(packing, "train_bpe", record)
    return seen


def test_a_bpe_is_trained_on_the_training_text_only(tmp_path, rows, small_chunks, trained_on):
    corpus = prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    decoder = load_tokenizer(tmp_path / "c")
    assert trained_on == documents(corpus.train, decoder)
    assert not set(trained_on) & set(documents(corpus.held_out, decoder))


def test_a_bpe_of_a_large_text_is_trained_on_an_even_sample(tmp_path, rows, small_chunks, trained_on, monkeypatch):
    monkeypatch.setattr(packing, "TRAINED_ON", 10_000)
    corpus = prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    everything = documents(corpus.train, load_tokenizer(tmp_path / "c"))
    every = round(len(everything) / len(trained_on))
    assert every > 1
    assert trained_on == everything[::every]


def documents_held_out(path) -> list[str]:
    return read_corpus(str(path)).held_out.tobytes().decode().split(SEPARATOR.decode())


def test_a_text_too_small_for_the_vocabulary_is_reported(tmp_path):
    (tmp_path / "a.txt").write_text("aa bb " * 200)
    corpus = prepare(open_source(str(tmp_path / "a.txt")), tmp_path / "c", "bpe:5000")
    assert corpus.vocab_size < 5000
    assert any("this text yields only" in note for note in corpus.notes)


def test_near_copies_across_the_split_are_reported(tmp_path):
    """Every document twice, the second time with another first word: most of the held-out ones have their twin."""
    path = tmp_path / "rows.jsonl"
    texts = [f"{word} {text(30, n)}" for n in range(50) for word in ("one", "two")]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    prepare(open_source(str(path)), tmp_path / "c")
    result = json.loads((tmp_path / "c" / "manifest.json").read_text())["near_duplicates"]
    held_out = documents_held_out(path)
    twins = sum(sum(t[4:] == other[4:] for other in held_out) == 1 for t in held_out)
    assert (result["held_out"], result["judged"], result["near"]) == (6, 6, twins)
    assert twins > 3
    lines = " ".join(load_corpus(tmp_path / "c").notes)
    assert f"{twins} of 6 held-out documents have a near copy" in lines


def test_one_endless_line_is_packed_by_every_tokenizer(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("".join(random.Random(0).choices("abcäö漢", k=100_000)))
    for tokenizer in ("bytes", "bpe:300"):
        corpus = prepare(open_source(str(path)), tmp_path / tokenizer[:3], tokenizer)
        assert len(corpus.held_out) > 1000


def test_memory_is_bounded_by_the_chunk_and_not_by_the_source(tmp_path, monkeypatch):
    """Five megabytes and fifteen, in chunks of half of one; comparing takes portions of four."""
    monkeypatch.setattr(spool, "CHUNK", 500_000)
    monkeypatch.setattr(near_duplicates, "MOST", 10_000)
    line = json.dumps({"text": text(200, 0)})[:-2]
    peaks = []
    for size in (5, 15):
        path = tmp_path / f"{size}.jsonl.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            for number in range(size * 1_000_000 // len(line)):
                file.write(f'{line} {number}"}}\n')
        tracemalloc.start()
        prepare(open_source(str(path)), tmp_path / f"c{size}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]


# ---- killed and begun again


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
def test_an_interruption_at_any_write_does_not_change_the_result(tmp_path, rows, small_chunks, monkeypatch, tokenizer):
    """Killed before and after each file is put into place, in turn, again and again in one folder."""
    calm = prepare(open_source(str(rows)), tmp_path / "calm", tokenizer)
    real = files.replace_file
    writes = 0

    def count(path, content, *allowed):
        nonlocal writes
        writes += 1
        return real(path, content, *allowed)

    for module in (files, spool, packing):
        monkeypatch.setattr(module, "replace_file", count)
    prepare(open_source(str(rows)), tmp_path / "counted", tokenizer)
    total, kills = writes, 0
    budget = 0

    def frail(path, content, *allowed):
        nonlocal budget
        budget -= 1
        if budget == 0:
            if kills % 2:
                (path.parent / f".{path.name}.half").write_bytes(content[: len(content) // 2])
            else:
                real(path, content, *allowed)
            raise Killed
        return real(path, content, *allowed)

    for module in (files, spool, packing):
        monkeypatch.setattr(module, "replace_file", frail)
    while True:
        budget = 3 + kills % 4
        try:
            broken = prepare(open_source(str(rows)), tmp_path / "broken", tokenizer)
            break
        except Killed:
            kills += 1
            assert kills < 4 * total
    assert kills > total / 4
    assert broken.fingerprint == calm.fingerprint
    assert contents(tmp_path / "broken") == contents(tmp_path / "calm")


KILLED = """
import sys
from pathlib import Path
from allometry.data import near_duplicates, packing, spool
from allometry.data.sources import open_source
spool.CHUNK = 20_000
packing.prepare(open_source(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def test_kills_at_random_moments_do_not_change_the_result(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text(8, n)}) + "\n" for n in range(600)))
    monkeypatch.setattr(spool, "CHUNK", 20_000)
    prepare(open_source(str(path)), tmp_path / "calm", "bpe:300")
    rng, there = random.Random(0), lambda: sum(1 for _ in (tmp_path / "broken").rglob("*"))
    for _ in range(6):
        command = [sys.executable, "-c", KILLED, path, tmp_path / "broken", "bpe:300"]
        enough = there() + rng.randint(1, 8)  # of about eighty files, whole or half written
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and there() < enough:
            time.sleep(rng.uniform(0, 0.002))
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err.decode()
    assert not (tmp_path / "broken" / "manifest.json").exists()
    prepare(open_source(str(path)), tmp_path / "broken", "bpe:300")
    assert contents(tmp_path / "broken") == contents(tmp_path / "calm")


def test_the_same_command_again_only_reads_what_is_there(tmp_path, rows):
    first = prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}
    lines = []
    again = prepare(open_source(str(rows)), tmp_path / "c", "bpe:300", lines.append)
    assert again.fingerprint == first.fingerprint
    assert "already prepared" in lines[0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()} == before


def test_an_unfinished_corpus_of_another_text_starts_again(tmp_path, rows, small_chunks, monkeypatch):
    monkeypatch.setattr(packing, "_write_corpus", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        prepare(open_source(str(rows)), tmp_path / "c")
    monkeypatch.undo()
    rows.write_text(rows.read_text() + json.dumps({"text": "one more"}) + "\n")
    lines = []
    prepare(open_source(str(rows)), tmp_path / "c", "bytes", lines.append)
    assert "starting again" in lines[0]
    prepare(open_source(str(rows)), tmp_path / "fresh")
    assert contents(tmp_path / "c")["train-00000.bin"] == contents(tmp_path / "fresh")["train-00000.bin"]


def test_after_a_network_failure_only_the_rest_is_read(tmp_path, small_chunks):
    """What was read stays, and reading goes on from there; a source that fails at once leaves nothing."""
    starts = []

    def items(part, row):
        starts.append(row)
        for number in range(row, 300):
            if number == 150 and len(starts) == 1:
                raise UserError("the network is gone")
            yield Item(0, number + 1, text(2, number).encode())

    source = Source("far", {"far": 1}, items)
    with pytest.raises(UserError, match="network is gone"):
        prepare(source, tmp_path / "c")
    corpus = prepare(source, tmp_path / "c")
    assert 100 < starts[1] <= 150
    assert corpus.fingerprint == prepare(Source("far", {}, items), tmp_path / "d").fingerprint

    def nothing(part, row):
        raise UserError("no network at all")
        yield

    with pytest.raises(UserError, match="no network"):
        prepare(Source("far", {}, nothing), tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_after_a_full_disk_the_preparation_can_continue(tmp_path, rows, small_chunks, monkeypatch):
    real, count = files.replace_file, iter(range(100))

    def full(path, content, *allowed):
        if next(count) == 9:
            raise OSError(28, "No space left on device", str(path))
        return real(path, content, *allowed)

    for module in (files, spool, packing):
        monkeypatch.setattr(module, "replace_file", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(open_source(str(rows)), tmp_path / "c")
    assert not (tmp_path / "c" / "manifest.json").exists()
    monkeypatch.undo()
    prepare(open_source(str(rows)), tmp_path / "c")


# ---- wrong input


def refused(*arguments) -> str:
    with pytest.raises(UserError) as caught:
        prepare(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no text in it"),
        (b"\n\r\n", "no text in it"),
        (b"x", "1 byte of text is too little to split"),
        (b"good \xff bad", "not UTF-8: byte 0xff at 5"),
        (b"a\0" * 9000, "binary: it contains NUL bytes"),
        (b"\x80\x04K\x01.", "not UTF-8"),
    ],
)
def test_a_text_that_cannot_be_packed_leaves_nothing(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    assert message in refused(open_source(str(path)), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_folder_of_something_else_is_not_touched(tmp_path, rows):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    assert "exists and is not a corpus" in refused(open_source(str(rows)), out)
    assert contents(out).keys() == {"letter.txt"}
    assert "is a file" in refused(open_source(str(rows)), out / "letter.txt")


def test_another_corpus_is_not_overwritten(tmp_path, rows):
    prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    before = contents(tmp_path / "c")
    assert "packed by bpe:300" in refused(open_source(str(rows)), tmp_path / "c", "bytes")
    rows.write_text(rows.read_text() + json.dumps({"text": "one more"}) + "\n")
    assert "as that text was then" in refused(open_source(str(rows)), tmp_path / "c", "bpe:300")
    assert contents(tmp_path / "c") == before


def test_a_half_prepared_corpus_is_not_a_corpus(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(packing, "_write_corpus", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        prepare(open_source(str(rows)), tmp_path / "c")
    with pytest.raises(UserError, match="not completely prepared yet"):
        read_corpus(str(tmp_path / "c"))


def test_a_second_process_at_the_same_time_is_refused(tmp_path, rows):
    with packing._claimed(tmp_path / "c"), pytest.raises(UserError, match="another process is preparing this"):
        prepare(open_source(str(rows)), tmp_path / "c")


def test_a_tokenizer_that_does_not_match_the_shards(tmp_path, rows):
    prepare(open_source(str(rows)), tmp_path / "c", "bpe:300")
    prepare(open_source(str(rows)), tmp_path / "d", "bpe:400")
    path = tmp_path / "c" / "tokenizer.json"
    content = path.read_bytes()
    os.unlink(path)  # a second name of the file may stand in a study
    for other in (None, (tmp_path / "d" / "tokenizer.json").read_bytes(), content + b"\n", b"\x80\x04K\x01."):
        if other is not None:
            path.write_bytes(other)
        for load in (load_corpus, load_tokenizer):
            with pytest.raises(UserError, match="not the tokenizer that the shards were packed with"):
                load(tmp_path / "c")
    path.write_bytes(content)
    load_corpus(tmp_path / "c")

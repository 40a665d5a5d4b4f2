"""Text to tokens: one split, whatever the machine; no held-out document in the training text."""

import json
import random

import pytest

from allometry.data.corpus import HELD_OUT, PIECE, SEPARATOR, load_corpus, read_corpus, save_corpus
from allometry.errors import UserError


def words(count: int, seed: int = 0) -> bytes:
    """Lines of random words."""
    rng = random.Random(seed)
    text = (" ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 8))) for _ in range(8)) for _ in range(count))
    return ("\n".join(text) + "\n").encode()


@pytest.fixture
def folder(tmp_path):
    """Eighty documents, enough to be split whole."""
    root = tmp_path / "texts"
    for number in range(80):
        path = root / f"{number % 5}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(words(3, seed=number))
    return root


def parts(corpus) -> tuple[list[bytes], list[bytes]]:
    return tuple(tokens.tobytes().split(SEPARATOR) for tokens in (corpus.train, corpus.held_out))


def as_bytes(corpus) -> tuple[bytes, bytes]:
    return corpus.train.tobytes(), corpus.held_out.tobytes()


# ---- the split


def test_documents_are_split_whole_and_each_once(folder):
    corpus = read_corpus(str(folder))
    train, held_out = parts(corpus)
    assert len(held_out) == 80 // HELD_OUT
    assert sorted(train + held_out) == sorted(words(3, seed=n).strip(b"\n") for n in range(80))
    assert (corpus.documents, corpus.duplicates, corpus.skipped) == (80, 0, 0)


def test_the_split_is_the_same_again_and_elsewhere(folder, tmp_path):
    corpus, again = read_corpus(str(folder)), read_corpus(str(folder))
    moved = folder.rename(tmp_path / "moved")
    elsewhere = read_corpus(str(moved))
    assert as_bytes(corpus) == as_bytes(again) == as_bytes(elsewhere)
    assert corpus.fingerprint == again.fingerprint == elsewhere.fingerprint


def test_one_more_document_moves_others_only_at_the_edge(folder):
    """Held out are the first by hash, so at most one document changes sides."""
    before = set(parts(read_corpus(str(folder)))[1])
    (folder / "new.txt").write_bytes(words(3, seed=1000))
    assert len(set(parts(read_corpus(str(folder)))[1]) ^ before) <= 2


def test_another_text_has_another_fingerprint(folder):
    before = read_corpus(str(folder)).fingerprint
    (folder / "0" / "0.txt").write_bytes(words(3, seed=0).replace(b"a", b"b", 1))
    assert read_corpus(str(folder)).fingerprint != before


def test_duplicates_are_dropped_so_that_nothing_held_out_is_trained_on(folder):
    plain = read_corpus(str(folder))
    for number in range(80):
        (folder / f"copy{number}.txt").write_bytes(words(3, seed=number))
    corpus = read_corpus(str(folder))
    assert corpus.duplicates == 80
    assert {frozenset(part) for part in parts(corpus)} == {frozenset(part) for part in parts(plain)}
    train, held_out = parts(corpus)
    assert not set(train) & set(held_out)


def test_duplicates_but_for_line_ends_and_a_byte_order_mark_are_duplicates(folder):
    for number in range(10):
        text = words(3, seed=number)
        (folder / f"crlf{number}.txt").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    corpus = read_corpus(str(folder))
    assert (corpus.documents, corpus.duplicates) == (80, 10)
    assert b"\r" not in b"".join(as_bytes(corpus))
    assert b"\xef\xbb\xbf" not in b"".join(as_bytes(corpus))


def test_one_long_document_is_cut_at_line_ends_and_nothing_is_lost(tmp_path):
    text = words(40_000).strip(b"\n")
    (tmp_path / "one.txt").write_bytes(text)
    corpus = read_corpus(str(tmp_path / "one.txt"))
    train, held_out = parts(corpus)
    lines = b"\n".join(train + held_out).replace(b"\n\n", b"\n").split(b"\n")
    assert sorted(line for line in lines if line) == sorted(text.split(b"\n"))
    assert all(PIECE <= len(piece) < PIECE + 100 for piece in train[:-1])
    assert len(held_out) == (len(train) + len(held_out)) // HELD_OUT


def test_a_repeated_piece_is_not_on_both_sides(tmp_path):
    """Sixty-four times the same line, cut at each: one piece."""
    (tmp_path / "a.txt").write_bytes(b"the same line again\n" * 6400 + words(500))
    train, held_out = parts(read_corpus(str(tmp_path / "a.txt")))
    assert not set(train) & set(held_out)


def test_small_documents_next_to_a_large_one_stay_whole(tmp_path):
    """Pieces follow the size of the whole corpus; a document must not be ground to a few bytes for being short."""
    (tmp_path / "large.txt").write_bytes(words(20_000))
    small = [words(2, seed=n).strip(b"\n") for n in range(1, 6)]
    for number, text in enumerate(small):
        (tmp_path / f"{number}.txt").write_bytes(text)
    train, held_out = parts(read_corpus(str(tmp_path)))
    assert all(any(text in piece for piece in train + held_out) for text in small)


def test_one_endless_line_is_cut_anywhere(tmp_path):
    text = "".join(random.Random(0).choices("abcdefgh", k=200_000)).encode()
    (tmp_path / "line.txt").write_bytes(text)
    train, held_out = parts(read_corpus(str(tmp_path / "line.txt")))
    assert sum(map(len, train + held_out)) == len(text)
    assert held_out


# ---- what is read


def test_files_that_are_not_text_are_left_out_and_counted(folder):
    (folder / "binary.txt").write_bytes(b"a\0b")
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 50)
    (folder / "cut.txt").write_bytes("é".encode()[:1])
    (folder / "image.png").write_bytes(b"\x89PNG")
    (folder / "empty.txt").write_bytes(b"")
    corpus = read_corpus(str(folder))
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    corpus = read_corpus(str(folder))
    assert (corpus.documents, corpus.skipped) == (80, 5)
    assert "5 files left out (not text)" in corpus.describe()


def test_text_is_identified_by_its_content_and_studies_are_not_read(folder):
    before = read_corpus(str(folder))
    (folder / "NOTES").write_text("a text without a suffix\n")
    assert read_corpus(str(folder)).documents == before.documents + 1
    (folder / "quickstart").mkdir()
    for name in ("study.json", "report.html"):
        (folder / "quickstart" / name).write_text("made by an earlier run")
    (folder / ".hidden").write_text("not for reading")
    assert read_corpus(str(folder)).documents == before.documents + 1


def test_folders_that_hold_other_peoples_code_are_left_out(folder):
    before = read_corpus(str(folder))
    for name in ("site-packages", ".git", "node_modules", "__pycache__"):
        (folder / name).mkdir()
        (folder / name / "x.py").write_bytes(words(5, seed=99))
    assert read_corpus(str(folder)).fingerprint == before.fingerprint


def test_valid_utf8_beyond_ascii_is_kept_byte_for_byte(tmp_path):
    text = "Größe τ, 漢字, 🙂\n" * 3000 + "".join(f"Zeile {n}\n" for n in range(5000))
    (tmp_path / "u.txt").write_text(text, encoding="utf-8")
    corpus = read_corpus(str(tmp_path / "u.txt"))
    assert "漢字, 🙂".encode() in b"".join(as_bytes(corpus))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no text in it"),
        (b"\n\n\n", "no text in it"),
        (b"\xef\xbb\xbf", "no text in it"),
        (b"\xff\xfe\xff", "no text in it"),
        (b"a\0" * 100_000, "no text in it"),
        (b"x", "1 byte of text is too little"),
    ],
)
def test_a_file_that_cannot_be_split_is_one_line_with_its_name(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.txt: .*{message}") as caught:
        read_corpus(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_path_and_a_folder_without_text_are_one_line(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    for path, message in ((tmp_path / "none", "no such file or folder"), (tmp_path, "no text in it")):
        with pytest.raises(UserError, match=message) as caught:
            read_corpus(str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


# ---- kept in a study


def test_a_saved_corpus_is_the_one_loaded(folder, tmp_path):
    corpus = read_corpus(str(folder))
    save_corpus(corpus, tmp_path / "corpus")
    loaded = load_corpus(tmp_path / "corpus")
    assert as_bytes(loaded) == as_bytes(corpus)
    names = ("source", "fingerprint", "documents", "duplicates", "skipped")
    assert [getattr(loaded, name) for name in names] == [getattr(corpus, name) for name in names]


@pytest.mark.parametrize("name", ["train.bin", "heldout.bin"])
def test_a_changed_added_or_missing_byte_is_noticed(folder, tmp_path, name):
    save_corpus(read_corpus(str(folder)), tmp_path / "corpus")
    path = tmp_path / "corpus" / name
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in (0, len(whole) // 2, len(whole) - 1)]
    for content in (*flipped, whole[:-1], whole + b"x", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="the text changed"):
            load_corpus(tmp_path / "corpus")
    path.write_bytes(whole)
    load_corpus(tmp_path / "corpus")


def test_text_moved_from_one_side_to_the_other_is_noticed(folder, tmp_path):
    save_corpus(read_corpus(str(folder)), tmp_path / "corpus")
    train, held_out = tmp_path / "corpus" / "train.bin", tmp_path / "corpus" / "heldout.bin"
    whole = train.read_bytes()
    train.write_bytes(whole[:-5])
    held_out.write_bytes(whole[-5:] + held_out.read_bytes())
    with pytest.raises(UserError, match="the text changed"):
        load_corpus(tmp_path / "corpus")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"fingerprint": "0"})])
def test_a_damaged_manifest_is_one_line(folder, tmp_path, content):
    save_corpus(read_corpus(str(folder)), tmp_path / "corpus")
    (tmp_path / "corpus" / "manifest.json").write_text(content)
    with pytest.raises(UserError) as caught:
        load_corpus(tmp_path / "corpus")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_corpus_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no corpus that can be read here"):
        load_corpus(tmp_path)

"""Pairs of texts: what is learned of a row, what is written after it, and the sources that they are read from."""

import numpy as np
import pytest
import torch

from allometry import nn
from allometry.data.task_data.text_pairs import encode_pair, read_pairs
from allometry.errors import UserError
from allometry.tasks.answers import IGNORED, answer_of, likeness, losses_of, rows_of, write_answers
from allometry.tasks.contract import ALONE


class Echo(torch.nn.Module):
    """After the mark it writes the text again, and then the end."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, 256)
        for row, line in enumerate(tokens.tolist()):
            if 1 not in line:
                continue
            text = [*line[: line.index(1)], 2]
            for step, position in enumerate(range(line.index(1), len(line))):
                logits[row, position, text[min(step, len(text) - 1)]] = 20.0
        return logits * self.weight


def rows(*pairs, context=24):
    return np.stack([encode_pair(a.encode(), b.encode(), context) for a, b in pairs])


def test_only_the_answer_and_its_end_are_learned():
    tokens, targets = rows_of(rows(("abc", "xy")), 24)
    assert bytes(tokens[0, :6].tolist()) == b"abc\x01xy"
    assert [bytes([t]) for t in targets[0].tolist() if t != IGNORED] == [b"x", b"y", b"\x02"]
    assert targets[0, :3].tolist() == [IGNORED] * 3


def test_what_is_written_is_what_the_model_says_whatever_stands_in_the_row():
    pairs = rows(("abc", "zzz"), ("longer text", "q"), ("x", "x"))
    assert write_answers(Echo(), pairs, 24) == [b"abc", b"longer text", b"x"]
    assert [answer_of(row) for row in pairs] == [b"zzz", b"q", b"x"]


def test_a_decoder_that_keeps_what_it_has_read_writes_the_same():
    torch.manual_seed(0)
    decoder = nn.Decoder(256, 2, 32, 2)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.mul_(3)  # a fresh model hardly heeds what stands before
    pairs = rows(("abc", "zzz"), ("longer text", "q"), ("x", "x"), ("", "y"))
    with torch.no_grad():
        written = write_answers(decoder, pairs, 24)
        assert written == write_answers(torch.nn.Sequential(decoder), pairs, 24)
    assert len({*written}) == 4
    assert min(map(len, written)) > 3


def test_the_loss_of_an_answer_is_that_of_its_bytes_alone():
    sums, counts = losses_of(Echo(), rows(("abc", "abc"), ("abc", "abd")), 24, ALONE)
    assert counts.tolist() == [4, 4]
    assert sums[0].item() < 1e-4
    assert sums[1].item() == pytest.approx(20, abs=0.1)


def test_the_quiz_gives_questions_with_four_choices(tmp_path):
    for kind in ("capitals", "numbers"):
        lines = [f"{kind} {i}|other form:answer [the] {kind} {i * 7}|alias" for i in range(400)]
        (tmp_path / kind).write_text("\n".join(lines))
    samples = read_pairs("questions", str(tmp_path), 64)
    text, _, answer = samples.held_out["row"][0].tobytes().rstrip(b"\0\x02").partition(b"\x01")
    assert answer.startswith(b"answer  " + text.split()[0])
    choices = [answer_of(row) for row in samples.held_out["choices"][0]]
    assert len(set(choices)) == 4
    assert all(text.split()[0] in choice for choice in choices)  # others of its kind
    assert "choices" not in samples.train


def test_descriptions_and_synopses(tmp_path):
    packages = [
        f"Package: p{i}\nDescription: tool number {i}\n"
        f" A long text about the tool {i},\n on two lines.\n .\n The end.\n"
        for i in range(600)
    ]
    (tmp_path / "all").write_text("\n".join(packages))
    samples = read_pairs("summaries", str(tmp_path / "all"), 128)
    text, _, rest = samples.train["row"][0].tobytes().partition(b"\x01")
    assert text.startswith(b"A long text about the tool ")
    assert text.endswith(b"on two lines.  The end.")
    assert rest.startswith(b"tool number ")


def test_catalogues_and_what_they_cannot_be(tmp_path):
    catalogue(
        tmp_path / "a.mo", {f"message {i}": f"Nachricht {i}" for i in range(600)} | {"same": "same", "": "header"}
    )
    samples = read_pairs("translation", str(tmp_path), 64)
    assert samples.size + len(samples.held_out["row"]) == 600
    (tmp_path / "b.mo").write_bytes(b"no catalogue")
    with pytest.raises(UserError, match=r"b.mo: no catalogue"):
        read_pairs("translation", str(tmp_path), 64)


def test_a_catalogue_of_another_encoding_than_it_states_is_left_out(tmp_path):
    header = {"": "Content-Type: text/plain; charset=UTF-8\n"}
    catalogue(tmp_path / "a.mo", header | {f"message {i}": f"Übersetzung {i}" for i in range(600)})
    catalogue(tmp_path / "b.mo", header | {f"other {i}": f"Übersetzung {i}" for i in range(600)})
    wrong = (tmp_path / "b.mo").read_bytes().replace("Ü".encode(), "Ü ".encode("latin-1"))  # as many bytes
    (tmp_path / "b.mo").write_bytes(wrong)
    samples = read_pairs("translation", str(tmp_path), 64)
    assert samples.size + len(samples.held_out["row"]) == 600


def catalogue(path, messages):
    """A .mo file as the GNU manual describes it."""
    import struct

    items = sorted((a.encode(), b.encode()) for a, b in messages.items())
    count, tables, texts = len(items), [], b""
    begin = 28 + 16 * len(items)
    for side in (0, 1):
        for item in items:
            tables.append(struct.pack("<II", len(item[side]), begin + len(texts)))
            texts += item[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    path.write_bytes(head + b"".join(tables) + texts)


@pytest.mark.parametrize(
    ("task", "says"),
    [("translation", "apt-get download"), ("questions", "bsdgames"), ("summaries", "apt-helper cat-file")],
)
def test_a_source_without_pairs_says_how_to_get_some(task, says, tmp_path):
    for source in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=says) as caught:
            read_pairs(task, str(source), 64)
        assert "\n" not in str(caught.value)


def test_pairs_that_do_not_fit_are_left_out_with_a_note(tmp_path):
    catalogue(tmp_path / "a.mo", {f"message {i}": "x" * (20 + i % 40) for i in range(1200)})
    samples = read_pairs("translation", str(tmp_path), 48)
    assert any("pairs left out that do not fit a context of 48" in note for note in samples.notes)
    with pytest.raises(UserError, match="no pair fits a context of 16"):
        read_pairs("translation", str(tmp_path), 16)


def test_a_text_with_another_answer_in_the_training_data_is_noticed(tmp_path):
    for number in range(2):
        catalogue(tmp_path / f"{number}.mo", {f"message {i}": f"Nachricht {i} {number}" for i in range(400)})
    samples = read_pairs("translation", str(tmp_path), 64)
    assert "have a near copy in the training data" in samples.notes[-1]


def longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by the table of every textbook."""
    best = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            best[i + 1, j + 1] = best[i, j] + 1 if one == other else max(best[i, j + 1], best[i + 1, j])
    return int(best[-1, -1])


def test_summaries_are_scored_by_rouge_l():
    pytest.importorskip("rouge_score", reason="rouge-score is of the extra tasks")
    written = [b"a tool that draws maps", b"nothing in common", b"", b"same words"]
    wanted = [b"tool that quickly draws", b"quite another line", b"something", b"same words"]
    score = likeness("summaries", written, wanted)["rouge_l"]
    each = []
    for ours, theirs in zip(written, wanted, strict=True):
        a, b = ours.decode().split(), theirs.decode().split()
        common = longest_common(a, b)
        each.append(2 * common / (len(a) + len(b)))  # the harmonic mean of common/len(a) and common/len(b)
    assert score.value == pytest.approx(np.mean(each))
    assert score.error == pytest.approx(np.std(each, ddof=1) / 2)


def test_translations_are_scored_by_chrf():
    pytest.importorskip("sacrebleu", reason="sacrebleu is of the extra tasks")
    right, wrong = [b"Datei nicht gefunden", b"Speicher voll"], [b"xyz", b"qqq"]
    assert likeness("translation", right, right)["chrf"].value == pytest.approx(1)
    assert likeness("translation", wrong, right)["chrf"].value < 0.05
    half = likeness("translation", [right[0], wrong[1]], right)["chrf"]
    assert 0.2 < half.value < 0.8
    assert half.error > 0.3
    assert likeness("questions", right, right) == {}

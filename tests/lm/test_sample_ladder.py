"""Fine-tuning on a ladder of sample counts: one trunk serves all counts, and an interruption changes nothing."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from allometry.errors import UserError
from allometry.lm.finetuning import sample_ladder
from allometry.lm.finetuning.examples import Example, batch_of, labels_in, read_examples, split
from allometry.lm.finetuning.sample_ladder import CountResult, FineTuning, SampleLadder


class Small(nn.Module):
    """A language model with the interface of transformers: from ``input_ids`` to ``logits``."""

    def __init__(self):
        super().__init__()
        self.table, self.hidden, self.head = nn.Embedding(16, 12), nn.Linear(12, 24), nn.Linear(24, 16)

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids)
        return SimpleNamespace(logits=self.head(torch.relu(self.hidden(x))))


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def examples(count: int) -> list[Example]:
    """A rule to learn: each token is the one before it plus one."""
    return [Example(tuple((i * 7 + j) % 16 for j in range(3 + i % 5)), 1 + i % 2) for i in range(count)]


OPTIONS = {"counts": (16, 32, 64), "lr": 1e-2, "batch": 4, "rule": "none"}


def trained(tmp_path, **changes):
    ladder = SampleLadder(small(), examples(80)[16:], examples(16), FineTuning(**OPTIONS | changes))
    return list(ladder.branches(tmp_path))


def came(branch: CountResult) -> tuple:
    """What came of a count, whatever was read for others before."""
    return branch.count, branch.held_out, branch.train_loss


def test_every_count_is_a_whole_training_of_its_own(tmp_path):
    """A branch gives what a run of that count alone gives, bit for bit."""
    together = trained(tmp_path / "a")
    assert [branch.count for branch in together] == [16, 32, 64]
    for branch in together:
        (alone,) = trained(tmp_path / str(branch.count), counts=(branch.count,))
        assert came(alone) == came(branch)
    assert together[-1].held_out.loss < together[0].held_out.loss
    # Of the trunk nothing is read twice; each shorter count adds its own decay, a fifth of its samples.
    tokens = lambda first, last: sum(len(example.tokens) for example in examples(80)[16:][first:last])
    assert [branch.tokens for branch in together] == [tokens(0, 16), tokens(12, 32), tokens(24, 64)]


def test_an_interruption_changes_nothing(tmp_path):
    whole = trained(tmp_path / "whole")
    asked: list[int] = []
    stop = lambda: len(asked) > 9 or asked.append(1) is not None
    ladder = SampleLadder(small(), examples(80)[16:], examples(16), FineTuning(**OPTIONS), should_stop=stop)
    before: list[CountResult] = []
    with pytest.raises(KeyboardInterrupt):
        before.extend(ladder.branches(tmp_path / "cut"))
    again = SampleLadder(small(), examples(80)[16:], examples(16), FineTuning(**OPTIONS))
    branches = [*before, *again.branches(tmp_path / "cut", {branch.count for branch in before})]
    assert list(map(came, branches)) == list(map(came, whole))


@pytest.mark.parametrize("dropped", [{16}, {32}, {32, 64}, {16, 32, 64, 78}], ids=str)
def test_counts_that_were_dropped_are_trained_again_as_before(tmp_path, dropped):
    """Also where the trunk went on long after, and its states from before are gone."""
    counts = (16, 32, 64, 78)  # the last is no multiple of the batch
    ladder = lambda: SampleLadder(small(), examples(96)[16:], examples(16), FineTuning(**OPTIONS | {"counts": counts}))
    whole = list(ladder().branches(tmp_path))
    again = list(ladder().branches(tmp_path, set(counts) - dropped))
    assert list(map(came, again)) == [came(branch) for branch in whole if branch.count in dropped]


def test_scaled_operands_train_as_plain_ones(tmp_path):
    plain = trained(tmp_path / "a")
    ladder = SampleLadder(_Plain(), examples(80)[16:], examples(16), FineTuning(**OPTIONS | {"rule": "absmax"}))
    scaled = list(ladder.branches(tmp_path / "b"))
    for one, other in zip(plain, scaled, strict=True):
        assert other.held_out.loss == pytest.approx(one.held_out.loss, rel=2e-3)
    low = SampleLadder(
        _Plain(), examples(80)[16:], examples(16), FineTuning(**OPTIONS | {"rule": "rms", "format": "fp8"})
    )
    assert list(low.branches(tmp_path / "c"))[-1].held_out.loss < plain[0].held_out.loss


class _Output(dict):
    logits = property(lambda self: self["logits"])


class _Plain(Small):
    """Its output is a mapping with an attribute, as transformers' outputs are; the same weights as ``small()``."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(small().state_dict())

    def forward(self, input_ids, attention_mask=None):
        return _Output(logits=super().forward(input_ids).logits)


def test_the_loss_counts_completions_alone():
    part = batch_of([Example((1, 2, 3, 4), 2), Example((5, 6), 1)])
    assert part["labels"].tolist() == [[-100, -100, 3, 4], [-100, 6, -100, -100]]
    assert part["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    ladder = SampleLadder(
        small(), examples(8), [Example((1, 2, 3, 4), 2)], FineTuning(counts=(8,), batch=4, rule="none")
    )
    logits = ladder.model(torch.tensor([[1, 2, 3]])).logits[0]
    expected = nn.functional.cross_entropy(logits[1:], torch.tensor([3, 4])).item()
    assert ladder.score().loss == pytest.approx(expected, rel=1e-6)


def encode(text: str) -> list[int]:
    return list(text.encode())


def test_examples_of_files(tmp_path):
    pairs = [{"prompt": "abcdef", "completion": "xy"}, {"text": "hello"}, {"prompt": "", "completion": "z" * 40}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n\n")
    read = read_examples(tmp_path / "a.jsonl", encode, 0, 8)
    assert read[0] == Example((*encode("bcdef"), *encode("xy"), 0), 5)  # a long prompt loses its beginning
    assert read[1] == Example((*encode("hello"), 0), 1)
    assert read[2] == Example(tuple(encode("z" * 7)), 1)
    (tmp_path / "b.txt").write_text("abcdefghij")
    assert [bytes(e.tokens) for e in read_examples(tmp_path / "b.txt", encode, None, 4)] == [b"abcd", b"efgh", b"ij"]


@pytest.mark.parametrize("line", ["not json", '{"prompt": "a"}', '["a"]', '{"text": 3}'])
def test_a_line_that_is_no_example_is_named(line, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match="line 2"):
        read_examples(tmp_path / "a.jsonl", encode, None, 8)


def test_held_out_examples_are_in_no_training():
    train, held_out = split([*examples(40), *examples(40)], 0, 10)
    assert len(held_out) == 10
    assert not set(train) & set(held_out)
    with pytest.raises(UserError, match="held-out"):
        split(examples(5), 0, 5)


@pytest.mark.parametrize(
    "values",
    [{"counts": ()}, {"counts": (2,)}, {"counts": (32, 16)}, {"lr": float("nan")}, {"rule": "unit"},
     {"format": "fp8"}, {"rule": "rms", "format": "int3"}],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_one_line(values):
    with pytest.raises(UserError) as caught:
        FineTuning(**OPTIONS | values)
    assert len(str(caught.value).splitlines()) == 1


def test_too_few_examples_and_a_rate_too_high_are_one_line(tmp_path):
    with pytest.raises(UserError, match="give fewer"):
        SampleLadder(small(), examples(8), examples(4), FineTuning(**OPTIONS))
    with pytest.raises(UserError, match="lower --lr"):
        trained(tmp_path, lr=1e30)


class Classes(nn.Module):
    """A classifier with the interface of transformers, by the mean of the tokens that are there."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(16, 12), nn.Linear(12, 3)

    def forward(self, input_ids, attention_mask):
        there = attention_mask[..., None]
        return SimpleNamespace(logits=self.head((self.table(input_ids) * there).sum(1) / there.sum(1)))


def labelled(count: int) -> list[Example]:
    """The label is the number of the third that the first token is in; the others are of that third too."""
    return [Example(tuple(5 * (i % 3) + (i * j) % 5 for j in range(2 + i % 4)), 2 + i % 4, i % 3) for i in range(count)]


def test_labels_are_learned_and_scored(tmp_path):
    torch.manual_seed(0)
    options = FineTuning(counts=(32, 128), lr=3e-2, batch=4, rule="none")
    ladder = SampleLadder(Classes(), labelled(200)[40:], labelled(40), options, pad=7)
    few, many = ladder.branches(tmp_path)
    assert many.held_out.loss < few.held_out.loss
    part = batch_of(labelled(40), 7)
    assert part["labels"].tolist() == [i % 3 for i in range(40)]
    logits = ladder.model(part["input_ids"], part["attention_mask"]).logits
    assert many.held_out.accuracy > 0.9
    assert many.held_out.examples == 40
    assert ladder.score().loss == pytest.approx(nn.functional.cross_entropy(logits, part["labels"]).item(), rel=1e-5)
    assert ladder.score().accuracy == (logits.argmax(1) == part["labels"]).float().mean().item()


def test_pieces_of_a_batch_train_as_the_whole_batch(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    monkeypatch.setattr(sample_ladder, "PIECE_LOGITS", 1)
    for one, other in zip(whole, trained(tmp_path / "pieces"), strict=True):
        assert other.held_out.loss == pytest.approx(one.held_out.loss, rel=1e-4)
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)


def test_labels_of_a_file(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"text": "b a\u2028c", "label": "libs"}, {"text": "c", "label": 3}]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    assert labels_in(file) == ("3", "libs")
    assert [e.label for e in read_examples(file, encode, None, 8, labels_in(file))] == [1, 0]
    file.write_text(json.dumps({"text": "a"}))
    assert labels_in(file) == ()
    for content, reason in (
        ([{"text": "a", "label": 1}, {"text": "b"}], 'line 2: give "text" and "label"'),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], "nothing to tell apart"),
        ([{"text": "a", "label": 1}, {"label": 2}], 'line 2: give "text" and "label"'),
    ):
        file.write_text("\n".join(map(json.dumps, content)))
        with pytest.raises(UserError, match=reason):
            labels_in(file)

"""Fine-tuning by the command's function on a model of transformers, where that is installed."""

import importlib.util
import json
import math
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from allometry.data.tokenizer import Bytes
from allometry.errors import UserError
from allometry.lm.export.hugging_face_folder import write_hugging_face
from allometry.lm.finetuning.sample_ladder import ExampleScore, SampleLadder
from allometry.runs.study import Study
from allometry.workflow.models.finetune_model import finetune
from helpers.stock_models import uneven

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


@pytest.fixture
def folder(tmp_path):
    write_hugging_face(uneven(norms="pre"), Bytes(), tmp_path / "model")
    pairs = [{"prompt": f"{a}+{b}=", "completion": str((a + b) % 10)} for a in range(12) for b in range(12)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return tmp_path


def test_a_ladder_of_counts_leaves_records_a_law_and_a_plain_model(folder):
    from transformers import AutoModelForCausalLM

    arguments = str(folder / "model"), folder / "pairs.jsonl", folder / "study"
    options = {"counts": (16, 32, 64), "lr": 3e-3, "batch": 4, "held_out": 24, "rule": "absmax", "patience": 0}
    tuned = finetune(*arguments, **options)
    losses = [record.loss for record in tuned.records]
    assert losses[-1] < tuned.before
    assert [record.tokens for record in Study(folder / "study").records()] == [16, 32, 64]
    assert tuned.law is not None
    read = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    longest = max(len(pair["prompt"] + pair["completion"]) for pair in read) + 1
    for record in tuned.records:  # samples are what D counts, and FLOPs are those of their tokens
        tokens = record.flops / (6 * record.num_params)
        assert record.tokens < tokens < longest * record.tokens
        assert record.flops_spent <= record.flops
        assert record.tokens_per_second * record.seconds == pytest.approx(record.flops_spent / (6 * record.num_params))
    assert finetune(*arguments, **options).to_json() == tuned.to_json()  # asked again, it is found
    model = AutoModelForCausalLM.from_pretrained(tuned.best)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    first = AutoModelForCausalLM.from_pretrained(folder / "model")
    moved = (model.lm_head.weight - first.lm_head.weight).abs().max()
    assert 0 < moved < 20 * 3e-3  # plain weights, some steps of Adam away
    assert torch.isfinite(model(torch.tensor([[1, 2]])).logits).all()


def test_a_count_that_ends_without_a_finite_loss_is_recorded_so(folder, monkeypatch):
    scores = iter([ExampleScore(5.0, 0.1), ExampleScore(math.nan, math.nan), ExampleScore(4.0, 0.1)])
    monkeypatch.setattr(SampleLadder, "score", lambda ladder: next(scores))
    options = {"counts": (8, 16), "batch": 4, "held_out": 24}
    tuned = finetune(str(folder / "model"), folder / "pairs.jsonl", folder / "study", **options)
    assert [(record.status, record.loss) for record in tuned.records] == [("diverged", None), ("finished", 4.0)]


def test_another_model_of_the_same_name_is_not_taken_for_the_first(folder):
    options = {"counts": (8,), "batch": 4, "held_out": 24}
    finetune(str(folder / "model"), folder / "pairs.jsonl", folder / "study", **options)
    write_hugging_face(uneven(norms="pre"), Bytes(), folder / "other" / "model")
    weights = folder / "other" / "model" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="weights"):
        finetune(str(folder / "other" / "model"), folder / "pairs.jsonl", folder / "study", **options)


def test_what_cannot_be_tuned_is_one_line_and_leaves_nothing(folder):
    data, out = folder / "pairs.jsonl", folder / "out"
    for model, reason in (
        (folder / "none", "no such folder"),
        ("someone/some-model", "hf download"),
        (folder, "no config.json"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            finetune(str(model), data, out, counts=(16,))
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match="--format: no format 'fp3'"):
        finetune(str(folder / "model"), data, out, counts=(16,), format="fp3")
    with pytest.raises(UserError, match="give fewer"):
        finetune(str(folder / "model"), data, out, counts=(5000,), held_out=24)
    (folder / "model" / "model.safetensors").write_bytes(b"\xff" * 64)  # a header that lies
    with pytest.raises(UserError, match="cannot be read"):
        finetune(str(folder / "model"), data, out, counts=(16,), held_out=24)
    for file in (folder / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="no tokenizer in it; save"):
        finetune(str(folder / "model"), data, out, counts=(16,), held_out=24)
    assert not out.exists()


def test_a_gguf_file_is_called_by_its_own_name(folder):
    (folder / "damaged.gguf").write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(UserError, match=r"damaged\.gguf: cannot be read"):
        finetune(str(folder / "damaged.gguf"), folder / "pairs.jsonl", folder / "out", counts=(16,), held_out=24)


def test_a_classifier_keeps_its_labels_and_says_its_accuracy(folder):
    from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, BertTokenizerFast

    letters = [chr(97 + i) for i in range(26)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=31, **sizes)).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    draw = random.Random(0)
    halves = {"low": letters[:13], "high": letters[13:]}
    rows = [
        {"text": " ".join(draw.choices(halves[label], k=5)), "label": label} for label in halves for _ in range(200)
    ]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"counts": (32, 64, 256), "lr": 3e-3, "batch": 4, "held_out": 40, "patience": 0}
    tuned = finetune(str(folder / "bert"), folder / "labels.jsonl", folder / "study", **options)
    accuracies = [record.scores["accuracy"].value for record in tuned.records]
    assert accuracies[-1] > 0.9
    assert tuned.to_json()["runs"][-1]["accuracy"] == accuracies[-1]
    model = AutoModelForSequenceClassification.from_pretrained(tuned.best)
    assert model.config.id2label == {0: "high", 1: "low"}

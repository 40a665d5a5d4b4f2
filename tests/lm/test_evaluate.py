"""Scores on other texts: bits a byte by the definition, and lm-eval on the export where it is installed."""

import importlib.util
import json
import math

import pytest
import torch

from allometry.data.tokenizer import Bytes, train_bpe
from allometry.errors import UserError
from allometry.lm.evaluate import score_tasks, score_text
from helpers.stock_models import uneven

TEXT = "the cat sat on the mat; naïve café, 42 times\n" * 4


@pytest.mark.parametrize("tokenizer", [Bytes(), train_bpe("bpe:300", 300, [TEXT])], ids=["bytes", "bpe"])
def test_bits_a_byte_are_those_of_the_definition(tokenizer):
    model = uneven(tokenizer.vocab_size, size=2.0)
    begin = tokenizer.encode("\n") if tokenizer.name == "bytes" else [tokenizer.end]
    tokens = [*begin, *tokenizer.encode(TEXT)]
    bits = 0.0
    with torch.no_grad():
        for place in range(1, len(tokens)):
            first = (place - 1) // 32 * 32  # windows of the context, one after another
            odds = torch.softmax(model(torch.tensor([tokens[first:place]]))[0, -1].double(), -1)
            bits -= math.log2(odds[tokens[place]].item())
    score = score_text(model, tokenizer, TEXT)
    assert score.num_bytes == len(TEXT.encode())
    assert score.tokens == len(tokens) - 1
    assert score.bits_per_byte == pytest.approx(bits / score.num_bytes, rel=1e-5)
    assert score.loss == pytest.approx(bits * math.log(2) / score.tokens, rel=1e-5)


def test_a_model_that_knows_nothing_needs_eight_bits():
    model = uneven()
    with torch.no_grad():
        model.readout.weight.zero_()
    score = score_text(model, Bytes(), TEXT)
    assert score.bits_per_byte == pytest.approx(8, rel=1e-6)
    assert score.bits_per_byte_se < 1e-5


def test_nothing_to_score_and_a_diverged_model_are_one_line():
    with pytest.raises(UserError, match="empty"):
        score_text(uneven(), Bytes(), "")
    model = uneven()
    with torch.no_grad():
        model.readout.weight.fill_(math.nan)
    with pytest.raises(UserError, match="diverged"):
        score_text(model, Bytes(), TEXT)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_lm_eval_scores_the_export_as_we_do(tmp_path):
    text = "the cat sat on the mat, 42 times or so\n" * 4
    documents = [{"text": text[:128]}, {"text": text[10:74]}]  # whole windows: lm-eval moves a shorter last one back
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path / 'texts.jsonl'}\n"
        "test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list:\n  - metric: bits_per_byte\n"
    )
    model = uneven(size=2.0)
    scores = score_tasks(model, Bytes(), ["mine"], tmp_path)
    ours = [score_text(model, Bytes(), document["text"]) for document in documents]
    expected = sum(each.bits_per_byte * each.num_bytes for each in ours) / sum(each.num_bytes for each in ours)
    assert scores["mine"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="no such task"):
        score_tasks(model, Bytes(), ["a_task_of_nobody"], tmp_path)

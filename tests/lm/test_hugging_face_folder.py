"""An exported folder in Hugging Face's own hands, where transformers is installed; and what is refused."""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

from allometry.data.tokenizer import Bytes, train_bpe
from allometry.errors import UserError
from allometry.lm.export import hugging_face_folder
from allometry.lm.export.hugging_face_folder import write_hugging_face
from allometry.lm.inference.sampling import Sampling
from allometry.lm.inference.write_texts import Writing, write_texts
from helpers.stock_models import EXPORTED, error, in_float64, uneven

TEXT = "the cat sat on the mat — naïve café, 日本語 and 🙂\n\n  the <|endoftext|> end\n" * 3
with_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


@with_transformers
@pytest.mark.parametrize("options", EXPORTED.values(), ids=EXPORTED)
def test_transformers_computes_our_logits(options, tmp_path):
    from transformers import AutoModelForCausalLM

    model = uneven(**options)
    architecture = write_hugging_face(model, Bytes(), tmp_path / "x")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    assert type(theirs).__name__ == architecture
    tokens = torch.randint(256, (4, 32))
    truth = in_float64(model, tokens)
    with torch.no_grad():
        own = error(model(tokens), truth)
        assert error(theirs(tokens).logits, truth) < 2 * own
    theirs.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "x" / "model.safetensors").items():
        assert torch.equal(again[name], tensor)


@with_transformers
@pytest.mark.parametrize("tokenizer", [Bytes(), train_bpe("bpe:320", 320, [TEXT])], ids=["bytes", "bpe"])
def test_greedy_text_and_tokens_are_ours(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = uneven(tokenizer.vocab_size, size=2.0, context=48)
    write_hugging_face(model, tokenizer, tmp_path / "x")
    theirs, reader = AutoModelForCausalLM.from_pretrained(tmp_path / "x"), AutoTokenizer.from_pretrained(tmp_path / "x")
    assert reader(TEXT).input_ids == tokenizer.encode(TEXT)
    assert reader.decode(tokenizer.encode(TEXT)) == TEXT
    inputs = reader("the cat", return_tensors="pt")
    written = reader.decode(theirs.generate(**inputs, max_new_tokens=30, do_sample=False)[0])
    (ours,) = write_texts(model, tokenizer, ["the cat"], Writing(30, Sampling(temperature=0)))
    assert written.removesuffix("<|endoftext|>") == ours.text


@with_transformers
def test_bfloat16_loads_as_such(tmp_path):
    from transformers import AutoModelForCausalLM

    model = uneven()
    write_hugging_face(model, Bytes(), tmp_path / "x", dtype="bfloat16")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype="auto")
    assert next(theirs.parameters()).dtype == torch.bfloat16
    tokens = torch.randint(256, (2, 32))
    with torch.no_grad():
        assert error(theirs.float()(tokens).logits, in_float64(model, tokens)) < 2e-2


def test_tokens_that_a_tokenizer_adds_around_texts_are_left_out(tmp_path):
    """As in training: a published tokenizer with a template gives the same tokens by default as it was packed with."""
    import tokenizers

    from allometry.data.tokenizer import Subwords

    library = tokenizers.Tokenizer.from_str(train_bpe("bpe:300", 300, [TEXT]).content.decode())
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", library.token_to_id("<|endoftext|>"))]
    )
    library.enable_truncation(5)
    tokenizer = Subwords("mine", library.to_str().encode())
    write_hugging_face(uneven(tokenizer.vocab_size), tokenizer, tmp_path / "x")
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json"))
    stored.encode_special_tokens = True  # what split_special_tokens in tokenizer_config.json sets
    assert json.loads((tmp_path / "x" / "tokenizer_config.json").read_text())["split_special_tokens"] is True
    assert stored.encode(TEXT).ids == tokenizer.encode(TEXT)


def test_half_written_is_not_written(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not an empty folder"):
        write_hugging_face(uneven(), Bytes(), tmp_path / "full")
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        write_hugging_face(uneven(), Bytes(), tmp_path / "x", dtype="int3")
    with pytest.raises(UserError, match="give float32 or bfloat16"):
        write_hugging_face(uneven(), Bytes(), tmp_path / "x", dtype="float16")

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hugging_face_folder, "write_json", no_space)
    with pytest.raises(UserError, match="No space left"):
        write_hugging_face(uneven(), Bytes(), tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]

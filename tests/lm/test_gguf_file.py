"""GGUF against llama.cpp itself, where gguf and xllamacpp are installed; and what llama.cpp cannot hold."""

import importlib.util

import pytest
import torch

from allometry.data.tokenizer import Bytes, train_bpe
from allometry.errors import UserError
from allometry.lm.export.gguf_file import gguf_architecture, write_gguf
from helpers.builders import model_config
from helpers.stock_models import EXPORTED, OF_LLAMA_CPP, uneven

missing = [name for name in ("gguf", "xllamacpp") if importlib.util.find_spec(name) is None]
with_llama_cpp = pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")
PROMPTS = ["the cat", "x = 3", "hello world", "abc\n de", "zzz", "AB C", "9", "q q q"]
# Of log-probabilities: FP32's own rounding; eight bits of mantissa; 8-bit integers.
BOUNDS = {"float32": 1e-5, "bfloat16": 0.1, "q8_0": 0.2}


def llama_cpp(path):
    """A server of llama.cpp in this process, with keys and values in FP32."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(path), 32, 1
    parameters.n_gpu_layers, parameters.verbosity, parameters.warmup = 0, -1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(parameters)


def log_probabilities(server, prompt, vocab_size: int) -> dict[int, float]:
    """Of the next token, by number; empty where the likeliest token is no whole character: the server says nothing."""
    asked = {"prompt": prompt, "n_predict": 1, "n_probs": vocab_size, "temperature": 0, "cache_prompt": False}
    details = server.handle_completions(asked)["choices"][0]["logprobs"]
    return {each["id"]: each["logprob"] for each in details["content"][0]["top_logprobs"]} if details else {}


@with_llama_cpp
@pytest.mark.parametrize("name", OF_LLAMA_CPP)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_llama_cpp_computes_our_probabilities(name, dtype, tmp_path):
    model = uneven(**EXPORTED[name])
    write_gguf(model, Bytes(), tmp_path / "x", dtype=dtype, name="small")
    server, compared = llama_cpp(tmp_path / "x" / "model.gguf"), 0
    for prompt in PROMPTS:
        theirs = log_probabilities(server, list(prompt.encode()), 256)
        with torch.no_grad():
            ours = torch.log_softmax(model(torch.tensor([list(prompt.encode())]))[0, -1].double(), -1)
        assert all(abs(value - ours[token].item()) < BOUNDS[dtype] for token, value in theirs.items())
        compared += len(theirs) == 256
    assert compared >= 2


@with_llama_cpp
def test_llama_cpp_reads_text_as_our_tokenizer_does(tmp_path):
    text = "the cat sat on the mat, they'd said; naïve café 42 times\n" * 3
    tokenizer = train_bpe("bpe:320", 320, [text])
    model = uneven(tokenizer.vocab_size + 7, norms="pre")  # a vocabulary wider than its tokenizer's
    write_gguf(model, tokenizer, tmp_path / "x", name="small")
    server, compared = llama_cpp(tmp_path / "x" / "model.gguf"), 0
    for prompt in ("the cat sat", "said; na", "mat, they'd", "42 times", "on the", "the"):
        by_text = log_probabilities(server, prompt, 40)
        assert by_text == pytest.approx(log_probabilities(server, tokenizer.encode(prompt), 40), abs=1e-5)
        compared += bool(by_text)
    assert compared >= 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, 'norms = "pre" or tied = true'),
        ({"norms": "pre", "activation": "geglu"}, "--format hf"),
        ({"activation": "relu2"}, "no stock architecture"),
    ],
)
def test_what_llama_cpp_has_not_names_what_would_do(options, reason):
    with pytest.raises(UserError, match=reason):
        gguf_architecture(model_config(**options))


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
def test_a_tokenizer_that_gguf_has_not_is_refused(tmp_path):
    import tokenizers

    from allometry.data.tokenizer import Subwords

    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    with pytest.raises(UserError, match="--format hf keeps this one"):
        write_gguf(uneven(3, norms="pre"), Subwords("words", library.to_str().encode()), tmp_path / "x", name="x")
    with pytest.raises(UserError, match="float32, bfloat16, q8_0"):
        write_gguf(uneven(norms="pre"), Bytes(), tmp_path / "x", dtype="q2", name="x")
    assert not list(tmp_path.iterdir())

"""How tokens are drawn: against a reference in plain Python, against transformers, and by what each option promises."""

import importlib.util
import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry.errors import UserError
from allometry.lm.inference.sampling import Sampling

options = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([1.0, 0.5, 1.3, 2.0]),
        "temperature": st.sampled_from([0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 3, 50]),
        "top_p": st.sampled_from([1.0, 0.95, 0.6, 1e-9]),
        "min_p": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    }
)
drawn_logits = st.integers(0, 10_000).map(
    lambda seed: torch.randn(12, generator=torch.Generator().manual_seed(seed)) * 3
)


def reference(logits: list[float], text: list[int], sampling: Sampling) -> list[float]:
    """The definitions, one token at a time."""
    penalty = sampling.repetition_penalty
    logits = [(x / penalty if x > 0 else x * penalty) if token in text else x for token, x in enumerate(logits)]
    weights = [math.exp((x - max(logits)) / sampling.temperature) for x in logits]
    ranked = sorted(range(len(weights)), key=lambda token: -weights[token])
    kept = ranked[: sampling.top_k] if sampling.top_k else ranked
    total, mass, nucleus = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        if mass >= sampling.top_p * total:
            break
        nucleus.append(token)
        mass += weights[token]
    nucleus = [token for token in nucleus if weights[token] >= sampling.min_p * weights[ranked[0]]]
    odds = [weights[token] if token in nucleus else 0.0 for token in range(len(weights))]
    return [x / sum(odds) for x in odds]


@given(drawn_logits, options)
def test_probabilities_are_those_of_the_definitions(logits, values):
    sampling, text = Sampling(**values), [0, 5, 5, 7]
    odds = sampling.probabilities(logits, text)
    torch.testing.assert_close(odds / odds.sum(), torch.tensor(reference(logits.tolist(), text, sampling)).double())


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@given(drawn_logits, options)
def test_probabilities_are_those_of_transformers(logits, values):
    from transformers.generation import logits_process as hf

    sampling, text = Sampling(**values), torch.tensor([[0, 5, 5, 7]])
    processors = [
        hf.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        hf.TemperatureLogitsWarper(sampling.temperature),
    ]
    processors += [hf.TopKLogitsWarper(sampling.top_k)] if sampling.top_k > 0 else []
    processors += [hf.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    processors += [hf.MinPLogitsWarper(sampling.min_p)] if sampling.min_p > 0 else []
    scores = logits[None].double()
    for processor in processors:
        scores = processor(text, scores)
    odds = sampling.probabilities(logits, text[0].tolist())
    torch.testing.assert_close(odds / odds.sum(), torch.softmax(scores[0], -1))


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampling = Sampling(temperature=1.0, top_k=3, seed=4)
    generator = sampling.generator()
    counts = Counter(sampling.choose(logits, [], generator) for _ in range(4000))
    expected = torch.softmax(logits[:3], -1)
    assert counts[3] == 0
    for token, share in enumerate(expected.tolist()):
        assert abs(counts[token] / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)


def test_temperature_zero_takes_the_likeliest_after_the_penalty():
    logits = torch.tensor([3.0, 2.9, -1.0])
    generator = torch.Generator()
    assert Sampling(temperature=0).choose(logits, [0], generator) == 0
    assert Sampling(temperature=0, repetition_penalty=1.5).choose(logits, [0], generator) == 1


def test_the_lowest_temperature_is_the_likeliest():
    assert Sampling(temperature=1e-3).choose(torch.tensor([0.0, 80.0, 79.0]), [], torch.Generator()) == 1


@pytest.mark.parametrize(
    "values",
    [
        *({"temperature": value} for value in (math.nan, math.inf, -1.0, 1e-320, 1e-4)),
        *({"top_p": value} for value in (0.0, -0.1, 1.1, math.nan)),
        *({"min_p": value} for value in (-0.1, 1.1, math.nan)),
        *({"repetition_penalty": value} for value in (0.0, -1.0, math.nan, math.inf, 1e-300)),
        {"top_k": -1},
        {"seed": -1},
        {"seed": 1 << 70},
    ],
    ids=str,
)
def test_values_out_of_range_are_one_line(values):
    with pytest.raises(UserError) as caught:
        Sampling(**values)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_of_a_diverged_model_are_one_line(value):
    for sampling in (Sampling(), Sampling(temperature=0)):
        with pytest.raises(UserError, match="not finite"):
            sampling.choose(torch.tensor([0.0, value]), [], torch.Generator())

"""Published laws of other inputs than parameters and tokens: experts, vocabulary, mixtures, fine-tuning, precision …

Each is linear in its floor and coefficients, so that ``laws.forecast(runs, laws=["experts"])`` solves for them exactly,
in every group of a table. They read columns of these names; sizes and tokens also under their usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import UserError
from ..base import by_name
from .formula import COEFFICIENT, EXPONENT, FLOOR, SIZE_AND_DATA, Formula, size_and_data

MIXING = "mixing"


@dataclass(frozen=True)
class Experts(Formula):
    """Routed experts E beside dense parameters N: they help less in larger models, and saturate."""

    name: ClassVar[str] = "experts"
    formula: ClassVar[str] = "L = k·N^a·Ê^(b + c·log N), 1/Ê = 1/(E − 1 + 1/(1/E_start − 1/E_max)) + 1/E_max"
    source: ClassVar[str] = "arXiv 2202.01169, equations 1 and 2 (logarithms to the base 10)"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "num_experts")
    constants: ClassVar = {
        "k": COEFFICIENT,
        "a": (-0.5, 0.0),
        "b": (-0.5, 0.1),
        "c": (-0.05, 0.05),
        "E_start": (1.01, 20.0),
        "E_max": (30.0, 1e4),
    }

    def evaluate(self, c, n, experts):
        beyond_one = experts - 1 + 1 / (1 / c["E_start"] - 1 / c["E_max"])
        saturated = 1 / (1 / beyond_one + 1 / c["E_max"])
        return c["k"] * n ** c["a"] * saturated ** (c["b"] + c["c"] * np.log10(n))


@dataclass(frozen=True)
class ExpertSparsity(Formula):
    """A mixture of experts of N parameters of which the share S is not active."""

    name: ClassVar[str] = "expert_sparsity"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β + C/(1 − S)^λ + F/((1 − S)^δ·N^γ)"
    source: ClassVar[str] = "arXiv 2501.12370, its law over size, tokens and sparsity"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens", "sparsity")
    constants: ClassVar = SIZE_AND_DATA | {
        "C": COEFFICIENT,
        "F": COEFFICIENT,
        "lambda": (-1.0, 1.0),
        "delta": (-1.0, 1.0),
        "gamma": EXPONENT,
    }

    def evaluate(self, c, n, d, sparsity):
        active = 1 - sparsity
        both = c["F"] / (active ** c["delta"] * n ** c["gamma"])
        return size_and_data(c, n, d) + c["C"] / active ** c["lambda"] + both


@dataclass(frozen=True)
class Vocabulary(Formula):
    """Parameters in and outside the vocabulary, and characters seen; the target is normalised by unigrams."""

    name: ClassVar[str] = "vocabulary"
    formula: ClassVar[str] = "L = E + A/N^α + B/N_v^γ + C/H^β"
    source: ClassVar[str] = "arXiv 2407.13623, its loss of non-vocabulary and vocabulary parameters and characters"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "vocab_params", "characters")
    constants: ClassVar = {
        "E": FLOOR,
        "A": COEFFICIENT,
        "B": COEFFICIENT,
        "C": COEFFICIENT,
        "alpha": EXPONENT,
        "gamma": EXPONENT,
        "beta": EXPONENT,
    }

    def evaluate(self, c, n, vocabulary, characters):
        inside = c["B"] / vocabulary ** c["gamma"]
        return c["E"] + c["A"] / n ** c["alpha"] + inside + c["C"] / characters ** c["beta"]


@dataclass(frozen=True)
class Rectified(Formula):
    """Loss after fine-tuning on n samples: what was learnt before counts as n0^β more."""

    name: ClassVar[str] = "rectified"
    formula: ClassVar[str] = "L = E + B/(P + n^β)"
    source: ClassVar[str] = "arXiv 2402.02314, the rectified scaling law"
    inputs: ClassVar[tuple[str, ...]] = ("samples",)
    constants: ClassVar = {"E": FLOOR, "B": COEFFICIENT, "P": (0.1, 1e5), "beta": EXPONENT}

    def evaluate(self, c, samples):
        return c["E"] + c["B"] / (c["P"] + samples ** c["beta"])


@dataclass(frozen=True)
class Parallel(Formula):
    """P streams of one model, joined: worth a model larger by k·ln P + 1."""

    name: ClassVar[str] = "parallel"
    formula: ClassVar[str] = "L = E + A/(N·(k·ln P + 1))^α"
    source: ClassVar[str] = "arXiv 2505.10475, its parallel scaling law"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "parallel_size")
    constants: ClassVar = {"E": FLOOR, "A": COEFFICIENT, "k": (0.01, 10.0), "alpha": EXPONENT}

    def evaluate(self, c, n, streams):
        return c["E"] + c["A"] / (n * (c["k"] * np.log(streams) + 1)) ** c["alpha"]


@dataclass(frozen=True)
class WeightSparsity(Formula):
    """Weights pruned to the sparsity S: fewer of N count, and the data term is as ever."""

    name: ClassVar[str] = "weight_sparsity"
    formula: ClassVar[str] = "L = E + (A·(1 − S)^b + C)/N^α + B/D^β"
    source: ClassVar[str] = "arXiv 2309.08520, its joint law of sparsity, weights and data"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens", "sparsity")
    constants: ClassVar = SIZE_AND_DATA | {"C": COEFFICIENT, "b": (-1.0, 2.0)}

    def evaluate(self, c, n, d, sparsity):
        return size_and_data(c | {"A": c["A"] * (1 - sparsity) ** c["b"] + c["C"]}, n, d)


@dataclass(frozen=True)
class Precision(Formula):
    """Training at few bits: each of weights, activations and KV cache makes fewer parameters count."""

    name: ClassVar[str] = "precision"
    formula: ClassVar[str] = "L = E + A/N'^α + B/D^β, N' = N·Π(1 − e^(−bits/γ))"
    source: ClassVar[str] = "arXiv 2411.04330, its law of training precision"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens", "weight_bits", "activation_bits", "kv_bits")
    constants: ClassVar = SIZE_AND_DATA | {
        "gamma_w": (0.1, 20.0),
        "gamma_a": (0.1, 20.0),
        "gamma_kv": (0.1, 20.0),
    }

    def evaluate(self, c, n, d, weights, activations, cache):
        count = n
        for bits, scale in ((weights, "gamma_w"), (activations, "gamma_a"), (cache, "gamma_kv")):
            count = count * (1 - np.exp(-bits / c[scale]))
        return size_and_data(c, count, d)


@dataclass(frozen=True)
class ErrorOfLoss(Formula):
    """The error of downstream tasks, averaged, from the loss: it falls to its least as the loss falls."""

    name: ClassVar[str] = "error_of_loss"
    formula: ClassVar[str] = "error = ε − k·e^(−γ·L)"
    source: ClassVar[str] = "arXiv 2403.08540, its law of average top-1 error"
    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    constants: ClassVar = {"epsilon": FLOOR, "k": COEFFICIENT, "gamma": (0.05, 5.0)}

    def evaluate(self, c, loss):
        return c["epsilon"] - c["k"] * np.exp(-c["gamma"] * loss)


@dataclass(frozen=True)
class BoundedRepetition(Formula):
    """Too small, too short, overfitted: between a floor and the loss of no training, E + S."""

    name: ClassVar[str] = "bounded_repetition"
    formula: ClassVar[str] = "L = E + S·h/(1 + h), h = (N_0/N)^α + (D_0/D)^β + (c·N^κ/U)^δ"
    source: ClassVar[str] = "arXiv 2605.09189, its closed form (c·N^γ/D^δ there, with γ = κ·δ)"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens", "unique_tokens")
    constants: ClassVar = {
        "E": FLOOR,
        "S": COEFFICIENT,
        "N_0": (1.0, 1e9),
        "D_0": (1e2, 1e11),
        "c": (1e-6, 1e8),
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "kappa": (0.05, 2.0),
        "delta": EXPONENT,
    }

    def evaluate(self, c, n, d, unique):
        small, short = (c["N_0"] / n) ** c["alpha"], (c["D_0"] / d) ** c["beta"]
        wanting = small + short + (c["c"] * n ** c["kappa"] / unique) ** c["delta"]
        return c["E"] + c["S"] * wanting / (1 + wanting)


@dataclass(frozen=True)
class OverTraining(Formula):
    """Compute C = 6·N·D and tokens a parameter M = D/N: training for longer moves a parallel line upwards."""

    name: ClassVar[str] = "over_training"
    formula: ClassVar[str] = "L = E + (a·M^η + b·M^−η)·C^−η, C = 6·N·D, M = D/N"
    source: ClassVar[str] = "arXiv 2403.08540, equation 4"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens")
    constants: ClassVar = {"E": FLOOR, "a": COEFFICIENT, "b": COEFFICIENT, "eta": (0.01, 0.75)}

    def evaluate(self, c, n, d):
        longer, compute = (d / n) ** c["eta"], (6 * n * d) ** -c["eta"]
        return c["E"] + (c["a"] * longer + c["b"] / longer) * compute


@dataclass(frozen=True)
class Distillation(Formula):
    """A student of N parameters on D tokens of a teacher: the teacher's loss, and what the student cannot follow.

    A teacher far better than the student could be alone is of less use.
    """

    name: ClassVar[str] = "distillation"
    formula: ClassVar[str] = (
        "L = t·L_T + k·L_T^−c_0·(1 + (L_T/(d_1·L_S))^(1/f_1))^(−c_1·f_1)·((10⁸/N)^α + r·(10¹⁰/D)^β)^γ, "
        "L_S the student's loss alone"
    )
    source: ClassVar[str] = "arXiv 2502.08606, its distillation law (there t = 1)"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens", "teacher_loss", "loss_alone")
    constants: ClassVar = {
        "t": COEFFICIENT,
        "k": COEFFICIENT,
        "c_0": (0.0, 6.0),
        "c_1": (0.1, 1e4),
        "d_1": (0.3, 5.0),
        "f_1": (0.01, 1.0),
        "r": (1e-3, 1e3),
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "gamma": (0.1, 2.0),
    }

    def evaluate(self, c, n, d, teacher, alone):
        ahead = np.log1p((teacher / (c["d_1"] * alone)) ** (1 / c["f_1"]))
        student = ((1e8 / n) ** c["alpha"] + c["r"] * (1e10 / d) ** c["beta"]) ** c["gamma"]
        factor = teacher ** -c["c_0"] * np.exp(-c["c_1"] * c["f_1"] * ahead)
        return c["t"] * teacher + c["k"] * factor * student


def mixing_law(proportions: Sequence[str]) -> Formula:
    """L = E + k·exp(Σ t·r) over the proportions r of these columns (arXiv 2403.16952, the data mixing law).

    Raises:
        UserError: fewer than two columns.
    """
    names = tuple(proportions)
    if len(names) < 2:
        raise UserError("a mixture has at least two proportions: name their columns")

    @dataclass(frozen=True)
    class Mixing(Formula):
        name: ClassVar[str] = MIXING
        formula: ClassVar[str] = "L = E + k·exp(Σ t·r)"
        source: ClassVar[str] = "arXiv 2403.16952, the data mixing law"
        inputs: ClassVar[tuple[str, ...]] = names
        constants: ClassVar = {"E": FLOOR, "k": COEFFICIENT} | {f"t{n + 1}": (-15.0, 15.0) for n in range(len(names))}

        def evaluate(self, c, *shares):
            exponent = sum(c[f"t{number + 1}"] * share for number, share in enumerate(shares))
            return c["E"] + c["k"] * np.exp(exponent)

    return Mixing()


INPUT_LAWS: dict[str, Formula] = {
    each.name: each
    for each in (
        Experts(),
        ExpertSparsity(),
        Vocabulary(),
        Rectified(),
        Parallel(),
        WeightSparsity(),
        Precision(),
        ErrorOfLoss(),
        BoundedRepetition(),
        OverTraining(),
        Distillation(),
    )
}


def input_law(name: str | Formula) -> Formula:
    """The law of that name; a ``Formula`` is returned as it is.

    Raises:
        UserError: no such law; the known ones are named.
    """
    return name if isinstance(name, Formula) else by_name(name, INPUT_LAWS, "law of named inputs")

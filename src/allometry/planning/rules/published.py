"""Every published batch-size and learning-rate rule: formula, source, range, and the evidence for and against it.

``carry_baseline(100, 200, 0.01, factor=2)`` carries a baseline to another size by each rule;
``recommend(num_params, tokens)`` gives the published batch and learning rate by each rule, and
``compare(num_params, tokens)`` shows all of them side by side, including those without a value.

"Regret" below is the loss above the best loss of a grid, in thousandths of the best, averaged over the 17 grids of
(learning rate, batch) that accompany the Step Law (arXiv 2503.04715): ``benchmarks/step_law.py`` measures it.
"""

from __future__ import annotations

from ...errors import UserError
from .formulas import LogLinear, MeasuredRange, PowerLaw
from .rule_types import OPTIMIZERS, Rule

_UNCHANGED = PowerLaw()
_TRANSFER = (
    Rule(
        name="proportional",
        formula="M ∝ B ∝ L: model size, batch and learning rate grow by the same factor",
        source="folk rule; no paper",
        applies="any model; a first guess only",
        note="Size, batch and learning rate are all multiplied by the factor.",
        evidence=(
            "Nothing measured supports a learning rate that grows with the model: in every published fit it decreases "
            "or stays the same (Step Law N^-0.713, Porian N^-1/3, μP 1/width)."
        ),
        batch=PowerLaw(num_params=1.0),
        lr=PowerLaw(num_params=1.0),
        optimizers=OPTIMIZERS,
        units="any: only ratios matter",
    ),
    Rule(
        name="sqrt",
        formula="B' = B·factor, η' = η·√(B'/B), β2' = β2^(B'/B)",
        source="arXiv 2205.10287",
        applies="Adam and AdamW, when the batch grows",
        note="That the batch grows with the size is our choice, not the paper's; the learning rate follows the batch.",
        evidence="Does not consider width or depth: without μP a wider model needs a lower lr than this.",
        batch=PowerLaw(num_params=1.0),
        lr=PowerLaw(num_params=0.5),
        units="any: only ratios matter",
        carries_beta2=True,
    ),
    Rule(
        name="linear",
        formula="B' = B·factor, η' = η·B'/B",
        source="arXiv 2205.10287, against which it sets Adam's square root",
        applies="SGD, when the batch grows",
        note="That the batch grows with the size is our choice, not the paper's; the learning rate follows the batch.",
        evidence="For Adam the square root holds, not this. Fails above the critical batch size.",
        batch=PowerLaw(num_params=1.0),
        lr=PowerLaw(num_params=1.0),
        optimizers=("sgd",),
        units="any: only ratios matter",
    ),
    Rule(
        name="mup",
        formula="width × √factor at fixed depth; hidden matrices' Adam lr × 1/√factor; batch unchanged",
        source="arXiv 2203.03466, 2407.17465",
        applies="Adam and AdamW in the μP parametrisation, growth by width alone",
        note=(
            "lr is the learning rate of the hidden matrices (1/width; N ∝ width² at fixed depth); those of embedding, "
            "norms and biases stay the same. If a μP library already divides by the width, its base lr stays the same. "
            "μP does not give a batch: if tokens grow, take it from a rule in D (step_law, three_term)."
        ),
        evidence="Transfers over width at fixed tokens and batch; more tokens move the best lr and batch (Step Law).",
        batch=_UNCHANGED,
        lr=PowerLaw(num_params=-0.5),
        units="any: only ratios matter",
    ),
    Rule(
        name="u_mup",
        formula="width × √factor at fixed depth; base learning rate and batch unchanged",
        source="arXiv 2407.17465",
        applies="Adam and AdamW in the u-μP parametrisation, growth by width alone",
        note=(
            "lr is the base learning rate: u-μP itself divides it (η/√fan_in for hidden matrices at unit weights). "
            "It does not give a batch: if tokens grow, take it from a rule in D (step_law, three_term)."
        ),
        evidence="The best lr at width 256 is about the best at 4096 at fixed tokens and batch; more tokens move it.",
        batch=_UNCHANGED,
        lr=_UNCHANGED,
        units="any: only ratios matter",
    ),
    Rule(
        name="completep",
        formula="width, depth × factor^(1/3); hidden Adam lr × factor^(-1/3); residual branch × L₀/L; batch unchanged",
        source="arXiv 2505.01618",
        applies="AdamW in the CompleteP parametrisation, equal growth of width and depth",
        note=(
            "N ∝ depth·width², so each grows by the cube root at a fixed aspect ratio. lr is that of the hidden "
            "matrices (1/width, unchanged by depth); weight decay × width factor, ε × 1/(width factor · depth factor). "
            "If tokens grow, take the batch from a rule in D (step_law, three_term)."
        ),
        batch=_UNCHANGED,
        lr=PowerLaw(num_params=-1 / 3),
        units="any: only ratios matter",
    ),
    Rule(
        name="gradient_noise",
        formula="B_noise = S/G²: the batch at which the noise of the gradient equals its size; σ ∝ 1/√B",
        source="arXiv 1812.06162",
        applies="any optimizer; measured on the run itself",
        note="must be measured: planning.gradient_noise, from squared gradient norms at two or more batch sizes",
        optimizers=OPTIMIZERS,
    ),
)
_PUBLISHED = (
    Rule(
        name="kaplan",
        formula="B_crit = 2e8 / L^(1/0.21), η = 0.003239 − 0.0001395·ln N",
        source="arXiv 2001.08361",
        applies="Adam; critical (not best) batch at a loss in nats a token",
        note="The batch needs the loss. The learning rate has no value above about 1.2e10 parameters.",
        batch=PowerLaw(2e8, loss=-1 / 0.21),
        lr=LogLinear(0.003239, -0.0001395),
        measured=MeasuredRange(num_params=(768, 1.5e9)),
    ),
    Rule(
        name="deepseek",
        formula="B = 0.2920·C^0.3271, η = 0.3118·C^-0.125",
        source="arXiv 2401.02954",
        applies="AdamW, multi-step schedule, compute-optimal runs",
        note="C = M·D with M = 72·layers·d² + 12·layers·d·sequence: give flops if attention matters; else C = 6·N·D.",
        evidence="Regret 8.3 ‰ with C = 6·N·D.",
        batch=PowerLaw(0.2920, flops=0.3271),
        lr=PowerLaw(0.3118, flops=-0.125),
        measured=MeasuredRange(flops=(1e17, 2e19)),
    ),
    Rule(
        name="step_law",
        formula="B = 0.58·D^0.571, η = 1.79·N^-0.713·D^0.307",
        source="arXiv 2503.04715",
        applies="AdamW, standard parametrisation, cosine to a fixed small final rate",
        note="Batch from tokens alone; the learning rate decreases with the size and increases with the tokens.",
        evidence="Regret 1.2 ‰, on the grids to which it was fitted.",
        batch=PowerLaw(0.58, tokens=0.571),
        lr=PowerLaw(1.79, num_params=-0.713, tokens=0.307),
        measured=MeasuredRange(num_params=(0.2e9, 1.1e9), tokens=(4e9, 100e9)),
    ),
    Rule(
        name="moonlight",
        formula="B = 0.0065·C^0.4138, η = 0.0127·C^-0.057",
        source="arXiv 2502.16982",
        applies="AdamW and Muon with matched update size",
        note="C = 6·N·D.",
        evidence="Regret 10.4 ‰: worse than a fixed learning rate of 1e-3 and batch of 0.5 M (7.0 ‰).",
        batch=PowerLaw(0.0065, flops=0.4138),
        lr=PowerLaw(0.0127, flops=-0.057),
    ),
    Rule(
        name="porian",
        formula="B = 2048·160·(N/108M)^(2/3), η = 0.0047·(N/108M)^(-1/3)",
        source="arXiv 2406.19146",
        applies="AdamW, compute-optimal runs",
        note="β2 0.99 for small batches. Measured at a fixed ratio of tokens to size; not valid at others.",
        evidence="Regret 6.5 ‰.",
        batch=PowerLaw(2048 * 160, num_params=2 / 3, reference=108e6),
        lr=PowerLaw(0.0047, num_params=-1 / 3, reference=108e6),
    ),
    Rule(
        name="minicpm",
        formula="B = 1.21e9 / L^6.24, η ≈ 0.01 under μP",
        source="arXiv 2404.06395",
        applies="AdamW in μP, warmup–stable–decay",
        note="The batch needs the loss, in nats a token on C4; the base learning rate does not change with the size.",
        evidence="The loss depends on tokenizer and corpus: on others the constant does not hold.",
        batch=PowerLaw(1.21e9, loss=-6.24),
        lr=PowerLaw(0.01),
    ),
    Rule(
        name="power_lines",
        formula="B_opt = 2048·0.0306·D^0.383, B_crit ∝ D^0.462, τ = B/(η·λ·D) = 1.084·(D/N)^-0.527",
        source="arXiv 2505.13738",
        applies="AdamW with weight decay λ",
        note=(
            "No learning rate of its own: the paper keeps μP's and sets λ by τ. Carried from a baseline at unchanged "
            "weight decay, τ gives η ∝ B·D^-1·(D/N)^0.527."
        ),
        evidence="Its batch with the Step Law's learning rate: regret 1.93 ‰.",
        batch=PowerLaw(2048 * 0.0306, tokens=0.383),
        lr=PowerLaw(num_params=-0.527, tokens=0.383 - 1 + 0.527),
        measured=MeasuredRange(num_params=(111e6, 3.3e9)),
    ),
    Rule(
        name="three_term",
        formula="B = 0.667·D^0.566",
        source="arXiv 2607.01487",
        applies="batch alone",
        note="Within a factor of about 4 in B, the same loss costs at most 5 % more compute. No learning rate.",
        batch=PowerLaw(0.667, tokens=0.566),
    ),
)
RULES: dict[str, Rule] = {rule.name: rule for rule in (*_TRANSFER, *_PUBLISHED)}


def rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        UserError: there is none; the message lists the known ones.
    """
    if name not in RULES:
        raise UserError(f"unknown rule {name!r}; known: {', '.join(RULES)}")
    return RULES[name]

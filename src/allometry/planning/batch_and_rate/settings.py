"""The settings of a planned training: batch, learning rate, warmup, decay and weight decay, each with its interval.

Batch and learning rate come from a response surface of the user's own runs, from the user's own function, or from a
published rule; the interval is the surface's own, or the spread of all comparable rules. The rest follows published
sources:

- Warmup over 2000 steps (arXiv 2401.02954), at most a twentieth of the run: in short runs longer ones cost loss, and as
  many tokens as the model has parameters do (2406.19146), which is a twentieth at 20 tokens a parameter.
- Warmup–stable–decay with the decay over the last 10 to 20 % of the tokens (2405.18392).
- Weight decay λ from the AdamW timescale τ = B/(η·λ·D) = 1.084·(D/N)^−0.527 (2505.13738).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace

from ...errors import UserError
from ...quantities import format_count, require_positive
from ..rules import Recommendation, recommend
from ..rules import rule as rule_of
from .surface import Surface

DEFAULT_RULE = "step_law"
DECAY = (0.1, 0.2)
WARMUP_SHARE = 1 / 20
WARMUP_STEPS = 2000
# Rules for AdamW in the standard parametrisation, whose batches and learning rates mean the same. MiniCPM's learning
# rate is μP's; Kaplan's batch is the critical one, and its learning rate falls to zero at 12B parameters.
_COMPARABLE = {
    "batch_tokens": ("deepseek", "step_law", "moonlight", "porian", "three_term"),
    "lr": ("deepseek", "step_law", "moonlight", "porian"),
}

BatchAndRate = Callable[[float, float], Iterable[float]]
"""From (num_params, tokens) to (batch in tokens, learning rate)."""


@dataclass(frozen=True)
class Interval:
    """The values between which a choice of the plan may lie (``high`` None: no upper end), and their source."""

    low: float
    high: float | None
    source: str

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How the planned model is trained; batch and warmup in tokens, decay as a share of the run.

    ``warmup_tokens``, ``decay`` and ``weight_decay`` are None if a recipe decides on them. ``rule`` is where batch and
    learning rate come from: the name of a rule, "surface" or "recipe".
    """

    batch: float
    lr: float
    rule: str
    recommendations: dict[str, Recommendation]
    warmup_tokens: float | None = None
    decay: float | None = None
    weight_decay: float | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def in_whole_rows(self, row_tokens: float) -> Settings:
        """With a batch of whole rows (sequences); that of a recipe is the user's own, and stays."""
        if self.rule == "recipe" or row_tokens <= 1:
            return self
        return self.with_batch(row_tokens * max(1, round(self.batch / row_tokens)))

    def with_batch(self, batch: float) -> Settings:
        """With a batch that suits rows or devices better; its interval holds it."""
        spread = self.intervals.get("batch")
        if spread is None:
            return replace(self, batch=batch)
        high = None if spread.high is None else max(spread.high, batch)
        spread = Interval(min(spread.low, batch), high, spread.source)
        return replace(self, batch=batch, intervals=self.intervals | {"batch": spread})


def choose_settings(
    num_params: float,
    tokens: float,
    flops: float | None,
    *,
    surface: Surface | None = None,
    recipe: BatchAndRate | None = None,
    rule: str = DEFAULT_RULE,
    least_batch: float = 1.0,
    level: float = 0.9,
) -> Settings:
    """The settings for a size and tokens, by the surface or recipe if there is one, else by the rule.

    Args:
        num_params: non-embedding.
        tokens: of training.
        flops: of training, counted from the shapes; None: 6·N·D.
        surface: of the user's own runs.
        recipe: from (num_params, tokens) to a batch in tokens and a learning rate.
        rule: a name of ``rules.RULES``.
        least_batch: one sequence, in tokens.
        level: of a surface's intervals.

    Raises:
        UserError: a surface and a recipe, an unknown rule, one that gives no batch or learning rate here, a recipe
            without numbers above zero, fewer tokens than one batch.
    """
    recommendations = recommend(num_params, tokens, flops)
    if surface is not None and recipe is not None:
        raise UserError("give a surface or a recipe, not both")
    if surface is not None:
        settings = _by_surface(surface, num_params, tokens, recommendations, level)
    elif recipe is not None:
        batch, lr = recipe(num_params, tokens)
        require_positive(batch_of_the_recipe=batch, learning_rate_of_the_recipe=lr)
        settings = Settings(float(batch), float(lr), "recipe", recommendations)
    else:
        settings = _by_rule(rule, num_params, tokens, recommendations, least_batch)
    if settings.batch > tokens:
        raise UserError(
            f"the budget buys {format_count(tokens)} tokens, less than one batch of {format_count(settings.batch)}: "
            "give a larger budget or a smaller batch"
        )
    return settings


def timescale(num_params: float, tokens: float) -> float:
    """AdamW's best τ as a share of the run: 1.084·(D/N)^−0.527 (arXiv 2505.13738)."""
    return 1.084 * (tokens / num_params) ** -0.527


def _by_surface(
    surface: Surface, num_params: float, tokens: float, recommendations: dict[str, Recommendation], level: float
) -> Settings:
    best = surface.optimum(num_params, tokens, level=level)
    batch, lr = float(best.batch_tokens.value), float(best.lr.value)
    source = f"{100 * level:g} % interval of the surface"
    batches = Interval(float(best.batch_tokens.low), float(best.batch_tokens.high), source)
    rates = Interval(float(best.lr.low), float(best.lr.high), source)
    corners: list[tuple[float | None, float | None]] = [
        (float(best.batch_tokens.low), float(best.lr.high)),
        (float(best.batch_tokens.high), float(best.lr.low)),
    ]
    schedule, intervals = _schedule(num_params, tokens, batch, lr, corners, source)
    outside = surface.outside(num_params, tokens)
    notes = [f"batch and learning rate: beyond the surface's runs: {'; '.join(outside)}"] if outside else []
    return Settings(
        batch, lr, "surface", recommendations, **schedule,
        intervals={"batch": batches, "lr": rates} | intervals, notes=tuple(notes),
    )  # fmt: skip


def _by_rule(
    rule: str, num_params: float, tokens: float, recommendations: dict[str, Recommendation], least_batch: float
) -> Settings:
    rule_of(rule)
    chosen = recommendations.get(rule)
    if chosen is None or chosen.batch_tokens is None or chosen.lr is None:
        able = [name for name, each in recommendations.items() if each.batch_tokens and each.lr]
        raise UserError(f"rule {rule!r} gives no batch and learning rate here; these do: {', '.join(able)}")
    notes = [f"batch and learning rate by {rule} ({chosen.source}), not by your own runs"]
    if chosen.warning:
        notes.append(f"{rule}: {chosen.warning}")
    batch, lr = float(chosen.batch_tokens), float(chosen.lr)
    if batch < least_batch:
        notes.append(f"{rule} asks for a batch of {format_count(batch)} tokens; one sequence is the least")
        batch = least_batch
    pairs = [(each.batch_tokens, each.lr) for name, each in recommendations.items() if name in _COMPARABLE["lr"]]
    schedule, intervals = _schedule(num_params, tokens, batch, lr, pairs, "each rule's batch and learning rate")
    intervals |= {
        "batch": _spread(recommendations, "batch_tokens", batch),
        "lr": _spread(recommendations, "lr", lr),
    }
    return Settings(batch, lr, rule, recommendations, **schedule, intervals=intervals, notes=tuple(notes))


def _schedule(
    num_params: float,
    tokens: float,
    batch: float,
    lr: float,
    pairs: list[tuple[float | None, float | None]],
    source: str,
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Warmup, decay and weight decay for a batch and learning rate, with intervals; ``pairs`` are other such pairs."""
    short, long = sorted(min(length, WARMUP_SHARE * tokens) for length in (num_params, WARMUP_STEPS * batch))
    weight_decay = lambda batch, lr: float(batch / (lr * tokens * timescale(num_params, tokens)))
    schedule = {
        "warmup_tokens": min(WARMUP_STEPS * batch, WARMUP_SHARE * tokens),
        "decay": DECAY[1],
        "weight_decay": weight_decay(batch, lr),
    }
    others = [weight_decay(batch, lr) for batch, lr in pairs if batch is not None and lr is not None]
    intervals = {
        "warmup_tokens": Interval(short, long, "as many tokens as parameters (2406.19146), or 2000 steps (2401.02954)"),
        "decay": Interval(*DECAY, "warmup–stable–decay (2405.18392)"),
        "weight_decay": _around(others, schedule["weight_decay"], f"τ of 2505.13738 with {source}"),
    }
    return schedule, intervals


def _spread(recommendations: dict[str, Recommendation], axis: str, chosen: float) -> Interval:
    """The range of what the comparable rules give."""
    answers = [recommendations[name] for name in _COMPARABLE[axis] if name in recommendations]
    values = {each.rule: each.lr if axis == "lr" else each.batch_tokens for each in answers}
    known = {name: value for name, value in values.items() if value is not None}
    return _around(list(known.values()), chosen, f"spread of {', '.join(known)}")


def _around(values: list[float], chosen: float, source: str) -> Interval:
    return Interval(float(min((*values, chosen))), float(max((*values, chosen))), source)

"""Several rules applied to one case, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ...quantities import format_count, format_flops
from .formulas import Point, PowerLaw
from .published import RULES, rule
from .rule_types import Baseline, CarriedBaseline, Recommendation, Rule


def carry_baseline(
    params: float,
    batch: float,
    lr: float,
    factor: float,
    tokens: float | None = None,
    names: Iterable[str] | None = None,
    *,
    token_factor: float | None = None,
    optimizer: str = "adamw",
    beta2: float | None = None,
    losses: tuple[float, float] | None = None,
) -> dict[str, CarriedBaseline]:
    """Carry a baseline (model size M, batch B, learning rate L) to ``factor`` times its size, by each rule.

    Units of batch and learning rate are the caller's own. Tokens grow by ``token_factor``, by default as the size
    does (fixed tokens per parameter). Without ``names``: every rule that holds for the optimizer. ``losses`` is
    (baseline, target).

    Raises:
        UserError: a number is not above zero, a rule or optimizer is unknown, or a named rule is not for the optimizer.
    """
    baseline = Baseline(params, batch, lr, tokens, optimizer, beta2)
    if names is None:
        chosen = [each for each in RULES.values() if optimizer in each.optimizers and not each.is_measurement]
    else:
        chosen = [rule(name) for name in names]
    return {each.name: each.carry(baseline, factor, token_factor=token_factor, losses=losses) for each in chosen}


def recommend(
    num_params: float,
    tokens: float,
    flops: float | None = None,
    loss: float | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, Recommendation]:
    """Batch in tokens and learning rate by every rule that has a value there, side by side.

    Args:
        num_params: non-embedding parameters.
        tokens: training tokens.
        flops: training FLOPs, 6·N·D if not given.
        loss: expected final loss in nats a token, for ``kaplan`` and ``minicpm``.
        names: these rules only; a rule without an absolute value is then an error.

    Raises:
        UserError: a number is not above zero, or a named rule is unknown or gives no absolute value.
    """
    if names is not None:
        return {name: rule(name).recommend(num_params, tokens, flops, loss) for name in names}
    point = Point(num_params, tokens, flops, loss)
    answers = (each.answer(point) for each in RULES.values())
    return {answer.rule: answer for answer in answers if answer is not None}


@dataclass(frozen=True)
class Compared:
    """One rule at one point: its batch and learning rate there, or ``why`` it has none."""

    rule: str
    batch_tokens: float | None
    lr: float | None
    in_range: bool | None
    why: str
    formula: str
    units: str
    source: str
    measured: str
    note: str
    evidence: str


@dataclass(frozen=True)
class Comparison:
    """Rules side by side at one size and number of tokens; ``print`` shows a table."""

    point: Point
    rows: tuple[Compared, ...]

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``."""
        return {"point": asdict(self.point), "rules": {row.rule: asdict(row) for row in self.rows}}

    def __str__(self) -> str:
        show = lambda value, form: "–" if value is None else form(value)
        inside = {True: "inside", False: "outside", None: "–"}
        lines = [
            f"at {show(self.point.num_params, format_count)} parameters, "
            f"{show(self.point.tokens, format_count)} tokens, {show(self.point.flops, format_flops)} FLOPs",
            f"{'rule':15}{'batch':>8}{'lr':>10}  {'range':9}formula [source]",
        ]
        for row in self.rows:
            batch, lr = show(row.batch_tokens, format_count), show(row.lr, lambda x: f"{x:.3g}")
            lines.append(f"{row.rule:15}{batch:>8}{lr:>10}  {inside[row.in_range]:9}{row.formula} [{row.source}]")
        return "\n".join([*lines, *(f"{row.rule}: {row.why}" for row in self.rows if row.why)])


def compare(
    num_params: float,
    tokens: float,
    flops: float | None = None,
    loss: float | None = None,
    names: Iterable[str] | None = None,
) -> Comparison:
    """Every rule at one size and number of tokens, with formula, units, source and range: a table.

    As ``recommend``, but no rule is left out: ``why`` explains a missing value, and warns outside the measured range.

    Raises:
        UserError: a number is not above zero, or a named rule is unknown.
    """
    point = Point(num_params, tokens, flops, loss)
    chosen = RULES.values() if names is None else [rule(name) for name in names]
    return Comparison(point, tuple(_compared(each, point) for each in chosen))


def _compared(each: Rule, point: Point) -> Compared:
    answer = each.answer(point)
    return Compared(
        rule=each.name,
        batch_tokens=answer.batch_tokens if answer else None,
        lr=answer.lr if answer else None,
        in_range=answer.in_range if answer else None,
        why=answer.warning if answer else _reason(each, point),
        formula=each.formula,
        units=each.units,
        source=each.source,
        measured=each.measured.describe(),
        note=each.note,
        evidence=each.evidence,
    )


def _reason(each: Rule, point: Point) -> str:
    """The reason why a rule has no value at a point."""
    if each.is_measurement:
        return each.note
    if point.loss is None and any(isinstance(law, PowerLaw) and law.loss for law in (each.batch, each.lr)):
        return "needs the expected loss, in nats a token"
    return "relative only: it carries a baseline that works (planning.carry_baseline)"

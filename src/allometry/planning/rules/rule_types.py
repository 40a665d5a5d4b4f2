"""A published rule, and its two results: a baseline carried to another size, and a recommendation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from ...errors import UserError
from ...quantities import clean, require_positive
from .formulas import MeasuredRange, Point, RuleFormula

ADAM = ("adam", "adamw")
OPTIMIZERS = (*ADAM, "sgd")


@dataclass(frozen=True)
class Baseline:
    """A setting that works: model size, batch and learning rate in any unit; tokens and β2 if known."""

    params: float
    batch: float
    lr: float
    tokens: float | None = None
    optimizer: str = "adamw"
    beta2: float | None = None

    def __post_init__(self) -> None:
        require_positive(params=self.params, batch=self.batch, lr=self.lr, tokens=self.tokens, beta2=self.beta2)
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        if self.beta2 is not None and self.beta2 >= 1:
            raise UserError(f"beta2 must lie between 0 and 1, not {self.beta2!r}")


@dataclass(frozen=True)
class CarriedBaseline:
    """A baseline carried to another size by one rule; batch and learning rate in the units of the baseline.

    ``batch`` or ``lr`` is None if the rule has no formula for it; ``in_range`` is None if the measured range, or a
    number that it limits, is not known. A number too large for a float is None.
    """

    params: float | None
    batch: float | None
    lr: float | None
    tokens: float | None
    beta2: float | None
    formula: str
    source: str
    measured: str
    in_range: bool | None
    note: str
    evidence: str

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)


@dataclass(frozen=True)
class Recommendation:
    """A batch in tokens and a learning rate by one published rule; unpacks as ``batch_tokens, lr``."""

    rule: str
    batch_tokens: float | None
    lr: float | None
    in_range: bool | None
    warning: str
    note: str
    source: str

    def __iter__(self) -> Iterator[float | None]:
        return iter((self.batch_tokens, self.lr))

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """One rule for batch size and learning rate, with its source and its range.

    ``batch`` and ``lr`` are its formulas (None: it has none for that quantity). Batches are tokens, parameters are
    non-embedding unless the note says otherwise, FLOPs are 6·N·D unless the caller gives exact ones. ``evidence`` is
    what measurements show for or against it.
    """

    name: str
    formula: str
    source: str
    applies: str
    note: str
    evidence: str = ""
    batch: RuleFormula | None = None
    lr: RuleFormula | None = None
    measured: MeasuredRange = field(default_factory=MeasuredRange)
    optimizers: tuple[str, ...] = ADAM
    units: str = "batch in tokens, learning rate of the optimizer, N non-embedding parameters, D tokens, C = 6·N·D"
    carries_beta2: bool = False

    @property
    def is_measurement(self) -> bool:
        """Whether the rule has no formula: batch and learning rate must be measured."""
        return self.batch is None and self.lr is None

    def carry(
        self,
        baseline: Baseline,
        factor: float,
        *,
        token_factor: float | None = None,
        losses: tuple[float, float] | None = None,
    ) -> CarriedBaseline:
        """Carry a baseline to ``factor`` times its parameters and ``token_factor`` times its tokens.

        ``token_factor`` defaults to ``factor``: a fixed number of tokens per parameter. ``losses`` (baseline, target)
        is for the rules that depend on the loss.

        Raises:
            UserError: a number is not above zero, or the rule does not hold for the baseline's optimizer.
        """
        growth = factor if token_factor is None else token_factor
        require_positive(factor=factor, token_factor=growth)
        self._check_optimizer(baseline.optimizer)
        first, last = losses or (None, None)
        # Ratios do not depend on the absolute number of tokens, so 1 may replace an unknown one.
        tokens = baseline.tokens or 1.0
        start = Point(baseline.params, tokens, loss=first)
        end = Point(baseline.params * factor, tokens * growth, loss=last)
        batch = self.batch.ratio(start, end) if self.batch else None
        lr = self.lr.ratio(start, end) if self.lr else None
        beta2 = None
        if self.carries_beta2 and baseline.beta2 is not None and batch is not None:
            beta2 = baseline.beta2**batch
        return CarriedBaseline(
            params=clean(end.num_params),
            batch=None if batch is None else clean(baseline.batch * batch),
            lr=None if lr is None else clean(baseline.lr * lr),
            tokens=clean(end.tokens) if baseline.tokens else None,
            beta2=clean(beta2),
            formula=self.formula,
            source=self.source,
            measured=self.measured.describe(),
            in_range=self._both_in_range(baseline, start, end),
            note=self.note,
            evidence=self.evidence,
        )

    def recommend(
        self,
        num_params: float | None = None,
        tokens: float | None = None,
        flops: float | None = None,
        loss: float | None = None,
    ) -> Recommendation:
        """Batch in tokens and learning rate by the published constants; ``flops`` defaults to 6·N·D.

        Outside the measured range there is a recommendation too, with ``in_range`` False and a ``warning``.

        Raises:
            UserError: the rule is relative only, or must be measured, or an input that it needs is missing.
        """
        answer = self.answer(Point(num_params, tokens, flops, loss))
        if answer is None:
            raise UserError(f"rule {self.name!r} gives no absolute value here: {self.formula}. {self.note}")
        return answer

    def answer(self, point: Point) -> Recommendation | None:
        """As ``recommend``, at a point; None if the rule has no absolute value there."""
        batch = self.batch.at(point) if self.batch else None
        lr = self.lr.at(point) if self.lr else None
        if batch is None and lr is None:
            return None
        outside = self.measured.outside(point)
        return Recommendation(
            rule=self.name,
            batch_tokens=clean(batch),
            lr=clean(lr),
            in_range=self.measured.contains(point),
            warning=f"outside the measured range: {'; '.join(outside)}" if outside else "",
            note=self.note,
            source=self.source,
        )

    def _both_in_range(self, baseline: Baseline, start: Point, end: Point) -> bool | None:
        if not baseline.tokens:
            start, end = Point(start.num_params), Point(end.num_params)
        verdicts = {self.measured.contains(start), self.measured.contains(end)}
        if False in verdicts:
            return False
        return None if None in verdicts else True

    def _check_optimizer(self, optimizer: str) -> None:
        if self.is_measurement:
            raise UserError(f"rule {self.name!r} carries no baseline: {self.note}")
        if optimizer not in self.optimizers:
            raise UserError(f"rule {self.name!r} is not for {optimizer}: it holds for {', '.join(self.optimizers)}")

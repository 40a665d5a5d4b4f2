"""``Fit``: a law with values, their spread, and what it left unexplained."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...quantities import format_count, format_flops, plural
from ..base import Law
from ..forms.named_laws import law
from ..from_record import reads_record
from ..prediction import Prediction, around, check_level, check_repeats, inputs_of
from .trunk_noise import TrunkNoise

Array = np.ndarray
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "alpha_N": "αN", "alpha_D": "αD"}
FRAGILE = 1e6


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with values, their spread, and what it left unexplained.

    Attributes:
        law: the form.
        values: constant → value, in the formula's own units (N parameters, D tokens).
        objective: the name of what was minimised: "log_squares", "huber" or "squares".
        objective_value: Σ w·ρ(residual) at the optimum: ρ = r²/2 for squares, Huber's with δ = ``delta`` for huber.
        delta: δ of huber.
        num_runs: number of runs fitted.
        residuals: ln(observed/fitted), one a run.
        weights: of the runs.
        range: "num_params", "tokens", "flops" and what else the law reads → (least, most) of the data.
        draws: constants of the bootstrap refits, (draws, constants).
        active_bounds: constants that ended at a bound, in words; worth reporting.
        starts: how many starts were solved, after the grid had chosen them.
        agreed: how many of them reached the optimum to 1e-6 of its objective.
        condition: condition number of the normal equations at unit scale; above 1e6 constants compensate each other.
        counted: which parameters N counts; predictions count them likewise.
        notes: the observations' notes.
        seed: of the draws.
        trunk_noise: the noise that runs of one trunk share, and a run's own; None where no run names a trunk.
        priors: constant → (mean, standard deviation) as given.
    """

    law: Law
    values: dict[str, float]
    objective: str
    objective_value: float
    delta: float
    num_runs: int
    residuals: Array
    weights: Array
    range: dict[str, tuple[float, float]]
    draws: Array
    active_bounds: tuple[str, ...] = ()
    starts: int = 1
    agreed: int = 1
    condition: float = 1.0
    counted: str = "unknown"
    notes: tuple[str, ...] = ()
    seed: int = 0
    trunk_noise: TrunkNoise | None = None
    priors: dict[str, tuple[float, float]] = field(default_factory=dict)
    kind: str = field(default="fit", init=False)

    @property
    def rms(self) -> float:
        """Root mean square of the relative residuals."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Constant → standard deviation over the refits (nan without a bootstrap)."""
        spread = self.draws.std(axis=0, ddof=1) if len(self.draws) > 1 else np.full(self.law.num_constants, np.nan)
        return dict(zip(self.law.symbols, map(float, spread), strict=True))

    @cached_property
    def correlation(self) -> Array:
        """Of the constants over the refits, by ranks (Spearman), (constants, constants); nan without a bootstrap.

        By ranks, as A and B spread over decades.
        """
        if len(self.draws) < 3:
            return np.full((self.law.num_constants, self.law.num_constants), np.nan)
        ranks = self.draws.argsort(axis=0).argsort(axis=0).astype(float)
        ranks[:, np.ptp(self.draws, axis=0) == 0] = np.nan  # held at a bound in every refit
        centred = ranks - ranks.mean(axis=0)
        scale = np.sqrt((centred**2).sum(axis=0))
        return centred.T @ centred / np.outer(scale, scale)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Constant → its 90 % interval."""
        return self.intervals_at(0.9)

    def intervals_at(self, level: float) -> dict[str, tuple[float, float]]:
        """Constant → (low, high) that hold ``level`` of the refits (nan without a bootstrap)."""
        check_level(level)
        if len(self.draws) < 2:
            return dict.fromkeys(self.law.symbols, (np.nan, np.nan))
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
        return {s: (float(a), float(b)) for s, a, b in zip(self.law.symbols, low, high, strict=True)}

    def predict(
        self,
        num_params: float | Array | None = None,
        tokens: float | Array | None = None,
        level: float = 0.9,
        repeats: float = 1,
        **others: float | Array,
    ) -> Prediction:
        """The loss at N parameters and D tokens (broadcast), with the interval of one new run.

        With ``repeats`` it is the interval of the mean of so many runs of other seeds, with infinity that of the
        expected loss. ``others`` are what else the law reads: ``batch_tokens`` (steps follow), ``unique_tokens`` (all,
        by default). The interval holds the spread of the constants and the residual noise of this one law. That this
        law holds beyond the data is assumed; ``forecast`` does not assume it.

        Raises:
            UserError: an input missing, not finite or not above zero; a level outside (0, 1).
        """
        check_level(level)
        check_repeats(repeats)
        given = inputs_of(self.law.inputs, {"num_params": num_params, "tokens": tokens, **others}, self.law.name)
        inputs = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in given))
        shape, flat = inputs[0].shape, [x.ravel() for x in inputs]
        value = np.log(np.atleast_1d(self.law.loss(self.values, *flat)))
        if len(self.draws) < 2:
            return around(np.exp(value), np.full_like(value, np.nan), np.full_like(value, np.nan), level, shape)
        size = flat[self.law.inputs.index("num_params")] if "num_params" in self.law.inputs else None
        samples = self.log_samples(*flat) + self.noise(len(self.draws), size) / np.sqrt(repeats)
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
        return around(np.exp(value), np.exp(low), np.exp(high), level, shape)

    def log_samples(self, *inputs: Array) -> Array:
        """ln L of every refit at points, one array of shape (points,) an input: shape (draws, points)."""
        logs = [np.log(x) for x in inputs]
        centre = self.law.centre(logs)
        centred = (x - middle for x, middle in zip(logs, centre, strict=True))
        return self.law.log_loss(self.law.theta(self.draws, centre), *centred)[0]

    def weighted_samples(
        self, num_params: Array, tokens: Array, unique_tokens: Array | None = None
    ) -> list[tuple[float, Array]]:
        """ln L of every refit at points, (draws, points), with the weight of this law, 1: one pair.

        ``unique_tokens`` are for a law that reads them; all tokens by default. Empty without a bootstrap, and for a law
        that reads something else.
        """
        given = {"num_params": num_params, "tokens": tokens}
        given["unique_tokens"] = tokens if unique_tokens is None else unique_tokens
        if len(self.draws) < 2 or not set(self.law.inputs) <= set(given):
            return []
        return [(1.0, self.log_samples(*(given[name] for name in self.law.inputs)))]

    @property
    def variance(self) -> float:
        """Of the noise of ln L in a run of weight 1; within its trunk where runs name trunks."""
        return float(self.sigma**2 * self.weights.max())

    @property
    def sigma(self) -> float:
        """The noise of ln L for a run of the largest weight, corrected for the constants fitted; relative to its trunk
        where runs name trunks."""
        if self.trunk_noise is not None:
            return float(self.trunk_noise.own / np.sqrt(self.weights.max()))
        relative = self.weights / self.weights.max()
        return float(np.sqrt((relative * self.residuals**2).sum() / max(self.num_runs - self.law.num_constants, 1)))

    def noise(self, count: int, num_params: Array | None = None) -> Array:
        """``count`` draws of a new run's residual of ln L, the same on every call, (draws, 1) or (draws, points).

        Standardised residuals times √(n/χ²_ν), ν runs minus constants: few runs leave the size of the noise uncertain.
        A run of a new trunk has that trunk's noise too, which ``num_params`` (points,) may change.
        """
        own, shared = self.noise_parts(count)
        if self.trunk_noise is None or shared is None:
            return own[:, None]
        size = self.trunk_noise.middle if num_params is None else num_params
        return own[:, None] + shared[:, None] * self.trunk_noise.at(size)

    def noise_parts(self, count: int) -> tuple[Array, Array | None]:
        """The draws of ``noise``, (draws,): of a run's own, of its trunk in units of that noise (or None)."""
        freedom = max(self.num_runs - self.law.num_constants, 1)
        generator = np.random.default_rng(self.seed + 1)
        if self.trunk_noise is not None:
            return self._trunk_draws(count, self.trunk_noise, freedom, generator)
        standardised = self.residuals * np.sqrt(self.weights / self.weights.max())
        drawn = generator.choice(standardised, size=count)
        return drawn * np.sqrt(self.num_runs / generator.chisquare(freedom, size=count)), None

    def _trunk_draws(
        self, count: int, noise: TrunkNoise, freedom: int, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        """Noise of one run in each of new trunks, and of these trunks in units of theirs."""
        own, shared = generator.standard_normal((2, count))
        own *= self.sigma * np.sqrt(freedom / generator.chisquare(freedom, size=count))
        shared *= np.sqrt(noise.freedom / generator.chisquare(noise.freedom, size=count))
        return own, shared

    def __repr__(self) -> str:
        constants = ", ".join(f"{name}={value:.4g}" for name, value in self.values.items())
        return f"<Fit of {self.law.name} to {plural(self.num_runs, 'run')}: {constants}; rms {self.rms:.2%}>"

    def _repr_html_(self) -> str:
        from ..result_cards import fit_card

        return fit_card(self).html()

    def summary(self, level: float = 0.9) -> str:
        """A table of the constants with standard errors and intervals, and how good the fit is."""
        head = f"{'':8}{'value':>12}{'std. error':>12}   {100 * level:g} % interval"
        lines = [f"{self.law.name}: {self.law.formula}", head]
        intervals = self.intervals_at(level)
        for symbol, value in self.values.items():
            low, high = intervals[symbol]
            name = GREEK.get(symbol, symbol)
            lines.append(f"{name:8}{value:12.5g}{self.standard_errors[symbol]:12.3g}   {low:.5g} to {high:.5g}")
        span = self.range
        kind = "" if self.counted == "unknown" else f" ({self.counted.replace('_', '-')} parameters)"
        lines.append(
            f"{plural(self.num_runs, 'run')}, rms residual {self.rms:.2%}; "
            f"N {format_count(span['num_params'][0])} to {format_count(span['num_params'][1])}{kind}, "
            f"D {format_count(span['tokens'][0])} to {format_count(span['tokens'][1])}, "
            f"C {format_flops(span['flops'][0])} to {format_flops(span['flops'][1])}"
        )
        if self.trunk_noise is not None:
            lines.append(self.trunk_noise.sentence())
        lines.append(f"minimises {self._objective_words()} of the runs")
        lines.append(f"optimum reached from {self.agreed} of {self.starts} starts; condition {self.condition:.1e}")
        lines += [f"note: {text}" for text in (*self.active_bounds, *self._warnings(), *self.notes)]
        return "\n".join(lines)

    def _objective_words(self) -> str:
        if self.objective == "huber":
            return f"Huber's loss (δ = {self.delta:g}) of ln L"
        return "squared errors of ln L" if self.objective == "log_squares" else "squared errors of L"

    def _warnings(self) -> list[str]:
        """Warnings about the constants."""
        warnings = []
        if self.condition > FRAGILE:
            warnings.append(
                "constants compensate each other (see the condition): trust predictions, not single constants"
            )
        strongest = self._strongest_pair()
        if strongest is not None:
            one, other, value = strongest
            warnings.append(
                f"{GREEK.get(one, one)} and {GREEK.get(other, other)} are tied: rank correlation {value:+.3f}"
            )
        return warnings

    def _strongest_pair(self) -> tuple[str, str, float] | None:
        """The two constants of the strongest correlation, where that is above 0.99."""
        correlation = np.nan_to_num(np.triu(self.correlation, 1))
        i, j = np.unravel_index(int(np.abs(correlation).argmax()), correlation.shape)
        strong = abs(correlation[i, j]) > 0.99
        return (self.law.symbols[i], self.law.symbols[j], float(correlation[i, j])) if strong else None

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        refitted = len(self.draws) > 1
        return {
            "kind": self.kind,
            "law": self.law.name,
            "formula": self.law.formula,
            "values": dict(self.values),
            "standard_errors": dict(self.standard_errors) if refitted else None,
            "intervals": {s: list(pair) for s, pair in self.intervals.items()} if refitted else None,
            "objective": self.objective,
            "objective_value": self.objective_value,
            "delta": self.delta,
            "num_runs": self.num_runs,
            "rms": self.rms,
            "range": {key: list(pair) for key, pair in self.range.items()},
            "active_bounds": list(self.active_bounds),
            "starts": self.starts,
            "agreed": self.agreed,
            "condition": self.condition,
            "counted": self.counted,
            "notes": list(self.notes),
            "seed": self.seed,
            "trunk_noise": None if self.trunk_noise is None else self.trunk_noise.to_json(),
            "priors": {symbol: list(pair) for symbol, pair in self.priors.items()},
            "residuals": self.residuals.tolist(),
            "weights": self.weights.tolist(),
            "draws": self.draws.tolist(),
        }

    @classmethod
    @reads_record("a fit", "write it anew with allometry fit")
    def from_json(cls, data: dict[str, Any], form: Law | None = None) -> Fit:
        """The fit that ``to_json`` wrote; ``form`` is the law where it is none of ours.

        Raises:
            UserError: not such a record, or of a law that is not known here.
        """
        plain = (
            "objective",
            "objective_value",
            "delta",
            "num_runs",
            "starts",
            "agreed",
            "condition",
            "counted",
            "seed",
        )
        form = law(data["law"]) if form is None else form
        return cls(
            law=form,
            values={symbol: float(data["values"][symbol]) for symbol in form.symbols},
            residuals=np.array(data["residuals"], dtype=float),
            weights=np.array(data["weights"], dtype=float),
            range={key: (float(pair[0]), float(pair[1])) for key, pair in data["range"].items()},
            draws=np.array(data["draws"], dtype=float).reshape(-1, form.num_constants),
            active_bounds=tuple(data["active_bounds"]),
            notes=tuple(data["notes"]),
            trunk_noise=None if data["trunk_noise"] is None else TrunkNoise(**data["trunk_noise"]),
            priors={symbol: (float(pair[0]), float(pair[1])) for symbol, pair in data["priors"].items()},
            **{key: data[key] for key in plain},
        )

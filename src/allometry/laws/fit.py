"""Fit one law to a table of runs: every start on a grid by variable projection, then a batched solver, then a Fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import UserError
from ..quantities import format_count, format_flops
from .law import Law, law
from .observations import Observations, check_design
from .prediction import Prediction, around, points
from .solver import Problem, solve
from .uncertainty import refits

Array = np.ndarray
OBJECTIVES = ("log_squares", "huber", "squares")
GREEK = {"alpha": "α", "beta": "β"}
STARTS = 20
MOST_ROWS_FOR_STARTS = 1000
NOISE_DRAWS = 401


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with values, their spread, and what it left unexplained.

    Attributes:
        law: the form.
        values: constant → value, in the formula's own units (N parameters, D tokens).
        objective: Σ w·ρ(residual) at the optimum: ρ = r²/2 for squares, Huber's with δ = ``delta`` for huber.
        loss: which objective: "log_squares", "huber" or "squares".
        delta: δ of huber.
        n: number of runs fitted.
        residuals: ln(observed/fitted), one a run.
        weights: of the runs.
        range: "num_params", "tokens", "flops" → (least, most) of the data.
        draws: constants of the bootstrap refits, (draws, constants).
        active_bounds: constants that ended at a bound, in words; news, not detail.
        agreement: share of the starts that reached the optimum.
        notes: the observations' notes.
        seed: of the draws.
    """

    law: Law
    values: dict[str, float]
    objective: float
    loss: str
    delta: float
    n: int
    residuals: Array
    weights: Array
    range: dict[str, tuple[float, float]]
    draws: Array
    active_bounds: tuple[str, ...] = ()
    agreement: float = 1.0
    notes: tuple[str, ...] = ()
    seed: int = 0
    kind: str = field(default="fit", init=False)

    @property
    def rms(self) -> float:
        """Root mean square of the relative residuals."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Constant → standard deviation over the refits (nan without a bootstrap)."""
        spread = self.draws.std(axis=0, ddof=1) if len(self.draws) > 1 else np.full(self.law.count, np.nan)
        return dict(zip(self.law.symbols, map(float, spread), strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Constant → its 90 % interval."""
        return self.intervals_at(0.9)

    def intervals_at(self, level: float) -> dict[str, tuple[float, float]]:
        """Constant → (low, high) that hold ``level`` of the refits (nan without a bootstrap)."""
        if len(self.draws) < 2:
            return dict.fromkeys(self.law.symbols, (np.nan, np.nan))
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {s: (float(a), float(b)) for s, a, b in zip(self.law.symbols, low, high, strict=True)}

    def predict(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Prediction:
        """The loss at N parameters and D tokens (broadcast), with the interval of one new run.

        The interval holds the spread of the constants and the residual noise of this one law. That this law holds
        beyond the data is assumed; ``forecast`` does not assume it.
        """
        check_points(num_params, tokens, level)
        n, d, shape = points(num_params, tokens)
        value = np.log(np.atleast_1d(self.law.loss(self.values, n, d)))
        if len(self.draws) < 2:
            return around(np.exp(value), np.full_like(value, np.nan), np.full_like(value, np.nan), level, shape)
        samples = self.log_samples(n, d) + self.noise(len(self.draws))[:, None]
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return around(np.exp(value), np.exp(low), np.exp(high), level, shape)

    def log_samples(self, n: Array, d: Array) -> Array:
        """ln L of every refit at the points N, D: shape (draws, points)."""
        log_n, log_d = np.log(n), np.log(d)
        centre = (float(log_n.mean()), float(log_d.mean()))
        return self.law.log_loss(self.law.theta(self.draws, centre), log_n - centre[0], log_d - centre[1])[0]

    @property
    def sigma(self) -> float:
        """The noise of ln L for a run of the largest weight, corrected for the constants fitted."""
        relative = self.weights / self.weights.max()
        return float(np.sqrt((relative * self.residuals**2).sum() / max(self.n - self.law.count, 1)))

    def noise(self, count: int) -> Array:
        """``count`` draws of a new run's residual of ln L, from the standardised residuals; the same on every call."""
        standardised = self.residuals * np.sqrt(self.weights / self.weights.max())
        scale = np.sqrt(self.n / max(self.n - self.law.count, 1))
        return np.random.default_rng(self.seed + 1).choice(standardised, size=count) * scale

    def summary(self) -> str:
        """A table of the constants with standard errors and intervals, and how good the fit is."""
        lines = [f"{self.law.name}: {self.law.formula}", f"{'':8}{'value':>12}{'std. error':>12}   90 % interval"]
        intervals = self.intervals
        for symbol, value in self.values.items():
            low, high = intervals[symbol]
            name = GREEK.get(symbol, symbol)
            lines.append(f"{name:8}{value:12.5g}{self.standard_errors[symbol]:12.3g}   {low:.5g} to {high:.5g}")
        span = self.range
        lines.append(
            f"{self.n} runs, rms residual {self.rms:.2%}; "
            f"N {format_count(span['num_params'][0])} to {format_count(span['num_params'][1])}, "
            f"D {format_count(span['tokens'][0])} to {format_count(span['tokens'][1])}, "
            f"C {format_flops(span['flops'][0])} to {format_flops(span['flops'][1])}"
        )
        lines += [f"note: {text}" for text in (*self.active_bounds, *self.notes)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "kind": self.kind,
            "law": self.law.name,
            "formula": self.law.formula,
            "values": dict(self.values),
            "standard_errors": _no_nan(self.standard_errors),
            "intervals": {s: list(pair) for s, pair in self.intervals.items()} if len(self.draws) > 1 else None,
            "objective": self.objective,
            "loss": self.loss,
            "delta": self.delta,
            "n": self.n,
            "rms": self.rms,
            "range": {key: list(pair) for key, pair in self.range.items()},
            "active_bounds": list(self.active_bounds),
            "agreement": self.agreement,
            "notes": list(self.notes),
            "seed": self.seed,
            "residuals": self.residuals.tolist(),
            "weights": self.weights.tolist(),
            "draws": self.draws.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fit:
        """The fit that ``to_json`` wrote.

        Raises:
            UserError: not such a record, or of a law that is not known here.
        """
        try:
            form = law(data["law"])
            return cls(
                law=form,
                values={symbol: float(data["values"][symbol]) for symbol in form.symbols},
                residuals=np.array(data["residuals"], dtype=float),
                weights=np.array(data["weights"], dtype=float),
                range={key: (float(pair[0]), float(pair[1])) for key, pair in data["range"].items()},
                draws=np.array(data["draws"], dtype=float).reshape(-1, form.count),
                active_bounds=tuple(data["active_bounds"]),
                notes=tuple(data["notes"]),
                **{key: data[key] for key in ("objective", "loss", "delta", "n", "agreement", "seed")},
            )
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"not a fit: {type(error).__name__} {error}; write it anew with allometry fit") from None


def fit(
    law_or_name: Law | str,
    observations: Observations,
    loss: str = "log_squares",
    delta: float = 1e-3,
    weights: Array | None = None,
    bootstrap: int = 1000,
    resample: str = "auto",
    seed: int = 0,
) -> Fit:
    """Fit a law at the global optimum of its objective.

    Args:
        law_or_name: a ``Law`` or its name in ``LAWS``.
        observations: the runs.
        loss: "log_squares" (relative errors), "huber" (of relative errors: outliers count less) or "squares".
        delta: where Huber's loss turns linear; 1e-3 is the usual choice of the literature.
        weights: one positive weight a run; all equal if not given.
        bootstrap: number of refits behind standard errors and intervals; 0 for none.
        resample: "pairs", "residual", or "auto" (pairs from 60 runs on).
        seed: of the bootstrap.

    Raises:
        UserError: too few runs, one size, one token count, one ratio, an unknown law, objective or resampling,
            impossible weights.
    """
    form = law(law_or_name)
    check_design(observations, form.name, form.count)
    weights = _check_options(observations, loss, delta, weights, bootstrap, resample)
    problem, centre = make_problem(form, observations, loss, delta)
    theta, objective, agreement = optimum(problem, weights)
    draws = np.empty((0, form.count))
    if bootstrap:
        draws = form.values(refits(problem, theta, weights, bootstrap, resample, seed), centre)
    fitted = form.log_loss(theta[None], problem.n, problem.d)[0][0]
    return Fit(
        law=form,
        values=dict(zip(form.symbols, map(float, form.values(theta, centre)), strict=True)),
        objective=objective,
        loss=loss,
        delta=delta,
        n=len(observations),
        residuals=problem.log_loss - fitted,
        weights=weights,
        range=data_range(observations),
        draws=draws,
        active_bounds=_active_bounds(problem, theta),
        agreement=agreement,
        notes=observations.notes,
        seed=seed,
    )


def make_problem(form: Law, observations: Observations, loss: str, delta: float) -> tuple[Problem, tuple[float, float]]:
    """The minimisation around the middle of the data, and that middle (ln N, ln D)."""
    log_n, log_d = np.log(observations.num_params), np.log(observations.tokens)
    centre = (float(log_n.mean()), float(log_d.mean()))
    lower, upper = form.bounds(observations.loss)
    problem = Problem(form, log_n - centre[0], log_d - centre[1], np.log(observations.loss), loss, delta, lower, upper)
    return problem, centre


def optimum(problem: Problem, weights: Array, steps: int = 200, polish: int = 5000) -> tuple[Array, float, float]:
    """The best θ, its objective, and the share of starts that came to it.

    Cells of the grid go to optima of squared log residuals, which are smooth; another objective starts from those and
    from some of the cells themselves. Every start gets ``steps`` steps at most, and then the
    best one ``polish``.
    """
    thin = slice(None, None, -(-len(problem.n) // MOST_ROWS_FOR_STARTS))
    theta, squares = problem.law.starts(problem.n[thin], problem.d[thin], np.exp(problem.log_loss[thin]), weights[thin])
    theta = _spread(theta[np.argsort(squares, kind="stable")])
    tiled = np.tile(weights, (len(theta), 1))
    smooth, objective = solve(replace(problem, objective="log_squares"), theta, tiled, steps)
    if problem.objective == "log_squares":
        theta = smooth
    else:
        _, different = np.unique(np.round(np.log(objective + 1e-300), 3), return_index=True)
        both = np.concatenate([smooth[different[:4]], theta[::4]])
        theta, objective = solve(problem, both, np.tile(weights, (len(both), 1)), steps=500)
    best = int(np.argmin(objective))
    agreement = float(np.mean(objective <= objective[best] * (1 + 1e-6) + 1e-18))
    # Long flat valleys (a large k, few runs) take many more steps than the starts are given.
    polished, least = solve(problem, theta[best : best + 1], weights[None], steps=polish)
    return polished[0], float(least[0]), agreement


def _spread(ordered: Array) -> Array:
    """The best starts, half from the top and half from further down, so that one wide basin does not take them all."""
    near = ordered[: STARTS // 2]
    far = ordered[STARTS // 2 :: max(len(ordered) // (6 * STARTS), 1)][: STARTS - len(near)]
    return np.concatenate([near, far])


def check_points(num_params: float | Array, tokens: float | Array, level: float) -> None:
    """Raises UserError unless counts are finite and above zero and 0 < level < 1."""
    for name, value in (("num_params", num_params), ("tokens", tokens)):
        array = np.asarray(value, dtype=float)
        if array.size == 0 or not np.all(np.isfinite(array) & (array > 0)):
            raise UserError(f"{name} must be finite and above zero to predict a loss")
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must lie between 0 and 1, such as 0.9")


def data_range(observations: Observations) -> dict[str, tuple[float, float]]:
    """Least and most N, D and C of the runs."""
    arrays = {name: getattr(observations, name) for name in ("num_params", "tokens", "flops")}
    return {name: (float(array.min()), float(array.max())) for name, array in arrays.items()}


def _check_options(observations, loss, delta, weights, bootstrap, resample) -> Array:
    if loss not in OBJECTIVES:
        raise UserError(f"no objective {loss!r}; known are {', '.join(OBJECTIVES)}")
    if not delta > 0:
        raise UserError(f"delta is {delta}; it must be above zero")
    if resample not in ("auto", "pairs", "residual"):
        raise UserError(f"no resampling {resample!r}; known are auto, pairs, residual")
    if bootstrap < 0:
        raise UserError(f"bootstrap is {bootstrap}; give a number of refits, 0 for none")
    if weights is None:
        return np.ones(len(observations))
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(observations),) or not np.all(np.isfinite(weights) & (weights > 0)):
        raise UserError(f"weights must be {len(observations)} finite numbers above zero, one a run")
    return weights


def _active_bounds(problem: Problem, theta: Array) -> tuple[str, ...]:
    """Which coordinates of θ ended at a bound, in words."""
    span = 1e-9 * (problem.upper - problem.lower)
    lines = []
    for symbol, value, low, high in zip(
        problem.law.symbols, theta, problem.lower + span, problem.upper - span, strict=True
    ):
        if value <= low or value >= high:
            lines.append(f"{GREEK.get(symbol, symbol)} ended at its {'lower' if value <= low else 'upper'} bound")
    return tuple(lines)


def _no_nan(values: dict[str, float]) -> dict[str, float] | None:
    return values if all(np.isfinite(value) for value in values.values()) else None

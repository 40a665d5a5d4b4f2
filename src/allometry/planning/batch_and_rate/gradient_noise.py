"""The gradient noise scale: the batch at which a gradient's noise equals its size, from norms at several batches.

The squared norm of a gradient over B tokens is G² + S/B on average, so its means at two batch sizes give G², S and the
noise scale S/G². The noise decreases as 1/B if the examples are independent; norms at three sizes or more test this:
they fit G² + S·B^−p, and p must be 1 within its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...laws.prediction import check_level
from ...quantities import format_count, require_positive

Array = np.ndarray
_EXPONENTS = (0.05, 4.0)


class BatchCost(NamedTuple):
    """Steps and tokens of a training to the same loss, each as a multiple of the fewest possible."""

    steps: float
    tokens: float


def batch_cost(batch: float, critical_batch: float) -> BatchCost:
    """What a batch costs in steps and in tokens: (S/S_min − 1)·(E/E_min − 1) = 1 (arXiv 1812.06162, equation 5).

    At the critical batch both are twice their least. Under the paper's assumptions that is the noise scale.

    Raises:
        UserError: a number is not above zero.
    """
    require_positive(batch=batch, critical_batch=critical_batch)
    return BatchCost(1 + critical_batch / batch, 1 + batch / critical_batch)


@dataclass(frozen=True)
class GradientNoise:
    """The noise scale from measured norms.

    Attributes:
        gradient_squared: G², the squared norm of the true gradient.
        noise: S, the trace of the covariance of one token's gradient (or of one of the unit that the batches have).
        batch: S/G², the noise scale, in that unit.
        low: with ``high``, its interval at ``level``; ``high`` is infinite if the norms do not exclude a true gradient
            of 0; both are nan if the errors of the norms are unknown.
        high: see ``low``.
        level: of the interval and of the test.
        sizes: number of batch sizes.
        exponent: p of a noise that decreases as B^−p, fitted; None at two sizes, where p = 1 is assumed.
        exponent_error: its standard error; nan if the errors of the norms are unknown.
        follows: whether p is 1 within its error at ``level``; None if that cannot be tested.
        notes: what was not tested, or what failed.
    """

    gradient_squared: float
    noise: float
    batch: float
    low: float
    high: float
    level: float
    sizes: int
    exponent: float | None
    exponent_error: float
    follows: bool | None
    notes: tuple[str, ...] = ()

    def cost(self, batch: float) -> BatchCost:
        """``batch_cost`` with the noise scale as the critical batch."""
        return batch_cost(batch, self.batch)

    def summary(self) -> str:
        """A few lines for people."""
        interval = (
            "" if np.isnan(self.low) else f" [{format_count(self.low)}, {format_count(self.high)}] {self.level:.0%}"
        )
        lines = [f"noise scale {format_count(self.batch)}{interval} from {self.sizes} batch sizes"]
        lines.append(f"gradient² {self.gradient_squared:.4g}, noise of one token {self.noise:.4g}")
        if self.exponent is not None:
            lines.append(f"the noise decreases as B^-{self.exponent:.3g} (standard error {self.exponent_error:.2g})")
        return "\n".join([*lines, *(f"note: {text}" for text in self.notes)])

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``; what is not finite is None."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in (asdict(self) | {"notes": list(self.notes)}).items()
        }


def gradient_noise(
    batches: Sequence[float] | Array,
    squared_norms: Sequence[float] | Array,
    *,
    num_batches: Sequence[float] | Array | None = None,
    standard_errors: Sequence[float] | Array | None = None,
    level: float = 0.9,
) -> GradientNoise:
    """The noise scale from squared gradient norms at two batch sizes or more (arXiv 1812.06162, appendix A).

    At two sizes G² = (B·g_B² − b·g_b²)/(B − b) and S = (g_b² − g_B²)/(1/b − 1/B); at more, a weighted line in 1/B.
    Errors come from ``standard_errors``, else from repeated measurements at every size, else (at three sizes or more)
    from the residuals of the line.

    Args:
        batches: size of the batch of each measurement, in tokens (or any other unit; the noise scale has the same). A
            size may stand several times: one entry for each measured gradient.
        squared_norms: squared norm of the gradient, of one batch or the mean over ``num_batches`` batches.
        num_batches: over how many batches each squared norm was averaged; 1 each by default.
        standard_errors: of each squared norm, instead of ``num_batches``.
        level: of the interval and of the test of the exponent.

    Raises:
        UserError: fewer than two sizes, lists of unequal length, numbers that are not above zero, or norms that do not
            decrease with the batch as noise does.
    """
    check_level(level)
    means = _Means.of(*_checked(batches, squared_norms, num_batches, standard_errors))
    (gradient, noise), covariance = _line(means, 1.0)[:2]
    if gradient <= 0 or noise <= 0:
        raise UserError(
            "these norms give no noise scale: the squared norm must decrease with the batch, but more slowly than 1/B; "
            "average over more batches"
        )
    scale, freedom = means.scale(1.0, constants=2)
    low, high = _quotient(noise, gradient, covariance * scale, _quantile(level, freedom))
    exponent, error, freedom = _exponent(means)
    follows = None
    if exponent is not None and not np.isnan(error):
        follows = bool(abs(exponent - 1) <= _quantile(level, freedom) * error)
    return GradientNoise(
        gradient_squared=float(gradient),
        noise=float(noise),
        batch=float(noise / gradient),
        low=float(low),
        high=float(high),
        level=level,
        sizes=len(means.sizes),
        exponent=exponent,
        exponent_error=error,
        follows=follows,
        notes=_notes(exponent, error, follows),
    )


@dataclass(frozen=True)
class _Means:
    """One row a batch size: mean squared norm and its error.

    ``freedom`` is the errors' degrees of freedom; None: the errors are known up to a common factor.
    """

    sizes: Array
    norms: Array
    errors: Array
    freedom: float | None

    @classmethod
    def of(cls, batches: Array, norms: Array, num_batches: Array, errors: Array | None) -> _Means:
        """From single measurements; those of equal size are pooled."""
        sizes, row = np.unique(batches, return_inverse=True)
        shares = num_batches if errors is None else errors**-2.0
        total = np.bincount(row, shares)
        means = np.bincount(row, shares * norms) / total
        if errors is not None:
            return cls(sizes, means, total**-0.5, np.inf)
        repeats = np.bincount(row)
        if repeats.min() < 2:
            # The scatter of a squared norm is about proportional to it.
            return cls(sizes, means, means / np.sqrt(total), None)
        scatter = np.bincount(row, num_batches * (norms - means[row]) ** 2) / (repeats - 1)
        if not scatter.all():
            size = format_count(sizes[np.argmin(scatter)])
            raise UserError(f"the norms at batch {size} are all the same: give norms of different batches of data")
        return cls(sizes, means, np.sqrt(_smooth(sizes, scatter, repeats - 1) / total), float((repeats - 1).sum()))

    def scale(self, exponent: float, constants: int) -> tuple[float, float]:
        """The factor on the errors² and its degrees of freedom: 1 if they are known, else by the line's residuals."""
        if self.freedom is not None:
            return 1.0, self.freedom
        freedom = len(self.sizes) - constants
        return (_line(self, exponent)[2] / freedom, freedom) if freedom > 0 else (np.nan, np.nan)


def _smooth(sizes: Array, scatter: Array, freedom: Array) -> Array:
    """Variances of a norm as a power law of the batch: measured from few norms, each alone is far off."""
    shape = sizes ** np.polyfit(np.log(sizes), np.log(scatter), 1, w=np.sqrt(freedom))[0]
    return shape * (freedom @ (scatter / shape)) / freedom.sum()


def _line(means: _Means, exponent: float) -> tuple[Array, Array, float]:
    """G² and S of G² + S·B^−p, their covariance, and the weighted sum of squared residuals."""
    regressors = np.stack([np.ones_like(means.sizes), means.sizes**-exponent], axis=1) / means.errors[:, None]
    # Both columns are scaled to 1: S may be millions of times G².
    size = np.abs(regressors).max(axis=0)
    inverse = np.linalg.pinv(regressors / size)
    constants = inverse @ (means.norms / means.errors)
    residuals = means.norms / means.errors - regressors / size @ constants
    return constants / size, inverse @ inverse.T / np.outer(size, size), float(residuals @ residuals)


def _exponent(means: _Means) -> tuple[float | None, float, float]:
    """p of G² + S·B^−p, its standard error (nan if it is unknown), and the degrees of freedom of that error."""
    if len(means.sizes) < 3:
        return None, np.nan, np.nan
    low, high = _EXPONENTS
    best = low
    for _ in range(6):
        grid = np.linspace(low, high, 21)
        near = int(np.argmin([_line(means, p)[2] for p in grid]))
        low, high, best = grid[max(near - 1, 0)], grid[min(near + 1, 20)], float(grid[near])
    noise = _line(means, best)[0][1]
    ratio = means.sizes / means.sizes.min()
    slopes = np.stack([np.ones_like(ratio), ratio**-best, -noise * means.sizes**-best * np.log(ratio)], axis=1)
    scale, freedom = means.scale(best, constants=3)
    inverse = np.linalg.pinv(slopes / means.errors[:, None])
    return best, float(np.sqrt(scale * (inverse @ inverse.T)[2, 2])), freedom


def _quotient(top: float, bottom: float, covariance: Array, quantile: float) -> tuple[float, float]:
    """The interval of S/G² by Fieller's theorem; its upper end is infinite if G² may be 0."""
    if np.isnan(quantile) or np.isnan(covariance).any():
        return np.nan, np.nan
    squares = quantile**2
    a = bottom**2 - squares * covariance[0, 0]
    b = top * bottom - squares * covariance[0, 1]
    c = top**2 - squares * covariance[1, 1]
    root = np.sqrt(max(b**2 - a * c, 0.0))
    if a <= 0:
        # The interval then begins at the one positive root, or at 0 if there is none.
        return (max((b - root) / a, (b + root) / a, 0.0) if a < 0 and c > 0 else 0.0), np.inf
    return max((b - root) / a, 0.0), (b + root) / a


def _quantile(level: float, freedom: float) -> float:
    from scipy.stats import t as student

    return float(student.ppf((1 + level) / 2, freedom))


def _notes(exponent: float | None, error: float, follows: bool | None) -> tuple[str, ...]:
    if exponent is None:
        return ("a noise that decreases as 1/B is assumed, not tested: measure a third batch size",)
    if follows is None:
        return (
            "a noise that decreases as 1/B is assumed, not tested, because the errors are unknown: measure each size "
            "several times, give standard_errors, or add batch sizes",
        )
    if not follows:
        return (
            f"the noise decreases as B^-{exponent:.3g} ± {error:.2g}, not as 1/B, so the noise scale is no single "
            "number: are these norms of the whole gradient, unclipped, of independent examples?",
        )
    return ()


def _checked(
    batches: object, squared_norms: object, num_batches: object, standard_errors: object
) -> tuple[Array, Array, Array, Array | None]:
    """The four columns as arrays.

    Raises:
        UserError: a column is no list of finite numbers above zero, or they do not fit together.
    """
    if num_batches is not None and standard_errors is not None:
        raise UserError("give num_batches or standard_errors, not both")
    given = {
        "batches": batches,
        "squared_norms": squared_norms,
        "num_batches": num_batches,
        "standard_errors": standard_errors,
    }
    columns = {}
    for name, values in given.items():
        if values is None:
            continue
        try:
            columns[name] = np.atleast_1d(np.asarray(values, dtype=float))
        except (TypeError, ValueError):
            raise UserError(f"{name} must be numbers, one for each measurement") from None
        if columns[name].shape != columns["batches"].shape or columns[name].ndim != 1:
            raise UserError(f"{name} must be as many as batches ({columns['batches'].size}), one for each measurement")
        if not np.all(np.isfinite(columns[name]) & (columns[name] > 0)):
            raise UserError(f"{name} must be finite numbers above zero")
    if np.unique(columns["batches"]).size < 2:
        raise UserError("a noise scale needs norms at two batch sizes at least, better three")
    averaged = columns.get("num_batches", np.ones_like(columns["batches"]))
    return columns["batches"], columns["squared_norms"], averaged, columns.get("standard_errors")

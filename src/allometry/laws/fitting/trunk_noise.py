"""How large the noise of a trunk is: known from repeats, or estimated from what a fit leaves, and carried to new sizes.

Between trunks a fit leaves more than within them. How much of that is noise is a question of variance components, with
few trunks and several constants that follow them; the likelihood of the residuals alone (REML, Patterson and Thompson
1971) takes those constants into account. Trunks that repeat each other (other seeds of one size) enter it as what they
are, so that repeats decide where there are any. Weights that count some runs little say that these differ more from the
law; the noise of a run of weight 1 is then found smaller than runs differ by chance. So no fit takes less for it than a
column says, or else than trunks of one size show, whatever the law.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from ...quantities import format_count, plural
from ..tables.run_arrays import RunArrays
from ..whitening import Trunks

Array = np.ndarray
# Variances of a trunk over that of a run, equally likely before.
RATIOS = np.array([0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
# A known noise may be short of what separates trunks: their sizes also differ in shape.
FACTORS, BELIEFS = np.array([1.0, 1.5, 2.2]), np.log([0.8, 0.15, 0.05])
OWN = np.geomspace(1e-2, 10, 13)  # a run's own variance over that of independent noise
LEAST = 1e-5
# Noise falls as sizes grow, if it changes at all: that is what was measured.
STEEPEST = -0.5
KNOWN = 200.0  # degrees of freedom that stand for a noise that is known
LEAST_CHANGES = 4  # fewer changes between trunks of one size say little of a run's own noise
MOST_TRUNKS = 30  # of one size, that are compared with each other
SAME_LENGTH = 0.002  # lengths of runs that differ by no more, as a part of them, are one


@dataclass(frozen=True)
class TrunkNoise:
    """The two parts of the noise of ln L.

    Attributes:
        own: standard deviation of a run's own noise at weight 1, relative to its trunk.
        level: standard deviation between trunks at size ``middle``.
        slope: d ln(level)/d ln N, at most 0.
        middle: N.
        factor: of the noise given as known, in the runs fitted.
        freedom: degrees of freedom of ``level``.
        trunks: how many trunks there were.
    """

    own: float
    level: float
    slope: float
    middle: float
    factor: float
    freedom: float
    trunks: int

    def at(self, num_params: float | Array) -> Array:
        """Standard deviation of ln L between trunks of these sizes."""
        return self.level * (np.asarray(num_params, float) / self.middle) ** self.slope

    def trunks_of(self, runs: RunArrays) -> Trunks:
        """The trunks of some of the runs, with the ratio of the two parts."""
        code = codes(runs)
        given = runs.extra.get("trunk_noise")
        each = self.at(runs.num_params) if given is None else self.factor * given
        variance = np.bincount(code, each**2) / np.bincount(code)
        return Trunks(code, variance / max(self.own, LEAST) ** 2)

    def sentence(self) -> str:
        """Both parts, for people; a run's own alone where no runs share a trunk."""
        if self.level == 0:
            return f"noise: {self.own:.2%} of the loss of a run"
        falls = "" if self.slope == 0 else f" at {format_count(self.middle)} parameters, falling as N^{self.slope:.2f}"
        return (
            f"noise: {self.level:.2%} of the loss between trunks{falls} ({plural(self.trunks, 'trunk')}), "
            f"{self.own:.2%} of a run within its trunk"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data: the attributes."""
        return asdict(self)


def mean_noise(weighted: Iterable[tuple[float, TrunkNoise | None]]) -> TrunkNoise | None:
    """The noise of weighted fits together: the means of the variances; None where no run names a trunk."""
    noises = [(weight, noise) for weight, noise in weighted if noise is not None]
    if not noises:
        return None
    total, first = sum(weight for weight, _ in noises), noises[0][1]

    def mean(name: str) -> float:
        return float(np.sqrt(sum(weight * getattr(noise, name) ** 2 for weight, noise in noises) / total))

    return replace(first, own=mean("own"), level=mean("level"), factor=mean("factor"), freedom=mean("freedom"))


def has_trunks(runs: RunArrays) -> bool:
    """Whether some runs share a trunk, or the table says how large a part of the noise is."""
    return bool({"trunk_noise", "run_noise"} & runs.extra.keys()) or _share_trunks(runs)


def _share_trunks(runs: RunArrays) -> bool:
    return "trunk" in runs.extra and int(codes(runs).max()) + 1 < len(runs)


def codes(runs: RunArrays) -> Array:
    """The trunk of each run, 0, 1, 2 …; a run that names none is alone on its own."""
    alone = -1.0 - np.arange(len(runs))
    named = runs.extra.get("trunk", np.full(len(runs), np.nan))
    _, code = np.unique(np.where(np.isnan(named), np.inf, named), return_inverse=True)
    return np.unique(np.where(np.isnan(named), alone, code), return_inverse=True)[1]


def estimate(runs: RunArrays, residuals: Array, jacobian: Array, weights: Array) -> TrunkNoise:
    """The noise of the runs' trunks.

    Args:
        runs: with a column ``trunk``, ``trunk_noise`` or ``run_noise``.
        residuals: of ln L at a fit, (runs,).
        jacobian: of ln L by the constants that were free there, (constants, runs).
        weights: of the runs; a run's own variance is inversely proportional to them.
    """
    code = codes(runs)
    given = runs.extra.get("trunk_noise")
    least = _least_own(runs)
    if given is None:
        ratios = RATIOS if _share_trunks(runs) else RATIOS[:1]
        own, level, factor, share = _unknown(code, residuals, jacobian, weights, ratios, least)
        return TrunkNoise(own, level, 0.0, 1.0, 1.0, _freedom(code, share, jacobian, weights), int(code.max()) + 1)
    filled = np.where(np.isnan(given), np.nanmedian(given), given)
    own, factor = _known(code, filled, residuals, jacobian, weights, least)
    level, slope, middle = _by_size(runs.num_params, factor * filled)
    return TrunkNoise(own, level, slope, middle, factor, KNOWN, int(code.max()) + 1)


def _least_own(runs: RunArrays) -> float:
    """The least that a run's own noise can be: what the table says, or else what its repeats show."""
    given = runs.extra.get("run_noise")
    if given is not None and not np.isnan(given).all():
        return max(float(np.sqrt(np.nanmean(given**2))), LEAST)
    changes = trunk_differences(runs)[1]
    return max(float(np.sqrt(np.mean(changes**2))) / 2, LEAST) if len(changes) >= LEAST_CHANGES else LEAST


def trunk_differences(runs: RunArrays) -> tuple[Array, Array]:
    """ln L of a trunk over that of another of its size: at each common length, and how that changes to the next length.

    Their standard deviations are √2 times the noise of a run, and twice the part of it that is not its trunk's: no law
    is needed, since all else is the same.
    """
    code, log_loss, levels, changes = codes(runs), np.log(runs.loss), [np.empty(0)], [np.empty(0)]
    order = np.lexsort((runs.tokens, code, runs.num_params))
    for of_size in np.split(order, np.flatnonzero(np.diff(runs.num_params[order])) + 1):
        trunks = np.split(of_size, np.flatnonzero(np.diff(code[of_size])) + 1)
        for first, second in combinations(trunks[:MOST_TRUNKS], 2):
            near = np.abs(np.log(runs.tokens[first][:, None] / runs.tokens[second])) < SAME_LENGTH
            one, other = np.nonzero(near)
            levels.append(log_loss[first[one]] - log_loss[second[other]])
            changes.append(np.diff(levels[-1]))
    return np.concatenate(levels), np.concatenate(changes)


def _unknown(
    code: Array, residuals: Array, jacobian: Array, weights: Array, ratios: Array, least: float
) -> tuple[float, float, float, float]:
    """Own noise, noise of a trunk, factor 1, ratio of the variances: means over what the residuals leave open."""
    freedom = max(len(residuals) - len(jacobian), 1)
    logs, own = [], []
    for ratio in ratios:
        trunks = Trunks(code, np.full(code.max() + 1, ratio))
        squares, determinant = _generalised(trunks, residuals, jacobian, weights)
        own.append(max(squares / freedom, least**2))
        logs.append(-(determinant + freedom * np.log(own[-1]) + squares / own[-1]) / 2)
    chance = np.exp(np.array(logs) - max(logs))
    chance /= chance.sum()
    variance, between = float(chance @ own), float(chance @ (ratios * own))
    return np.sqrt(variance), np.sqrt(between), 1.0, between / variance


def _known(
    code: Array, noise: Array, residuals: Array, jacobian: Array, weights: Array, least: float
) -> tuple[float, float]:
    """A run's own noise, and the factor of the known noise, both the likeliest."""
    each = np.bincount(code, noise**2) / np.bincount(code)
    freedom = max(len(residuals) - len(jacobian), 1)
    nothing = Trunks(code, np.zeros(len(each)))
    independent = max(_generalised(nothing, residuals, jacobian, weights)[0] / freedom, LEAST**2)
    variances = np.unique(np.maximum(OWN * independent, least**2))
    best, result = -np.inf, (0.0, 1.0)
    for factor, belief in zip(FACTORS, BELIEFS, strict=True):
        for own in variances:
            squares, determinant = _generalised(Trunks(code, factor**2 * each / own), residuals, jacobian, weights)
            likelihood = belief - (determinant + freedom * np.log(own) + squares / own) / 2
            if likelihood > best:
                best, result = likelihood, (float(np.sqrt(own)), float(factor))
    return result


def _generalised(trunks: Trunks, residuals: Array, jacobian: Array, weights: Array) -> tuple[float, float]:
    """The sum of squares left by generalised least squares, and the logarithms of both determinants of REML."""
    root = np.sqrt(weights)
    residual, columns = (root * x for x in trunks.whiten(weights, residuals, jacobian))
    scale = np.sqrt((columns**2).sum(axis=1)).clip(1e-150)
    basis, upper = np.linalg.qr((columns / scale[:, None]).T)
    # Constants that the runs do not tell apart have no share in it.
    seen = np.abs(np.diag(upper)).clip(1e-8)
    squares = residual @ residual - ((residual @ basis) ** 2).sum()
    determinants = trunks.log_determinant(weights) + 2 * np.log(seen).sum() + 2 * np.log(scale).sum()
    return float(max(squares, 0.0)), float(determinants)


def _freedom(code: Array, ratio: float, jacobian: Array, weights: Array) -> float:
    """How many differences between trunks are left when the constants have taken theirs."""
    trunks = Trunks(code, np.full(code.max() + 1, ratio))
    root = np.sqrt(weights)
    columns = root * trunks.whiten(weights, jacobian)[0]
    basis = np.linalg.qr((columns / np.sqrt((columns**2).sum(axis=1, keepdims=True)).clip(1e-150)).T)[0]
    between = root * np.eye(trunks.count)[code].T
    between /= np.sqrt((between**2).sum(axis=1, keepdims=True))
    return float(max(trunks.count - ((between @ basis) ** 2).sum(), 1.0))


def _by_size(num_params: Array, noise: Array) -> tuple[float, float, float]:
    """The power of N that a known noise follows: its value at the middle, its slope, and the middle."""
    log_n, log_noise = np.log(num_params), np.log(noise)
    middle = log_n.mean()
    spread = ((log_n - middle) ** 2).sum()
    slope = float((log_n - middle) @ log_noise / spread) if spread > 1e-6 else 0.0
    slope = float(np.clip(slope, STEEPEST, 0.0)) if slope < -0.01 else 0.0
    return float(np.exp(log_noise.mean())), slope, float(np.exp(middle))

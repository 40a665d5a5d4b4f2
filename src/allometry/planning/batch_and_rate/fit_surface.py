"""The best learning rate and batch from your own runs: a response surface in (learning rate, batch, N, D).

``surface(observations)`` needs runs that share a size and a token count and differ in learning rate and batch, at one
or more such pairs. Each pair gives a measured optimum; over the pairs the optimum follows power laws, whose exponents
start from a published rule and move as far as the runs require. So a few runs at one size measure the constants and
take the exponents from the rule, with its uncertainty; a grid of sweeps measures all of it.

>>> fitted = planning.surface(observations)
>>> fitted.optimum(1e9, 20e9).lr          # 0.00101 [0.000837, 0.00123] 90%
>>> fitted.regret(2e-3, 524288, 1e9, 20e9)  # what another setting costs, relative to the best loss
>>> planning.plan(law, budget, surface=fitted)
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ...errors import UserError
from ...laws import Observations
from ...quantities import format_count
from ..rules import RULES, Rule
from ..rules import rule as rule_of
from ..rules.formulas import PowerLaw, RuleFormula
from .response import estimate
from .surface import COUNTS, PRIOR_SPREAD, Array, Surface
from .sweeps import AXES, Sweeps, check_bracketed, check_exponents, check_settings, gather, measured, missing

DEFAULT_PRIOR = "step_law"
NO_PRIOR_SPREAD = 10.0
_HARDLY = 0.25  # if the runs measure less than this share of an exponent, it is the rule's
_VAGUE = 3.0  # an optimum whose interval reaches this factor to either side is not measured


def surface(observations: Observations, prior: str | Rule | None = DEFAULT_PRIOR) -> Surface:
    """Fit the response surface to runs that vary learning rate and batch.

    Args:
        observations: with the columns ``lr`` and ``batch_tokens``. Runs without them are left out, with a note; runs
            far from the optimum have little weight, and diverged ones next to none.
        prior: the rule whose exponents hold (± ``PRIOR_SPREAD``) if the runs do not measure them: by name or your own
            ``Rule``. Under μP, whose base learning rate does not decrease with the size, give another than Step Law's.
            None for no prior, which needs sweeps at three or more pairs of size and tokens.

    Raises:
        UserError: fewer than three learning rates or batches at every size and token count; no optimum within the swept
            values anywhere; without a prior, sizes and tokens that do not determine the exponents. The message names
            the run to add.
    """
    sweeps, left_out = gather(observations)
    name, exponents, spread = _resolved(prior)
    check_settings(sweeps)
    if prior is None:
        check_exponents(sweeps)
    response = estimate(sweeps, exponents, spread)
    cells = measured(sweeps, response.optima, response.best)
    check_bracketed(sweeps, cells)
    fitted = Surface(
        centre=sweeps.centre,
        coefficients=response.coefficients,
        covariance=response.covariance,
        stiffness=response.stiffness,
        skew=response.skew,
        noise=response.noise,
        cell_scatter=response.cell_scatter,
        degrees_of_freedom=response.degrees_of_freedom,
        prior=name,
        prior_exponents=() if prior is None else tuple(map(float, exponents)),
        num_runs=len(sweeps.cell),
        counted=observations.counted,
        range=_range(sweeps),
        cells=cells,
    )
    return replace(fitted, notes=(*_warnings(fitted, sweeps), *left_out, *observations.notes))


def _resolved(prior: str | Rule | None) -> tuple[str | None, Array, Array]:
    """Name of the prior, its exponents (η* in N and D, B* in N and D), and their spread."""
    if prior is None:
        return None, np.zeros(4), np.full(4, NO_PRIOR_SPREAD)
    chosen = rule_of(prior) if isinstance(prior, str) else prior
    exponents: list[float] = []
    for formula in (chosen.lr, chosen.batch):
        law = _power_of(formula)
        if law is None:
            able = [name for name, each in RULES.items() if _power_of(each.lr) and _power_of(each.batch)]
            raise UserError(
                f"rule {chosen.name!r} has no exponents in size and tokens for both learning rate and batch; "
                f"these have: {', '.join(able)}"
            )
        # C = 6·N·D: an exponent in FLOPs adds to that of each.
        exponents += [law.num_params + law.flops, law.tokens + law.flops]
    return chosen.name, np.array(exponents), np.full(4, PRIOR_SPREAD)


def _power_of(formula: RuleFormula | None) -> PowerLaw | None:
    """The formula if it is a power law in size, tokens and FLOPs alone."""
    return formula if isinstance(formula, PowerLaw) and not formula.loss else None


def _range(sweeps: Sweeps) -> dict[str, tuple[float, float]]:
    logs = {
        "num_params": sweeps.log_n,
        "tokens": sweeps.log_d,
        "flops": math.log(6) + sweeps.log_n + sweeps.log_d,
        "lr": sweeps.log_lr,
        "batch_tokens": sweeps.log_batch,
    }
    return {name: (float(np.exp(each.min())), float(np.exp(each.max()))) for name, each in logs.items()}


def _warnings(fitted: Surface, sweeps: Sweeps) -> list[str]:
    """What the runs do not determine, one sentence each."""
    warnings = []
    for count, word in COUNTS.items():
        hardly = [each for each in AXES if fitted.exponents[each][count].share_from_runs < _HARDLY]
        if hardly:
            words = " and ".join(AXES[each] for each in hardly)
            values = " and ".join(f"{fitted.exponents[each][count].prior:+.3g}" for each in hardly)
            warnings.append(
                f"how {words} change with the {word} is {fitted.prior}'s (exponent {values} ± {PRIOR_SPREAD}), hardly "
                f"measured: add a sweep at {_fourfold(fitted, count)}"
            )
    for index, cell in enumerate(fitted.cells):
        for name in cell.beyond:
            warnings.append(
                f"at {sweeps.where(index)} the best {AXES[name]} lies beyond those swept: "
                f"{missing(sweeps, cell, index, name)}"
            )
    here = fitted.optimum(*np.exp(fitted.centre))
    for name, word in AXES.items():
        interval = here.of(name)
        if interval.high > _VAGUE * interval.value:
            warnings.append(f"the best {word} is hardly measured: {interval}; add runs at half and at twice it")
    return warnings


def _fourfold(fitted: Surface, count: str) -> str:
    """Where to add a sweep: at four times the largest size or token count, the other in the middle of the runs."""
    n, d = (math.exp(each) for each in fitted.centre)
    n, d = (4 * fitted.range[count][1], d) if count == "num_params" else (n, 4 * fitted.range[count][1])
    return f"{format_count(n)} parameters and {format_count(d)} tokens"

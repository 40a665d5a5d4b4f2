"""The law table: all that a prediction needs as plain numbers, so that a program without NumPy gives the same ones.

``law_table`` writes it, ``report/scripts/law.js`` evaluates it, and ``tests/helpers/law_tables.py`` is a third, plain
reading of this text. Arrays are {"shape": […], "f8": base64 of little-endian doubles}. With n = ln N, d = ln D:

- ``laws``: each has ``weight``, ``family``, ``coordinates`` and, for every refit, ``draws`` of the same coordinates.

  - ``sum_of_powers``: L = floor + Σ exp(c − sign·Σ exponent·input); ``terms`` give the places of c and of pairs
    (exponent, input: 0 for n, 1 for d); the floor is coordinate 0 where ``floor`` is true.
  - ``joined_powers``, coordinates (E, ln A, ln B, α, β, k): L = E + (exp(ln A − α·n) + exp(ln B − β·d))^k.
  - ``farseer``, coordinates (s, q, S, B, b, Q, A, a, E): L = exp(s·N^q + S) + exp(B·N^b + Q)·D^(−exp(A·N^a + E)).

- A ``fit``: ln L of its one law; the interval lies between quantiles (Weibull's, i/(n + 1)) of its draws plus ``own``
  + ``shared``·σ(N), σ(N) = ``trunks.level``·(N/``trunks.middle``)^``trunks.slope`` (0 without trunks).
- A ``forecast``: centre c = Σ weight·ln L, variance m = Σ weight·((ln L − c)² + s²), s = (95 % − 5 % quantile of
  the draws) / (2·1.6449). The distance x is the largest of ln(6·N·D/``reach``), ln(N/most N fitted), ln(D/most
  D fitted) and 0. The point lies e = max(c − f, 0) above the frontier, f the ``log_loss`` of ``frontier``'s last step
  whose FLOPs are at most 1.01·6·N·D·``flops_ratio`` (the first below all). With k_i the Matérn 5/2 correlation of
  (n, d)/``length`` with run i, g = exp(``growth``·e): mean r = g·k·``mean``, noise o = g²·``noise``,
  variance p = g²·Σ ``terms`` weight·(1 − kᵀ·(K + N/ratio)⁻¹·k), K the correlations of the runs and N their noise: 1 on
  the diagonal, and where it has ``trunks`` their ``ratio`` for runs of one ``code`` (the factor of a term, its first
  number, is 0 here). Then

      ln L = c + r − ``correction``·min(x, ``tested``) + ``drift_slope``·x + ``repeat_slope``·y − ``lower``·z
      scale² = o + σ(N)² + (``lower_sd``·z)²
               + ``scale``²·((m·(1 + 2·``noise_share``) + p)/3 + (``drift_sd``·x)² + (``repeat_sd``·y)²)

  with y = max(ln(D/``unique_tokens``), 0), 0 where that is null, and z = max(ln(D/``tokens``), 0) of ``early_end``, 0
  where that is null; ``repeat_slope``·y − ``lower``·z is in every draw. The interval is exp(ln L ± ``t``[level]·scale).
  Where z > 0, with l and u the centre and ``t``·scale of N at ``early_end``'s tokens and w = ``exponent``·z·(1 +
  ``growth``·z)·``shares``[level], the lower end is the lower of l − √(w² + u²) and ln L − ``t``·scale; where ``lower``
  > 0, of l − √(w² + u²) and ln L − u, and the upper end is min(ln L + ``t``·scale, l + u).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Array, Law, safe_log
from .fitting.result import Fit
from .forecasting.forecast import Forecast
from .forecasting.residuals import EXCESS_GROWTH, LENGTH, RATIOS
from .forms.farseer import Farseer
from .forms.joined_powers import Kaplan, KaplanFloor, Skaling
from .forms.sums_of_powers import SumOfPowers
from .tables.findings.best_by_compute import frontier

LEVELS = (0.5, 0.8, 0.9, 0.95)
INPUTS = ("num_params", "tokens")
# A process that weighs less than this share of the variance is left out: six digits do not show it.
NEGLIGIBLE = 1e-8


def has_table(predictor: object) -> bool:
    """Whether a law is one of size and tokens alone whose formula the table can hold."""
    if isinstance(predictor, Fit):
        fits = [predictor]
    elif isinstance(predictor, Forecast):
        fits = list(predictor.fits.values())
    else:
        return False
    return all(fit.law.inputs == INPUTS and _family(fit.law) is not None for fit in fits)


def law_table(predictor: Fit | Forecast, levels: Sequence[float] = LEVELS) -> dict[str, Any]:
    """The table of a fit or forecast for which ``has_table`` is true, ready for JSON (NaN only inside arrays).

    Args:
        levels: of the intervals that can be asked for.
    """
    shared: dict[str, Any] = {
        "kind": predictor.kind,
        "counted": predictor.counted,
        "num_runs": predictor.num_runs,
        "range": {name: list(predictor.range[name]) for name in (*INPUTS, "flops")},
        "levels": list(levels),
    }
    noise = predictor.trunk_noise
    shared["trunks"] = None if noise is None else {name: getattr(noise, name) for name in ("level", "slope", "middle")}
    if isinstance(predictor, Fit):
        return shared | _of_fit(predictor)
    return shared | _of_forecast(predictor, levels)


def packed(array: Array) -> dict[str, Any]:
    """An array of doubles without loss, whatever it holds."""
    values = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(values.shape), "f8": base64.b64encode(values.tobytes()).decode("ascii")}


def process_terms(variances: Array, ratios: Array, noise: float) -> list[tuple[int, float, float]]:
    """(factor, ratio, variance) of processes with variances (factors, ratios) that show beside the others and noise."""
    least = NEGLIGIBLE * (noise + float(variances.sum()))
    return [
        (factor, float(ratio), float(variance))
        for factor, row in enumerate(variances)
        for ratio, variance in zip(ratios, row, strict=True)
        if variance > least
    ]


def _of_fit(fit: Fit) -> dict[str, Any]:
    table: dict[str, Any] = {"laws": [_law(fit, 1.0)], "own": None, "shared": None}
    if len(fit.draws) > 1:
        own, shared = fit.noise_parts(len(fit.draws))
        table |= {"own": packed(own), "shared": None if shared is None else packed(shared)}
    return table


def _of_forecast(forecast: Forecast, levels: Sequence[float]) -> dict[str, Any]:
    process = forecast.residual_process
    mixture = process.mixture()
    flops, log_loss = frontier(forecast.smooth_runs)
    trunks = mixture.trunks
    early = forecast.early_end
    shares = [forecast.quantile(level) / forecast.quantile(0.9) for level in levels]
    return {
        "laws": [_law(forecast.fits[name], weight) for name, weight in forecast.weights.items()],
        "t": [forecast.quantile(level) for level in levels],
        "early_end": early and early.to_json() | {"shares": shares},
        "scale": forecast.scale,
        "correction": forecast.correction,
        "tested": forecast.tested,
        "drift_sd": forecast.drift_prior.sd,
        "drift_slope": forecast.drift_prior.slope,
        "repeat_sd": forecast.drift_prior.repeat_sd,
        "repeat_slope": forecast.drift_prior.repeat_slope,
        "unique_tokens": forecast.drift_prior.unique_tokens,
        "reach": forecast.reach,
        "flops_ratio": forecast.flops_ratio,
        "noise_share": process.noise_share,
        "frontier": {"flops": packed(flops), "log_loss": packed(log_loss)},
        "process": {
            "length": LENGTH,
            "growth": EXCESS_GROWTH,
            "num_params": packed(mixture.num_params),
            "tokens": packed(mixture.tokens),
            "mean": packed(mixture.mean),
            "terms": process_terms(mixture.variances[None], RATIOS, mixture.noise),
            "noise": mixture.noise,
            "trunks": trunks and {"code": trunks.code.tolist(), "ratio": packed(trunks.ratio)},
        },
    }


def _law(fit: Fit, weight: float) -> dict[str, Any]:
    form = fit.law
    values = np.array([fit.values[symbol] for symbol in form.symbols])
    described = {"name": form.name, "formula": form.formula, "weight": weight, "family": _family(form)}
    if isinstance(form, SumOfPowers):
        described |= {"floor": form.floor is not None, "sign": form.sign, "terms": form.places()}
    return described | {
        "coordinates": packed(_coordinates(form, values)),
        "draws": packed(_coordinates(form, fit.draws)),
    }


def _family(form: Law) -> str | None:
    if isinstance(form, SumOfPowers):
        return "sum_of_powers"
    if isinstance(form, Skaling | KaplanFloor):
        return "joined_powers"
    return "farseer" if isinstance(form, Farseer) else None


def _coordinates(form: Law, values: Array) -> Array:
    """Constants (..., constants) → what the table keeps: coefficients by their logarithms."""
    if isinstance(form, SumOfPowers):
        return form.theta(values, [0.0] * len(form.inputs))
    if isinstance(form, Farseer):
        return values
    if isinstance(form, KaplanFloor):
        values = np.concatenate([np.zeros_like(values[..., :1]), values], -1) if isinstance(form, Kaplan) else values
        floor, nc, dc, alpha_n, alpha_d = np.moveaxis(values, -1, 0)
        ratio = alpha_n / alpha_d
        return np.stack([floor, ratio * safe_log(nc), safe_log(dc), ratio, np.ones_like(ratio), alpha_d], axis=-1)
    floor, big_a, big_b, alpha, beta, k = np.moveaxis(values, -1, 0)
    return np.stack([floor, safe_log(big_a), safe_log(big_b), alpha, beta, k], axis=-1)

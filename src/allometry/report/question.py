"""What a page is told so that one can ask the law in it: the law table, how to search, settings, machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from .. import laws
from ..errors import UserError
from ..laws.law_table import LEVELS, has_table, law_table, packed
from ..planning import DEVICES, RULES, FittedRange, OptimumProblem, throughput
from ..planning.batch_and_rate.settings import DEFAULT_RULE
from ..planning.optimum.optimal import USUAL_TOKENS_PER_PARAM
from ..planning.optimum.predictor import mixture_shares
from ..planning.rules.formulas import PowerLaw
from .study_contents import StudyContents, fits_of, weights_of

Predictor = laws.Fit | laws.Forecast
BEYOND = 10.0  # where nothing was planned, the page begins with a budget of so many times the largest run's
# The scripts that ask a law of size and tokens, in the order in which they need each other.
LAW_SCRIPTS = ("ground.js", "runs_process.js", "law.js", "form_parts.js", "curve.js", "budget_form.js", "ask.js")
# In <script type="application/json"> nothing is markup but these; two line separators end a line in old scripts.
ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class PageSettings:
    """Batch in tokens and learning rate as powers of size, tokens and FLOPs, and where they come from."""

    batch: PowerLaw
    lr: PowerLaw
    source: str

    @classmethod
    def of_recipe(cls, recipe: dict[str, Any], rate: str | None) -> PageSettings:
        """Of a study's recipe: both follow the tokens seen; ``rate`` says what its learning rate is."""
        reference, growth, fall = (recipe[name] for name in ("reference_tokens", "batch_exponent", "lr_exponent"))
        return cls(
            PowerLaw(recipe["batch_tokens"] * reference**-growth, tokens=growth),
            PowerLaw(recipe["lr"] * reference**fall, tokens=-fall),
            f"by the study's recipe{'; the rate is ' + rate if rate else ''}",
        )

    @classmethod
    def published(cls) -> PageSettings:
        """Of the rule that plans use where there are no runs to tell."""
        rule = RULES[DEFAULT_RULE]
        assert isinstance(rule.batch, PowerLaw)
        assert isinstance(rule.lr, PowerLaw)
        return cls(rule.batch, rule.lr, f"by the published rule {rule.name} ({rule.source}), not by these runs")


def study_question(contents: StudyContents) -> Markup | None:
    """The data of a study's page; None while there is no law that can be asked."""
    predictor, plan = contents.predictor, contents.plan
    if predictor is None or not has_table(predictor):
        return None
    rungs = contents.finished("ladder")
    covered = FittedRange.of([contents.size(r) for r in rungs], [r.tokens for r in rungs]) if rungs else None
    # The recipe of a program knows a rate and a width, and no batch by the tokens seen.
    recipe = contents.recipe
    settings = PageSettings.of_recipe(recipe, contents.rate) if recipe and "reference_tokens" in recipe else None
    if settings is None and all(record.external for record in contents.records):
        settings = PageSettings.published()
    start = plan.flops if plan else None  # by 6·N·D, as the page counts: the budget itself is of exact FLOPs
    return question(predictor, covered, settings, speed(contents), start, contents.level)


def question(
    predictor: Predictor,
    covered: FittedRange | None = None,
    settings: PageSettings | None = None,
    measured: float | None = None,
    start: float | None = None,
    level: float = 0.9,
) -> Markup:
    """The data of a page about a law for which ``has_table`` is true, as escaped JSON.

    Args:
        covered: what the runs covered; by default the predictor's own range.
        settings: of batch and learning rate; None: the page gives none.
        measured: FLOP/s that the runs reached.
        start: FLOPs that the page begins with, by 6·N·D.
        level: of the interval that it begins with.
    """
    levels = sorted({*LEVELS, level})
    problem = OptimumProblem.of(predictor, 1.0, fitted_range=covered)
    runs = problem.fitted_range
    assert runs is not None  # a fit has a range
    flops = start or BEYOND * runs.flops[1]
    data = {
        "table": law_table(predictor, levels),
        "planning": {
            "tokens_per_param": problem.tokens_per_param,
            "usual": USUAL_TOKENS_PER_PARAM,
            "fitted_range": asdict(runs),
            "shares": _shares(predictor),
        },
        "settings": None if settings is None else asdict(settings),
        "machines": machines(measured),
        "start": {
            "flops": flops,
            "level": levels.index(level),
            "flops_range": (runs.flops[0], max(1e4 * runs.flops[1], 10 * flops)),
            "num_params_range": (runs.num_params[0] / 2, 1e3 * runs.num_params[1]),
            "tokens_range": (runs.tokens[0] / 2, 1e3 * runs.tokens[1]),
        },
    }
    return as_json(data)


def as_json(data: Any) -> Markup:
    """JSON that may stand inside a script element: nothing in it ends the element or is markup."""
    return Markup(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES))


def _shares(predictor: Predictor) -> dict[str, Any] | None:
    """The weights of the laws in each draw of their mixture; None without refits."""
    kept = [w for name, w in weights_as_given(predictor).items() if w > 0 and len(fits_of(predictor)[name].draws) > 1]
    draws = max((len(fit.draws) for fit in fits_of(predictor).values()), default=0)
    return packed(mixture_shares(np.array(kept), draws)) if kept else None


def weights_as_given(predictor: Predictor) -> dict[str, float]:
    """Law → weight in the order of the predictor, which is that of the draws."""
    return weights_of(predictor) if isinstance(predictor, laws.Fit) else dict(predictor.weights)


def machines(measured: float | None = None) -> list[dict[str, Any]]:
    """The devices that a page knows, the measured machine first."""
    known = [{"name": one.name, "flops_per_second": one.peak_flops} for one in DEVICES.values()]
    known.sort(key=lambda one: one["name"] != "h100")
    if measured is not None:
        own = {"name": f"this machine ({measured:.2e} FLOP/s)", "flops_per_second": measured, "measured": True}
        known.insert(0, own)
    return known


def speed(contents: StudyContents) -> float | None:
    """FLOP/s, by 6·N·D, that the plan expects; without one, what the largest runs reached; None where no run knows."""
    if contents.plan and contents.plan.seconds:
        return contents.plan.flops / contents.plan.seconds
    rows = [
        {name: getattr(record, name) for name in ("num_params", "tokens", "flops", "loss", "tokens_per_second")}
        for record in contents.finished("ladder", "target")
        if record.tokens_per_second
    ]
    try:
        return throughput(laws.Observations.from_records(rows)) if rows else None
    except UserError:
        return None

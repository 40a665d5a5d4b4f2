"""From a law and a budget to a plan: how big a model, on how many tokens, with which batch and learning rate.

- ``Budget``: FLOPs, hours, money or a goal; the machine, the data, the use afterwards;
- ``optimal``: the size and tokens with the lowest predicted loss, and how flat that optimum is;
- ``plan``: a real model, its batch, rate and schedule, in one record to be written down before the training starts;
  ``resume``: what to go on with when the budget changes half way; ``Outcome``: a plan against what came of it;
- ``rules``: every published batch-size and learning-rate rule with source and range; ``scale`` carries a baseline;
- ``surface``: batch and learning rate from your own runs; ``gradient_noise``: a batch from measured gradients;
- ``ladder.design``, ``next_runs``: which runs to train so that a prediction becomes sure;
- ``carry``: a metric from one measured model to another by a power law.

NumPy only. Parameters are counted as the law counts them, batches are tokens, FLOPs are 6·N·D unless a name says
otherwise.
"""

from .batch_and_rate.gradient_noise import BatchCost, GradientNoise, batch_cost, gradient_noise
from .batch_and_rate.settings import Interval
from .batch_and_rate.surface import Setting, Surface, surface
from .carried_metric import carry
from .continuation import Alternative, Checkpoint, Continuation, resume
from .experiments import ladder_design as ladder
from .experiments.next_runs import NextRun, NextRuns, next_runs
from .make_plan import plan
from .optimum.fitted_range import Covered
from .optimum.optimal import Optimum, at, optimal
from .optimum.predictor import Predictor
from .optimum.repeated_data import Repeated, Repetition
from .optimum.search_a_budget import Basin
from .outcome_record import Outcome
from .plan_record import Plan
from .resources.budget import DEVICES, Budget, Device, device, throughput
from .resources.memory import Memory, memory
from .resources.shapes import Shape, Shapes
from .rules import published as rules
from .rules.published import RULES, rule
from .rules.rule import Baseline, Recommendation, Rule, Scaled
from .rules.side_by_side import Comparison, compare, recommend, scale, scale_baseline

__all__ = [
    "DEVICES",
    "RULES",
    "Alternative",
    "Baseline",
    "Basin",
    "BatchCost",
    "Budget",
    "Checkpoint",
    "Comparison",
    "Continuation",
    "Covered",
    "Device",
    "GradientNoise",
    "Interval",
    "Memory",
    "NextRun",
    "NextRuns",
    "Optimum",
    "Outcome",
    "Plan",
    "Predictor",
    "Recommendation",
    "Repeated",
    "Repetition",
    "Rule",
    "Scaled",
    "Setting",
    "Shape",
    "Shapes",
    "Surface",
    "at",
    "batch_cost",
    "carry",
    "compare",
    "device",
    "gradient_noise",
    "ladder",
    "memory",
    "next_runs",
    "optimal",
    "plan",
    "recommend",
    "resume",
    "rule",
    "rules",
    "scale",
    "scale_baseline",
    "surface",
    "throughput",
]

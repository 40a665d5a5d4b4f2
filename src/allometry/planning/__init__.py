"""From a law and a budget to a plan: how big a model, on how many tokens, with which batch and learning rate.

- ``Budget``: FLOPs, hours, money or a goal; the machine, the data, the use afterwards;
- ``optimal``: the size and tokens with the lowest predicted loss, and how flat that optimum is;
- ``plan``: a real model, its batch, rate and schedule, in one record to be written down before the training starts;
  ``resume``: what to go on with when the budget changes half way;
- ``rules``: every published batch-size and learning-rate rule with source and range; ``scale`` carries a baseline;
- ``surface``: batch and learning rate from your own runs; ``gradient_noise``: a batch from measured gradients;
- ``ladder.design``, ``next_runs``: which runs to train so that a prediction becomes sure;
- ``carry``: a metric from one measured model to another by a power law.

NumPy only. Parameters are counted as the law counts them, batches are tokens, FLOPs are 6·N·D unless a name says
otherwise.
"""

from . import ladder, rules
from .budget import DEVICES, Budget, Device, device, throughput
from .covered import Covered
from .formula import Baseline, Recommendation, Rule, Scaled
from .memory import Memory, memory
from .next_runs import NextRun, NextRuns, next_runs
from .noise import BatchCost, GradientNoise, batch_cost, gradient_noise
from .optimal import Optimum, at, optimal
from .plan import Plan, plan
from .predictor import Predictor
from .repeat import Repeated, Repetition
from .resume import Alternative, Checkpoint, Continuation, resume
from .rules import RULES, Comparison, compare, recommend, rule, scale, scale_baseline
from .search import Basin
from .settings import Interval
from .shapes import Shape, Shapes
from .surface import Setting, Surface, surface
from .transfer import carry

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

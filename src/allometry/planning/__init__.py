"""From a law and a budget to a plan: how big a model, on how many tokens, with which batch and learning rate.

- ``Budget``: FLOPs, or devices and hours, or measured throughput and hours;
- ``optimal``: the size and tokens with the lowest predicted loss, and how flat that optimum is;
- ``rules``: every published batch-size and learning-rate rule with source and range; ``scale`` carries a baseline;
- ``carry``: a metric from one measured model to another by a power law;
- ``plan``: all of it in one record, to be written down before the training starts.

NumPy only. Parameters are non-embedding, batches are tokens, FLOPs are 6·N·D unless a name says otherwise.
"""

from . import rules
from .budget import DEVICES, Budget, Device, device
from .formula import Baseline, Recommendation, Rule, Scaled
from .noise import BatchCost, GradientNoise, batch_cost, gradient_noise
from .optimal import Basin, Covered, Optimum, Predictor, at, optimal
from .plan import Plan, Shape, plan
from .rules import RULES, Comparison, compare, recommend, rule, scale, scale_baseline
from .surface import Setting, Surface, surface
from .transfer import carry

__all__ = [
    "DEVICES",
    "RULES",
    "Baseline",
    "Basin",
    "BatchCost",
    "Budget",
    "Comparison",
    "Covered",
    "Device",
    "GradientNoise",
    "Optimum",
    "Plan",
    "Predictor",
    "Recommendation",
    "Rule",
    "Scaled",
    "Setting",
    "Shape",
    "Surface",
    "at",
    "batch_cost",
    "carry",
    "compare",
    "device",
    "gradient_noise",
    "optimal",
    "plan",
    "recommend",
    "rule",
    "rules",
    "scale",
    "scale_baseline",
    "surface",
]

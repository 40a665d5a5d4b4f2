"""From a law and a budget to a plan: how big a model, on how many tokens, with which batch and learning rate.

- ``Budget``: FLOPs, hours, money or a goal; the machine, the data, the use afterwards;
- ``optimal``: the size and tokens with the lowest predicted loss, and how flat that optimum is;
- ``plan``: a real model, its batch, learning rate and schedule, in one record written before the training starts;
  ``resume``: what to continue when the budget changes half way; ``Outcome``: a plan against the trained run;
- ``rules``: every published batch-size and learning-rate rule with source and range; ``carry_baseline`` carries a
  setting that works to another size;
- ``surface``: batch and learning rate from your own runs; ``gradient_noise``: a batch from measured gradients;
- ``optimal_ladder``, ``next_runs``, ``choose_runs``: which runs to train so that a prediction becomes precise;
- ``plan_experts``: active parameters, experts and tokens by a law of experts; ``samples_for``: how many samples a
  fine-tuning needs for a loss;
- ``carry``: a metric from one measured model to another by a power law.

NumPy only. Parameters are counted as the law counts them, batches are tokens, FLOPs are 6·N·D unless a name says
otherwise.
"""

from .batch_and_rate.fit_surface import surface
from .batch_and_rate.gradient_noise import BatchCost, GradientNoise, batch_cost, gradient_noise
from .batch_and_rate.settings import Interval
from .batch_and_rate.surface import Setting, Surface
from .carried_metric import carry
from .continuation import Alternative, Checkpoint, Continuation, resume
from .experiments.choose_runs import ChosenRuns, choose_runs
from .experiments.next_runs import NextRun, NextRuns, next_runs
from .experiments.optimal_ladder import OptimalLadder, optimal_ladder
from .experts import ExpertsChoice, ExpertsPlan, plan_experts
from .fine_tuning import SamplesPlan, samples_for
from .make_plan import plan
from .optimum.fitted_range import FittedRange
from .optimum.optimal import OptimumProblem, optimal
from .optimum.optimum_record import Basin, Optimum
from .optimum.overtaking import BestLosses, Overtaking, overtaking
from .optimum.predictor import Predictor, as_predictor
from .optimum.repeated_data import Repeated, Repetition
from .outcome_record import Outcome
from .plan_record import Plan
from .resources.budget import Budget, throughput
from .resources.devices import DEVICES, Device, device
from .resources.memory import Layout, Memory, memory
from .resources.parallel_layout import fit_layout
from .resources.shapes import Shape, Shapes
from .rules import (
    RULES,
    Baseline,
    CarriedBaseline,
    Comparison,
    Recommendation,
    Rule,
    carry_baseline,
    compare,
    recommend,
    rule,
)

__all__ = [
    "DEVICES",
    "RULES",
    "Alternative",
    "Baseline",
    "Basin",
    "BatchCost",
    "BestLosses",
    "Budget",
    "CarriedBaseline",
    "Checkpoint",
    "ChosenRuns",
    "Comparison",
    "Continuation",
    "Device",
    "ExpertsChoice",
    "ExpertsPlan",
    "FittedRange",
    "GradientNoise",
    "Interval",
    "Layout",
    "Memory",
    "NextRun",
    "NextRuns",
    "OptimalLadder",
    "Optimum",
    "OptimumProblem",
    "Outcome",
    "Overtaking",
    "Plan",
    "Predictor",
    "Recommendation",
    "Repeated",
    "Repetition",
    "Rule",
    "SamplesPlan",
    "Setting",
    "Shape",
    "Shapes",
    "Surface",
    "as_predictor",
    "batch_cost",
    "carry",
    "carry_baseline",
    "choose_runs",
    "compare",
    "device",
    "fit_layout",
    "gradient_noise",
    "memory",
    "next_runs",
    "optimal",
    "optimal_ladder",
    "overtaking",
    "plan",
    "plan_experts",
    "recommend",
    "resume",
    "rule",
    "rules",
    "samples_for",
    "surface",
    "throughput",
]

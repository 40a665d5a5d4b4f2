"""Published rules for batch size and learning rate, with source and range; a baseline carried to another size.

- ``RULES``, ``rule``: every rule by name;
- ``recommend``, ``compare``: batch and learning rate by each rule, side by side;
- ``carry_baseline``: a setting that works, carried to another model size by each rule.
"""

from .published import RULES, rule
from .rule_types import Baseline, CarriedBaseline, Recommendation, Rule
from .side_by_side import Comparison, carry_baseline, compare, recommend

__all__ = [
    "RULES",
    "Baseline",
    "CarriedBaseline",
    "Comparison",
    "Recommendation",
    "Rule",
    "carry_baseline",
    "compare",
    "recommend",
    "rule",
]

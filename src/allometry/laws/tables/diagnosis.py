"""All that looks wrong in a table of runs, or that its design cannot tell.

A finding names its runs and what to do about them; no run is left out because of one. Only a design that does not
determine the constants of a law is refused, by ``findings.undetermined.check_design``.
"""

from __future__ import annotations

from .findings.ends_of_sweeps import ends_of_sweeps
from .findings.far_off import far_off
from .findings.finding import Finding
from .findings.odd_rows import checkpoints, impossible, levels_of_compute
from .findings.repeated_runs import duplicates
from .findings.short_runs import early_end, initial_phase, pre_asymptotic
from .findings.undetermined import design_findings
from .run_arrays import RunArrays

SEARCHES = (
    duplicates,
    impossible,
    levels_of_compute,
    checkpoints,
    far_off,
    design_findings,
    pre_asymptotic,
    initial_phase,
    early_end,
    ends_of_sweeps,
)


def diagnose(runs: RunArrays) -> tuple[Finding, ...]:
    """All findings, the gravest kinds first."""
    return tuple(finding for search in SEARCHES for finding in search(runs))

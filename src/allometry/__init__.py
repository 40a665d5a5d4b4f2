"""allometry: how a language model scales with its size, measured on your own text and machine.

Three parts that can be used alone, meeting only in plain records:

- ``allometry.nn``: unit scaling, a ``torch.nn``-like library (torch only);
- ``allometry.laws``: scaling laws fitted to any table of runs (NumPy and SciPy);
- ``allometry.planning``: from a law and a budget to a model, its tokens, batch and learning rate.

``allometry.workflow`` joins them: it does what ``allometry quickstart`` and the study commands do, from Python.
``allometry.Recorder`` records runs of a training loop of one's own into a study.

Nothing is imported here, so that ``import allometry`` costs nothing: import the part that you need.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Recorder":
        from .recording.recorder import Recorder

        return Recorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

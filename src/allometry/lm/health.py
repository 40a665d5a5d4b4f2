"""Whether a model that is about to be trained has its tensors at a healthy scale."""

from __future__ import annotations

from torch import Tensor

from .. import nn
from .model import LanguageModel

SEQUENCES = 4  # enough to judge scales by, and cheap beside a training


def scale_warning(model: LanguageModel, batch: tuple[Tensor, Tensor]) -> str | None:
    """A line on the tensors whose scale is not healthy, by one step's forward and backward; None if all are.

    The model is left as it was. See :func:`allometry.nn.audit`.
    """
    tokens, targets = (part[:SEQUENCES] for part in batch)
    found = nn.audit(model, (tokens, targets))
    if found.ok:
        return None
    first, more = found.failures[0], len(found.failures) - 1
    return (
        f"audit of scales: {first.name} ({first.kind}) {first.verdict}, rms {first.rms:.3g}"
        + (f", and {more} more tensors" if more else "")
        + "; `allometry audit STUDY/RUN` shows them all"
    )

"""The optimum that a search returns: size, tokens and predicted loss, how flat it is, and its JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Basin:
    """How flat the optimum is.

    Sizes within 0.1 % and 0.5 % of the best loss, clipped to the range searched; and the relative loss that half or
    twice the size costs at the same FLOPs (None if the law gives none).
    """

    within_0_1_percent: tuple[float, float]
    within_0_5_percent: tuple[float, float]
    cost_of_half_size: float | None
    cost_of_double_size: float | None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, as JSON gives it back."""
        return _lists(asdict(self))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Basin:
        """The basin of a record that JSON gave back."""
        return cls(**_tuples(record))


@dataclass(frozen=True)
class Optimum:
    """The size and tokens with the lowest predicted loss for a budget.

    ``flops`` is what training takes, 6·N·D; ``inference_flops`` what serving takes afterwards, 2·N a token.
    ``intervals`` holds, at ``level``, where other refits of the law would put "num_params" and "tokens", and for a loss
    to reach the "flops" between which it will be (None: not assured at any). ``searched`` is the range of sizes
    searched; ``at_edge`` is True if the law has no optimum in it: its loss still falls at an end; ``is_flat`` if it
    gives every size the same. ``basin`` and ``searched`` are None if size or tokens were fixed, ``basin`` also without
    an optimum. ``cautions`` question the optimum itself, ``notes`` say what else to know.
    """

    num_params: float
    tokens: float
    flops: float
    loss: float
    low: float | None
    high: float | None
    level: float
    at_edge: bool = False
    is_flat: bool = False
    searched: tuple[float, float] | None = None
    basin: Basin | None = None
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    inference_flops: float = 0.0
    intervals: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.tokens / self.num_params

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, as JSON gives it back."""
        return _lists(asdict(self))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Optimum:
        """The optimum that ``to_json`` wrote."""
        values = _tuples(record)
        if values.get("basin") is not None:
            values["basin"] = Basin.from_json(values["basin"])
        values["notes"], values["cautions"] = tuple(values.get("notes", ())), tuple(values.get("cautions", ()))
        values["intervals"] = _tuples(values.get("intervals") or {})
        return cls(**values)


def _lists(value: Any) -> Any:
    """Tuples become the lists that JSON makes of them."""
    if isinstance(value, Mapping):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """Lists become the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}

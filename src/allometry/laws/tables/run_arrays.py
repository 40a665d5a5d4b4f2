"""``RunArrays``: finished runs as parallel arrays, which every step after reading works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from ...errors import UserError
from .columns import FIELDS


@dataclass(frozen=True, eq=False)
class RunArrays:
    """Finished runs as parallel arrays, one entry a run.

    Attributes:
        num_params: N, parameters, float64.
        tokens: D, training tokens, float64.
        loss: final loss in the source's unit (nats a token, nats a byte, ...), float64, positive.
        flops: C, training FLOPs; 6·N·D where the source has none.
        loss_se: standard error of the loss, nan where unknown.
        labels: one name a run.
        extra: further numeric columns by name, nan where a row has no value.
    """

    num_params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    loss_se: np.ndarray
    labels: tuple[str, ...]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loss)

    def where(self, mask: np.ndarray) -> Self:
        """The runs where ``mask`` (boolean array or index array, one entry a run) holds."""
        index = np.arange(len(self))[mask]
        return replace(
            self,
            **{name: getattr(self, name)[index] for name in FIELDS},
            labels=tuple(self.labels[i] for i in index),
            extra={name: values[index] for name, values in self.extra.items()},
        )

    def with_columns(self, **columns: float | np.ndarray) -> Self:
        """The runs with further columns of ``extra``, or with other values in them: a number for all runs, or one each.

        Raises:
            UserError: a field that is none of ``extra``, or neither one number nor one a run.
        """
        extra = dict(self.extra)
        for name, given in columns.items():
            values = np.asarray(given, dtype=float)
            if name in FIELDS or values.shape not in ((), (len(self),)):
                raise UserError(f"{name}: give a column of extra as one number, or as {len(self)}, one a run")
            extra[name] = np.broadcast_to(values, (len(self),)).copy()
        return replace(self, extra=extra)

    def column(self, name: str) -> np.ndarray:
        """A numeric column by its name, one of the attributes or of ``extra``.

        Raises:
            UserError: no column has this name; the message lists the names.
        """
        if name in FIELDS:
            return getattr(self, name)
        if name not in self.extra:
            raise UserError(f"the runs have no column {name}; there are {', '.join((*FIELDS, *self.extra))}")
        return self.extra[name]

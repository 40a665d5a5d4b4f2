"""A table of finished runs: parameters, tokens, compute and loss, from a file, a study or plain records.

Everything that was left out, derived or chosen on the way in stands in ``Observations.notes``, so that no row
goes missing in silence; what looks wrong with the runs that are left stands in ``Observations.findings``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import format_count, format_flops
from .cells import Table, from_records
from .cleaning import _check_counts, _finished, _groups, _labels, _own_columns
from .columns import COUNTED, EXTRA, FIELDS, KNOWN, Match, convert, match_columns
from .curves import Curves
from .diagnosis import Finding, Noise, diagnose, noise
from .readers import read_table
from .units import check_units, complete


@dataclass(frozen=True, eq=False)
class Observations:
    """Finished runs as parallel arrays, one entry a run.

    Attributes:
        num_params: N, parameters, float64; ``counted`` says which.
        tokens: D, training tokens, float64.
        loss: final loss in the source's unit (nats a token, nats a byte, ...), float64, positive.
        flops: C, training FLOPs; 6·N·D where the source has none.
        loss_se: standard error of the loss, nan where unknown.
        labels: one name a run.
        notes: sentences: which columns were taken, what was derived, which rows were left out and why.
        extra: further numeric columns by name, nan where a row has none. Known ones have one name whatever the source
            called them: batch_tokens, batch_sequences, sequence_length, steps, lr (the peak), unique_tokens, warmup,
            weight_decay, seed, group (rows of unlike text columns); others keep theirs.
        counted: which parameters ``num_params`` counts: "non_embedding", "total", "matmul" or "unknown".
        curves: the loss along the runs, where the source has it.
    """

    num_params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    loss_se: np.ndarray
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    counted: str = "unknown"
    curves: Curves | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def read(
        cls,
        source: Any,
        columns: Mapping[str, str | float | None] | None = None,
        counted: str | None = None,
        where: Mapping[str, Any] | None = None,
        curves: Any = None,
    ) -> Observations:
        """Read the folder of a study, a CSV, TSV, JSONL, JSON or Parquet file (gzip too), or a frame.

        Args:
            source: a path, or a pandas or polars frame, an Arrow table, a mapping of columns. Columns are found by
                their usual names (``N``, ``params``, ``Model Size``, ``D``, ``tokens``, ``Training FLOP``,
                ``val_loss``, ``lr``, ``bsz`` ...).
            columns: which column holds a field where the names do not say, e.g. ``{"loss": "loss_c4_val"}``; a number
                holds in every row (``{"sequence_length": 2048}``), None takes no column.
            counted: "non_embedding", "total" or "matmul": which parameters to take, or what the only column counts.
            where: the rows to take, column → value or list of values, e.g. ``{"dataset": "c4"}``.
            curves: the loss along the runs: ``Curves``, or what ``Curves.read`` takes (the folder of a study too).

        Raises:
            UserError: no such file, empty, unreadable, columns missing or ambiguous, text among numbers, counts not
                above zero, units that are clearly off.
        """
        if curves is not None and not isinstance(curves, Curves):
            curves = Curves.read(curves)
        if isinstance(source, str | Path) and Path(source).is_dir():
            return replace(_read_study(Path(source), columns, counted, where), curves=curves)
        table = read_table(source).select(where or {})
        match = match_columns(table, columns, counted)
        observations = _assemble(table, match)
        check_units(observations, match)
        return replace(observations, curves=curves)

    @classmethod
    def from_records(cls, rows: Iterable[Mapping], counted: str = "unknown") -> Observations:
        """Build from dicts with the keys num_params, tokens, loss and, where known, flops, loss_se, label, status.

        Keys of ``extra`` and other numbers are kept under their own names.

        Raises:
            UserError: no rows, a key missing, text among numbers, counts not above zero, no finite loss.
        """
        table = from_records(rows)
        if not len(table):
            raise UserError("no runs to read: the table is empty; give at least one row with num_params, tokens, loss")
        if counted not in (*COUNTED, "unknown"):
            raise UserError(f"counted is {counted!r}; parameters are counted {', '.join(COUNTED)}")
        missing = [name for name in ("num_params", "loss") if name not in table.columns]
        if not {"tokens", "flops"} & set(table.columns):
            missing.append("tokens")
        if missing:
            raise UserError(f"records lack {', '.join(missing)}; found: {', '.join(sorted(table.columns))}")
        return _assemble(table, Match({name: name for name in KNOWN if name in table.columns}, counted))

    def where(self, mask: np.ndarray) -> Observations:
        """The runs where ``mask`` (boolean array or index array, one entry a run) holds."""
        index = np.arange(len(self))[mask]
        return replace(
            self,
            **{name: getattr(self, name)[index] for name in FIELDS},
            labels=tuple(self.labels[i] for i in index),
            extra={name: values[index] for name, values in self.extra.items()},
        )

    def column(self, name: str) -> np.ndarray:
        """A numeric column by its name, one of the attributes or of ``extra``.

        Raises:
            UserError: there is none; those that there are are named.
        """
        if name in FIELDS:
            return getattr(self, name)
        if name not in self.extra:
            raise UserError(f"the runs have no column {name}; there are {', '.join((*FIELDS, *self.extra))}")
        return self.extra[name]

    @cached_property
    def noise(self) -> Noise | None:
        """The scatter of ln L between repeated runs (equal but for the seed); None without any."""
        return noise(self)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What looks wrong, or stands in the way of a law: each with its rows and what to do. Advice: nothing is
        left out for it."""
        return diagnose(self)

    def summary(self) -> str:
        """How many runs over which range, the noise floor, the findings and the notes, for people."""
        spans = [
            f"{letter} {form(float(values.min()))} to {form(float(values.max()))}"
            for letter, values, form in (
                ("N", self.num_params, format_count),
                ("D", self.tokens, format_count),
                ("C", self.flops, format_flops),
                ("loss", self.loss, "{:.4g}".format),
            )
        ]
        lines = [f"{len(self)} runs, parameters counted: {self.counted}; {', '.join(spans)}"]
        if self.noise:
            runs = sum(map(len, self.noise.sets))
            lines.append(f"noise floor {self.noise.sigma:.3%} of the loss, from {runs} runs that repeat each other")
        lines += [f"{one.kind}: {one.text}" for one in self.findings]
        return "\n".join([*lines, *(f"note: {text}" for text in self.notes)])

    def write_csv(self, path: str | Path) -> None:
        """Write label, columns and ``extra``, which ``read`` takes back unchanged; notes and curves are not in it."""
        names = ["num_params", "tokens", "flops", "loss", "loss_se", *self.extra]
        header = [f"num_params_{self.counted}" if self.counted in COUNTED else "num_params", *names[1:]]
        with Path(path).open("w", newline="", encoding="utf-8", errors="backslashreplace") as handle:
            writer = csv.writer(handle)
            writer.writerow(["label", *header])
            for label, *numbers in zip(self.labels, *map(self.column, names), strict=True):
                writer.writerow([label, *("" if math.isnan(x) else repr(float(x)) for x in numbers)])


def _read_study(path: Path, columns: Any, counted: str | None, where: Any) -> Observations:
    """The ladder of a study."""
    from ...runs.study import Study

    study = Study.open(path)
    if columns and dict(columns) != {"loss": "bits_per_byte"}:
        raise UserError(
            f"{path} is a study, whose columns have their names: leave columns out, or take loss=bits_per_byte"
        )
    table = from_records(study.rows(), "records")
    if not len(table):
        raise UserError(f"{path}: no finished runs in this study yet; run `allometry ladder` on it")
    taken: dict[str, str | float] = {name: name for name in KNOWN if name in table.columns}
    if columns:
        taken |= {"loss": "bits_per_byte", "loss_se": "bits_per_byte_se"}
    counted = counted or "non_embedding"
    if f"num_params_{counted}" in table.columns:
        taken["num_params"] = f"num_params_{counted}"
    return _assemble(table.select(where or {}), Match(taken, counted))


def _assemble(table: Table, match: Match) -> Observations:
    """Check every cell, leave out what did not finish, derive what is missing."""
    labels = _labels(table, match)
    table, labels, dropped = _finished(table, match, labels)
    columns = {name: convert(table, name, match.taken[name]) for name in (*FIELDS, *EXTRA) if name in match.taken}
    own = _own_columns(table, match)
    derived = complete(columns, match.bare_batch)
    group, mixed = _groups(table, match, columns["num_params"])
    if group is not None:
        own["group"] = group
    _check_counts(table, columns, labels)
    for name in FIELDS:
        columns.setdefault(name, np.full(len(table), np.nan))
    fields = {name: columns.pop(name) for name in FIELDS}
    extra = {name: values for name, values in (columns | own).items() if not np.isnan(values).all()}
    notes = (*table.notes, *match.notes, *mixed, *derived, *dropped)
    return Observations(**fields, labels=tuple(labels), notes=notes, extra=extra, counted=match.counted)

"""A table of finished runs: parameters, tokens, compute and loss, from a file, a study or plain records.

Every source takes the same way in: read (read_source.py) → match (columns.py) → clean (cleaning.py) → derive
(deriving.py) → check (check_runs.py). ``Observations.notes`` hold what was chosen, derived or left out on it, so that
no row disappears in silence; ``Observations.findings`` hold what looks wrong with the runs that are left.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np

from ...errors import UserError
from ...quantities import format_count, format_flops, plural
from ..field_names import COUNTED
from .check_runs import check_counts, check_units
from .cleaning import clean
from .columns import match_columns
from .curves import Curves
from .deriving import derive
from .diagnosis import diagnose
from .findings.finding import Finding
from .findings.repeated_runs import Noise, noise
from .frames import columns_read
from .measurements import Measurements
from .read_source import RunSource, of_records, read_source
from .rows.initial_phase import in_initial_phase
from .rows.late_slopes import late_slopes
from .run_arrays import RunArrays

# One column, or several.
Columns = str | Sequence[str]


class MeasuredColumns(TypedDict, total=False):
    """What ``Observations.read`` takes beside inputs and groups."""

    target: str | None
    cost: str | Sequence[float] | np.ndarray | None
    where: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class Observations(RunArrays):
    """Finished runs as parallel arrays, one entry a run.

    Attributes:
        num_params: N, parameters, float64; ``counted`` says which.
        tokens: D, training tokens, float64.
        loss: final loss in the source's unit (nats a token, nats a byte, ...), float64, positive.
        flops: C, training FLOPs; 6·N·D where the source has none.
        loss_se: standard error of the loss, nan where unknown.
        labels: one name a run.
        extra: further numeric columns by name, nan where a row has no value. Known ones have one name whatever the
            source called them: batch_tokens, batch_sequences, sequence_length, steps, lr (the peak), unique_tokens,
            warmup, weight_decay, seed, group (rows of unlike text columns), trunk (which runs branch from one trunk and
            share its noise), trunk_noise (known standard deviation of ln L between trunks), run_noise (that of a run
            around its trunk); others keep theirs.
        notes: sentences: which columns were taken, what was derived, which rows were left out and why.
        counted: which parameters ``num_params`` counts: "non_embedding", "total", "matmul" or "unknown".
        curves: the loss along the runs, where the source has it.
        columns: field → the column of the source that holds it, with a unit as ``params*1000000``, or a number that
            holds in every row: by these a frame to predict for is read.
    """

    notes: tuple[str, ...] = ()
    counted: str = "unknown"
    curves: Curves | None = None
    columns: Mapping[str, str | float] = field(default_factory=dict)

    @overload
    @classmethod
    def read(
        cls,
        source: Any,
        columns: Mapping[str, str | float | None] | None = None,
        counted: str | None = None,
        where: Mapping[str, Any] | None = None,
        curves: Any = None,
        *,
        target: str | None = None,
    ) -> Observations: ...

    @overload
    @classmethod
    def read(
        cls, source: Any, *, inputs: Sequence[str], group: Columns | None = None, **other: Unpack[MeasuredColumns]
    ) -> Measurements: ...

    @overload
    @classmethod
    def read(
        cls, source: Any, *, inputs: Sequence[str] | None = None, group: Columns, **other: Unpack[MeasuredColumns]
    ) -> Measurements: ...

    @classmethod
    def read(
        cls,
        source: Any,
        columns: Mapping[str, str | float | None] | None = None,
        counted: str | None = None,
        where: Mapping[str, Any] | None = None,
        curves: Any = None,
        *,
        target: str | None = None,
        inputs: Sequence[str] | None = None,
        group: str | Sequence[str] | None = None,
        cost: str | Sequence[float] | np.ndarray | None = None,
    ) -> Observations | Measurements:
        """Read the folder of a study, a CSV, TSV, JSONL, JSON or Parquet file (gzip too), or a frame.

        With ``inputs`` or ``group`` the answer is ``Measurements``: a law of any inputs, for any target.

        Args:
            source: a path, or a pandas or polars frame, an Arrow table, a mapping of columns, a list of dicts. Columns
                are found by their usual names (``N``, ``params``, ``Model Size``, ``D``, ``tokens``, ``Training
                FLOP``, ``val_loss``, ``lr``, ``bsz`` ...).
            columns: which column holds a field where the names do not say, e.g. ``{"loss": "loss_c4_val"}``; a number
                holds in every row (``{"sequence_length": 2048}``), None takes no column.
            counted: "non_embedding", "total" or "matmul": which parameters to take, or what the only column counts.
            where: the rows to take, column → value or list of values, e.g. ``{"dataset": "c4"}``.
            curves: the loss along the runs: ``Curves``, or what ``Curves.read`` takes (the folder of a study too).
            target: the column to predict; the loss by its usual names if None. It may be negative, or rise.
            inputs: the columns to predict it from; sizes and tokens if None.
            group: a column, or several: each of their different cells has constants of its own.
            cost: what a run took: a column, an expression such as "6*N*D", or one number a run.

        Raises:
            UserError: no such file, empty, unreadable, columns missing or ambiguous, text among numbers, counts not
                above zero, units that are clearly off, nothing that varies.
        """
        if inputs is not None or group is not None:
            if columns or counted or curves is not None:
                raise UserError("with inputs or a group, name every column by target, inputs and group alone")
            return Measurements.read(source, target, inputs, group, cost, where)
        if cost is not None:
            raise UserError("cost is for a law of named inputs: give inputs too")
        if target is not None:
            columns = {**(columns or {}), "loss": target}
        if curves is not None and not isinstance(curves, Curves):
            curves = Curves.read(curves)
        return cls._of(read_source(source, columns, counted), columns, counted, where, curves)

    @classmethod
    def from_records(cls, rows: Iterable[Mapping], counted: str = "unknown") -> Observations:
        """Build from dicts with the keys num_params, tokens, loss and, where known, flops, loss_se, label, status.

        Keys of ``extra`` and other numbers are kept under their own names.

        Raises:
            UserError: no rows, a key missing, text among numbers, counts not above zero, no finite loss.
        """
        return cls._of(of_records(rows, counted))

    @classmethod
    def from_curves(
        cls,
        curves: Curves,
        num_params: float | Mapping[str, float] | None = None,
        tokens: float | Mapping[str, float] | None = None,
        share: float = 0.01,
        counted: str = "unknown",
    ) -> Observations:
        """The ends of curves as a table of runs, which keeps the curves.

        Args:
            curves: the loss along the runs.
            num_params: of all runs, or run → N; the curves' own if None.
            tokens: of all runs, or run → D; the tokens of the last point if None.
            share: the loss is the mean over the last so much of the steps; 0 for the last point alone.
            counted: which parameters ``num_params`` counts.

        Raises:
            UserError: a run whose N or D is not known.
        """
        bounds = np.searchsorted(curves.run, np.arange(len(curves.names) + 1))
        sizes = _each(curves.names, num_params, curves.num_params, "num_params")
        lengths = _each(curves.names, tokens, curves.tokens[bounds[1:] - 1], "tokens")
        rows = []
        for i, (low, high) in enumerate(pairwise(bounds)):
            step, loss, lr = (values[low:high] for values in (curves.step, curves.loss, curves.lr))
            end = loss[step >= (1 - share) * step[-1]]
            peak = np.max(lr, where=np.isfinite(lr), initial=-np.inf)
            row = {"label": curves.names[i], "num_params": sizes[i], "tokens": lengths[i], "loss": end.mean()}
            row |= {"steps": step[-1]} | ({"lr": peak} if peak > 0 else {})
            rows.append(row)
        return cls._of(of_records(rows, counted), curves=curves, notes=curves.notes)

    @classmethod
    def _of(
        cls,
        source: RunSource,
        columns: Mapping[str, str | float | None] | None = None,
        counted: str | None = None,
        where: Mapping[str, Any] | None = None,
        curves: Curves | None = None,
        notes: tuple[str, ...] = (),
    ) -> Observations:
        """The way of every source from its table to runs."""
        table = source.table.select(where or {})
        match = source.match or match_columns(table, columns, counted)
        cleaned = clean(table, match)
        runs, derived = derive(cleaned, match)
        check_counts(runs, cleaned.table)
        if match.searched:
            check_units(runs, match)
        return cls(
            runs.num_params,
            runs.tokens,
            runs.loss,
            runs.flops,
            runs.loss_se,
            runs.labels,
            runs.extra,
            notes=(*notes, *table.notes, *match.notes, *derived, *cleaned.notes),
            counted=match.counted,
            curves=curves if curves is not None else source.curves,
            columns=columns_read(match, cleaned, runs),
        )

    @cached_property
    def noise(self) -> Noise | None:
        """The scatter of ln L between repeated runs (equal but for the seed); None without any."""
        return noise(self)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What looks wrong, or stands in the way of a law: each with its rows and what to do. Advice: nothing is
        left out for it."""
        return diagnose(self)

    def past_initial_phase(self) -> Observations:
        """Without the runs that ended before the loss began to fall as a law says, which a note then names.

        All of them where even the longest runs did not get so far: what is left would follow no law either.
        """
        short = in_initial_phase(self.num_params, self.tokens, self.loss)
        late = late_slopes(self) if short.any() else None
        if not short.any() or (late is not None and late.grow):
            return self
        longest = format_count(float(self.tokens[short].max()))
        note = f"left out {short.sum()} of {plural(len(self), 'run')} of up to {longest}: too short for any law"
        return replace(self.where(~short), notes=(*self.notes, note))

    def __repr__(self) -> str:
        return (
            f"<Observations: {plural(len(self), 'run')}, {format_count(float(self.num_params.min()))} to "
            f"{format_count(float(self.num_params.max()))} parameters, loss {self.loss.min():.4g} to "
            f"{self.loss.max():.4g}>"
        )

    def _repr_html_(self) -> str:
        from ..result_cards import observations_card

        return observations_card(self).html()

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
        lines = [f"{plural(len(self), 'run')}, parameters counted: {self.counted}; {', '.join(spans)}"]
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


def _each(names: tuple[str, ...], given: float | Mapping[str, float] | None, own: np.ndarray, what: str) -> list[float]:
    """A number for every run."""
    if isinstance(given, Mapping):
        numbers = [float(given.get(name, np.nan)) for name in names]
    else:
        numbers = [float(x) for x in own] if given is None else [float(given)] * len(names)
    unknown = [name for name, value in zip(names, numbers, strict=True) if not np.isfinite(value)]
    if unknown:
        raise UserError(f"{what} of run {unknown[0]!r} is not known; give {what}=, a number or run → number")
    return numbers

"""A table of finished runs: parameters, tokens, compute and loss, from a file, a study or plain records.

Everything that was left out, derived or chosen on the way in stands in ``Observations.notes``, so that no row
goes missing in silence.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..quantities import format_count, parse_number
from .columns import EXTRA, FIELDS, match_columns

FINISHED = frozenset({"", "finished", "done", "complete", "completed", "ok", "success", "succeeded"})
# Below these a column cannot be a count of tokens or parameters of a language model; it is in millions or billions.
LEAST_TOKENS = 1e3
LEAST_PARAMS = 1e2


@dataclass(frozen=True)
class Observations:
    """Finished runs as parallel arrays, one entry a run.

    Attributes:
        num_params: N, parameters (non-embedding unless the source's column said otherwise), float64.
        tokens: D, training tokens, float64.
        loss: final loss in the source's unit (nats a token, nats a byte, ...), float64, positive.
        flops: C, training FLOPs; 6·N·D where the source has none.
        loss_se: standard error of the loss, nan where unknown.
        labels: one name a run.
        notes: sentences: which columns were taken, what was derived, which rows were left out and why.
        extra: further numeric columns by name, nan where a row has none: batch_tokens, lr, steps, unique_tokens ...
        count: which parameters ``num_params`` counts: "non_embedding", "total", "matmul" or "unknown".
    """

    num_params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    loss_se: np.ndarray
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    count: str = "unknown"

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def read(cls, path: str | Path, columns: Mapping[str, str] | None = None) -> Observations:
        """Read a CSV, a JSONL file or the folder of a study.

        Args:
            path: ``.csv``/``.tsv`` or ``.jsonl``/``.json`` file, or a study folder. Columns are found by their usual
                names (``N``, ``params``, ``Model Size``, ``D``, ``tokens``, ``Training FLOP``, ``val_loss`` ...).
            columns: which column holds a field where the names do not say, e.g. ``{"loss": "loss_c4_val"}``; fields
                are num_params, tokens, flops, loss, loss_se, label and status.

        Raises:
            UserError: no such file, empty, columns missing or ambiguous, text among numbers, counts not above zero.
        """
        path = Path(path)
        if path.is_dir():
            from ..runs.store import Study

            return cls.from_records(Study.open(path).rows())
        rows = _read_rows(path)
        taken, notes = match_columns(list(rows[0]), dict(columns or {}), str(path))
        records = [{field: row.get(column) for field, column in taken.items()} for row in rows]
        observations = _from_records(records, notes, source=path.name)
        _check_units(observations)
        return observations

    @classmethod
    def from_records(cls, rows: Iterable[Mapping]) -> Observations:
        """Build from dicts with the keys num_params, tokens, loss and, where known, flops, loss_se, label, status.

        Raises:
            UserError: no rows, a key missing, text among numbers, counts not above zero, no finite loss.
        """
        records = [dict(row) for row in rows]
        if not records:
            raise UserError("no runs to read: the table is empty; give at least one row with num_params, tokens, loss")
        found = {key for record in records for key in record}
        missing = [f for f in ("num_params", "loss") if f not in found]
        if "tokens" not in found and "flops" not in found:
            missing.append("tokens")
        if missing:
            raise UserError(f"records lack {', '.join(missing)}; found: {', '.join(sorted(map(str, found)))}")
        return _from_records(records, [], source="records")

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

    def write_csv(self, path: str | Path) -> None:
        """Write label, num_params, tokens, flops, loss, loss_se and ``extra``; ``read`` takes them back unchanged."""
        names = ["num_params", "tokens", "flops", "loss", "loss_se", *self.extra]
        with Path(path).open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["label", *names])
            for label, *numbers in zip(self.labels, *map(self.column, names), strict=True):
                writer.writerow([label, *("" if math.isnan(x) else repr(float(x)) for x in numbers)])


def check_design(observations: Observations, name: str, count: int) -> None:
    """Refuse a table that cannot tell the constants of a law in N and D apart, and say which run would help.

    Raises:
        UserError: fewer runs than ``count`` + 1, one size, one token count, or N and D tied to each other.
    """
    log_n, log_d = np.log(observations.num_params), np.log(observations.tokens)
    size, tokens = float(np.exp(np.median(log_n))), float(np.exp(np.median(log_d)))
    if np.ptp(log_n) < 0.05:
        raise UserError(
            f"all {len(observations)} runs have one size ({format_count(size)} parameters): a law in N needs at least "
            f"two; add a run at {format_count(4 * size)} parameters and {format_count(tokens)} tokens"
        )
    if np.ptp(log_d) < 0.05:
        raise UserError(
            f"all {len(observations)} runs have one token count ({format_count(tokens)}): a law in D needs at least "
            f"two; add a run at {format_count(size)} parameters and {format_count(4 * tokens)} tokens"
        )
    slope, offset = np.polyfit(log_n, log_d, 1)
    if np.std(log_d - slope * log_n - offset) < 0.03:
        ratio = (
            f"one ratio of {tokens / size:.3g} tokens a parameter" if abs(slope - 1) < 0.05 else "one line in (N, D)"
        )
        raise UserError(
            f"all {len(observations)} runs lie on {ratio}, so what N does cannot be told from what D does; "
            f"add a run at {format_count(size)} parameters and {format_count(4 * tokens)} tokens"
        )
    if len(observations) < count + 1:
        raise UserError(
            f"{len(observations)} runs are too few for law {name} with {count} constants; "
            f"add runs up to {count + 1}, or fit a smaller law such as power"
        )


def _read_rows(path: Path) -> list[dict]:
    """The rows of a CSV or JSONL file as dicts, every row with the same keys."""
    if not path.exists():
        raise UserError(f"no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text: give a CSV or JSONL file") from None
    if not text.strip():
        raise UserError(f"{path} is empty: it needs a header and at least one run")
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        rows = _parse_json(text, path)
    else:
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
        except csv.Error as error:
            raise UserError(f"{path} is not a CSV table ({error}); give a header and one run a line") from None
    if not rows:
        raise UserError(f"{path} has a header but no runs below it")
    return rows


def _delimiter(text: str) -> str:
    header = text.lstrip().splitlines()[0]
    return max(",\t;", key=header.count)


def _parse_json(text: str, path: Path) -> list[dict]:
    """A JSON array of objects, or one object a line."""
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); give one object a line") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: every line must be an object such as {{'N': 1e6, 'D': 2e7, 'loss': 3.1}}")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in keys} for row in rows]


def _from_records(records: list[dict], notes: list[str], source: str) -> Observations:
    """Check every cell, leave out what did not finish, derive what is missing."""
    rows, left_out, derived = [], {}, {"tokens": 0, "flops": 0}
    for position, record in enumerate(records, start=1):
        label = str(record.get("label") or f"row {position}")
        where = f"{source}, row {position}" + (f" ({label})" if record.get("label") else "")
        status = str(record.get("status") or "").strip().lower()
        if status not in FINISHED:
            left_out.setdefault(f"status {status}", []).append(label)
            continue
        row = {field: _number(record.get(field), field, where) for field in (*FIELDS, *EXTRA)}
        if not math.isfinite(row["loss"]):
            left_out.setdefault("loss missing or not finite", []).append(label)
            continue
        _complete(row, where, derived)
        rows.append((label, row))
    notes = list(notes)
    if derived["tokens"]:
        notes.append(f"tokens derived as D = C/(6·N) in {derived['tokens']} rows")
    if derived["flops"]:
        notes.append(f"flops derived as C = 6·N·D in {derived['flops']} rows")
    for reason, labels in left_out.items():
        shown = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
        notes.append(f"left out {len(labels)} of {len(records)} runs, {reason}: {shown}")
    if not rows:
        raise UserError(f"{source}: no run has a finite loss ({'; '.join(notes[-len(left_out) :])}); nothing to fit")
    columns = {field: np.array([row[field] for _, row in rows], dtype=np.float64) for field in (*FIELDS, *EXTRA)}
    extra = {field: columns.pop(field) for field in EXTRA}
    extra = {field: values for field, values in extra.items() if not np.isnan(values).all()}
    return Observations(**columns, labels=tuple(label for label, _ in rows), notes=tuple(notes), extra=extra)


def _number(cell: object, field: str, where: str) -> float:
    """A cell as a float; an empty cell is nan; counts may be written 1.5B or 200M."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        if isinstance(cell, str) and field in ("num_params", "tokens", "flops") and cell.strip()[0].isdigit():
            return parse_number(cell, f"{where}: {field}")
        raise UserError(f"{where}: {field} is {cell!r}, not a number; mend the cell or remove the row") from None


def _complete(row: dict[str, float], where: str, derived: dict[str, int]) -> None:
    """Fill tokens or flops from the other, and refuse counts that are not above zero."""
    if math.isnan(row["tokens"]) and row["flops"] > 0 and row["num_params"] > 0:
        row["tokens"] = row["flops"] / (6 * row["num_params"])
        derived["tokens"] += 1
    if math.isnan(row["flops"]) and row["tokens"] > 0 and row["num_params"] > 0:
        row["flops"] = 6 * row["num_params"] * row["tokens"]
        derived["flops"] += 1
    for name in ("num_params", "tokens", "flops", "loss"):
        if not (row[name] > 0 and math.isfinite(row[name])):
            shown = "missing" if math.isnan(row[name]) else f"{row[name]:g}"
            raise UserError(f"{where}: {name} is {shown}; it must be a finite number above zero")


def _check_units(observations: Observations) -> None:
    for name, least in (("tokens", LEAST_TOKENS), ("num_params", LEAST_PARAMS)):
        middle = float(np.median(getattr(observations, name)))
        if middle < least:
            raise UserError(
                f"{name} has a median of {middle:.3g}, too small for a count: is the column in millions or billions? "
                "Write plain counts (20e9, not 20)"
            )

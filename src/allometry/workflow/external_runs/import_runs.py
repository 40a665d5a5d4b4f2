"""Import: the finished runs that other tools left become records of a study, each once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from ...config.external import ExternalRun
from ...errors import UserError
from ...laws.run_files.facts_of_run import FinishedRun
from ...laws.run_files.run_table import read_run_table
from ...quantities import clean, plural
from ...runs.record import RunRecord
from ...runs.study import Study
from ..listener import Listener, Note, silent

# Names that many runs have: told apart by the folder above.
COMMON_NAMES = ("version_", "runs", "tensorboard", "tb", "logs", "output", "checkpoint")
WRITERS = 8
MOST_SETTINGS, LONGEST_SETTING = 200, 100
RUNTIMES = ("train_runtime", "train/train_runtime", "_runtime", "_wandb.runtime")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        study: the folder that holds the records.
        added: the records that are new.
        known: ids of the runs that the study had before.
        notes: how each column was derived, and which runs were left out and why.
    """

    study: Path
    added: tuple[RunRecord, ...]
    known: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON: ids, labels and counts of the runs that were added."""
        return {
            "study": str(self.study),
            "added": [{"id": record.id, "name": _name(record), **record.row()} for record in self.added],
            "known": list(self.known),
            "notes": list(self.notes),
        }


def import_runs(
    source: Path | str,
    out: Path | str,
    *,
    given: Mapping[str, Any] | None = None,
    counted: str | None = None,
    dry_run: bool = False,
    listener: Listener = silent,
) -> Imported:
    """Read the finished runs in a folder or file, and add those to a study that it does not have.

    The source is only read. A run is known again by what it is and by what came of it, never by where it lies.

    Args:
        source: a folder of runs of any of the tools that are known, or one of their files.
        out: folder of the study; made if it does not exist.
        given: field → number that holds for all runs: ``processes``, ``sequence_length``, ``num_params`` …
        counted: which parameters to take: "non_embedding", "total", "matmul" or "active".
        dry_run: only read, and write nothing.
        listener: receives how each column was derived, and which runs were left out.

    Raises:
        UserError: no runs, a file that is damaged, ``out`` is something else than a study of external runs.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if (source / "study.json").is_file():
        raise UserError(f"{source} is a study already: give it to the commands as it is")
    table = read_run_table(source, {name: value for name, value in (given or {}).items() if value is not None}, counted)
    for note in table.notes:
        listener(Note(f"note: {note}"))
    labels = [row["label"] for row in table.rows]
    read = [_record(run, label, table.counted) for run, label in zip(table.runs, labels, strict=True)]
    records = {record.id: (record, points) for record, points in read}
    if dry_run:
        return Imported(out, tuple(record for record, _ in records.values()), (), table.notes)
    study = Study.collect(out)
    known = tuple(identity for identity in records if study.record(identity) is not None)
    new = [one for identity, one in records.items() if identity not in set(known)]
    # Most of the time of a save is waiting for the disk.
    with study.session(), ThreadPoolExecutor(WRITERS) as writers:
        for count, _ in enumerate(writers.map(lambda one: study.save(*one), new), start=1):
            if count % 200 == 0:
                listener(Note(f"{count} of {plural(len(new), 'run')} written"))
    return Imported(out, tuple(record for record, _ in new), known, table.notes)


def _name(record: RunRecord) -> str:
    return record.run.name if isinstance(record.run, ExternalRun) else record.id


def _record(run: FinishedRun, label: str, counted: str) -> tuple[RunRecord, list[dict[str, float]]]:
    """The record of a run, and the points of its curve."""
    points = _points(run)
    external = _external(run, label, counted)
    seconds = next((float(run.settings[name]) for name in RUNTIMES if _is_number(run.settings.get(name))), 0.0)
    record = RunRecord(
        run=external,
        kind="ladder",
        status="finished",
        loss=run.numbers["loss"],
        loss_se=None,
        train_loss=clean(run.numbers.get("train_loss")),
        seconds=seconds,
        flops_spent=external.total_flops,
        tokens_per_second=external.tokens / seconds if seconds else 0.0,
        finished_at=_time_of(Path(run.source)),
        note=f"imported from {run.tool}: {label}",
    )
    return record, points


def _external(run: FinishedRun, label: str, counted: str) -> ExternalRun:
    """What is known of a run, in the form of a recorded one."""
    counts = {name: round(value) for name, value in run.counts.items()}
    numbers = run.numbers
    values = {
        "trained_by": run.tool,
        "name": _short_name(label),
        "num_params": counts[counted],
        "counted": counted,
        "num_params_total": counts.get("total"),
        "num_params_matmul": counts.get("matmul"),
        "tokens": round(numbers["tokens"]),
        "flops": numbers.get("flops"),
        "batch_tokens": round(numbers["batch_tokens"]) if numbers.get("batch_tokens", 0) >= 1 else None,
        "lr": numbers.get("lr"),
        "seed": int(numbers["seed"]) if "seed" in numbers else None,
        "loss_unit": run.loss_unit,
        "settings": {**_settings(run), "content": _content(run)},
        "notes": [f"{name}: {how}" for name, how in run.how.items() if how],
        "source": label,
    }
    return ExternalRun.parse({name: value for name, value in values.items() if value is not None}, f"run {label}")


def _short_name(label: str) -> str:
    """The last part of a run's place, with the one above where many runs are called so."""
    parts = PurePosixPath(label).parts
    common = len(parts) > 1 and parts[-1].lower().startswith(COMMON_NAMES)
    return "/".join(parts[-2:] if common else parts[-1:])


def _settings(run: FinishedRun) -> dict[str, Any]:
    """Settings that tell runs apart: numbers and short words, no paths."""
    kept: dict[str, Any] = {}
    for name, value in sorted(run.settings.items()):
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if isinstance(value, str) and (len(value) > LONGEST_SETTING or "/" in value or "\\" in value or not value):
            continue
        if len(kept) < MOST_SETTINGS:
            kept[name] = value
    return kept


def _content(run: FinishedRun) -> str:
    """A digest of what came of the run: it tells apart runs of which the same is known."""
    digest = hashlib.sha256(repr((run.numbers["loss"], run.numbers["tokens"])).encode())
    for name in ("step", "loss"):
        if name in run.points:
            digest.update(run.points[name].tobytes())
    return digest.hexdigest()[:16]


def _points(run: FinishedRun) -> list[dict[str, float]]:
    """The points of the curve with what is known there."""
    if not len(run.points.get("loss", ())):
        return []
    names = {"step": "step", "tokens": "tokens", "train_loss": "loss", "lr": "lr"}
    columns = [(name, run.points[own].tolist()) for name, own in names.items()]
    rows = zip(*(values for _, values in columns), strict=True)
    return [
        {name: value for (name, _), value in zip(columns, row, strict=True) if math.isfinite(value)} for row in rows
    ]


def _time_of(path: Path) -> str:
    """When the source was last written, in UTC."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0

"""Metrics in rows: Lightning's ``metrics.csv`` and ``hparams.yaml``, Lingua's ``metrics.jsonl``, OLMo-core's ladder."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...quantities import parse_number
from .logged_run import Fact, LoggedRun, flat, number
from .plain_yaml import read_yaml
from .shape_counts import counts_of_shape

MOST_BYTES = 1 << 30
SIZE = re.compile(r"\d+(\.\d+)?[MB]", re.IGNORECASE)
STEPS = ("step", "global_step", "trainer/global_step", "_step")


def read_lightning(path: Path) -> LoggedRun:
    """One run of Lightning's CSVLogger; its steps count from 0, so that step 49 is the fiftieth."""
    run = LoggedRun("lightning", _version_name(path.parent), path.parent)
    if (path.parent / "hparams.yaml").is_file():
        run.settings = flat(read_yaml(path.parent / "hparams.yaml"))
    try:
        rows = csv.DictReader(io.StringIO(_text(path), newline=""))
        for row in rows:
            if (step := number(row.get("step"))) >= 0:
                run.log(
                    step + 1, {name: number(cell) for name, cell in row.items() if cell and name not in (None, "step")}
                )
    except csv.Error as error:
        raise UserError(f"{path} is not a table of metrics ({error})") from None
    last = max((series.steps[-1] for series in run.series.values()), default=0)
    if last > 0:
        run.facts["steps"] = Fact(last, "the last step logged, counted from 0, and 1")
    return run


def read_lingua(path: Path) -> LoggedRun:
    """One run of Lingua: ``metrics.jsonl``, ``metrics.eval.jsonl`` and ``config.yaml`` beside each other."""
    run = LoggedRun("lingua", path.parent.name, path.parent)
    if (path.parent / "config.yaml").is_file():
        run.settings = flat(read_yaml(path.parent / "config.yaml"))
    evaluated = path.with_name("metrics.eval.jsonl")
    for part in (path, evaluated) if evaluated.is_file() else (path,):
        for row in _lines(part, run):
            row = flat(row)
            step = next((number(row[name]) for name in STEPS if number(row.get(name)) >= 0), -1.0)
            if step >= 0:
                kept = {name: value for name, value in row.items() if name not in STEPS}
                run.log(step, kept if part == path else {f"eval/{name}": value for name, value in kept.items()})
    return run


def read_olmo(paths: Iterable[Path], folder: Path) -> LoggedRun:
    """One size of OLMo-core's ladder: ``metrics_step{N}.json``, ``metrics.json`` and a configuration."""
    run = LoggedRun("olmo_core", folder.name, folder)
    for path in sorted(paths, key=_olmo_step):
        values = flat(_object(path))
        step = number(values.get("step", values.get("_step")))
        stated = _olmo_step(path)
        step = step if step >= 0 else stated
        if 0 <= step < float("inf"):
            run.log(step, {name: value for name, value in values.items() if name not in STEPS})
        else:
            run.summary |= {name: number(value) for name, value in values.items() if number(value) == number(value)}
    for name in ("config.json", "run_config.json"):
        if (folder / name).is_file():
            run.settings |= flat(_object(folder / name))
    size = str(run.settings.get("size", folder.name))
    known = counts_of_shape(run.settings) or any(name.startswith("num_params") for name in run.settings)
    if not known and SIZE.fullmatch(size):  # a size's name in the ladder: parameters without embeddings, rounded
        how = "the name of its size in the ladder, rounded"
        run.facts["num_params_non_embedding"] = Fact(parse_number(size), how)
    return run


def _olmo_step(path: Path) -> float:
    match = re.search(r"metrics_step(\d+)$", path.stem)
    return float(match[1]) if match else float("inf")


def _version_name(folder: Path) -> str:
    """``version_0`` is the name of many runs: with the folder above it."""
    return f"{folder.parent.name}/{folder.name}" if re.fullmatch(r"version_\d+", folder.name) else folder.name


def _text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} holds more than {MOST_BYTES >> 30} GiB, which are no metrics of one run")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8") from None


def _lines(path: Path, run: LoggedRun) -> Iterable[Mapping[str, Any]]:
    """The objects in a file of lines; a line that is none is left out, with a note."""
    wrong = 0
    for line in _text(path).split("\n"):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                yield value
            else:
                wrong += 1
    if wrong:
        run.notes.append(f"{path.name}: lines that are no objects of JSON were left out ({wrong})")


def _object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: cut short, or damaged") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no object of JSON")
    return value

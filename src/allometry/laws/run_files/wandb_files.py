"""W&B's offline files (``run-ID.wandb``): history, settings and summary, without W&B."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from .framed_records import WANDB_HEADER, CutShort, fields, leveldb_records, message_of, read_bytes, text_of
from .logged_run import LoggedRun, flat, number

# Fields of the message Record, and of those in it (wandb/proto/wandb_internal.proto).
HISTORY, SUMMARY, CONFIG, RUN, EXIT = 2, 3, 5, 17, 18
ITEM, UPDATE = 1, 1
KEY, NESTED, VALUE = 1, 2, 16
RUN_CONFIG, RUN_NAME = 4, 8
# Steps of the optimiser, the likeliest first; W&B's own step counts calls of log.
STEPS = ("train/global_step", "trainer/global_step", "global_step", "step", "iter", "_step")


def read_wandb(path: Path) -> LoggedRun:
    """One run from its file.

    Raises:
        UserError: no such file of W&B.
    """
    content = read_bytes(path)
    if not content.startswith(WANDB_HEADER):
        raise UserError(f"{path} is no file of W&B's, or of a version that is not known: export the runs as CSV")
    run = LoggedRun("wandb", path.stem.removeprefix("run-"), path, status="unfinished")
    try:
        for record in leveldb_records(content):
            for kind, value in fields(record):
                if kind in (HISTORY, SUMMARY, CONFIG, RUN, EXIT):
                    _read_record(kind, message_of(value), run)
    except CutShort:
        run.notes.append(f"{path.name} is cut short or damaged: what stands before that is read")
    return run


def _read_record(kind: int, message: bytes, run: LoggedRun) -> None:
    if kind == HISTORY:
        values = _items(message, ITEM)
        step = next(
            (values[name] for name in STEPS if number(values.get(name)) >= 0),
            max((len(one) for one in run.series.values()), default=0),
        )
        run.log(float(step), {name: value for name, value in values.items() if name not in STEPS})
    elif kind == SUMMARY:
        run.summary |= {
            name: float(value) for name, value in flat(_items(message, UPDATE)).items() if _is_number(value)
        }
    elif kind == CONFIG:
        run.settings |= _settings(message)
    elif kind == EXIT:
        code = next((value for one, value in fields(message) if one == 1 and isinstance(value, int)), 0)
        run.status = "finished" if code == 0 else "failed"
    else:
        _read_run(message, run)


def _read_run(message: bytes, run: LoggedRun) -> None:
    for one, value in fields(message):
        if one == RUN_CONFIG:
            run.settings |= _settings(message_of(value))
        elif one == RUN_NAME and text_of(value):
            run.name = text_of(value)


def _settings(message: bytes) -> dict[str, Any]:
    """Settings without what W&B keeps for itself."""
    return {name: value for name, value in flat(_items(message, UPDATE)).items() if not name.startswith("_wandb")}


def _items(message: bytes, place: int) -> dict[str, Any]:
    """The items of a record: a name, or the parts of a nested one, and a value as JSON."""
    items: dict[str, Any] = {}
    for one, value in fields(message):
        if one != place:
            continue
        names, text = [], ""
        for part, content in fields(message_of(value)):
            if part in (KEY, NESTED):
                names.append(text_of(content))
            elif part == VALUE:
                text = text_of(content)
        try:
            items["/".join(filter(None, names))] = json.loads(text)
        except (ValueError, RecursionError):
            continue
    return items


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300

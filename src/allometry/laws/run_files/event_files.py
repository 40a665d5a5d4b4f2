"""TensorBoard's event files: scalars and texts, without TensorBoard."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .framed_records import CutShort, fields, message_of, read_bytes, tensorflow_records, text_of
from .logged_run import LoggedRun, flat

# Fields of the messages Event, Summary, Value, SummaryMetadata, TensorProto.
STEP, SUMMARY, VALUE, TAG, SIMPLE, TENSOR = 2, 5, 1, 1, 2, 8
FLOATS, DOUBLES, STRINGS, CONTENT = 5, 6, 8, 4
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
TEXTS = {"args/text_summary", "model_config/text_summary", "config/text_summary", "hparams/text_summary"}


def read_events(paths: Sequence[Path], name: str, folder: Path) -> LoggedRun:
    """One run from its event files, in the order of their names: a run that was resumed has several."""
    run = LoggedRun("tensorboard", name, folder)
    for path in paths:
        try:
            for record in tensorflow_records(read_bytes(path)):
                _read_event(record, run)
        except CutShort:
            run.notes.append(f"{path.name} is cut short or damaged: what stands before that is read")
    return run


def _read_event(record: bytes, run: LoggedRun) -> None:
    step, summaries = 0, []
    for number, value in fields(record):
        if number == STEP and isinstance(value, int):
            step = value
        elif number == SUMMARY:
            summaries.append(message_of(value))
    for summary in summaries:
        for number, value in fields(summary):
            if number == VALUE:
                _read_value(message_of(value), step, run)


def _read_value(message: bytes, step: int, run: LoggedRun) -> None:
    tag, scalar, tensor = "", None, b""
    for number, value in fields(message):
        if number == TAG:
            tag = text_of(value)
        elif number == SIMPLE and isinstance(value, bytes) and len(value) == 4:
            (scalar,) = _FLOAT.unpack(value)
        elif number == TENSOR:
            tensor = message_of(value)
    if tag in TEXTS:
        run.settings |= _settings(tag, tensor)
    elif scalar is None and tensor:
        scalar = _scalar(tensor)
    if scalar is not None and tag:
        run.log(step, {tag: scalar})


def _scalar(tensor: bytes) -> float | None:
    """The one number of a tensor, as newer writers keep scalars."""
    for number, value in fields(tensor):
        if not isinstance(value, bytes):
            continue
        if number in (FLOATS, CONTENT) and len(value) == 4:
            return _FLOAT.unpack(value)[0]
        if number == DOUBLES and len(value) == 8:
            return _DOUBLE.unpack(value)[0]
    return None


def _settings(tag: str, tensor: bytes) -> dict[str, Any]:
    """The settings that a trainer writes as a text of JSON: its arguments, or the configuration of the model."""
    for number, value in fields(tensor):
        if number != STRINGS:
            continue
        try:
            read = json.loads(text_of(value).strip().removeprefix("<pre>").removesuffix("</pre>"))
        except (ValueError, RecursionError):
            return {}
        if isinstance(read, dict):
            return flat(read, "model_config." if tag.startswith("model_config") else "")
    return {}

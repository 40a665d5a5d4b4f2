"""Rows of a results file, one JSON object a line: added as soon as they are known, and found again by their keys."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from allometry.files import lock_file, replace_file


class ResultRows:
    """The rows of ``results/NAME.jsonl``, read anew each time, since several processes may add to them."""

    def __init__(self, name: str):
        self.path = Path(__file__).parent / "results" / f"{name}.jsonl"

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def has(self, key: dict[str, Any]) -> bool:
        """Whether there is a row with all these values."""
        return any(key.items() <= row.items() for row in self.read())

    def put(self, name: str, row: dict[str, Any]) -> None:
        """Add the row, or put it in the place of the one with its value of ``name``."""
        with open(__file__) as lock:  # another process may be at it
            lock_file(lock)
            rows = self.read()
            places = [place for place, stored in enumerate(rows) if stored[name] == row[name]] or [len(rows)]
            rows[places[0] : places[0] + 1] = [row]
            replace_file(self.path, "".join(json.dumps(stored) + "\n" for stored in rows).encode())

    def add(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def parse_options(parser: argparse.ArgumentParser, table: Callable[[], str]) -> argparse.Namespace:
    """The options of a benchmark on texts, with a folder for these; ``--table`` prints the results so far and ends."""
    parser.add_argument("--folder", type=Path, default=Path("tournament"), help="where texts and studies are kept")
    parser.add_argument("--table", action="store_true", help="print the results so far, and run nothing")
    options = parser.parse_args()
    if options.table:
        print(table())
        raise SystemExit
    options.folder.mkdir(parents=True, exist_ok=True)
    return options

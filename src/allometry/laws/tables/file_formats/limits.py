"""What every format keeps to: how large a table may be, which names its columns may have, how a file is unpacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ....errors import UserError
from ...field_names import is_known

# More cells than this are no table of runs. A table of curves this large still fits into the memory of a laptop.
MOST_CELLS = 100_000_000
MOST_COLUMNS = 10_000
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}


def open_unpacked(path: Path) -> Any:
    """The bytes of a file, unpacked if gzip, bzip2 or Zstandard packed it."""
    import pyarrow as pa

    with path.open("rb") as file:
        head = file.read(4)
    packing = next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)
    return pa.input_stream(str(path), compression=packing)


def check_names(header: Sequence[str], path: Path | str) -> list[str]:
    """Names without blanks around them; those of columns that a law has no use for may repeat, and are numbered.

    Raises:
        UserError: two columns of one known name, or far too many.
    """
    if len(header) > MOST_COLUMNS:
        raise UserError(f"{path} has {len(header):,} columns, which is no table of runs: export those that are needed")
    names = [str(name).strip() for name in header]
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    known = [name for name in twice if is_known(name)]
    if known:
        raise UserError(
            f"{path}: more than one column is named {', '.join(map(repr, known[:8]))}; rename or remove one"
        )
    return [f"{name} #{names[:place].count(name) + 1}" if name in twice else name for place, name in enumerate(names)]


def within_limit(batches: Iterable[Any], columns: int, path: Path) -> list[Any]:
    """All batches, unless they hold more cells than a table of runs can have."""
    kept, cells = [], 0
    for batch in batches:
        cells += batch.num_rows * max(columns, 1)
        if cells > MOST_CELLS:
            refuse_size(path)
        kept.append(batch)
    return kept


def refuse_size(path: Path) -> None:
    raise UserError(
        f"{path} has more than {MOST_CELLS:,} cells, which is no table of runs: export the columns needed, one row a "
        "run (curves: one row in ten)"
    )

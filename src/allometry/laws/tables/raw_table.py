"""Tables as columns of cells, which are read as numbers or as text on demand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np

from ...errors import UserError

# Cells that stand for a missing value.
_BLANK = (
    """- – — −  -- --- … ... ? na n/a #n/a n.a. nan none null nil missing tbd tba #div/0! #value! #ref! #num! #name?"""
)
BLANK = frozenset({"", *_BLANK.split()})


class Column:
    """One column, whose cells can be read as numbers and as text."""

    def __init__(self, raw: Any):
        self.raw = raw  # float64 array, object array, or chunks of Arrow strings

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells as float64, nan where blank or not a number; and which are neither blank nor a number."""
        if isinstance(self.raw, np.ndarray) and self.raw.dtype == np.float64:
            return self.raw, np.zeros(len(self.raw), bool)
        parts = [_floats(chunk) for chunk in self._chunks()] or [(np.empty(0), np.empty(0, bool))]
        return np.concatenate([values for values, _ in parts]), np.concatenate([odd for _, odd in parts])

    @cached_property
    def cells(self) -> np.ndarray:
        """The cells as they were written; None for a cell without a value."""
        chunks = list(self._chunks())
        return np.concatenate(chunks) if chunks else np.empty(0, object)

    @cached_property
    def codes(self) -> tuple[np.ndarray, list[str]]:
        """Each cell as an index into the list of different texts, in the order in which they come first."""
        known: dict[str, int] = {}
        parts = [np.empty(0, np.int64)]
        for words, indices in self._words():
            code = [known.setdefault(cell_text(word), len(known)) for word in words]
            parts.append(np.array(code, dtype=np.int64)[indices])
        return np.concatenate(parts), list(known)

    @cached_property
    def is_text(self) -> bool:
        """Of the first thousand cells that are not blank none is a number, or looks as if it were meant to be one."""
        if isinstance(self.raw, np.ndarray) and self.raw.dtype == np.float64:
            return False
        cells = (cell for chunk in self._chunks() for cell in chunk)
        first = list(islice((cell for cell in cells if cell_text(cell).lower() not in BLANK), 1000))
        return bool(first) and all(_float(cell)[1] and cell_text(cell)[0] not in "0123456789+-." for cell in first)

    def _words(self) -> Iterator[tuple[list[Any], np.ndarray]]:
        """The different cells of a chunk, and which of them each cell is; for all chunks."""
        if not isinstance(self.raw, np.ndarray):
            for chunk in self.raw.chunks:
                yield _dictionary(chunk if hasattr(chunk, "dictionary") else chunk.dictionary_encode())
            return
        cells = self.cells.tolist()
        try:
            different = dict.fromkeys(cells)
        except TypeError:  # lists and mappings among the cells
            cells = [str(cell) for cell in cells]
            different = dict.fromkeys(cells)
        place = {cell: position for position, cell in enumerate(different)}
        yield list(different), np.fromiter(map(place.__getitem__, cells), np.int64, len(cells))

    def _chunks(self) -> Iterator[np.ndarray]:
        """Object arrays, one at a time: a whole column of Python strings would be large."""
        if isinstance(self.raw, np.ndarray):
            numeric = self.raw.dtype == np.float64
            yield np.array([_plain(x) for x in self.raw], dtype=object) if numeric else self.raw
            return
        for chunk in self.raw.chunks:
            yield _decoded(chunk) if hasattr(chunk, "dictionary") else np.array(chunk.to_pylist(), dtype=object)


@dataclass(frozen=True)
class RawTable:
    """Columns of one length.

    Attributes:
        name: of the source, for messages.
        columns: by name.
        index: the rows that are left, as positions in the columns.
        notes: what was not read, and why.
    """

    name: str
    columns: Mapping[str, Column]
    index: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, columns: Mapping[str, Any], notes: Sequence[str] = ()) -> RawTable:
        """From raw columns.

        Raises:
            UserError: columns of different lengths.
        """
        lengths = {str(key): len(raw) for key, raw in columns.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise UserError(f"{name}: columns of different lengths ({shown}); give one cell a row in each")
        index = np.arange(next(iter(lengths.values()), 0))
        return cls(name, {key: Column(raw) for key, raw in columns.items()}, index, tuple(notes))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shown(self) -> str:
        """The names of the columns, for messages."""
        names = list(self.columns)
        return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")

    def place(self, row: int) -> str:
        """A row that is left, by its position in the source, counted from one below the header."""
        return f"row {self.index[row] + 1}"

    def where(self, mask: np.ndarray) -> RawTable:
        """The rows where ``mask`` holds."""
        return replace(self, index=self.index[mask])

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """:attr:`Column.numbers` of the rows that are left."""
        values, odd = self.columns[name].numbers
        return values[self.index], odd[self.index]

    def texts(self, name: str) -> list[str]:
        """The cells of the rows that are left as text, "" where blank."""
        cells = self.columns[name].cells[self.index]
        return [cell.strip() if type(cell) is str else cell_text(cell) for cell in cells]

    def select(self, conditions: Mapping[str, Any]) -> RawTable:
        """The rows that meet every condition: column → value of its cell, or a list of possible values.

        Raises:
            UserError: no such column, or no row left.
        """
        table = self
        for name, value in conditions.items():
            if name not in self.columns:
                raise UserError(f"{self.name}: no column {name!r} to select by; found: {self.shown}")
            values = value if isinstance(value, list | tuple | set | frozenset) else [value]
            codes, texts = self.columns[name].codes
            hits = [code for code, text in enumerate(texts) if any(_same(text, one) for one in values)]
            left = table.where(np.isin(codes[table.index], hits))
            if not len(left):
                there = list(dict.fromkeys(table.texts(name)))
                shown = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
                raise UserError(f"{self.name}: no row has {name} = {value}; {name} holds {shown}")
            table = left
        return table


def from_records(rows: Iterable[Mapping], name: str = "records") -> RawTable:
    """A table of dicts, with a column for every key that any of them has."""
    records = list(rows)
    if not all(isinstance(record, Mapping) for record in records):
        raise UserError(
            f"{name}: every row must be a mapping, such as {{'num_params': 1e6, 'tokens': 2e7, 'loss': 3.1}}"
        )
    keys = dict.fromkeys(chain.from_iterable(records))
    return RawTable.of(name, {str(key): objects([record.get(key) for record in records]) for key in keys})


def cell_text(cell: Any) -> str:
    """A cell as text, "" where it is blank; whole numbers without a point."""
    if cell is None:
        return ""
    return _plain(cell) if isinstance(cell, float) else str(cell).strip()


def _plain(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _same(text: str, value: Any) -> bool:
    """Equal as text, or as numbers."""
    other = cell_text(value)
    if text == other:
        return True
    try:
        return float(text) == float(other)
    except ValueError:
        return False


def objects(cells: Sequence[Any]) -> np.ndarray:
    """An object array of the cells, one entry each, even for lists and mappings; truth values become words."""
    array = np.empty(len(cells), dtype=object)
    if bool in set(map(type, cells)):
        cells = [str(cell) if isinstance(cell, bool) else cell for cell in cells]
    array[:] = cells
    return array


def _floats(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells as numbers, and which of them are neither blank nor numbers."""
    try:
        return cells.astype(np.float64), np.zeros(len(cells), bool)
    except (TypeError, ValueError, OverflowError):
        pass
    values, odd, known = np.full(len(cells), np.nan), np.zeros(len(cells), bool), {}
    for row, cell in enumerate(cells):
        text = cell if isinstance(cell, str) else None
        number = known.get(text) if text is not None else None
        if number is None:
            number = _float(cell)
            if text is not None and len(known) < 100_000:
                known[text] = number
        values[row], odd[row] = number
    return values, odd


def _float(cell: Any) -> tuple[float, bool]:
    """A cell as a number, or nan and whether it is something else than blank."""
    if cell is None or type(cell).__name__ == "NAType" or (isinstance(cell, str) and cell.strip().lower() in BLANK):
        return math.nan, False
    try:
        return float(cell), False
    except (TypeError, ValueError, OverflowError):
        return math.nan, True


def from_arrow(array: Any, blank: float) -> np.ndarray:
    """An Arrow array of numbers as NumPy, ``blank`` where it has none.

    Arrow's own ``to_numpy`` and ``fill_null`` load pandas, which takes longer than reading a table.
    """
    if not len(array):
        return np.empty(0)
    plain = array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)
    if not array.null_count:
        return np.from_dlpack(plain)
    return np.where(np.from_dlpack(array.is_valid().cast("uint8")) == 1, np.from_dlpack(plain), blank)


def _dictionary(chunk: Any) -> tuple[list[Any], np.ndarray]:
    """The words of a chunk of Arrow's dictionary type, None last, and which of them each cell is."""
    words = [*chunk.dictionary.to_pylist(), None]
    return words, from_arrow(chunk.indices, len(words) - 1).astype(np.int64)


def _decoded(chunk: Any) -> np.ndarray:
    """Such a chunk as objects, equal cells sharing one string."""
    words, indices = _dictionary(chunk)
    return np.array(words, dtype=object)[indices]

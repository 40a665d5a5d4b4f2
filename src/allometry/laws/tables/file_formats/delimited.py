"""Delimited text as people keep it: CSV, TSV, tables of Markdown, comments, ``sep=``, decimal commas.

A file of usual size is parsed line by line in Python, which knows comments and rules. A large one goes through Arrow
as it stands. No function of Python is handed to Arrow: its threads may outlive the interpreter, and one that calls
into it then ends the process.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....quantities import plural
from ..raw_table import RawTable, objects
from . import limits
from .decimal_commas import reads_decimal_commas, with_points
from .json_shapes import as_mapping, flattened

# Up to so many bytes are parsed line by line; the head of a larger file is as long.
SMALL = 1 << 22
BLOCK = 1 << 23
RULE = re.compile(r"[\s|:+=─-]*[-=─]{2,}[\s|:+=─-]*|[\s\u2500-\u257f]*[\u2500-\u257f]{2,}[\s\u2500-\u257f]*")
# Lines of Markdown that stand between the header and the rows of a table.
MARKDOWN_RULE = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)+\|?\s*")
BARS = str.maketrans("│┃║", "|||")
COMMENT = re.compile(
    r"#(?!DIV/0!|VALUE!|REF!|NUM!|NAME\?|N/A)|//|%"
)  # what a spreadsheet writes for an error is a cell
FOOTER = re.compile(r"\(\d+ rows?\)")
Needed = Callable[[list[str]], list[str]] | None


def read_delimited(path: Path, needed: Needed) -> RawTable:
    """Columns of text; those without a name are not read, but for the first, which may hold the names of the runs.

    Raises:
        UserError: empty, no text, lines of different lengths, too large, two ways of writing decimals.
    """
    with limits.open_unpacked(path) as stream:
        head = stream.read(SMALL + 1)
    if not head.strip():
        raise UserError(f"{path} is empty: it needs a header and at least one run")
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and len(head) <= SMALL:  # a spreadsheet's Unicode text
        text = head.decode("utf-16", errors="replace")
        head = text.encode() if "\n" in text or "\r" in text else head
    if b"\x00" in head:
        raise UserError(f"{path} is not text: give a CSV, JSONL or Parquet file")
    if len(head) > SMALL:
        return _through_arrow(path, head, needed)
    return _line_by_line(path, head.decode("utf-8-sig"), needed)


class _Lines:
    """The lines of a table: where its header is, and what stands between its cells."""

    def __init__(self, text: str, path: Path):
        self.lines = text.replace("\r\n", "\n").replace("\r", "\n").translate(BARS).split("\n")
        self.first, comments, separator = 0, [], ""
        self.notes = self._take_table_of_markdown(path)
        for line in self.lines:
            if line.strip().strip('"').lower().startswith("sep=") and not separator:
                separator = line.strip().strip('"')[4:5] or "\t"
            elif line.strip() and not COMMENT.match(line.lstrip()) and not RULE.fullmatch(line):
                break
            elif line.strip():
                comments.append(line.strip())
            self.first += 1
        if self.first == len(self.lines):
            raise UserError(f"{path} holds nothing but comments: it needs a header and at least one run")
        header = self.lines[self.first]
        self.delimiter = separator or max(",\t;|", key=header.count)
        self.spaced = self.delimiter not in header and self._is_spaced()
        self.header = self._cells(header, path)
        self._take_commented_header(comments, path)

    def _take_table_of_markdown(self, path: Path) -> list[str]:
        """Keep the table of a page in Markdown, without the text around it; what was left out.

        Raises:
            UserError: several tables.
        """
        rules = [
            i for i, line in enumerate(self.lines) if i and MARKDOWN_RULE.fullmatch(line) and "|" in self.lines[i - 1]
        ]
        if not rules:
            return []
        if len(rules) > 1:
            raise UserError(
                f"{path} holds {len(rules)} tables, at lines {', '.join(str(i) for i in rules[:8])}: give one"
            )
        start = rules[0] - 1
        end = next((i for i in range(start, len(self.lines)) if "|" not in self.lines[i]), len(self.lines))
        text = [line for line in (*self.lines[:start], *self.lines[end:]) if line.strip()]
        self.lines = [*([""] * start), *self.lines[start:end]]
        return [f"{plural(len(text), 'line')} of text around the table not read"] if text else []

    def _is_spaced(self) -> bool:
        """Whether blanks stand between the cells, as NumPy writes them."""
        body = [line for line in self.lines[self.first :] if line.strip() and not COMMENT.match(line)][:20]
        return len(body) > 1 and len({len(line.split()) for line in body}) == 1 and len(body[0].split()) > 2

    def _take_commented_header(self, comments: list[str], path: Path) -> None:
        """A header that stands in a comment, above rows of numbers: ``# N, D, loss``."""
        if not comments or not all(re.fullmatch(r"[\s\d.eE+-]+", cell) for cell in self.header):
            return
        named = self._cells(comments[-1].lstrip("#/% "), path)
        if len(named) == len(self.header):
            self.header, self.first = named, self.first - 1

    def _cells(self, line: str, path: Path) -> list[str]:
        if self.spaced:
            return line.split()
        try:
            return next(csv.reader(io.StringIO(line, newline=""), delimiter=self.delimiter))
        except csv.Error as error:
            raise UserError(f"{path} is not a CSV table ({error}); give a header and one run a line") from None

    def rows(self, path: Path) -> Iterable[tuple[int, list[str]]]:
        """(line number, cells) below the header, without comments, rules and blank lines."""
        body = self.lines[self.first + 1 :]
        if self.spaced:
            yield from ((self.first + 2 + i, line.split()) for i, line in enumerate(body) if line.strip())
            return
        reader = csv.reader((f"{line}\n" for line in body), delimiter=self.delimiter)
        try:
            for cells in reader:
                text = self.delimiter.join(cells).strip()
                if not COMMENT.match(text) and text and not RULE.fullmatch(text) and not FOOTER.fullmatch(text):
                    yield self.first + 1 + reader.line_num, cells
        except csv.Error as error:
            raise UserError(f"{path} cannot be read ({error}); export it again as CSV or Parquet") from None


def _line_by_line(path: Path, text: str, needed: Needed) -> RawTable:
    """The cells of a file of usual size."""
    lines = _Lines(text, path)
    header, framed = lines.header, False
    if lines.delimiter == "|" and len(header) > 2 and not header[0].strip() and not header[-1].strip():
        header, framed = header[1:-1], True  # | a | b |, as Markdown has it
    names = limits.check_names(header, path)
    rows: list[list[str]] = []
    for number, cells in lines.rows(path):
        cells = cells[1:-1] if framed else cells
        if [cell.strip() for cell in cells] == names:
            raise UserError(f"{path}, line {number} repeats the header: two tables in one file; remove that line")
        if len(cells) > len(names) and not any(cell.strip() for cell in cells[len(names) :]):
            cells = cells[: len(names)]
        if len(cells) != len(names):
            numbers = f"{len(cells)} cells where the header (line {lines.first + 1}) has {len(names)}"
            raise UserError(f"{path}, line {number}: {numbers}; correct the line")
        rows.append(cells)
        if len(rows) * len(names) > limits.MOST_CELLS:
            limits.refuse_size(path)
    if names and not names[0]:  # an index that pandas wrote along, or the names of the runs
        names = ["Unnamed: 0", *names[1:]]
    places = [place for place, name in enumerate(names) if name]
    wanted = set(needed([names[place] for place in places]) if needed else names)
    columns = {names[place]: [row[place] for row in rows] for place in places if names[place] in wanted}
    if lines.delimiter == "|":
        columns = {name: [_unmarked(cell) for cell in cells] for name, cells in columns.items()}
    notes = list(lines.notes)
    if reads_decimal_commas((cell for cells in columns.values() for cell in cells), lines.delimiter, path):
        columns = {name: [with_points(cell) for cell in cells] for name, cells in columns.items()}
        notes.append("numbers are read with decimal commas, and points between groups of three digits")
    columns = {name: cells for one in columns.items() for name, cells in _expanded(*one).items()}
    return RawTable.of(path.name, {name: objects(cells) for name, cells in columns.items()}, notes)


def _expanded(name: str, cells: Sequence[str | None]) -> dict[str, list[Any]]:
    """A column whose cells are mappings (``{'lr': 0.001, 'n_params': 1e6}``, as W&B's runs are saved) as one for each
    key; any other as it is."""
    first = next((cell for cell in cells if cell and cell.strip()), "")
    if as_mapping(first) is None:
        return {name: list(cells)}
    rows = [flattened(as_mapping(cell or "") or {}) for cell in cells]
    return {
        f"{name}.{key}": [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)
    }


def _unmarked(cell: str) -> str:
    """A cell of Markdown without emphasis."""
    text = cell.strip()
    if text[:1].isdigit():
        text = text.rstrip("*†‡")  # a footnote
    while len(text) > 2 and text[0] == text[-1] and text[0] in "*_`~":
        text = text[1:-1].strip()
    return text


def _through_arrow(path: Path, head: bytes, needed: Needed) -> RawTable:
    """Blocks of text cells of a large file."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    lines = _Lines(codecs.getincrementaldecoder("utf-8-sig")().decode(head).rsplit("\n", 1)[0], path)
    names = limits.check_names(lines.header, path)
    by_name = {name: raw for name, raw in zip(names, lines.header, strict=True) if name}
    chosen = [name for name in (needed(list(by_name)) if needed else by_name) if name in by_name]
    convert = arrow_csv.ConvertOptions(
        column_types={by_name[name]: pa.string() for name in chosen}, include_columns=[by_name[name] for name in chosen]
    )
    parse = arrow_csv.ParseOptions(delimiter=lines.delimiter, newlines_in_values=True)
    options = arrow_csv.ReadOptions(
        use_threads=False, block_size=BLOCK, skip_rows=lines.first + 1, column_names=lines.header
    )
    try:
        with limits.open_unpacked(path) as stream, arrow_csv.open_csv(stream, options, parse, convert) as reader:
            batches = limits.within_limit(reader, len(chosen), path)
    except pa.ArrowInvalid as error:
        raise _ragged(path, str(error), lines) or error from None
    table = pa.Table.from_batches(batches, schema=reader.schema)
    columns = {name: table.column(position) for position, name in enumerate(chosen)}
    return RawTable.of(path.name, *_large_with_points(columns, lines.delimiter, path))


def _ragged(path: Path, note: str, lines: _Lines) -> UserError | None:
    """The line that Arrow could not parse, from what it says."""
    numbers = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", note) or re.search(
        r"Expected (\d+) columns, got (\d+)", note
    )
    if numbers is None:
        return None
    *row, expected, got = map(int, numbers.groups())
    where = f", line {row[0]}" if row else ""
    return UserError(
        f"{path}{where}: {got} cells where the header (line {lines.first + 1}) has {expected}; correct the line"
    )


def _large_with_points(columns: dict[str, Any], delimiter: str, path: Path) -> tuple[dict[str, Any], list[str]]:
    """Columns of a large file with decimal points, judged by the first thousand cells of each."""
    first = (cell for column in columns.values() for cell in column.slice(0, 1000).to_pylist())
    if delimiter == "," or not reads_decimal_commas(first, delimiter, path):
        return columns, []
    import pyarrow as pa

    def converted(chunk: Any) -> Any:
        return pa.array([with_points(cell) for cell in chunk.to_pylist()], pa.string())

    note = "numbers are read with decimal commas, and points between groups of three digits"
    return {name: pa.chunked_array(list(map(converted, one.chunks)), pa.string()) for name, one in columns.items()}, [
        note
    ]

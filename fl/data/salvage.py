"""Read a file that is to be scored: the rows that are as the schema says, and each other row with the reason.

What it does: `sound_rows` reads a csv or parquet file chunk by chunk, as `fl.data.reading.stream_transactions` does. It
goes on after a row that cannot be read. A row is rejected that has too many or too few cells, text in another encoding,
a cell that is not what the schema says, no bank, or an earlier time than the rows above it. It also carries columns
along that identify rows, and counts the rows that the schema drops.

# Strategy: a csv is cut into rows here, line by line, before Arrow reads it. Arrow itself takes everything after an
# open quote for one cell, so that one such line would take all later ones with it.

What it leaves to others: features (`fl.data.stream`), and where rejected rows are written.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fl.data.conversion import Cells, cells_of
from fl.data.formats import UNREADABLE, is_parquet, opened, text_of
from fl.data.partition import Partition
from fl.data.reading import Transactions, build, columns_wanted, read_header, refuse_absent
from fl.data.schema import Schema
from fl.errors import CellRefused, DataError

MOST_LINES = 100  # of one row with quoted line breaks; a quote that is open for longer was never closed
ESCAPED = "surrogateescape"  # how a byte that the encoding does not have is read
SHOWN = 60  # characters of a cell in a reason


@dataclass(frozen=True)
class RejectedRow:
    """A row that was not read. `row`: as an editor counts, the header is 1; `column`: the first one at fault, or ""."""

    row: int
    column: str
    reason: str


@dataclass(frozen=True)
class SoundRows:
    """One chunk of a file. `table`: its sound rows; `rejected`: the others, ascending.

    `kept`: by column, object[n], the text of the columns carried along, in the order of `table`. `dropped`: how many
    rows the schema drops, by rule ("column = word").
    """

    table: Transactions
    rejected: tuple[RejectedRow, ...]
    kept: Mapping[str, NDArray[np.object_]] = field(repr=False)
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class OpenCsv:
    """A csv that can be read only once, such as standard input. Made by `open_csv`. `name`: for messages."""

    name: str
    header: tuple[str, ...]
    lines: _Lines = field(repr=False)

    def __str__(self) -> str:
        return self.name


def open_csv(stream: BinaryIO, name: str, schema: Schema) -> OpenCsv:
    """A csv in `stream`, whose header is read. Raises `DataError` where there is none."""
    lines = _Lines(text_of(stream, schema.encoding, ESCAPED))
    try:
        names = next(csv.reader([lines.header()], delimiter=schema.delimiter), [])
        "".join(names).encode()
    except (*UNREADABLE, UnicodeError, csv.Error) as fault:
        raise DataError(f"{name}: cannot read its header: {fault}") from fault
    if not names or len(set(names)) < len(names):
        raise DataError(f"{name}: expected a header that names each column once, got {names}")
    return OpenCsv(name, tuple(names), lines)


def sound_rows(
    source: Path | OpenCsv,
    schema: Schema,
    partition: Partition,
    *,
    after: int | None = None,
    keep: Sequence[str] = (),
    rows: int = 50_000,
) -> Iterator[SoundRows]:
    """The rows of a file, chunk by chunk, in its order; labels are not read.

    `after`: a time before which no row may be, in the unit of `Transactions.time`. `keep`: columns to carry along.
    Memory holds two chunks. Raises `DataError` for a file that is missing, has no header, or lacks a column.
    """
    latest, header = after, header_of(source, schema)
    bank_column = partition.column_of(header)
    columns = columns_wanted(schema, False, bank_column)
    refuse_absent([*columns, *keep], header, str(source), schema)
    read = list(dict.fromkeys([*columns, *keep]))
    earlier: SoundRows | None = None
    for chunk in _chunks(source, schema, partition, bank_column, read, keep, rows):
        if earlier is not None:
            ordered, latest = _in_order(earlier, chunk.table, latest)
            yield ordered
        earlier = chunk
    if earlier is not None:
        yield _in_order(earlier, None, latest)[0]


def _chunks(
    source: Path | OpenCsv,
    schema: Schema,
    partition: Partition,
    bank_column: str | None,
    columns: list[str],
    keep: Sequence[str],
    rows: int,
) -> Iterator[SoundRows]:
    parquet = isinstance(source, Path) and is_parquet(source)
    first_row = 1 if parquet else 2
    raw = _parquet(Path(str(source)), columns, rows) if parquet else _csv(source, schema, columns, rows)
    for table, index, rejected in raw:
        cells, more = _typed(str(source), table, index, first_row, schema.decimal)
        cells, dropped = _without_dropped(cells, schema)
        kept = {name: np.array(cells.as_text(name).to_pylist(), object) for name in keep}
        at = cells.index
        built, worse = _built(cells, schema, bank_column)
        homeless = partition.without_bank(built)
        if homeless.any():
            column = schema.parties.customer or ""
            reason = f"expected a customer of {partition.spec}, got one without a bank"
            worse += [RejectedRow(int(i) + first_row, column, reason) for i in built.index[homeless]]
            built = built.take(~homeless)
        places = np.searchsorted(at, built.index)
        found = sorted([*rejected, *more, *worse], key=lambda one: one.row)
        yield SoundRows(built, tuple(found), {name: text[places] for name, text in kept.items()}, dropped)


def _parquet(
    path: Path, columns: list[str], rows: int
) -> Iterator[tuple[pa.Table, NDArray[np.int64], list[RejectedRow]]]:
    seen = 0
    try:
        with closing(pa.parquet.ParquetFile(path)) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch]), np.arange(seen, seen + len(batch), dtype=np.int64), []
                seen += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def _csv(
    source: Path | OpenCsv, schema: Schema, columns: list[str], rows: int
) -> Iterator[tuple[pa.Table, NDArray[np.int64], list[RejectedRow]]]:
    header = header_of(source, schema)
    good: list[str] = []
    index: list[int] = []
    rejected: list[RejectedRow] = []
    try:
        for number, text, reason in _records(source, schema, len(header)):
            if reason:
                rejected.append(RejectedRow(number + 2, "", reason))
            else:
                good.append(text)
                index.append(number)
            if len(good) + len(rejected) >= rows:
                yield _parsed(good, header, columns, schema.delimiter), np.array(index, np.int64), rejected
                good, index, rejected = [], [], []
    except (*UNREADABLE, UnicodeError) as error:
        raise DataError(f"{source}: {error}") from error
    if good or rejected:
        yield _parsed(good, header, columns, schema.delimiter), np.array(index, np.int64), rejected


def _parsed(lines: list[str], header: list[str], columns: list[str], delimiter: str) -> pa.Table:
    """Lines that are known to have the cells of the header, as text columns."""
    if not lines:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    return pa.csv.read_csv(
        io.BytesIO("".join(lines).encode()),
        read_options=pa.csv.ReadOptions(
            use_threads=False, column_names=header, block_size=max(1 << 20, 4 * sum(map(len, lines)) + 16)
        ),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
        ),
    )


def _records(source: Path | OpenCsv, schema: Schema, cells: int) -> Iterator[tuple[int, str, str]]:
    """(0-based row, its text, why it is rejected or "") of every row below the header, but for empty lines."""
    quoted_breaks = bool(schema.text)
    with _lines_below_header(source, schema.encoding) as pending:
        row = -1
        while (line := pending.next_line()) is not None:
            row += 1
            if not line.strip("\r\n"):
                if cells == 1:
                    yield row, '""\n', ""
                continue
            if quoted_breaks and line.count('"') % 2:
                line = pending.closed(line)
            yield row, line if line.endswith(("\n", "\r")) else line + "\n", _fault(line, schema, cells)


@contextmanager
def _lines_below_header(source: Path | OpenCsv, encoding: str) -> Iterator[_Lines]:
    if isinstance(source, OpenCsv):
        yield source.lines
        return
    with _text(source, encoding) as text:
        lines = _Lines(text)
        lines.header()
        yield lines


def header_of(path: Path | OpenCsv, schema: Schema) -> list[str]:
    """The column names of a file, as `read_header` gives them; text below the header may be in another encoding.

    Raises `DataError` for a missing, empty or unreadable file.
    """
    if isinstance(path, OpenCsv):
        return list(path.header)
    delimiter, encoding = schema.delimiter, schema.encoding
    if not path.is_file() or is_parquet(path):
        return read_header(path, delimiter, encoding)
    try:
        with _text(path, encoding) as lines:
            names = next(csv.reader(lines, delimiter=delimiter), [])
        "".join(names).encode()
    except (*UNREADABLE, UnicodeError, csv.Error) as fault:
        raise DataError(f"{path}: cannot read its header: {fault}") from fault
    if not names or len(set(names)) < len(names):
        return read_header(path, delimiter, encoding)  # which says what is wrong
    return names


@contextmanager
def _text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """The text of a csv of any compression, in which a byte that the encoding does not have stands as a surrogate."""
    with opened(path) as source, text_of(source, encoding, ESCAPED) as lines:
        yield lines


class _Lines:
    """Lines of a file, of which some can be taken back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = iter(lines)
        self._back: list[str] = []

    def next_line(self) -> str | None:
        return self._back.pop() if self._back else next(self._lines, None)

    def header(self) -> str:
        """The first line, with the lines after it where a name holds a quoted line break."""
        header = self.next_line() or ""
        while header.count('"') % 2 and (more := self.next_line()) is not None:
            header += more
        return header

    def closed(self, line: str) -> str:
        """`line` with the lines after it, up to the one that closes its quote; `line` alone where none does."""
        taken: list[str] = []
        whole = line
        for _ in range(MOST_LINES):
            more = self.next_line()
            if more is None:
                break
            taken.append(more)
            whole += more
            if more.count('"') % 2:
                return whole
        self._back.extend(reversed(taken))
        return line


def _fault(line: str, schema: Schema, cells: int) -> str:
    """Why a row cannot be cut into `cells` cells; "" where it can."""
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError as fault:
            return f"expected {schema.encoding.upper()} text, got the byte {ord(line[fault.start]) & 0xFF:#04x}"
    if '"' not in line:
        found = line.count(schema.delimiter) + 1
    else:
        try:
            parsed = list(csv.reader(io.StringIO(line, newline=""), delimiter=schema.delimiter, strict=True))
        except csv.Error as fault:
            return f"expected cells in closed quotes, got {fault}"
        if len(parsed) != 1:
            return f"expected one row, got {len(parsed)}: a quote is closed too early"
        found = len(parsed[0])
    return "" if found == cells else f"expected {cells} cells, got {found}"


def _typed(
    source: str, table: pa.Table, index: NDArray[np.int64], first_row: int, decimal: str
) -> tuple[Cells, list[RejectedRow]]:
    """Columns in types that can be converted, without the rows with cells of another type."""
    rejected: list[RejectedRow] = []
    while True:
        try:
            return cells_of(source, table, index, first_row, decimal), rejected
        except CellRefused as fault:
            bad = np.array(fault.bad, bool)
            rejected += [RejectedRow(int(i) + first_row, fault.column, fault.expected) for i in index[bad]]
            table, index = table.filter(pa.array(~bad)), index[~bad]


def _without_dropped(cells: Cells, schema: Schema) -> tuple[Cells, dict[str, int]]:
    """The cells without the rows that the schema drops, and how many those are, each under the first rule it meets."""
    dropped: Counter[str] = Counter()
    for rule in schema.drop:
        if rule.column not in cells.table.column_names or rule.column == schema.label.column:
            continue
        text = cells.as_text(rule.column)
        named = np.asarray(pc.is_in(text, value_set=pa.array(rule.values, pa.string()))).astype(bool)
        for word in np.array(text.to_pylist(), object)[named]:
            dropped[f"{rule.column} = {word!r}"] += 1
        cells = cells.where(~named)
    filled = cells.without_blanks(replace(schema, drop=()))
    if empty := len(cells.index) - len(filled.index):
        dropped["empty rows"] += empty
    return filled, dict(dropped)


def _built(cells: Cells, schema: Schema, bank_column: str | None) -> tuple[Transactions, list[RejectedRow]]:
    """The typed rows, without those that have a wrong cell."""
    rejected: list[RejectedRow] = []
    while True:
        try:
            return build(cells, schema, labelled=False, bank_column=bank_column), rejected
        except CellRefused as fault:
            bad = np.array(fault.bad, bool)
            got = cells.table[fault.column].filter(pa.array(bad)).to_pylist()
            rejected += [
                RejectedRow(int(i) + cells.first_row, fault.column, f"{fault.expected}, got {_shown(cell)}")
                for i, cell in zip(cells.index[bad], got, strict=True)
            ]
            cells = cells.where(~bad)


def _shown(cell: object) -> str:
    if cell is None or cell == "":
        return "an empty cell"
    text = repr(cell)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _in_order(chunk: SoundRows, following: Transactions | None, latest: int | None) -> tuple[SoundRows, int | None]:
    """The chunk without rows that are earlier than a row above them, and the time of its last row.

    Of rows that contradict each other the fewest are left out. The next chunk takes part: a single time in the far
    future at the end of this one would leave out every row after it.
    """
    table = chunk.table
    if table.time is None or not table.schema.has_windows or not len(table):
        return chunk, latest
    in_file = np.argsort(table.index, kind="stable")
    times = table.time[in_file]
    after = np.empty(0, np.int64)
    if following is not None and following.time is not None:
        after = following.time[np.argsort(following.index, kind="stable")]
    kept = longest_ascending(np.concatenate([times, after]), latest)[: len(times)]
    keep = np.zeros(len(table), bool)
    keep[in_file[kept]] = True
    column = "" if table.schema.time is None else table.schema.time.column
    reason = "expected a time no earlier than the history and the rows above, got an earlier one, or one far ahead"
    late = [RejectedRow(int(i) + table.first_row, column, reason) for i in table.index[~keep]]
    if not late:
        return chunk, int(times[-1])
    left = replace(
        chunk,
        table=table.take(keep),
        rejected=tuple(sorted([*chunk.rejected, *late], key=lambda one: one.row)),
        kept={name: text[keep] for name, text in chunk.kept.items()},
    )
    return left, int(times[kept].max()) if kept.any() else latest


def longest_ascending(times: NDArray[np.int64], least: int | None = None) -> NDArray[np.bool_]:
    """bool[n]: the most values, all at or above `least`, that never fall.

    Source: Fredman, Discrete Mathematics 11, 1975 (one pass with binary search).
    """
    allowed = np.ones(len(times), bool) if least is None else times >= least
    if allowed.all() and bool((np.diff(times) >= 0).all()):
        return allowed
    ends: list[int] = []  # the smallest last value of an ascending run of each length
    places: list[int] = []  # where it stands
    before = np.full(len(times), -1, np.int64)
    for place in np.flatnonzero(allowed).tolist():
        value = int(times[place])
        length = bisect_right(ends, value)
        before[place] = places[length - 1] if length else -1
        if length == len(ends):
            ends.append(value)
            places.append(place)
        else:
            ends[length], places[length] = value, place
    kept = np.zeros(len(times), bool)
    place = places[-1] if places else -1
    while place >= 0:
        kept[place] = True
        place = int(before[place])
    return kept

"""Read transactions from csv, csv.gz or parquet into typed columns in time order, or say which cell is wrong.

A csv is read as text first and converted column by column: the fast conversion is Arrow's, and only when it
fails is the column searched for the first cell that does not convert, so that the message can name file,
column and row. Rows are counted as an editor counts them (the header is row 1; a quoted line break counts as
part of its row).

A date that does not exist is refused: Arrow's parser and its unchecked casts would turn 31 February into 2 March and a
year beyond 64 bits into another.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fl.data.cells import CellError, first_that_fails, plain
from fl.data.schema import DAY_US, EPOCH, MICROSECONDS, LabelColumn, Schema, TimeColumn
from fl.errors import DataError, NoRows

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")  # how files write an absent number
BLOCK_BYTES = 4 << 20  # of csv text per streamed chunk

# What the calendar can name, in microseconds since 1970-01-01.
FIRST_US = (dt.date.min - EPOCH).days * DAY_US
LAST_US = ((dt.date.max - EPOCH).days + 1) * DAY_US - 1
CALENDAR = "in the years 1 to 9999"


@dataclass(frozen=True)
class Identifiers:
    """Who a row belongs to: `code`: int64[n], positions in `ids`: object[k], the identifiers as text."""

    code: NDArray[np.int64] = field(repr=False)
    ids: NDArray[np.object_] = field(repr=False)

    def take(self, rows: NDArray[Any]) -> Identifiers:
        return Identifiers(self.code[rows], self.ids)


@dataclass(frozen=True)
class Transactions:
    """`n` transactions, sorted by time (rows of equal time in file order). The repr shows sizes, never rows.

    `index`: int64[n], 0-based position in the source, header not counted. `time`: int64[n], microseconds
    since 1970-01-01 (since 0 without a date), or the order itself. `label`: uint8[n], 1 is fraud. `amount`
    and `numeric`: float64[n], finite (NaN only in numeric columns whose schema names a `missing` value).
    `customer`, `terminal`, `bank`, `categorical`: codes. `text`: object[n]. None where the schema names no
    such column.
    """

    schema: Schema
    source: str
    index: NDArray[np.int64] = field(repr=False)
    time: NDArray[np.int64] | None = field(repr=False)
    label: NDArray[np.uint8] | None = field(repr=False)
    amount: NDArray[np.float64] | None = field(repr=False)
    customer: Identifiers | None = field(repr=False)
    terminal: Identifiers | None = field(repr=False)
    bank: Identifiers | None = field(repr=False)
    numeric: Mapping[str, NDArray[np.float64]] = field(repr=False)
    categorical: Mapping[str, Identifiers] = field(repr=False)
    text: Mapping[str, NDArray[np.object_]] = field(repr=False)
    first_row: int = 2  # row number of index 0 in messages: 2 below a header, 1 in a parquet file

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Transactions(schema={self.schema.name!r}, source={self.source!r}, rows={len(self)})"

    @property
    def day(self) -> NDArray[np.int32]:
        """int32[n], days since 1970-01-01 (since 0 without a date; all 0 where time measures no days)."""
        if self.time is None or self.schema.time is None or not self.schema.time.measures_days:
            return np.zeros(len(self), np.int32)
        return (self.time // DAY_US).astype(np.int32)

    def row_name(self, position: int) -> str:
        return f"{self.source}: row {int(self.index[position]) + self.first_row}"

    def take(self, rows: NDArray[Any]) -> Transactions:
        """The rows at these ascending positions (or where this mask is true)."""
        return replace(
            self,
            index=self.index[rows],
            time=None if self.time is None else self.time[rows],
            label=None if self.label is None else self.label[rows],
            amount=None if self.amount is None else self.amount[rows],
            customer=None if self.customer is None else self.customer.take(rows),
            terminal=None if self.terminal is None else self.terminal.take(rows),
            bank=None if self.bank is None else self.bank.take(rows),
            numeric={name: values[rows] for name, values in self.numeric.items()},
            categorical={name: values.take(rows) for name, values in self.categorical.items()},
            text={name: values[rows] for name, values in self.text.items()},
        )


def read_header(path: str | Path, delimiter: str = ",") -> list[str]:
    """The column names of a csv, csv.gz or parquet file. Raises `DataError` for a missing, empty or unreadable file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if _is_parquet(path):
            names = list(pa.parquet.read_schema(path).names)
        else:
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
                names = next(csv.reader(lines, delimiter=delimiter), [])
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot read its header: {error}") from error
    if not names:
        raise DataError(f"{path}: expected a header and rows, got an empty file")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: row 1: expected each column once, got {repeated} more than once; rename them")
    return names


def load_transactions(
    path: str | Path,
    schema: Schema,
    *,
    labelled: bool = True,
    bank_column: str | None = None,
    needs_fraud: bool = True,
) -> Transactions:
    """All transactions of a file, in time order.

    With `labelled` the label column must be there, and hold both classes unless `needs_fraud` is False (for
    a file that only serves as history); without, it is not read. `bank_column` is read as `bank`. Raises
    `DataError` naming file, column and row.
    """
    path = Path(path)
    columns = _columns_of(path, schema, labelled, bank_column)
    try:
        if _is_parquet(path):
            table = pa.parquet.read_table(path, columns=columns, partitioning=None)
        else:
            table = pa.csv.read_csv(path, **_csv_options(schema.delimiter, columns, bool(schema.text)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    cells = _cells(str(path), table, np.arange(len(table), dtype=np.int64), 1 if _is_parquet(path) else 2)
    return _whole(cells, schema, labelled, bank_column, needs_fraud=needs_fraud)


def transactions_from_frame(
    frame: pd.DataFrame,
    schema: Schema,
    source: str,
    *,
    labelled: bool = True,
    bank_column: str | None = None,
    needs_fraud: bool = True,
) -> Transactions:
    """The same from a pandas frame that is already in memory; `source` names it in messages."""
    wanted = _wanted(schema, labelled, bank_column)
    _refuse_absent(wanted, list(frame.columns), source, schema)
    columns = {name: _from_pandas(frame[name], name, source) for name in wanted}
    cells = _cells(source, pa.table(columns), np.arange(len(frame), dtype=np.int64), 1)
    return _whole(cells, schema, labelled, bank_column, needs_fraud=needs_fraud)


def stream_transactions(
    path: str | Path,
    schema: Schema,
    *,
    labelled: bool = False,
    bank_column: str | None = None,
    rows: int = 50_000,
) -> Iterator[Transactions]:
    """The transactions of a file in chunks of at most `rows`, each sorted as `load_transactions` sorts a file.

    Memory holds one chunk. Raises `DataError` as `load_transactions` does, except that a file without fraud
    is fine.
    """
    path = Path(path)
    columns = _columns_of(path, schema, labelled, bank_column)
    seen = 0
    try:
        for batch in _batches(path, _csv_options(schema.delimiter, columns, bool(schema.text)), columns, rows):
            table = pa.Table.from_batches([batch])
            for start in range(0, len(table), rows):
                part = table.slice(start, rows)
                index = np.arange(seen, seen + len(part), dtype=np.int64)
                seen += len(part)
                cells = _cells(str(path), part, index, 1 if _is_parquet(path) else 2).without_blanks(schema)
                yield _build(cells, schema, labelled, bank_column)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def read_sample(path: str | Path, columns: list[str], rows: int) -> dict[str, NDArray[np.object_]]:
    """The first `rows` rows of these columns as text, nothing as the empty string. Raises `DataError`."""
    path = Path(path)
    try:
        batches = _first_rows(_batches(path, _csv_options(",", columns, True), columns, rows), rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    if sum(len(batch) for batch in batches) == 0:
        raise DataError(f"{path}: expected rows below the header, got none")
    head = pa.Table.from_batches(batches)
    cells = _cells(str(path), head, np.arange(len(head), dtype=np.int64), 1)
    return {name: np.array(cells.as_text(name).to_pylist(), object) for name in columns}


def _first_rows(batches: Generator[pa.RecordBatch, None, None], rows: int) -> list[pa.RecordBatch]:
    """Enough whole batches, the last one cut."""
    taken: list[pa.RecordBatch] = []
    with closing(batches):
        for batch in batches:
            taken.append(batch.slice(0, rows))
            rows -= len(taken[-1])
            if rows <= 0:
                break
    return taken


def _batches(
    path: Path, csv_options: dict[str, Any], columns: list[str], rows: int
) -> Generator[pa.RecordBatch, None, None]:
    if _is_parquet(path):
        with closing(pa.parquet.ParquetFile(path)) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns)
    else:
        with pa.csv.open_csv(path, **csv_options) as reader:
            yield from reader


def _from_pandas(values: pd.Series | pd.DataFrame, name: str, source: str) -> pa.Array:
    """A column of a frame. Raises `DataError` for a cell that is not of the kind of those above it."""
    if isinstance(values, pd.DataFrame):
        raise DataError(f"{source}: expected each column once, got {name!r} {values.shape[1]} times; rename them")
    convert = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.Array.from_pandas(values)
    except convert:
        at = first_that_fails(len(values), lambda end: pa.Array.from_pandas(values.iloc[:end]), convert)
        raise DataError(
            f"{source}: row {at + 1}, column {name!r}: expected a value of the kind of those above, got "
            f"{values.iloc[at]!r}; correct the frame"
        ) from None


def _is_parquet(path: Path) -> bool:
    return path.suffix in (".parquet", ".pq")


def _wanted(schema: Schema, labelled: bool, bank_column: str | None) -> list[str]:
    return list(dict.fromkeys([*schema.columns_read(labelled=labelled), *([bank_column] if bank_column else [])]))


def _columns_of(path: Path, schema: Schema, labelled: bool, bank_column: str | None) -> list[str]:
    wanted = _wanted(schema, labelled, bank_column)
    _refuse_absent(wanted, read_header(path, schema.delimiter), str(path), schema)
    return wanted


def _refuse_absent(wanted: list[str], header: list[str], source: str, schema: Schema) -> None:
    absent = [column for column in wanted if column not in header]
    if absent:
        raise DataError(
            f"{source}: schema {schema.name!r} expects columns {absent}, got {header}; correct the header or "
            "the schema (check it with: python -m demos schema --check SCHEMA.toml FILE)"
        )


def _csv_options(delimiter: str, columns: list[str], quoted_breaks: bool) -> dict[str, Any]:
    """One thread and kept empty lines: only then are Arrow's row numbers the file's."""
    return {
        "read_options": pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        "parse_options": pa.csv.ParseOptions(
            delimiter=delimiter,
            ignore_empty_lines=False,
            newlines_in_values=quoted_breaks,
        ),
        "convert_options": pa.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    }


def _cells(source: str, table: pa.Table, index: NDArray[np.int64], first_row: int) -> _Cells:
    """The columns in the few types that the conversions below know. Raises `DataError` for a cell of no such type."""
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = plain(table[name])
        except CellError as fault:
            where = "" if fault.at is None else f"row {int(index[fault.at]) + first_row}, "
            raise DataError(f"{source}: {where}column {name!r}: {fault}; correct the file") from None
    return _Cells(source, pa.table(columns), index, first_row)


@dataclass(frozen=True)
class _Cells:
    """Columns of a source as `plain` returns them, for conversion.

    The source position of each row is kept for the errors of conversion.
    """

    source: str
    table: pa.Table = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)
    first_row: int

    def where(self, keep: NDArray[np.bool_]) -> _Cells:
        return self if keep.all() else replace(self, table=self.table.filter(pa.array(keep)), index=self.index[keep])

    def without_blanks(self, schema: Schema) -> _Cells:
        """Without empty lines and without the rows that the schema drops."""
        keep = np.ones(len(self.index), bool)
        if len(self.table.column_names) > 1:  # an empty line of a one-column file is a missing value, not a blank line
            blank = np.ones(len(self.index), bool)
            for name in self.table.column_names:
                if not blank.any():
                    break
                blank &= _mask(pc.equal(self.as_text(name), ""))
            keep &= ~blank
        for rule in schema.drop:
            keep &= ~_mask(pc.is_in(self.as_text(rule.column), value_set=pa.array(rule.values, pa.string())))
        return self.where(keep)

    def as_text(self, column: str) -> pa.ChunkedArray:
        """The column as strings. Nothing becomes the empty string.

        Whole floats (ids read through pandas) become whole numbers.
        """
        values = self.table[column]
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
            if pc.all(pc.fill_null(whole, True)).as_py():
                values = pc.cast(values, pa.int64())
        return pc.fill_null(pc.cast(values, pa.string()), "")

    def refuse(self, column: str, bad: NDArray[np.bool_], expected: str, advice: str = "") -> None:
        """Raise `DataError` for the first `bad` cell, if there is one."""
        if not bad.any():
            return
        at = int(np.argmax(bad))
        cell = self.table[column][at].as_py()
        got = "an empty cell" if cell is None or cell == "" else repr(cell)
        more = f" ({int(bad.sum())} such cells)" if bad.sum() > 1 else ""
        raise DataError(
            f"{self.source}: row {int(self.index[at]) + self.first_row}, column {column!r}: "
            f"expected {expected}, got {got}{more}; correct the file{advice}, "
            "or drop such rows in the schema's [drop] table"
        )

    def numbers(self, column: str, missing: bool = False) -> NDArray[np.float64]:
        """The column as float64[n], finite; with `missing`, empty cells become NaN."""
        values = self.table[column]
        absent = np.zeros(len(values), bool)
        if missing:
            absent = _mask(pc.is_in(self.as_text(column), value_set=pa.array(MISSING)))
            values = pc.if_else(pa.array(absent), pa.scalar(None, values.type), values)
        try:
            numbers = _array(pc.cast(values, pa.float64()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # Arrow says that some cell is no number, and not which: read again, so that `refuse` names the first one.
            numbers = pd.to_numeric(self.as_text(column).to_pandas(), errors="coerce").to_numpy(np.float64)
        self.refuse(column, ~np.isfinite(numbers) & ~absent, "a finite number")
        return numbers

    def labels(self, label: LabelColumn) -> NDArray[np.uint8]:
        party = self.ids(label.column)
        meaning = np.array([1 if v in label.positive else 0 if v in label.negative else 2 for v in party.ids], np.uint8)
        labels = meaning[party.code]
        self.refuse(
            label.column,
            labels == 2,
            f"one of {', '.join(label.positive)} (fraud) or {', '.join(label.negative)} (no fraud)",
            ", name its words in the schema's [label] positive and negative",
        )
        return labels

    def ids(self, column: str, *, refuse_empty: bool = False) -> Identifiers:
        """The column as codes into its distinct values, in order of appearance."""
        # In one chunk, or every dictionary repeats the ones before; with 64-bit offsets, for 2 GB of text.
        coded = pc.cast(self.as_text(column), pa.large_string()).combine_chunks().dictionary_encode()
        code = coded.indices.to_numpy().astype(np.int64)
        ids: NDArray[np.object_] = coded.dictionary.to_numpy(zero_copy_only=False)
        if refuse_empty:
            self.refuse(column, (ids == "")[code], "an identifier")
        return Identifiers(code, ids)

    def times(self, time: TimeColumn) -> NDArray[np.int64]:
        """The column as int64[n] microseconds since 1970-01-01 or 0, or the order itself."""
        if time.unit == "datetime":
            return self._datetimes(time)
        values = self.numbers(time.column)
        if time.unit == "order":
            self.refuse(time.column, (values != np.floor(values)) | (np.abs(values) > 2**53), "a whole number")
            return values.astype(np.int64)
        unit = MICROSECONDS[time.unit]
        self.refuse(time.column, np.abs(values) > 2**60 / unit, f"{time.unit} within +-{2**60 // unit}")
        counted = np.rint(values * unit).astype(np.int64)
        if time.origin is None:
            return counted
        counted += (time.origin - EPOCH).days * DAY_US
        return self._in_calendar(time.column, counted, f"{time.unit} after {time.origin}, {CALENDAR}")

    def _in_calendar(self, column: str, instants: NDArray[np.int64], expected: str) -> NDArray[np.int64]:
        self.refuse(column, (instants < FIRST_US) | (instants > LAST_US), expected)
        return instants

    def _datetimes(self, time: TimeColumn) -> NDArray[np.int64]:
        """Instants; a UTC offset is honoured when every cell has one."""
        values = self.table[time.column]
        if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
            return self._typed_datetimes(time, values)
        self.refuse(time.column, _mask(pc.is_null(values)), "a date and time")
        if time.format is not None:
            return self._formatted_datetimes(time.column, time.format, values)
        for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
            try:
                instants = _array(pc.cast(pc.cast(values, kind), pa.int64()))
            except pa.ArrowInvalid:
                continue
            return self._in_calendar(time.column, instants, f"a date {CALENDAR}")
        expected = "an ISO 8601 date and time, as in 2018-04-01 13:05:00"
        self.refuse(
            time.column,
            pd.to_datetime(values.to_pandas(), format="ISO8601", errors="coerce", utc=True).isna().to_numpy(),
            expected,
        )
        naive = _mask(pc.invert(pc.match_substring_regex(values, r"(Z|[+-]\d\d:?\d\d)$")))
        if 0 < naive.sum() < len(naive):
            self.refuse(time.column, naive, "ISO 8601 times all with, or all without, a UTC offset")
        # What pandas takes and Arrow does not, such as a fraction of more than six digits.
        kind = pa.timestamp("us", tz=None if naive.all() else "UTC")
        at = first_that_fails(len(values), lambda end: pc.cast(values.slice(0, end), kind), (pa.ArrowInvalid,))
        self.refuse(time.column, np.arange(len(values)) == at, expected)
        raise AssertionError("unreachable: one of the refusals above applies")

    def _formatted_datetimes(self, column: str, format: str, values: pa.ChunkedArray) -> NDArray[np.int64]:
        """Dates as Python's strptime reads them.

        Arrow's is thirty times as fast, and turns 31/02 into 2 March: its answer counts where it writes the same text
        again; other cells are read one by one, each distinct one once.
        """
        coded = values.combine_chunks().dictionary_encode()
        words = coded.dictionary
        parsed = pc.strptime(words, format=format, unit="s", error_is_null=True)
        try:
            sure = _mask(pc.equal(pc.cast(pc.strftime(parsed, format=format), words.type), words))
        except pa.ArrowInvalid:  # it cannot write in this format
            sure = np.zeros(len(words), bool)
        instants = np.asarray(pc.fill_null(pc.cast(parsed, pa.int64()), 0)) * np.int64(1_000_000)
        bad = np.zeros(len(words), bool)
        for at in np.flatnonzero(~sure):
            try:
                instants[at] = _microseconds(dt.datetime.strptime(words[int(at)].as_py(), format))
            except ValueError:
                bad[at] = True
        code = coded.indices.to_numpy()
        self.refuse(column, bad[code], f"a date as {format!r} writes it")
        return self._in_calendar(column, instants[code], f"a date {CALENDAR}")

    def _typed_datetimes(self, time: TimeColumn, values: pa.ChunkedArray) -> NDArray[np.int64]:
        if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
            raise DataError(
                f'{self.source}: column {time.column!r}: the schema expects dates (unit = "datetime"), got '
                f"{values.type}; set [time] unit to what the numbers count"
            )
        self.refuse(time.column, _mask(pc.is_null(values)), "a date and time")
        # Finer than a microsecond is cut off. Nothing overflows: `plain` has refused what the calendar cannot name.
        kind = pa.timestamp("us", tz=getattr(values.type, "tz", None))
        cut = pc.CastOptions(kind, allow_time_truncate=True)
        return _array(pc.cast(pc.cast(values, options=cut), pa.int64()))


def _microseconds(moment: dt.datetime) -> int:
    """Since 1970-01-01; without an offset as if in UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _array(values: pa.ChunkedArray) -> NDArray[Any]:
    """A numpy copy; nothing becomes NaN in a column of floats."""
    array: NDArray[Any] = values.to_numpy()
    return array


def _mask(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return _array(pc.fill_null(values, False)).astype(bool)


def _whole(
    cells: _Cells, schema: Schema, labelled: bool, bank_column: str | None, *, needs_fraud: bool
) -> Transactions:
    cells = cells.without_blanks(schema)
    if len(cells.index) == 0:
        raise NoRows(f"{cells.source}: expected rows below the header, got none (after the schema's [drop] rules)")
    table = _build(cells, schema, labelled, bank_column)
    if needs_fraud and table.label is not None:
        frauds = int(table.label.sum())
        if frauds in (0, len(table)):
            raise DataError(
                f"{cells.source}: column {schema.label.column!r}: expected frauds and others, got "
                f"{'no fraud' if frauds == 0 else 'only frauds'} in {len(table)} rows; nothing can be learned from it"
            )
    return table


def _build(cells: _Cells, schema: Schema, labelled: bool, bank_column: str | None) -> Transactions:
    customer, terminal = schema.parties.customer, schema.parties.terminal
    table = Transactions(
        schema=schema,
        source=cells.source,
        index=cells.index,
        time=None if schema.time is None else cells.times(schema.time),
        label=cells.labels(schema.label) if labelled else None,
        amount=None if schema.amount is None else cells.numbers(schema.amount.column),
        customer=None if customer is None else cells.ids(customer, refuse_empty=True),
        terminal=None if terminal is None else cells.ids(terminal, refuse_empty=True),
        bank=None if bank_column is None else cells.ids(bank_column, refuse_empty=True),
        numeric={c.column: cells.numbers(c.column, c.missing is not None) for c in schema.numeric},
        categorical={c.column: cells.ids(c.column) for c in schema.categorical},
        text={c.column: _array(cells.as_text(c.column)) for c in schema.text if c.use},
        first_row=cells.first_row,
    )
    if table.time is None or bool((np.diff(table.time) >= 0).all()):
        return table
    return table.take(np.argsort(table.time, kind="stable"))

"""Read transactions from csv (compressed or not) or parquet into typed columns in time order.

A cell that cannot be read is named.

A csv is read as text first and then converted column by column (`fl.data.conversion`). Rows are counted as an editor
counts them: the header is row 1, and a quoted line break counts as part of its row.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fl.data.cells import first_that_fails
from fl.data.conversion import Cells, Identifiers, as_array, cells_of
from fl.data.deriving import derived_values
from fl.data.formats import UNREADABLE, FileFormat, is_parquet, likely_delimiter, opened, text_of
from fl.data.schema import DAY_US, ColumnSplit, Schema
from fl.errors import DataError, NoRows

BLOCK_BYTES = 4 << 20  # of csv text per streamed chunk
ENCODING_ADVICE = '; name the encoding in the schema, as in [file] encoding = "latin-1"'


@dataclass(frozen=True)
class Transactions:
    """`n` transactions, sorted by time (rows of equal time in file order). The repr shows sizes, never rows.

    `index`: int64[n], 0-based position in the source, header not counted. `time`: int64[n], microseconds
    since 1970-01-01 (since 0 without a date), or the order itself. `label`: uint8[n], 1 is fraud. `amount`
    and `numeric`: float64[n], finite (NaN only in numeric columns whose schema names a `missing` value).
    `customer`, `terminal`, `bank`, `categorical`: codes. `text`: object[n]. `entities`: codes of the parties beside the
    terminal, by kind. `known_day`: int32[n], the day on which a fraud was labelled; 0 where there is no fraud. `part`:
    the word that says whether a row is for training or test. None where the schema names no such column. `derived`:
    float64[n] by name, NaN where a value is missing.
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
    first_row: int = 2  # row number of index 0 in messages: 2 in a csv (row 1 is the header), 1 in a parquet file
    entities: Mapping[str, Identifiers] = field(default_factory=dict, repr=False)
    known_day: NDArray[np.int32] | None = field(default=None, repr=False)
    derived: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    part: Identifiers | None = field(default=None, repr=False)

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

    def party(self, kind: str) -> Identifiers | None:
        """The identifiers of a kind of `fl.data.schema.KINDS`; None where the schema names no column of it."""
        return self.terminal if kind == "terminal" else self.entities.get(kind)

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
            entities={kind: values.take(rows) for kind, values in self.entities.items()},
            known_day=None if self.known_day is None else self.known_day[rows],
            derived={name: values[rows] for name, values in self.derived.items()},
            part=None if self.part is None else self.part.take(rows),
        )


def read_header(path: str | Path, delimiter: str = ",", encoding: str = "utf-8") -> list[str]:
    """The column names of a csv (compressed or not) or parquet file.

    Raises `DataError` for a missing, empty or unreadable file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if is_parquet(path):
            names = list(pa.parquet.read_schema(path).names)
        else:
            with opened(path) as source, text_of(source, encoding) as lines:
                names = next(csv.reader(lines, delimiter=delimiter), [])
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot read its header as {encoding} text: {error}{ENCODING_ADVICE}") from error
    except (*UNREADABLE, csv.Error, UnicodeError) as error:
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

    With `labelled`, the label column is required, and must hold both classes unless `needs_fraud` is False (for
    a file that only serves as history). Without it, labels are not read. `bank_column` is read as `bank`.
    Raises `DataError` naming file, column and row.
    """
    path = Path(path)
    columns = _columns_of(path, schema, labelled, bank_column, history=not needs_fraud)
    with _named(path, schema.encoding):
        if parquet := is_parquet(path):
            table = pa.parquet.read_table(path, columns=columns, partitioning=None)
        else:
            with opened(path) as source:
                table = pa.csv.read_csv(source, **_csv_options(format_of(schema), columns, bool(schema.text)))
    index = np.arange(len(table), dtype=np.int64)
    cells = cells_of(str(path), table, index, 1 if parquet else 2, schema.decimal)
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
    """The transactions of a pandas frame, as `load_transactions` reads a file. `source`: its name in messages."""
    wanted = columns_wanted(schema, labelled, bank_column, history=not needs_fraud)
    refuse_absent(wanted, list(frame.columns), source, schema)
    columns = {name: _from_pandas(frame[name], name, source) for name in wanted}
    cells = cells_of(source, pa.table(columns), np.arange(len(frame), dtype=np.int64), 1, schema.decimal)
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

    Memory holds one chunk. Raises `DataError` as `load_transactions` does, except for a file without fraud.
    """
    path = Path(path)
    columns = _columns_of(path, schema, labelled, bank_column)
    first_row, seen = 1 if is_parquet(path) else 2, 0
    options = _csv_options(format_of(schema), columns, bool(schema.text))
    for batch in _batches(path, schema.encoding, options, columns, rows):
        table = pa.Table.from_batches([batch])
        for start in range(0, len(table), rows):
            part = table.slice(start, rows)
            index = np.arange(seen, seen + len(part), dtype=np.int64)
            seen += len(part)
            cells = cells_of(str(path), part, index, first_row, schema.decimal).without_blanks(schema)
            yield build(cells, schema, labelled, bank_column)


def stream_text(
    path: str | Path, columns: list[str], written: FileFormat, rows: int = 50_000
) -> Iterator[dict[str, pa.ChunkedArray]]:
    """All rows of these columns as text, chunk by chunk; a missing cell is the empty string. Raises `DataError`."""
    path = Path(path)
    for batch in _batches(path, written.encoding, _csv_options(written, columns, True), columns, rows):
        cells = cells_of(str(path), pa.Table.from_batches([batch]), np.arange(len(batch), dtype=np.int64), 1)
        yield {name: cells.as_text(name) for name in columns}


def format_of(schema: Schema) -> FileFormat:
    """How the schema says that a csv is written."""
    return FileFormat(None, schema.encoding, schema.delimiter, schema.decimal)


def _batches(
    path: Path, encoding: str, csv_options: dict[str, Any], columns: list[str], rows: int
) -> Generator[pa.RecordBatch, None, None]:
    with _named(path, encoding):
        if is_parquet(path):
            with closing(pa.parquet.ParquetFile(path)) as file:
                yield from file.iter_batches(batch_size=rows, columns=columns)
        else:
            with opened(path) as source, pa.csv.open_csv(source, **csv_options) as reader:
                yield from reader


@contextmanager
def _named(path: Path, encoding: str) -> Iterator[None]:
    """What cannot be read becomes a `DataError` that names the file."""
    try:
        yield
    except UnicodeError as error:
        raise DataError(f"{path}: expected {encoding} text: {error}{ENCODING_ADVICE}") from error
    except UNREADABLE as error:
        advice = ENCODING_ADVICE if "UTF8" in str(error) else ""
        raise DataError(f"{path}: {error}{advice}") from error


def _from_pandas(values: pd.Series | pd.DataFrame, name: str, source: str) -> pa.Array:
    """A column of a frame. Raises `DataError` for a cell whose type differs from the cells above it."""
    if isinstance(values, pd.DataFrame):
        raise DataError(f"{source}: expected each column once, got {name!r} {values.shape[1]} times; rename them")
    convert = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.Array.from_pandas(values)
    except convert:
        at = first_that_fails(len(values), lambda end: pa.Array.from_pandas(values.iloc[:end]), convert)
        raise DataError(
            f"{source}: row {at + 1}, column {name!r}: expected a value of the same type as those above, got "
            f"{values.iloc[at]!r}; correct the frame"
        ) from None


def columns_wanted(schema: Schema, labelled: bool, bank_column: str | None, history: bool = False) -> list[str]:
    """The columns that are read. history: rows that are in no part, so that the column of the part is not needed."""
    wanted = dict.fromkeys([*schema.columns_read(labelled=labelled), *([bank_column] if bank_column else [])])
    if history and isinstance(schema.split, ColumnSplit) and schema.split.column != bank_column:
        wanted.pop(schema.split.column, None)
    return list(wanted)


def _columns_of(
    path: Path, schema: Schema, labelled: bool, bank_column: str | None, history: bool = False
) -> list[str]:
    wanted = columns_wanted(schema, labelled, bank_column, history)
    refuse_absent(wanted, read_header(path, schema.delimiter, schema.encoding), str(path), schema)
    return wanted


def refuse_absent(wanted: list[str], header: list[str], source: str, schema: Schema) -> None:
    """Raise `DataError` for a wanted column that is not in the header."""
    absent = [column for column in wanted if column not in header]
    if absent:
        other = likely_delimiter(header[0]) if len(header) == 1 else None
        advice = f"set [file] delimiter = {other!r} in the schema, or " if other else ""
        raise DataError(
            f"{source}: schema {schema.name!r} expects columns {absent}, got {header}; {advice}correct the header or "
            "the schema (check it with: python -m demos schema --check SCHEMA.toml FILE)"
        )


def _csv_options(written: FileFormat, columns: list[str], quoted_breaks: bool) -> dict[str, Any]:
    """Options of Arrow: one thread and kept empty lines, so that its row numbers are those of the file."""
    return {
        "read_options": pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=written.encoding),
        "parse_options": pa.csv.ParseOptions(
            delimiter=written.delimiter,
            ignore_empty_lines=False,
            newlines_in_values=quoted_breaks,
        ),
        "convert_options": pa.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    }


def _whole(cells: Cells, schema: Schema, labelled: bool, bank_column: str | None, *, needs_fraud: bool) -> Transactions:
    cells = cells.without_blanks(schema)
    if len(cells.index) == 0:
        raise NoRows(f"{cells.source}: expected rows below the header, got none (after the schema's [drop] rules)")
    table = build(cells, schema, labelled, bank_column)
    if needs_fraud and table.label is not None:
        frauds = int(table.label.sum())
        if frauds in (0, len(table)):
            raise DataError(
                f"{cells.source}: column {schema.label.column!r}: expected frauds and other rows, got "
                f"{'no fraud' if frauds == 0 else 'only frauds'} in {len(table)} rows; a model needs both"
            )
    return table


def build(cells: Cells, schema: Schema, labelled: bool, bank_column: str | None) -> Transactions:
    """The rows as typed columns in time order. Raises `CellRefused` for cells that are not what the schema says."""
    customer, terminal = schema.parties.customer, schema.parties.terminal
    label = cells.labels(schema.label) if labelled else None
    table = Transactions(
        schema=schema,
        source=cells.source,
        index=cells.index,
        time=None if schema.time is None else cells.times(schema.time),
        label=label,
        amount=None if schema.amount is None else cells.numbers(schema.amount.column),
        customer=None if customer is None else cells.ids(customer, refuse_empty=True),
        terminal=None if terminal is None else cells.ids(terminal, refuse_empty=True),
        bank=None if bank_column is None else cells.ids(bank_column, refuse_empty=True),
        numeric={c.column: cells.numbers(c.column, c.missing is not None) for c in schema.numeric},
        categorical={c.column: cells.ids(c.column) for c in schema.categorical},
        text={c.column: as_array(cells.as_text(c.column)) for c in schema.text if c.use},
        first_row=cells.first_row,
        entities={kind: cells.ids(column, refuse_empty=True) for kind, column in schema.parties.entities.items()},
        known_day=None if label is None or schema.label.known is None else cells.known_days(schema, label),
        derived={column.name: derived_values(cells, column, schema) for column in schema.derived},
        part=_part(cells, schema, labelled),
    )
    if table.time is None or bool((np.diff(table.time) >= 0).all()):
        return table
    return table.take(np.argsort(table.time, kind="stable"))


def _part(cells: Cells, schema: Schema, labelled: bool) -> Identifiers | None:
    """The words of the column that divides labelled rows; None for rows that are in no part, as in a history."""
    if not labelled or not isinstance(schema.split, ColumnSplit) or schema.split.column not in cells.table.column_names:
        return None
    return cells.ids(schema.split.column)

"""Convert the cells of a source into typed columns: numbers, labels, identifiers and times, or name the wrong cell.

The fast conversion is Arrow's. Only when it fails is the column searched for the first cell that does not convert, so
that the message can name file, column and row.

A date that does not exist is refused: Arrow's parser and its unchecked casts would turn 31 February into 2 March and a
year beyond 64 bits into another.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fl.data.cells import CellError, plain
from fl.data.schema import DAY_US, EPOCH, MICROSECONDS, LabelColumn, Schema, TimeColumn, microseconds_of
from fl.errors import CellRefused, DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")  # cells that stand for a missing number

# First and last instant of the years 1 to 9999, in microseconds since 1970-01-01.
FIRST_US = (dt.date.min - EPOCH).days * DAY_US
LAST_US = ((dt.date.max - EPOCH).days + 1) * DAY_US - 1
CALENDAR = "in the years 1 to 9999"


@dataclass(frozen=True)
class Identifiers:
    """The party of each row. `code`: int64[n], positions in `ids`. `ids`: object[k], the identifiers as text."""

    code: NDArray[np.int64] = field(repr=False)
    ids: NDArray[np.object_] = field(repr=False)

    def take(self, rows: NDArray[Any]) -> Identifiers:
        return Identifiers(self.code[rows], self.ids)


def cells_of(source: str, table: pa.Table, index: NDArray[np.int64], first_row: int, decimal: str = ".") -> Cells:
    """The columns, each in a type that `Cells` can convert. Raises `DataError` for a cell of another type.

    `decimal`: the mark in numbers that are written as text.
    """
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = plain(table[name])
        except CellError as fault:
            if fault.at is None:
                raise DataError(f"{source}: column {name!r}: {fault}; correct the file") from None
            message = f"{source}: row {int(index[fault.at]) + first_row}, column {name!r}: {fault}; correct the file"
            bad = np.arange(len(index)) == fault.at
            raise CellRefused(message, name, bad.tolist(), str(fault)) from None
    return Cells(source, pa.table(columns), index, first_row, decimal)


@dataclass(frozen=True)
class Cells:
    """Columns of a source as `plain` returns them, for conversion.

    Each row's position in the source is kept for error messages.
    """

    source: str
    table: pa.Table = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)
    first_row: int
    decimal: str = "."

    def where(self, keep: NDArray[np.bool_]) -> Cells:
        return self if keep.all() else replace(self, table=self.table.filter(pa.array(keep)), index=self.index[keep])

    def without_blanks(self, schema: Schema) -> Cells:
        """The cells without empty lines and without the rows that the schema drops."""
        keep = np.ones(len(self.index), bool)
        if len(self.table.column_names) > 1:  # an empty line of a one-column file is a missing value, not a blank line
            blank = np.ones(len(self.index), bool)
            for name in self.table.column_names:
                if not blank.any():
                    break
                blank &= _mask(pc.equal(self.as_text(name), ""))
            keep &= ~blank
        for rule in schema.drop:
            if rule.column not in self.table.column_names:
                continue  # the label of rows without labels: no such row is dropped by it
            keep &= ~_mask(pc.is_in(self.as_text(rule.column), value_set=pa.array(rule.values, pa.string())))
        return self.where(keep)

    def as_text(self, column: str) -> pa.ChunkedArray:
        """The column as strings. A missing cell becomes the empty string.

        A column of whole floats (identifiers read through pandas) becomes whole numbers.
        """
        values = self.table[column]
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
            whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
            if pc.all(pc.fill_null(whole, True)).as_py():
                values = pc.cast(values, pa.int64())
        return pc.fill_null(pc.cast(values, pa.string()), "")

    def refuse(self, column: str, bad: NDArray[np.bool_], expected: str, advice: str = "") -> None:
        """Raise `CellRefused` for the first `bad` cell, if there is one."""
        if not bad.any():
            return
        at = int(np.argmax(bad))
        cell = self.table[column][at].as_py()
        got = "an empty cell" if cell is None or cell == "" else repr(cell)
        more = f" ({int(bad.sum())} such cells)" if bad.sum() > 1 else ""
        raise CellRefused(
            f"{self.source}: row {int(self.index[at]) + self.first_row}, column {column!r}: "
            f"expected {expected}, got {got}{more}; correct the file{advice}, "
            "or drop such rows in the schema's [drop] table",
            column,
            bad.tolist(),
            f"expected {expected}",
        )

    def numbers(self, column: str, missing: bool = False) -> NDArray[np.float64]:
        """The column as float64[n], finite; with `missing`, empty cells become NaN."""
        values = self.table[column]
        absent = np.zeros(len(values), bool)
        if missing:
            absent = _mask(pc.is_in(self.as_text(column), value_set=pa.array(MISSING)))
            values = pc.if_else(pa.array(absent), pa.scalar(None, values.type), values)
        if self.decimal == "," and is_text(values.type):
            values = with_points(values)
        try:
            numbers = as_array(pc.cast(values, pa.float64()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a cell that is no number; a type without numbers
            # Arrow does not say which cell is not a number: convert again, so that `refuse` names the first.
            text = values if is_text(values.type) else self.as_text(column)
            numbers = pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy(np.float64)
        expected = "a finite number" if self.decimal == "." else "a finite number with a decimal comma, as in 1.234,5"
        self.refuse(column, ~np.isfinite(numbers) & ~absent, expected)
        return numbers

    def labels(self, label: LabelColumn) -> NDArray[np.uint8]:
        party = self.ids(label.column)
        meaning = np.array([1 if v in label.positive else 0 if v in label.negative else 2 for v in party.ids], np.uint8)
        labels = meaning[party.code]
        self.refuse(
            label.column,
            labels == 2,
            f"one of {', '.join(label.positive)} (fraud) or {', '.join(label.negative)} (no fraud)",
            ", add its values to [label] positive or negative in the schema",
        )
        return labels

    def known_days(self, schema: Schema, labels: NDArray[np.uint8]) -> NDArray[np.int32]:
        """int32[n]: the day of `[label] known` of each fraud, 0 for all others, whose cells may hold anything."""
        assert schema.time is not None and schema.label.known is not None
        days, frauds = np.zeros(len(labels), np.int32), self.where(labels == 1)
        if len(frauds.index):
            days[labels == 1] = frauds.times(replace(schema.time, column=schema.label.known)) // DAY_US
        return days

    def ids(self, column: str, *, refuse_empty: bool = False) -> Identifiers:
        """The column as codes into its distinct values, in order of appearance."""
        # In one chunk, because each chunk would repeat earlier entries; with 64-bit offsets for more than 2 GB.
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
        """The column as instants. UTC offsets are applied when every cell has one."""
        values = self.table[time.column]
        if not is_text(values.type):
            return self._typed_datetimes(time, values)
        self.refuse(time.column, _mask(pc.is_null(values)), "a date and time")
        if time.format is not None:
            return self._formatted_datetimes(time.column, time.format, values)
        values = cut_to_microseconds(values)
        if (instants := iso_instants(values)) is not None:
            return self._in_calendar(time.column, instants, f"a date {CALENDAR}")
        expected = "an ISO 8601 date and time, as in 2018-04-01 13:05:00"
        self.refuse(
            time.column,
            pd.to_datetime(values.to_pandas(), format="ISO8601", errors="coerce", utc=True).isna().to_numpy(),
            expected,
        )
        naive = _mask(pc.invert(pc.match_substring_regex(values, r"(Z|[+-]\d\d:?\d\d)$")))
        if 0 < naive.sum() < len(naive):
            fewer = naive if 2 * naive.sum() <= len(naive) else ~naive
            self.refuse(time.column, fewer, "ISO 8601 times that all have a UTC offset, or none")
        # A cell that pandas accepts and Arrow does not.
        kind = pa.timestamp("us", tz=None if naive.all() else "UTC")
        words = values.combine_chunks().dictionary_encode()
        wrong = np.array([not _casts(words.dictionary.slice(i, 1), kind) for i in range(len(words.dictionary))], bool)
        self.refuse(time.column, wrong[words.indices.to_numpy()], expected)
        raise AssertionError("unreachable: one of the refusals above applies")

    def _formatted_datetimes(self, column: str, format: str, values: pa.ChunkedArray) -> NDArray[np.int64]:
        """Dates as Python's strptime reads them.

        Arrow's parser is thirty times as fast, but turns 31/02 into 2 March. Its result is used where it formats back
        to the same text; the other distinct cells are read one by one with strptime. Arrow has no code for fractions of
        a second: where a format ends with one, they are read apart.
        """
        if format.endswith("%f") and not format.endswith("%%f"):
            whole, fraction = self._apart(column, format, values)
            return fraction + self._formatted_datetimes(column, format[:-2], whole)
        coded = values.combine_chunks().dictionary_encode()
        words = coded.dictionary
        parsed = pc.strptime(words, format=format, unit="s", error_is_null=True)
        try:
            sure = _mask(pc.equal(pc.cast(pc.strftime(parsed, format=format), words.type), words))
        except pa.ArrowInvalid:  # Arrow cannot write this format
            sure = np.zeros(len(words), bool)
        instants = np.asarray(pc.fill_null(pc.cast(parsed, pa.int64()), 0)) * np.int64(1_000_000)
        bad = np.zeros(len(words), bool)
        for at in np.flatnonzero(~sure):
            try:
                instants[at] = microseconds_of(dt.datetime.strptime(words[int(at)].as_py(), format))
            except ValueError:
                bad[at] = True
        code = coded.indices.to_numpy()
        self.refuse(column, bad[code], f"a date as {format!r} writes it")
        return self._in_calendar(column, instants[code], f"a date {CALENDAR}")

    def _apart(self, column: str, format: str, values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
        """The cells without the one to nine digits at their end, and these as microseconds (int64[n])."""
        digits = pc.struct_field(pc.extract_regex(values, r"\D(?P<digits>\d{1,9})$"), "digits")
        self.refuse(column, _mask(pc.is_null(digits)), f"a date as {format!r} writes it")
        micros = pc.utf8_slice_codeunits(pc.utf8_rpad(digits, 6, "0"), 0, 6)
        return pc.replace_substring_regex(values, r"\d{1,9}$", ""), as_array(pc.cast(micros, pa.int64()))

    def _typed_datetimes(self, time: TimeColumn, values: pa.ChunkedArray) -> NDArray[np.int64]:
        if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
            raise DataError(
                f'{self.source}: column {time.column!r}: the schema expects dates (unit = "datetime"), got '
                f"{values.type}; set [time] unit to the unit of the numbers"
            )
        self.refuse(time.column, _mask(pc.is_null(values)), "a date and time")
        # Fractions of a microsecond are cut off. Nothing overflows: `plain` has refused years outside 1 to 9999.
        kind = pa.timestamp("us", tz=getattr(values.type, "tz", None))
        cut = pc.CastOptions(kind, allow_time_truncate=True)
        return as_array(pc.cast(pc.cast(values, options=cut), pa.int64()))


def cut_to_microseconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as text, without what is finer than a microsecond."""
    return pc.replace_substring_regex(values, r"([.,]\d{6})\d+", r"\1")


def iso_instants(values: pa.ChunkedArray) -> NDArray[np.int64] | None:
    """int64[n], microseconds: ISO 8601 times, all with a UTC offset or all without; None where a cell is none."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return as_array(pc.cast(pc.cast(values, kind), pa.int64()))
        except pa.ArrowInvalid:
            continue
    return None


def _casts(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        pc.cast(values, kind)
    except pa.ArrowInvalid:
        return False
    return True


def as_array(values: pa.ChunkedArray) -> NDArray[Any]:
    """The values as a numpy array; missing values become NaN in a column of floats."""
    array: NDArray[Any] = values.to_numpy()
    return array


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def with_points(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """1.234,5 as 1234.5. A point that does not stand between groups of three digits makes the cell no number."""
    grouped = pc.match_substring_regex(values, r"^\s*[+-]?\d{1,3}(\.\d{3})+(,\d*)?\s*$")
    values = pc.if_else(grouped, pc.replace_substring(values, ".", ""), pc.replace_substring(values, ".", "?"))
    return pc.replace_substring(values, ",", ".")


def _mask(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    return as_array(pc.fill_null(values, False)).astype(bool)

"""Reduce the column types of parquet files and frames to the few types that reading transactions knows.

What it does: `plain` turns an Arrow column into text, numbers, truth values, dates or instants, and refuses a cell of
another type; `first_that_fails` finds the cell at which the conversion of a whole column failed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

_UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = dt.date(1970, 1, 1)
_FIRST_DAY = (dt.date.min - _EPOCH).days
_LAST_DAY = (dt.date.max - _EPOCH).days
_DAY_S = 86_400


class CellError(ValueError):
    """A cell that no column of transactions can hold.

    `at`: its position; None when the whole column has such a type.
    """

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same cells as string, number, bool, date or timestamp. Raises `CellError`."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return plain(pc.cast(values, kind.value_type))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _text(pc.cast(values, pa.large_binary()))
    if kind == pa.string_view() or kind == pa.binary_view():
        return _text(pc.cast(values, pa.large_binary()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _valid_text(values)
    if pa.types.is_float16(kind):
        return pc.cast(values, pa.float32())
    if pa.types.is_timestamp(kind):
        per_day = _UNITS_PER_SECOND[kind.unit] * _DAY_S
        _refuse_beyond_calendar(values, _FIRST_DAY * per_day, (_LAST_DAY + 1) * per_day - 1)
        return _with_known_zone(values)
    if pa.types.is_date(kind):
        per_day = 1 if pa.types.is_date32(kind) else 1000 * _DAY_S  # date64 counts milliseconds
        _refuse_beyond_calendar(values, _FIRST_DAY * per_day, (_LAST_DAY + 1) * per_day - 1)
        return values
    known = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_time)
    if pa.types.is_null(kind) or any(is_one(kind) for is_one in known):
        return values
    raise CellError(f"expected text, numbers, truth values, dates or times, got {kind}")


def first_that_fails(count: int, convert: Callable[[int], object], faults: tuple[type[Exception], ...]) -> int:
    """The first of `count` cells that cannot be converted.

    `convert(end)` converts the cells before `end` and raises one of `faults`. It raises one for the whole column.
    """
    sound, fails = 0, count
    while fails - sound > 1:
        middle = (sound + fails) // 2
        try:
            convert(middle)
        except faults:
            fails = middle
        else:
            sound = middle
    return fails - 1


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes as UTF-8 text."""
    try:
        return pc.cast(values, pa.large_string())
    except pa.ArrowInvalid:
        raise _not_utf8(values) from None


def _valid_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The text, checked to be UTF-8: a parquet file may declare text that is not."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise _not_utf8(pc.cast(values, pa.large_binary())) from None
    return values


def _not_utf8(values: pa.ChunkedArray) -> CellError:
    at = first_that_fails(len(values), lambda end: pc.cast(values.slice(0, end), pa.large_string()), (pa.ArrowInvalid,))
    return CellError(f"expected UTF-8 text, got {values[at].as_py()[:40]!r}", at)


def _refuse_beyond_calendar(values: pa.ChunkedArray, first: int, last: int) -> None:
    """Refuse dates outside `first` to `last`, counted in the column's own unit."""
    width = 2 ** (31 if pa.types.is_date32(values.type) else 63)
    counts = pc.cast(values, pa.int32() if pa.types.is_date32(values.type) else pa.int64())
    lowest, highest = max(first, -width), min(last, width - 1)
    beyond = pc.or_(
        pc.less(counts, pa.scalar(lowest, counts.type)), pc.greater(counts, pa.scalar(highest, counts.type))
    )
    at = pc.index(pc.fill_null(beyond, False), True).as_py()
    if at >= 0:
        raise CellError(f"expected a date in the years 1 to 9999, got {counts[at].as_py()} as {values.type}", at)


def _with_known_zone(values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        pc.cast(values.slice(0, 1), pa.string())
    except pa.ArrowInvalid:
        raise CellError(f"expected a known time zone, got {values.type.tz!r}") from None
    return values

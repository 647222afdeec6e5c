"""What one pass over a file shows of each column: cells of rows that are evenly spread over it, and all its words.

The words of a column and its empty cells are those of the whole file, up to `MOST_WORDS` words: a word for "unknown"
among the labels may stand in its last row. Memory holds twice `SAMPLE_ROWS` rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fl.data.conversion import MISSING, with_points
from fl.data.drafting.moments import Moment, moment_of
from fl.data.formats import FileFormat
from fl.data.reading import read_header, stream_text
from fl.errors import DataError

SAMPLE_ROWS = 20_000
MOST_WORDS = 50_000
YES = ("yes", "y", "true", "fraud", "1", "1.0", "t", "ja", "si", "sí", "oui", "j", "fraudulent", "bad", "positive")
NO = (
    *("no", "n", "false", "legit", "genuine", "ok", "0", "0.0", "f", "nein", "non", "legitimate", "good", "negative"),
    *("nofraud", "non-fraud", "not fraud", "normal"),
)


@dataclass(frozen=True)
class Look:
    """One column.

    values: object[n], the sample's cells as text.  numbers: float64, of the sample's filled cells; None unless all are
    numbers.  words: distinct filled cells of the file, the most frequent in the sample first.  complete: whether these
    are all of them.  absent: cells of the file that stand for no value.  empties: how many there are in the file.
    """

    name: str
    values: NDArray[np.object_] = field(repr=False)
    numbers: NDArray[np.float64] | None = field(repr=False)
    words: tuple[str, ...] = field(repr=False)
    complete: bool
    absent: tuple[str, ...]
    empties: int
    rows: int  # of the file

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """bool[n]: where the sample has a value."""
        return ~np.isin(self.values, MISSING)

    @cached_property
    def column(self) -> NDArray[np.float64]:
        """float64[n], NaN in empty cells; only where all values are numbers."""
        assert self.numbers is not None
        column = np.full(len(self.values), np.nan)
        column[self.filled] = self.numbers
        return column

    @cached_property
    def moment(self) -> Moment | None:
        """How the cells write dates; None where they do not."""
        return moment_of(self.name, self.values[self.filled], self.numbers)

    @property
    def is_whole(self) -> bool:
        """Words or whole numbers, as identifiers are."""
        return self.numbers is None or bool((self.numbers == np.floor(self.numbers)).all())

    @property
    def is_text(self) -> bool:
        """Sentences: cells of several words that seldom repeat. A category such as `20 to 29 thousand` is none."""
        if self.numbers is not None or len(self.words) < 100:
            return False
        wordy = float(np.mean([v.count(" ") for v in self.values[:500]])) >= 2
        return wordy and len(self.words) > 0.05 * self.rows

    @property
    def is_answer(self) -> bool:
        """Whether the words contain one for yes and one for no, and at most a few others."""
        known = {word.lower() for word in self.words}
        return len(self.words) <= 8 and bool(known & set(YES)) and bool(known & set(NO))

    @property
    def is_ascending(self) -> bool:
        return self.numbers is not None and not self.empties and bool((np.diff(self.numbers) >= 0).all())

    @property
    def repeats(self) -> bool:
        """Whether values repeat, as in a party or a category, unlike in a row number."""
        return len(self.words) < 0.95 * (self.rows - self.empties) if self.complete else self._sample_repeats

    @property
    def _sample_repeats(self) -> bool:
        filled = self.values[self.filled]
        return len(set(filled)) < 0.95 * len(filled)


def looks_at(path: Path, written: FileFormat) -> list[Look]:
    """Every column of the file, in its order. Raises `DataError` for a file that cannot be read or has no rows."""
    header = read_header(path, written.delimiter, written.encoding)
    sample = _Sample(header)
    seen = {name: _Words() for name in header}
    for chunk in stream_text(path, header, written):
        sample.add(chunk)
        for name, words in seen.items():
            words.add(chunk[name])
    if sample.rows == 0:
        raise DataError(f"{path}: expected rows below the header, got none")
    table = sample.table()
    return [_look(name, table[name], seen[name], sample.rows, written.decimal) for name in header]


class _Sample:
    """Every k-th row, k doubling whenever twice as many rows are kept as wanted."""

    def __init__(self, header: list[str]) -> None:
        self.rows, self._step, self._kept = 0, 1, 0
        self._parts: list[pa.Table] = []
        self._header = header

    def add(self, chunk: dict[str, pa.ChunkedArray]) -> None:
        part = pa.table({name: pc.cast(values, pa.large_string()) for name, values in chunk.items()})
        wanted = np.arange((-self.rows) % self._step, len(part), self._step)
        self.rows += len(part)
        self._parts.append(part.take(pa.array(wanted)))
        self._kept += len(wanted)
        while self._kept > 2 * SAMPLE_ROWS:
            whole = self.table()
            self._parts = [whole.take(pa.array(np.arange(0, len(whole), 2)))]
            self._kept, self._step = len(self._parts[0]), 2 * self._step

    def table(self) -> pa.Table:
        return pa.concat_tables(self._parts) if self._parts else pa.table({name: [] for name in self._header})


class _Words:
    """The distinct cells of a column."""

    def __init__(self) -> None:
        self.words: dict[str, None] = {}
        self.absent: dict[str, None] = {}
        self.empties, self.complete = 0, True

    def add(self, values: pa.ChunkedArray) -> None:
        missing = pc.is_in(values, value_set=pa.array(MISSING, values.type))
        self.empties += pc.sum(missing).as_py() or 0
        if not self.complete:
            return
        for word in pc.unique(values).to_pylist():
            (self.absent if word in MISSING else self.words)[word] = None
        self.complete = len(self.words) <= MOST_WORDS


def _look(name: str, cells: pa.ChunkedArray, seen: _Words, rows: int, decimal: str) -> Look:
    values = np.array(cells.to_pylist(), object)
    filled = pd.Series(values[~np.isin(values, MISSING)], dtype=object)
    text = with_points(pa.array(filled, pa.large_string())).to_pandas() if decimal == "," else filled
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    numeric = len(filled) > 0 and bool(np.isfinite(numbers).all()) and _all_numbers(seen, decimal)
    frequent = [str(word) for word in filled.value_counts().index]
    words = tuple(dict.fromkeys([*frequent, *seen.words]))
    return Look(
        name, values, numbers if numeric else None, words, seen.complete, tuple(seen.absent), seen.empties, rows
    )


def _all_numbers(seen: _Words, decimal: str) -> bool:
    """Whether the words of the whole file are numbers, as far as they were kept."""
    words: Iterable[str] = seen.words
    text = pa.array(list(words), pa.large_string())
    text = with_points(text) if decimal == "," else text
    return bool(np.isfinite(pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy(np.float64)).all())

"""Write csv files whose cells a spreadsheet shows as text and never runs as formulas.

Excel, LibreOffice and Google Sheets take a cell for a formula when it begins with = + - @, a tab or a line break, also
after blanks. Text from outside (the name of a bank, a terminal or a column) may begin so. Such a cell gets an
apostrophe in front, which marks it as text; numbers stay numbers. `unescaped` removes the apostrophe, so that this
project reads back what it wrote. Source: OWASP, CSV Injection (full-width forms included).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile("'*(?:[\\s\0\ufeff\u200b]*[=+\\-@＝＋－＠]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def escaped(cell: object) -> object:
    """The cell with an apostrophe in front when it is text that a spreadsheet would run, or that was escaped before."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unescaped(cell: str) -> str:
    """The cell that `escaped` was called with."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class _Lines:
    """Ends lines with a line feed. csv's writer quotes a carriage return in a cell only if it ends lines with both."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


class SafeWriter:
    """csv.writer with every cell escaped."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(_Lines(file))

    def row(self, cells: Sequence[Any]) -> None:
        self._writer.writerow([escaped(cell) for cell in cells])

    def rows(self, rows: Iterable[Sequence[Any]]) -> None:
        self._writer.writerows([escaped(cell) for cell in row] for row in rows)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as a csv file, header and cells escaped, without its index."""
    import pandas as pd  # a score file needs none

    safe = frame.rename(columns={name: escaped(name) for name in frame.columns})
    for position, name in enumerate(frame.columns):
        if not pd.api.types.is_numeric_dtype(frame[name]):
            safe.isetitem(position, frame[name].map(escaped))
    text = io.StringIO(newline="")
    safe.to_csv(_Lines(text), index=False, lineterminator="\r\n")
    return text.getvalue().encode()


def read_back(data: bytes) -> pd.DataFrame:
    """A frame that `csv_bytes` wrote, as text."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    return frame.rename(columns=unescaped).map(unescaped)

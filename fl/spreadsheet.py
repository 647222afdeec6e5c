"""CSV files whose cells a spreadsheet shows and does not run as formulas.

A cell that begins with = + - @, a tab or a line break, or with blanks and one of those, is a formula to Excel,
LibreOffice and Google Sheets, and text from outside (a bank, a terminal, a column) may be one. It gets an apostrophe
in front, which a spreadsheet takes for "this is text"; numbers stay numbers. `unescaped` takes it off again, so that
what this project reads back is what it wrote. Source: OWASP, CSV Injection (full-width forms included).
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
    """What `escaped` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class _Lines:
    """Ends lines with a line feed alone. Only a writer that ends them with both quotes a carriage return in a cell."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


class SafeWriter:
    """csv's writer, every cell escaped."""

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

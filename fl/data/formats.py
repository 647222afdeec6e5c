"""Open a file of transactions whatever its compression, and detect how a csv is written.

What it does: `opened` gives the decompressed bytes of a file; `sniffed` says how they are written: compression,
encoding, delimiter, decimal mark. Compression is told by the first bytes, never by the name, so that `.GZ`, `.zip` and
a gzip file without a suffix are all read. The other three are written into a schema's [file] table: banks agree on
them, and a reader does not guess.

What it leaves to others: which columns there are (`fl.data.reading`) and what they mean (`fl.data.drafting`).
"""

from __future__ import annotations

import codecs
import csv
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import pyarrow as pa

from fl.errors import DataError

Compression = Literal["gzip", "bz2", "xz", "zip"]
MAGIC: tuple[tuple[bytes, Compression], ...] = (  # first bytes, from each format's own specification
    (b"\x1f\x8b", "gzip"),  # RFC 1952, section 2.3.1
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "zip"),  # APPNOTE.TXT, section 4.3.7
)
PARQUET_MAGIC = b"PAR1"

DELIMITERS = (",", ";", "\t", "|")
PIECE = 1 << 20  # bytes of decompressed text that are looked at together
SNIFFED_BYTES = 1 << 18  # of decompressed text, for the delimiter and the decimal mark
SNIFFED_ROWS = 1000
DECIMAL_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+),\d+")  # 12,5 and 1.234,56
DECIMAL_POINT = re.compile(r"[+-]?\d+\.\d+")

UNREADABLE = (
    *(pa.ArrowException, OSError, EOFError),
    NotImplementedError,  # zipfile's, for a method of compression that it lacks
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),  # zipfile leaves the errors of its decompressors as they are
)
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class FileFormat:
    """How a file is written. `compression`: None for plain bytes. `parquet`: then the rest says nothing."""

    compression: Compression | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."
    parquet: bool = False

    def __str__(self) -> str:
        if self.parquet:
            return "parquet"
        packed = "not compressed" if self.compression is None else f"compressed with {self.compression}"
        mark = "decimal comma" if self.decimal == "," else "decimal point"
        return f"csv, {packed}, {self.encoding}, columns between {NAMES[self.delimiter]}, {mark}"


def is_parquet(path: Path) -> bool:
    """By the suffix or by the first bytes. Raises `OSError`."""
    if path.suffix.lower() in (".parquet", ".pq"):
        return True
    with path.open("rb") as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def compression_of(path: Path) -> Compression | None:
    """What the first bytes say. Raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((name for magic, name in MAGIC if head.startswith(magic)), None)


@contextmanager
def opened(path: Path) -> Iterator[pa.NativeFile]:
    """The decompressed bytes of `path`, to be read once from the beginning.

    Raises one of `UNREADABLE`, and `DataError` for a zip archive that does not hold exactly one file.
    """
    with ExitStack() as closing:
        packed = compression_of(path)
        if packed == "zip":
            archive = closing.enter_context(zipfile.ZipFile(path))
            member = closing.enter_context(archive.open(_only_member(archive, path)))
            yield closing.enter_context(pa.PythonFile(member, mode="r"))
        elif packed == "xz":
            unpacked = closing.enter_context(lzma.open(path))
            yield closing.enter_context(pa.PythonFile(unpacked, mode="r"))
        else:
            raw = closing.enter_context(pa.OSFile(str(path)))
            yield raw if packed is None else closing.enter_context(pa.CompressedInputStream(raw, packed))


def text_of(source: pa.NativeFile | IO[bytes], encoding: str, errors: str = "strict") -> IO[str]:
    """The text of decompressed bytes. The byte-order mark, if there is one, is left out. `errors`: as in `open`."""
    return io.TextIOWrapper(cast(IO[bytes], source), encoding=_with_mark(encoding), errors=errors, newline="")


def sniffed(path: Path) -> FileFormat:
    """How the file is written. The encoding is told from all of its bytes, the rest from its first rows.

    Raises `DataError` for a file that is missing, empty or cannot be decompressed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if is_parquet(path):
            return FileFormat(parquet=True)
        packed = compression_of(path)
        with opened(path) as source:
            encoding = _encoding(source)
        with opened(path) as source:
            start = source.read(SNIFFED_BYTES)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot read it: {error}") from error
    text = codecs.getincrementaldecoder(_with_mark(encoding))(errors="replace").decode(start)
    delimiter = _delimiter(text)
    return FileFormat(packed, encoding, delimiter, _decimal(text, delimiter))


def likely_delimiter(header: str) -> str | None:
    """The delimiter that a header read with another one suggests; None if there is none in it."""
    found = max(DELIMITERS, key=header.count)
    return found if found in header else None


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = [each for each in archive.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        names = ", ".join(each.filename for each in members[:5]) or "none"
        raise DataError(f"{path}: expected a zip archive with one file, got {len(members)} ({names}); unpack it")
    if members[0].flag_bits & 1:
        raise DataError(f"{path}: expected a zip archive without a password, got an encrypted one; unpack it")
    return members[0]


def _with_mark(encoding: str) -> str:
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _encoding(source: pa.NativeFile) -> str:
    """By the byte-order mark, else UTF-8 if all bytes are, else a single-byte encoding of western Europe.

    A single-byte encoding cannot be told from another: bytes 0x80 to 0x9f are letters in cp1252 and unused in Latin-1.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    valid, windows, first = True, False, True
    while piece := source.read(PIECE):
        if first and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if first and (wide := _without_mark(piece)) is not None:
            return wide
        first = False
        if valid:
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                valid = False
        windows = windows or re.search(rb"[\x80-\x9f]", piece) is not None
        if not valid and windows:
            return "cp1252"
    if valid:
        try:
            decoder.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError:  # the file ends within a character: no UTF-8
            pass
    return "cp1252" if windows else "latin-1"


def _without_mark(piece: bytes) -> str | None:
    """UTF-16 without a byte-order mark: every second byte of western text is zero."""
    start = piece[:2000]
    odd, even = start[1::2].count(0), start[::2].count(0)
    half = len(start) // 2
    if half >= 4 and odd > 0.8 * half and not even:
        return "utf-16-le"
    return "utf-16-be" if half >= 4 and even > 0.8 * half and not odd else None


def _rows(text: str, delimiter: str) -> list[list[str]]:
    """The first rows; the last one of the text is left out, since it may be cut."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            rows.append(row)
            if len(rows) > SNIFFED_ROWS:
                break
    except csv.Error:
        return rows
    return rows[:-1] if len(rows) > 2 and not text.endswith("\n") else rows


def _delimiter(text: str) -> str:
    """The one by which most rows have as many cells as the header, and the header has most cells."""

    def fit(delimiter: str) -> tuple[float, int]:
        rows = [row for row in _rows(text, delimiter) if row]
        width = len(rows[0]) if rows else 0
        alike = sum(len(row) == width for row in rows) / max(len(rows), 1)
        return (round(alike, 1) if width > 1 else 0.0), width

    return max(DELIMITERS, key=fit)


def _decimal(text: str, delimiter: str) -> str:
    """A comma where cells are written 12,5 and none 12.5 in the same columns."""
    if delimiter == ",":
        return "."
    header, *rows = _rows(text, delimiter) or [[]]
    commas, points = [0] * len(header), [0] * len(header)
    for row in rows:
        for column, cell in enumerate(row[: len(header)]):
            commas[column] += DECIMAL_COMMA.fullmatch(cell) is not None
            points[column] += DECIMAL_POINT.fullmatch(cell) is not None and len(cell.partition(".")[2]) != 3
    return "," if any(c > 0 and p == 0 for c, p in zip(commas, points, strict=True)) and sum(points) == 0 else "."

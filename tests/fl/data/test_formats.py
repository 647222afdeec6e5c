"""Files as strangers write them: compressed, in other encodings, with other delimiters and decimal marks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fl.data.formats import FileFormat, sniffed
from fl.data.reading import load_transactions, stream_transactions
from fl.data.schema_file import parse_schema
from fl.errors import DataError, SchemaError

GERMAN = "ort;betrag;fehler;betrug\n" + "".join(
    f"K\u00f6ln;{i},5;{'1.234.567,25' if i == 3 else '-1,5'};{i % 2}\n" for i in range(40)
)
SCHEMA = """\
[label]
column = "betrug"
[amount]
column = "betrag"
[[numeric]]
column = "fehler"
[[categorical]]
column = "ort"
vocabulary = ["K\u00f6ln"]
[file]
delimiter = ";"
decimal = ","
encoding = "{}"
"""


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return buffer.getvalue()


PACKED: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "utf-16-le"])
def test_a_file_is_read_whatever_its_name_says_of_its_compression(
    packed: str | None, encoding: str, tmp_path: Path
) -> None:
    path = tmp_path / "export.DAT"
    path.write_bytes(PACKED[packed](GERMAN.encode(encoding)))
    found = sniffed(path)
    assert (found.compression, found.encoding, found.delimiter, found.decimal) == (packed, encoding, ";", ",")
    schema = parse_schema(SCHEMA.format(encoding), "german.toml")
    table = load_transactions(path, schema)
    assert table.amount is not None and table.amount[:3].tolist() == [0.5, 1.5, 2.5]
    assert table.numeric["fehler"][2:5].tolist() == [-1.5, 1_234_567.25, -1.5]
    assert list(table.categorical["ort"].ids) == ["K\u00f6ln"]
    streamed = list(stream_transactions(path, schema, labelled=True, rows=7))
    assert (
        np.concatenate([part.amount for part in streamed if part.amount is not None]).tolist() == table.amount.tolist()
    )


@pytest.mark.parametrize(
    ("text", "delimiter", "decimal"),
    [
        ("a,b\n1.5,2\n", ",", "."),
        ("a\tb\n1,5\t2\n", "\t", ","),
        ("a|b\n1|x,y\n", "|", "."),
        ('a;b\n"x;y";1\n"z";2\n', ";", "."),
        ("a;b\n1.234;2,5\n1.5;3,5\n", ";", "."),  # commas in one column and points in another: the points decide
        ("only\n1\n2\n", ",", "."),
        ("when;what\n2024-01-01 10:00:00;1,25\n", ";", ","),
    ],
)
def test_the_delimiter_and_the_decimal_mark_are_told_by_the_cells(
    text: str, delimiter: str, decimal: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert (sniffed(tmp_path / "a.csv").delimiter, sniffed(tmp_path / "a.csv").decimal) == (delimiter, decimal)


def test_what_was_detected_is_one_line() -> None:
    assert str(FileFormat("gzip", "latin-1", ";", ",")) == (
        "csv, compressed with gzip, latin-1, columns between semicolons, decimal comma"
    )


def test_an_archive_of_two_files_is_refused_by_their_names(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("one.csv", "a,b\n")
        archive.writestr("two.csv", "a,b\n")
    with pytest.raises(DataError, match=r"one file, got 2 \(one\.csv, two\.csv\); unpack it"):
        sniffed(tmp_path / "two.zip")


DAMAGED = {"empty": b"", "gzip": gzip.compress(GERMAN.encode())[:60], "zip": zipped(b"a,b\n1,2\n")[:40]}


@pytest.mark.parametrize("cut", DAMAGED.values(), ids=DAMAGED)  # their bytes hold the time of day
def test_a_damaged_file_is_refused_by_its_name(cut: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.csv").write_bytes(cut)
    with pytest.raises(DataError, match=r"cut\.csv"):
        load_transactions(tmp_path / "cut.csv", parse_schema(SCHEMA.format("utf-8"), "german.toml"))


def test_the_wrong_encoding_is_refused_with_advice_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(GERMAN.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv.*\[file\] encoding"):
        load_transactions(tmp_path / "latin.csv", parse_schema(SCHEMA.format("utf-8"), "german.toml"))


def test_a_file_with_another_delimiter_says_which_it_seems_to_have(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GERMAN)
    schema = parse_schema(SCHEMA.format("utf-8").partition("[file]")[0], "german.toml")
    with pytest.raises(DataError, match=r"set \[file\] delimiter = ';'"):
        load_transactions(tmp_path / "a.csv", schema)


@pytest.mark.parametrize("cell", ["1.5", "1,5,5", "12.34,5", "x"])
def test_a_number_that_no_decimal_comma_explains_is_refused(cell: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GERMAN.replace("1.234.567,25", cell))
    with pytest.raises(DataError, match=r"row 5, column 'fehler': expected a finite number with a decimal comma"):
        load_transactions(tmp_path / "a.csv", parse_schema(SCHEMA.format("utf-8"), "german.toml"))


@pytest.mark.parametrize("file", ['encoding = "rot13"', 'decimal = ";"', 'decimal = ","', 'delimiter = ""'])
def test_a_file_table_that_says_nonsense_is_refused(file: str) -> None:
    with pytest.raises(SchemaError, match=r"a\.toml"):
        parse_schema(f'[label]\ncolumn = "y"\n[file]\n{file}\n', "a.toml")


@pytest.mark.parametrize(
    ("format", "cells", "micros"),
    [
        (None, ["2024-01-01T00:00:00.123456789", "2024-01-01T00:00:01"], [123_456, 1_000_000]),
        (None, ["2024-01-01 00:00:00.0000019Z", "2024-01-01 00:00:01Z"], [1, 1_000_000]),
        ("%d.%m.%Y %H:%M:%S.%f", ["01.01.2024 00:00:00.5", "01.01.2024 00:00:01.000007"], [500_000, 1_000_007]),
        ("%d.%m.%Y %H:%M:%S.%f", ["01.01.2024 00:00:00.123456789", "01.01.2024 00:00:01.0"], [123_456, 1_000_000]),
    ],
)
def test_fractions_of_a_second_are_read_to_the_microsecond(
    format: str | None, cells: list[str], micros: list[int], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("when,y\n" + "".join(f"{cell},{i}\n" for i, cell in enumerate(cells)))
    written = "" if format is None else f'format = "{format}"\n'
    schema = parse_schema(f'[label]\ncolumn = "y"\n[time]\ncolumn = "when"\n{written}', "a.toml")
    time = load_transactions(tmp_path / "a.csv", schema).time
    assert time is not None
    assert (time - 1_704_067_200_000_000).tolist() == micros


def test_a_format_with_a_fraction_refuses_a_cell_without_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("when,y\n01.01.2024 00:00:00.5,0\n01.01.2024 x,1\n")
    text = '[label]\ncolumn = "y"\n[time]\ncolumn = "when"\nformat = "%d.%m.%Y %H:%M:%S.%f"\n'
    with pytest.raises(DataError, match="row 3, column 'when': expected a date"):
        load_transactions(tmp_path / "a.csv", parse_schema(text, "a.toml"))


def test_a_zip_archive_with_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    whole, path = zipped(GERMAN.encode() * 20), tmp_path / "damaged.zip"
    for at in range(42, 142):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        for read in (sniffed, lambda file: load_transactions(file, parse_schema(SCHEMA.format("utf-8"), "some.toml"))):
            with pytest.raises(DataError):
                read(path)

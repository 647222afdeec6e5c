"""Reading a file to be scored: sound rows are read, and every other row is named with its line and the reason."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.data.partition import Partition
from fl.data.salvage import RejectedRow, SoundRows, longest_ascending, open_csv, sound_rows
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.errors import DataError

SCHEMA = """
[label]
column = "LABEL"
delay_days = 2

[time]
column = "TIME"

[amount]
column = "AMOUNT"

[parties]
customer = "CARD"

[drop]
LABEL = ["pending"]
KIND = ["test", "internal"]
"""
HEADER = "TX_ID,TIME,CARD,AMOUNT,KIND"
BANKS = Partition("2 random banks", clients=2)


@pytest.fixture
def schema() -> Schema:
    return parse_schema(SCHEMA, "some.toml")


def line(number: int, **other: str) -> str:
    cells = {
        "TX_ID": f"x{number}",
        "TIME": f"2024-03-01T10:{number % 60:02}:00",
        "CARD": f"c{number % 5}",
        "AMOUNT": "12.5",
        "KIND": "sale",
    }
    return ",".join({**cells, **other}.values())


def read(
    tmp_path: Path, schema: Schema, lines: list[str], *, rows: int = 50_000, after: int | None = None
) -> list[SoundRows]:
    path = tmp_path / "new.csv"
    path.write_bytes("\n".join([HEADER, *lines, ""]).encode("utf-8", "surrogateescape"))
    return list(sound_rows(path, schema, BANKS, keep=["TX_ID"], rows=rows, after=after))


def rejected(chunks: list[SoundRows]) -> list[RejectedRow]:
    return [one for chunk in chunks for one in chunk.rejected]


def kept(chunks: list[SoundRows]) -> list[str]:
    return [name for chunk in chunks for name in chunk.kept["TX_ID"].tolist()]


BAD = {
    "too few cells": ("x,2024-03-01T10:05:00,c1,1", "", "expected 5 cells, got 4"),
    "too many cells": ("x,2024-03-01T10:05:00,c1,1,sale,more", "", "expected 5 cells, got 6"),
    "an open quote": ('x,2024-03-01T10:05:00,c1,1,"sale', "", "closed quotes"),
    "another encoding": ("x,2024-03-01T10:05:00,c1,1,s\udce9", "", "expected UTF-8 text, got the byte 0xe9"),
    "no number": (line(5, AMOUNT="12,5".replace(",", ";")), "AMOUNT", "expected a finite number, got '12;5'"),
    "an infinite number": (line(5, AMOUNT="inf"), "AMOUNT", "a finite number"),
    "no card": (line(5, CARD=""), "CARD", "expected an identifier, got an empty cell"),
    "a day that is not": (line(5, TIME="2024-02-31T10:00:00"), "TIME", "ISO 8601"),
    "no time": (line(5, TIME=""), "TIME", "an empty cell"),
    "an offset where no other row has one": (line(5, TIME="2024-03-01T10:05:00+01:00"), "TIME", "UTC offset, or none"),
    "a time before the rows above": (line(5, TIME="2024-02-01T10:05:00"), "TIME", "no earlier than"),
    "a time far ahead": (line(5, TIME="2099-02-01T10:05:00"), "TIME", "far ahead"),
}


@pytest.mark.parametrize("rows", [3, 50_000])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_and_no_other_row_goes_with_it(tmp_path: Path, schema: Schema, name: str, rows: int) -> None:
    bad, column, reason = BAD[name]
    lines = [line(i) for i in range(12)]
    chunks = read(tmp_path, schema, [*lines[:5], bad, *lines[5:]], rows=rows)
    (one,) = rejected(chunks)
    assert (one.row, one.column) == (7, column)  # the header is line 1
    assert reason in one.reason
    assert kept(chunks) == [f"x{i}" for i in range(12)]
    index = np.concatenate([chunk.table.index for chunk in chunks])
    assert index.tolist() == [*range(5), *range(6, 13)]


def test_all_kinds_of_bad_rows_at_once(tmp_path: Path, schema: Schema) -> None:
    lines, expected = [], []
    for number, (bad, _, _) in enumerate(BAD.values()):
        lines += [line(number), bad]
        expected.append(2 * number + 3)
    chunks = read(tmp_path, schema, [*lines, line(len(BAD))])
    assert [one.row for one in rejected(chunks)] == expected
    assert kept(chunks) == [f"x{i}" for i in range(len(BAD) + 1)]


def test_rows_need_no_label_where_the_schema_drops_by_it(tmp_path: Path, schema: Schema) -> None:
    (chunk,) = read(tmp_path, schema, [line(0), line(1, KIND="test"), "", line(2, KIND="internal"), ",,,,", line(3)])
    assert chunk.table.label is None
    assert chunk.kept["TX_ID"].tolist() == ["x0", "x3"]
    assert dict(chunk.dropped) == {"KIND = 'test'": 1, "KIND = 'internal'": 1, "empty rows": 1}
    assert chunk.rejected == ()


def test_rows_before_the_history_are_rejected(tmp_path: Path, schema: Schema) -> None:
    ten_past = int(pd.Timestamp("2024-03-01T10:10:00").value // 1000)
    chunks = read(tmp_path, schema, [line(i) for i in range(20)], after=ten_past)
    assert kept(chunks) == [f"x{i}" for i in range(10, 20)]
    assert [one.row for one in rejected(chunks)] == list(range(2, 12))


def test_a_customer_without_a_bank_is_rejected(tmp_path: Path, schema: Schema) -> None:
    path = tmp_path / "new.csv"
    path.write_text("\n".join([HEADER, *(line(i) for i in range(5))]))
    banks = Partition("banks.csv:BANK", customers={f"c{i}": "north" for i in range(4)})
    (chunk,) = sound_rows(path, schema, banks)
    assert [(one.row, one.column) for one in chunk.rejected] == [(6, "CARD")]
    assert "banks.csv:BANK" in chunk.rejected[0].reason


def test_parquet_and_compressed_csv_are_read_alike(tmp_path: Path, schema: Schema) -> None:
    lines = [line(i) for i in range(30)] + [line(31, AMOUNT="much")]
    text = "\n".join([HEADER, *lines])
    (tmp_path / "new.csv.gz").write_bytes(gzip.compress(text.encode()))
    frame = pd.DataFrame([each.split(",") for each in lines], columns=HEADER.split(","))
    frame.to_parquet(tmp_path / "new.parquet")
    (packed,) = sound_rows(tmp_path / "new.csv.gz", schema, BANKS)
    parquet = list(sound_rows(tmp_path / "new.parquet", schema, BANKS, rows=7))
    assert np.concatenate([chunk.table.time for chunk in parquet]).tolist() == packed.table.time.tolist()
    assert [one.row for one in packed.rejected] == [32]
    assert [one.row for one in rejected(parquet)] == [31]  # parquet has no header row


def test_quoted_line_breaks_stay_in_their_row_and_an_open_quote_does_not_take_the_rest(tmp_path: Path) -> None:
    schema = parse_schema(SCHEMA + '\n[[text]]\ncolumn = "NOTE"\nuse = true\n', "some.toml")
    lines = [line(0) + ',"two\nlines"', line(1) + ',"open', *(line(i) + ",plain" for i in range(2, 6))]
    path = tmp_path / "new.csv"
    path.write_text("\n".join([f"{HEADER},NOTE", *lines]))
    (chunk,) = sound_rows(path, schema, BANKS, keep=["TX_ID"])
    assert chunk.kept["TX_ID"].tolist() == ["x0", *(f"x{i}" for i in range(2, 6))]
    assert chunk.table.text["NOTE"][0] == "two\nlines"
    assert [one.row for one in chunk.rejected] == [3]


def test_a_file_without_a_column_is_refused_as_a_whole(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "new.csv").write_text("TX_ID,TIME\n")
    with pytest.raises(DataError, match="AMOUNT"):
        list(sound_rows(tmp_path / "new.csv", schema, BANKS))


@given(st.lists(st.integers(0, 12), max_size=12), st.none() | st.integers(0, 12))
def test_no_larger_set_of_rows_is_in_order(times: list[int], least: int | None) -> None:
    kept = longest_ascending(np.array(times, np.int64), least)
    chosen = [time for time, keep in zip(times, kept, strict=True) if keep]
    assert chosen == sorted(chosen) and all(least is None or time >= least for time in chosen)
    best = [0] * (len(times) + 1)  # the longest run that ends at each place, by definition
    for i, time in enumerate(times):
        if least is None or time >= least:
            best[i + 1] = 1 + max([best[j + 1] for j in range(i) if times[j] <= time and best[j + 1]], default=0)
    assert len(chosen) == max(best)


def test_a_pipe_is_read_once_and_like_a_file(tmp_path: Path, schema: Schema) -> None:
    lines = [line(0), line(1, AMOUNT="much"), *(line(i) for i in range(2, 9))]
    from_file = read(tmp_path, schema, lines, rows=2)
    stream = open_csv(io.BytesIO("\n".join([HEADER, *lines]).encode()), "standard input", schema)
    piped = list(sound_rows(stream, schema, BANKS, keep=["TX_ID"], rows=2))
    assert rejected(piped) == rejected(from_file) and kept(piped) == kept(from_file)
    with pytest.raises(DataError, match="standard input"):
        open_csv(io.BytesIO(b""), "standard input", schema)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_quote_within_a_column_name_takes_no_row_with_it(tmp_path: Path, schema: Schema, streamed: bool) -> None:
    lines = [f'{HEADER},SCREEN 5"', *(f"{line(number)},x" for number in range(20))]
    path = tmp_path / "inches.csv"
    path.write_text("\n".join(lines) + "\n")
    source = open_csv(io.BytesIO(path.read_bytes()), "standard input", schema) if streamed else path
    chunks = list(sound_rows(source, schema, BANKS, keep=["TX_ID"]))
    assert sum(len(chunk.table) for chunk in chunks) == 20
    assert rejected(chunks) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_header_whose_quote_is_never_closed_is_refused(tmp_path: Path, schema: Schema, streamed: bool) -> None:
    lines = [f'{HEADER},"SCREEN', *(f"{line(number)},x" for number in range(500))]
    path = tmp_path / "open.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="cannot read its header"):
        source = open_csv(io.BytesIO(path.read_bytes()), "standard input", schema) if streamed else path
        list(sound_rows(source, schema, BANKS, keep=["TX_ID"]))

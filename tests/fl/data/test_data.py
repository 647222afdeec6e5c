"""Reading transactions: values, order, and errors that name file, column and row."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from fl.data.reading import Transactions, load_transactions, read_header, stream_transactions, transactions_from_frame
from fl.data.schema import (
    AmountColumn,
    CategoricalColumn,
    DropRule,
    LabelColumn,
    NumericColumn,
    PartyColumns,
    Schema,
    TimeColumn,
)
from fl.errors import DataError, SchemaError

SCHEMA = Schema(
    name="tiny",
    label=LabelColumn("fraud", delay_days=1),
    time=TimeColumn("when"),
    amount=AmountColumn("amount"),
    parties=PartyColumns(customer="who", terminal="where"),
    numeric=(NumericColumn("age", missing=0.0),),
    categorical=(CategoricalColumn("kind", vocabulary=("card", "cash")),),
    drop=(DropRule("kind", ("void",)),),
)
HEADER = "when,who,where,amount,fraud,age,kind\n"
GOOD = (
    HEADER
    + "2024-01-02 10:00:00,a,t1,10.5,0,30,card\n"
    + "2024-01-01 09:00:00,b,t2,3,1,,cash\n"
    + "2024-01-03 00:00:00,a,t2,7,0,40,other\n"
)


def write(folder: Path, text: str, name: str = "tiny.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def load(folder: Path, text: str) -> Transactions:
    return load_transactions(write(folder, text), SCHEMA)


def test_a_csv_is_read_in_time_order_with_its_values(tmp_path: Path) -> None:
    table = load(tmp_path, GOOD)
    assert table.index.tolist() == [1, 0, 2]
    assert table.time is not None and table.amount is not None and table.label is not None
    assert pd.to_datetime(table.time, unit="us").astype(str).tolist()[0] == "2024-01-01 09:00:00"
    assert table.day.tolist() == [19723, 19724, 19725]
    assert table.amount.tolist() == [3.0, 10.5, 7.0]
    assert table.label.tolist() == [1, 0, 0]
    assert table.customer is not None
    assert table.customer.ids[table.customer.code].tolist() == ["b", "a", "a"]
    assert np.isnan(table.numeric["age"]).tolist() == [True, False, False]


def test_gzip_and_parquet_hold_the_same_table_as_csv(tmp_path: Path) -> None:
    plain = load(tmp_path, GOOD)
    zipped = tmp_path / "tiny.csv.gz"
    zipped.write_bytes(gzip.compress(GOOD.encode()))
    parquet = tmp_path / "tiny.parquet"
    pd.read_csv(tmp_path / "tiny.csv", parse_dates=["when"]).to_parquet(parquet)
    for path in (zipped, parquet):
        other = load_transactions(path, SCHEMA)
        assert plain.time is not None and other.time is not None
        assert np.array_equal(plain.time, other.time)
        assert np.array_equal(plain.index, other.index)
        assert np.array_equal(plain.numeric["age"], other.numeric["age"], equal_nan=True)
        assert plain.customer is not None and other.customer is not None
        assert plain.customer.ids[plain.customer.code].tolist() == other.customer.ids[other.customer.code].tolist()


def test_whole_numbers_that_pandas_turned_into_floats_stay_the_same_identifiers(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"when": pd.to_datetime(["2024-01-01", "2024-01-02"]), "who": [7.0, 8.0], "where": ["t", "t"]}
        | {"amount": [1, 2], "fraud": [0.0, 1.0], "age": [1, 2], "kind": ["card", "card"]}
    )
    table = transactions_from_frame(frame, SCHEMA, "frame")
    assert table.customer is not None
    assert table.customer.ids.tolist() == ["7", "8"]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("2024-01-04 00:00:00,a,t1,ten,0,30,card", ["row 5", "'amount'", "'ten'"]),
        ("2024-01-04 00:00:00,a,t1,inf,0,30,card", ["row 5", "'amount'", "finite"]),
        ("2024-01-04 00:00:00,a,t1,,0,30,card", ["row 5", "'amount'", "empty cell"]),
        ("04.01.2024,a,t1,1,0,30,card", ["row 5", "'when'", "ISO 8601"]),
        ("2024-01-04 00:00:00+02:00,a,t1,1,0,30,card", ["row 5", "'when'", "UTC offset"]),
        ("2024-01-04 00:00:00,a,t1,1,maybe,30,card", ["row 5", "'fraud'", "'maybe'", "positive"]),
        ("2024-01-04 00:00:00,,t1,1,0,30,card", ["row 5", "'who'", "identifier"]),
        ("2024-01-04 00:00:00,a,t1,1,0,old,card", ["row 5", "'age'", "'old'"]),
        ("2024-01-04 00:00:00,a,t1", ["Row #5", "Expected 7 columns, got 3"]),
    ],
)
def test_a_bad_cell_is_named_by_file_column_and_row(tmp_path: Path, row: str, names: list[str]) -> None:
    with pytest.raises(DataError) as refused:
        load(tmp_path, GOOD + row + "\n")
    for name in ["tiny.csv", *names]:
        assert name in str(refused.value)


def test_blank_lines_and_dropped_rows_do_not_shift_row_numbers(tmp_path: Path) -> None:
    text = GOOD + "\n2024-01-04 00:00:00,a,t1,?,?,30,void\n" + "2024-01-04 00:00:00,a,t1,oops,0,30,card\n\n"
    with pytest.raises(DataError, match="row 7, column 'amount'"):
        load(tmp_path, text)
    assert len(load(tmp_path, GOOD + "\n2024-01-04 00:00:00,a,t1,?,?,30,void\n\n")) == 3


def test_row_numbers_hold_beyond_the_first_block_of_a_large_file(tmp_path: Path) -> None:
    rows = ["2024-01-01 00:00:00,a,t1,1.00,0,30,card\n"] * 200_000
    rows[0] = rows[0].replace(",0,", ",1,")
    rows[180_000] = rows[180_000].replace("1.00", "1,00")
    with pytest.raises(DataError, match="180002"):
        load(tmp_path, HEADER + "".join(rows))
    rows[180_000] = rows[0].replace("1.00", "1.o0")
    with pytest.raises(DataError, match="row 180002, column 'amount'"):
        load(tmp_path, HEADER + "".join(rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEADER, "expected rows below the header"),
        (GOOD.replace(",fraud,", ",label,"), r"expects columns \['fraud'\]"),
        (GOOD.replace("age", "amount", 1), r"row 1: .*\['amount'\] more than once"),
        (GOOD.replace(",1,,cash", ",0,,cash"), "no fraud in 3 rows"),
        (GOOD.replace(",0,", ",1,"), "only frauds in 3 rows"),
    ],
)
def test_a_file_that_cannot_be_learned_from_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)


def test_a_missing_truncated_or_binary_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_header(tmp_path / "absent.csv")
    packed = gzip.compress((GOOD * 20_000).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cut\.csv\.gz"):
        load_transactions(tmp_path / "cut.csv.gz", SCHEMA)
    (tmp_path / "noise.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"noise\.parquet"):
        load_transactions(tmp_path / "noise.parquet", SCHEMA)
    (tmp_path / "latin.csv").write_bytes(GOOD.replace("t1", "caf\xe9").encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv"):
        load_transactions(tmp_path / "latin.csv", SCHEMA)


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    assert len(load(tmp_path, "\ufeff" + GOOD)) == 3


@pytest.mark.parametrize(
    ("unit", "cells", "microseconds"),
    [
        ("seconds", ["0", "1.5"], [0, 1_500_000]),
        ("hours", ["1", "25"], [3_600_000_000, 90_000_000_000]),
        ("order", ["10", "12"], [10, 12]),
    ],
)
def test_numeric_time_counts_in_its_unit(unit: str, cells: list[str], microseconds: list[int]) -> None:
    schema = Schema("t", LabelColumn("y"), TimeColumn("t", unit))  # type: ignore[arg-type]
    table = transactions_from_frame(pd.DataFrame({"t": cells, "y": ["0", "1"]}), schema, "frame")
    assert table.time is not None
    assert table.time.tolist() == microseconds


def test_a_utc_offset_is_honoured_when_every_cell_has_one() -> None:
    schema = Schema("t", LabelColumn("y"), TimeColumn("t"))
    frame = pd.DataFrame({"t": ["2024-01-01T02:00:00+02:00", "2024-01-01T00:00:01Z"], "y": ["0", "1"]})
    table = transactions_from_frame(frame, schema, "frame")
    assert table.time is not None
    assert np.diff(table.time).tolist() == [1_000_000]


def test_a_date_format_of_the_schema_is_used_and_enforced() -> None:
    schema = Schema("t", LabelColumn("y"), TimeColumn("t", format="%d/%m/%Y %H:%M"))
    frame = pd.DataFrame({"t": ["01/02/2024 10:00", "03/02/2024 10:00"], "y": ["0", "1"]})
    table = transactions_from_frame(frame, schema, "frame")
    assert np.diff(table.day).tolist() == [2]
    frame.loc[1, "t"] = "2024-02-03"
    with pytest.raises(DataError, match="row 2, column 't'"):
        transactions_from_frame(frame, schema, "frame")


@pytest.mark.parametrize(
    ("format", "cell"),
    [
        ("%d/%m/%Y", "31/02/2024"),
        ("%d/%m/%Y", "29/02/2023"),
        ("%d-%b-%Y", "31-Apr-2024"),
        ("%y%m%d", "240230"),
        ("%d/%m/%Y %H:%M:%S", "01/01/2024 23:59:60"),
        ("%d/%m/%Y %H:%M:%S", "01/01/2024 24:00:00"),
        ("%d/%m/%Y", "01/01/0000"),
        ("%d/%m/%Y", "01/01/20245"),
        ("%d/%m/%Y", "now"),
        (None, "2024-02-31"),
        (None, "2024-01-01 23:59:60"),
        (None, "0000-01-01"),
        (None, "2024-01-01 00:00:00.1234567x"),
    ],
)
def test_an_impossible_date_is_refused_and_never_another_date(format: str | None, cell: str) -> None:
    sound = "2024-01-01 00:00:00" if format is None else pd.Timestamp("2024-01-01").strftime(format)
    frame = pd.DataFrame({"when": [sound, cell], "fraud": [0, 1]})
    schema = Schema("s", LabelColumn("fraud"), TimeColumn("when", format=format))
    with pytest.raises(DataError) as caught:
        transactions_from_frame(frame, schema, "test")
    assert "row 2, column 'when'" in str(caught.value) and repr(cell) in str(caught.value)


@pytest.mark.parametrize(
    ("format", "cell", "expected"),
    [
        ("%d/%m/%Y", "29/02/2024", "2024-02-29 00:00:00"),
        ("%d/%m/%Y", "1/2/2024", "2024-02-01 00:00:00"),
        ("%d-%b-%Y", "01-FEB-2024", "2024-02-01 00:00:00"),
        ("%I:%M %p %d/%m/%Y", "11:00 pm 01/02/2024", "2024-02-01 23:00:00"),
        ("%Y-%m-%d %H:%M:%S.%f", "2024-01-01 00:00:00.250000", "2024-01-01 00:00:00.250000"),
        ("%d/%m/%Y %H:%M:%S %z", "01/02/2024 01:00:00 +0200", "2024-01-31 23:00:00"),
    ],
)
def test_a_date_is_read_as_python_reads_it(format: str, cell: str, expected: str) -> None:
    frame = pd.DataFrame({"when": [cell, cell], "fraud": [0, 1]})
    table = transactions_from_frame(frame, Schema("s", LabelColumn("fraud"), TimeColumn("when", format=format)), "test")
    assert table.time is not None
    assert pd.to_datetime(table.time, unit="us").tolist() == [pd.Timestamp(expected)] * 2


@pytest.mark.parametrize("format", ["%H:%M", "%d/%m", "%Q %Y", "%Y %Y", "%"])
def test_a_date_format_without_a_year_or_of_unknown_codes_is_refused_in_the_schema(format: str) -> None:
    with pytest.raises(SchemaError, match=r"\[time\] format"):
        TimeColumn("when", format=format)


TABLE = {
    "when": pa.array([dt.datetime(2024, 1, day) for day in (1, 2, 3)]),
    "who": pa.array(["a", "b", "a"]),
    "where": pa.array(["x", "y", "x"]),
    "amount": pa.array([1.0, 2.0, 3.0]),
    "fraud": pa.array([0, 1, 0]),
    "age": pa.array([1.0, None, 3.0]),
    "kind": pa.array(["card", "cash", "card"]),
}
NOT_UTF8 = pa.StringArray.from_buffers(3, pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(b"0\xff\xfe1"))
HOSTILE = {
    "seconds beyond 64 bits of microseconds": pa.array([0, 2**50, 1], pa.timestamp("s")),
    "milliseconds beyond the calendar": pa.array([0, 2**62, 1], pa.timestamp("ms")),
    "microseconds beyond the calendar": pa.array([0, 2**63 - 1, -(2**63)], pa.timestamp("us")),
    "days beyond the calendar": pa.array([0, 2**31 - 1, 1], pa.int32()).cast(pa.date32()),
    "an unknown time zone": pa.array([0, 1, 2], pa.timestamp("us", tz="Mars/Olympus")),
    "durations": pa.array([dt.timedelta(1)] * 3),
    "times of day": pa.array([dt.time(1)] * 3),
    "lists": pa.array([[1], [2], [3]]),
    "structs": pa.array([{"a": 1}] * 3),
    "bytes that are no text": pa.array([b"1", b"\xff\xfe", b"0"]),
    "text that is not UTF-8": NOT_UTF8,
    "half precision": pa.array(np.array([0, 1, 0], np.float16)),
    "numbers beyond 64 bits": pa.array([0.0, 1e300, 1.0]),
    "infinity": pa.array([0.0, float("inf"), 1.0]),
    "a dictionary of numbers": pa.array([1, 0, 1]).dictionary_encode(),
    "views": pa.array(["1", "0", "1"], pa.string_view()),
    "nothing": pa.nulls(3),
    "the largest integers": pa.array([2**64 - 1, 1, 0], pa.uint64()),
}


@pytest.mark.parametrize("cells", HOSTILE)
def test_any_cell_of_a_parquet_file_is_read_or_refused_by_name(tmp_path: Path, cells: str) -> None:
    for column in TABLE:
        path = tmp_path / f"{column}.parquet"
        pa.parquet.write_table(pa.table({**TABLE, column: HOSTILE[cells]}), path)
        for read in (load_transactions, lambda path, schema: list(stream_transactions(path, schema, labelled=True))):
            try:
                read(path, SCHEMA)
            except DataError as error:
                assert str(path) in str(error) and (repr(column) in str(error) or "no fraud" in str(error))


@pytest.mark.parametrize("cells", [name for name in HOSTILE if "beyond the calendar" in name or "64 bits of" in name])
def test_a_year_that_no_calendar_has_is_refused_by_row_and_never_another_year(tmp_path: Path, cells: str) -> None:
    pa.parquet.write_table(pa.table({**TABLE, "when": HOSTILE[cells]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="row 2, column 'when': expected a date in the years 1 to 9999"):
        load_transactions(tmp_path / "x.parquet", SCHEMA)


def test_a_count_of_days_after_a_date_stays_within_the_calendar() -> None:
    schema = Schema("s", LabelColumn("fraud"), TimeColumn("when", unit="days", origin=dt.date(2024, 1, 1)))
    with pytest.raises(DataError, match="row 2, column 'when': expected days after 2024-01-01, in the years 1 to 9999"):
        transactions_from_frame(pd.DataFrame({"when": [0, 3_000_000], "fraud": [0, 1]}), schema, "test")


def test_a_frame_whose_column_mixes_kinds_is_refused_by_row() -> None:
    frame = pd.DataFrame({"when": pd.Series(["2024-01-01", "2024-01-02", 3], dtype=object), "fraud": [0, 1, 0]})
    with pytest.raises(DataError, match="test: row 3, column 'when'"):
        transactions_from_frame(frame, Schema("s", LabelColumn("fraud"), TimeColumn("when")), "test")


def test_streaming_a_file_gives_the_same_rows_as_loading_it(tmp_path: Path) -> None:
    lines = [
        f"2024-01-01 {h:02}:{m:02}:00,c{m % 7},t{m % 3},{h}.{m},{m % 2},{m},card\n"
        for h in range(24)
        for m in range(60)
    ]
    path = write(tmp_path, HEADER + "".join(lines))
    whole = load_transactions(path, SCHEMA)
    chunks = list(stream_transactions(path, SCHEMA, labelled=True, rows=100))
    assert max(len(chunk) for chunk in chunks) == 100
    assert np.array_equal(np.concatenate([chunk.index for chunk in chunks]), whole.index)
    assert whole.amount is not None
    amounts = [chunk.amount for chunk in chunks if chunk.amount is not None]
    assert np.array_equal(np.concatenate(amounts), whole.amount)


def test_unlabelled_files_need_no_label_column(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace(",fraud,", ",unknown,"))
    (chunk,) = stream_transactions(path, SCHEMA)
    assert chunk.label is None and len(chunk) == 3


def test_the_repr_of_a_table_holds_no_rows(tmp_path: Path) -> None:
    table = load(tmp_path, GOOD)
    assert "10.5" not in repr(table) and "rows=3" in repr(table)
    assert "'a'" not in repr(table.customer)

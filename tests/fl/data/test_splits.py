"""Splits by a column, by moments and by one period; windows shorter than a day; the words that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl.data.features import features, raw_features
from fl.data.federation import load_federation
from fl.data.reading import load_transactions, transactions_from_frame
from fl.data.schema import DAY_US, ColumnSplit, DatedSplit, Days, Moments, Schema
from fl.data.schema_file import parse_schema
from fl.data.split import calendar_of, own_history, periods_for, split
from fl.errors import DataError, SchemaError, SplitError

HEAD = '[label]\ncolumn = "y"\n[amount]\ncolumn = "a"\n'
TIMED = HEAD + '[time]\ncolumn = "t"\n'
BY_COLUMN = '[split]\ncolumn = "part"\ntrain = ["learn"]\ntest = ["prove", "late"]\n'


def parse(text: str) -> Schema:
    return parse_schema(text, "some.toml")


def rows(n: int = 240) -> pd.DataFrame:
    """One row every six minutes of a day, of ten customers."""
    frame = pd.DataFrame({"t": pd.date_range("2024-03-05", periods=n, freq="6min").astype(str)})
    frame["a"] = np.arange(n) % 7 + 1.0
    frame["who"] = [f"C{i % 10}" for i in range(n)]
    frame["y"] = (np.arange(n) % 11 == 0).astype(int)
    frame["part"] = np.array(["learn", "check", "prove", "late", "old"])[np.arange(n) // 10 % 5]
    return frame


def test_the_rows_of_a_split_column_are_taken_as_it_says() -> None:
    frame, schema = rows(), parse(HEAD + BY_COLUMN + 'validation = ["check"]\n')
    table = transactions_from_frame(frame, schema, "made up")
    held = split(table, periods_for(schema, table), seed=0)
    assert [set(frame.part[part]) for part in (held.train, held.validation, *held.test)] == [
        {"learn"},
        {"check"},
        {"prove", "late"},
    ]
    assert periods_for(schema, table).train is None


def test_without_words_for_validation_it_is_drawn_from_the_training_rows() -> None:
    frame, schema = rows(), parse(TIMED + BY_COLUMN)
    table = transactions_from_frame(frame, schema, "made up")
    held = split(table, periods_for(schema, table), seed=0, validation_share=0.5)
    assert set(frame.part[held.validation]) == set(frame.part[held.train]) == {"learn"}
    assert len(set(held.train) & set(held.validation)) == 0


def test_a_federation_of_a_split_column_has_those_rows_at_its_banks(tmp_path: Path) -> None:
    rows().to_csv(tmp_path / "a.csv", index=False)
    schema = parse(TIMED + BY_COLUMN + '[parties]\ncustomer = "who"\n[partition]\ncolumn = "who"\n')
    federation = load_federation(tmp_path / "a.csv", schema, clients=2)
    tested = np.sort(np.concatenate([bank.test[0].index for bank in federation.banks]))
    assert tested.tolist() == np.flatnonzero(rows().part.isin(["prove", "late"])).tolist()


def test_new_rows_and_a_history_need_no_split_column() -> None:
    schema = parse(TIMED + BY_COLUMN)
    plain = rows().drop(columns="part")
    assert transactions_from_frame(plain.drop(columns="y"), schema, "new", labelled=False).part is None
    assert transactions_from_frame(plain, schema, "history", needs_fraud=False).part is None
    with pytest.raises(DataError, match="'part'"):
        transactions_from_frame(plain, schema, "training")


KNOWN = TIMED.replace('"y"\n', '"y"\nknown = "labelled"\n', 1)


def dated_parts() -> pd.DataFrame:
    """A row every three hours of twelve days, in the order learn, check, prove; each label comes three days later."""
    frame = rows(96)
    moments = pd.date_range("2024-03-05", periods=96, freq="3h")
    frame["t"], frame["labelled"] = moments.astype(str), (moments + pd.Timedelta(days=3)).astype(str)
    frame["part"] = np.array(["learn", "check", "prove"])[np.arange(96) // 32]
    return frame


@pytest.mark.parametrize("validation", ["", 'validation = ["check"]\n'])
def test_frauds_that_became_known_in_the_test_of_a_split_column_are_not_learned_from(validation: str) -> None:
    frame, schema = dated_parts(), parse(KNOWN + BY_COLUMN.replace(', "late"', "") + validation)
    late = np.flatnonzero((frame.y == 1) & (frame.labelled >= "2024-03-13") & (frame.part != "prove"))
    assert len(late) > 0
    if not validation:
        frame.loc[frame.part == "check", "part"] = "learn"
    table = transactions_from_frame(frame, schema, "made up")
    held = split(table, periods_for(schema, table), seed=0, validation_share=0.5)
    assert not set(late) & {*held.train, *held.validation}
    assert {*held.late_train, *held.late_validation} == set(late)
    assert {*held.drawn_train, *held.drawn_validation} == set(np.flatnonzero(frame.part != "prove"))
    assert own_history(table, held, periods_for(schema, table), 28).tolist() == held.train.tolist()


@pytest.mark.parametrize("swapped", ["learn", "check"])
def test_a_test_among_the_rows_of_training_is_refused_where_labels_have_a_day(swapped: str) -> None:
    frame = dated_parts()
    schema = parse(KNOWN + BY_COLUMN.replace(', "late"', "") + 'validation = ["check"]\n')
    frame.loc[95, "part"] = swapped
    table = transactions_from_frame(frame, schema, "made up")
    with pytest.raises(
        SplitError, match=r"known leaves out labels .* rows of these two until 2024-03-16 21:00:00, and"
    ):
        periods_for(schema, table)
    free = replace(schema, label=replace(schema.label, known=None))
    assert periods_for(free, transactions_from_frame(frame, free, "made up")).windows == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BY_COLUMN.replace('"learn"', '"absent"'), "expected rows with absent for train, got 'check', 'late'"),
        (BY_COLUMN.replace('"prove", "late"', '"learn"'), "more than once"),
        (BY_COLUMN.replace('test = ["prove", "late"]\n', ""), "test: expected a list of 1 or more"),
        (BY_COLUMN.replace('"part"', '"a"'), r"\['a'\] more than once"),
    ],
)
def test_a_split_column_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises((SplitError, SchemaError), match=message):
        schema = parse(HEAD + text)
        periods_for(schema, transactions_from_frame(rows(), schema, "made up"))


def test_a_split_column_has_one_window_and_no_calendar() -> None:
    schema = parse(TIMED + BY_COLUMN)
    with pytest.raises(SplitError, match="expected one test window"):
        periods_for(schema, transactions_from_frame(rows(), schema, "made up"), 3)
    with pytest.raises(SplitError, match="a column of the rows"):
        calendar_of(schema)


def test_one_test_period_needs_no_list_around_it() -> None:
    dated = TIMED + "[split]\ntrain = [2024-01-01, 2024-01-07]\n"
    once = parse(dated + "test = [2024-01-08, 2024-01-14]\n")
    assert once.split == parse(dated + "test = [[2024-01-08, 2024-01-14]]\n").split
    assert isinstance(once.split, DatedSplit) and once.split.test == (Days(19730, 19736),)


def test_periods_of_hours_are_given_as_moments() -> None:
    schema = parse(TIMED + "[split]\ntrain = [2024-03-05T00:00:00, 2024-03-05T12:00:00]\n" + HOURS)
    table = transactions_from_frame(rows(), schema, "made up")
    periods = periods_for(schema, table, 2)
    held = split(table, periods, seed=0)
    assert (len(held.train) + len(held.validation), *map(len, held.test)) == (120, 60, 60)
    assert periods.described["test"] == [
        ["2024-03-05 12:00:00", "2024-03-05 18:00:00"],
        ["2024-03-05 18:00:00", "2024-03-06"],
    ]
    with pytest.raises(SplitError, match="expected rows in the test period"):
        periods_for(schema, table, 3)


HOURS = "test = [2024-03-05T12:00:00, 2024-03-05T18:00:00]\n"


def test_moments_without_a_calendar_are_parts_of_days() -> None:
    text = HEAD + '[time]\ncolumn = "t"\nunit = "hours"\n[split]\ntrain = [0.0, 0.5]\ntest = [[0.5, 0.75]]\n'
    schema = parse(text)
    assert isinstance(schema.split, DatedSplit) and schema.split.train == Moments(0, DAY_US // 2)
    with pytest.raises(SchemaError, match="two day numbers"):
        parse(text.replace("[0.0, 0.5]", "[nan, 0.5, 1.0]"))
    with pytest.raises(SchemaError, match="day numbers of at most"):
        parse(text.replace("[0.0, 0.5]", "[nan, 0.5]"))
    with pytest.raises(SchemaError, match="labels of the last training moment"):
        parse(text.replace("[0.5, 0.75]", "[0.25, 0.75]"))


def test_windows_of_minutes_count_what_lies_within_them() -> None:
    text = (
        TIMED
        + '[parties]\ncustomer = "who"\nterminal = "who2"\n[features]\nwindows_minutes = [90, 60]\nwindows_days = [1]\n'
    )
    schema = parse(text.replace('terminal = "who2"\n', ""))
    names = [feature.name for feature in features(schema)]
    table = transactions_from_frame(rows(), schema, "made up")
    raw = raw_features(table)
    by_hour, by_day = raw[:, names.index("customer_count_1h")], raw[:, names.index("customer_count_1d")]
    assert (names.index("customer_count_90min") < names.index("customer_count_1h")) and by_hour[-1] == 1
    assert raw[-1, names.index("customer_count_90min")] == 2 and by_day[-1] == 24
    assert schema.history_days == 1 and parse(TIMED + "[features]\nwindows_minutes = [1500]\n").history_days == 30
    with pytest.raises(SchemaError, match="distinct lengths"):
        parse(TIMED + "[features]\nwindows_minutes = [1440]\nwindows_days = [1]\n")


def test_what_schemas_did_not_always_have_leaves_their_hash_alone() -> None:
    assert parse(HEAD).sha256 == parse(HEAD + "[features]\nwindows_minutes = []\n").sha256
    assert parse(HEAD).sha256 != parse(HEAD + '[file]\nencoding = "latin-1"\n').sha256


def test_words_follow_the_data() -> None:
    dated = parse(TIMED + '[parties]\ncustomer = "who"\n').words
    hours = parse(TIMED + '[parties]\ncustomer = "who"\n[features]\nwindows_days = []\nwindows_minutes = [60]\n').words
    timeless = parse(HEAD).words
    assert [words.test for words in (dated, hours, timeless)] == ["test days", "test rows", "test rows"]
    assert [words.precision_at(20) for words in (dated, hours, timeless)] == [
        "card precision@20 per day",
        "card precision@20",
        "precision@20",
    ]
    assert (timeless.validation, timeless.checked, timeless.heading) == ("validation rows", "transactions", "top")


def test_labels_that_a_schema_drops_do_not_stop_rows_without_labels(tmp_path: Path) -> None:
    schema = parse(HEAD + '[drop]\ny = ["?"]\n')
    frame = rows().astype({"y": str})
    frame.loc[3, "y"] = "?"
    assert len(transactions_from_frame(frame, schema, "made up")) == len(frame) - 1
    frame.drop(columns="y").to_csv(tmp_path / "new.csv", index=False)
    assert len(load_transactions(tmp_path / "new.csv", schema, labelled=False)) == len(frame)


def test_a_split_column_is_a_frozen_value() -> None:
    with pytest.raises(SchemaError, match="column"):
        ColumnSplit("", ("a",), ("b",))

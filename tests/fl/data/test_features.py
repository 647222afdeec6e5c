"""Features: equal to a slow row-by-row reference, never looking ahead, bank-local, and the handbook's on its
own data.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fl.data.amount_history import AmountMoments
from fl.data.conversion import Identifiers
from fl.data.features import features, raw_features, scale_publicly, scaled_features
from fl.data.reading import Transactions, load_transactions, transactions_from_frame
from fl.data.schema import (
    DAY_US,
    AmountColumn,
    CategoricalColumn,
    LabelColumn,
    NumericColumn,
    PartyColumns,
    Schema,
    TextColumn,
    TimeColumn,
)
from fl.data.schema_file import load_schema
from fl.data.windows import GroupWindows
from fl.errors import DataError, FeatureError

HOUR_US = DAY_US // 24


def schema_with_delay(delay_days: int) -> Schema:
    return Schema(
        name="small",
        label=LabelColumn("y", delay_days=delay_days),
        time=TimeColumn("t"),
        amount=AmountColumn("amount"),
        parties=PartyColumns(customer="c", terminal="d"),
        windows_days=(1, 3),
    )


def table_of(schema: Schema, rows: list[tuple[int, int, int, int, int]]) -> Transactions:
    """From (hour, customer, terminal, cents, label), sorted by hour."""
    data = np.array(sorted(rows, key=lambda row: row[0]), np.int64).reshape(-1, 5)
    n = len(data)
    return Transactions(
        schema=schema,
        source="made",
        index=np.arange(n),
        time=data[:, 0] * HOUR_US,
        label=data[:, 4].astype(np.uint8),
        amount=data[:, 3] / 100,
        customer=Identifiers(data[:, 1], np.arange(6).astype(str).astype(object)),
        terminal=Identifiers(data[:, 2], np.arange(6).astype(str).astype(object)),
        bank=None,
        numeric={},
        categorical={},
        text={},
    )


def slow_features(table: Transactions) -> NDArray[np.float64]:
    """The definition, one row and one window at a time."""
    schema = table.schema
    assert table.time is not None and table.amount is not None and table.label is not None
    assert table.customer is not None and table.terminal is not None
    delay = schema.label.delay_days * DAY_US
    made = []
    for i, now in enumerate(table.time):
        moment = pd.Timestamp(int(now), unit="us")
        row = [float(moment.day_of_week >= 5), float(moment.hour <= 6), table.amount[i]]
        for days in schema.windows_days:
            mine = [
                table.amount[j]
                for j in range(i + 1)
                if table.customer.code[j] == table.customer.code[i] and table.time[j] > now - days * DAY_US
            ]
            row += [len(mine), sum(mine) / len(mine)]
        past = [table.amount[j] for j in range(i) if table.customer.code[j] == table.customer.code[i]]
        mean = float(np.mean(past)) if past else 50.0
        deviation = max(float(np.std(past)) if len(past) > 1 else 25.0, 1.0)
        row += [(table.amount[i] - mean) / deviation, math.log1p(table.amount[i]) - math.log1p(mean)]
        for days in schema.windows_days:
            known = [
                int(table.label[j])
                for j in range(len(table))
                if table.terminal.code[j] == table.terminal.code[i]
                and now - delay - days * DAY_US < table.time[j] <= now - delay
                and table.time[j] < now
            ]
            row += [len(known), sum(known) / max(len(known), 1)]
        made.append(row)
    return np.array(made, np.float64)


ROWS = st.tuples(
    st.integers(0, 24 * 8), st.integers(0, 2), st.integers(0, 2), st.integers(1, 100_000), st.integers(0, 1)
)
TABLES = st.lists(ROWS, min_size=1, max_size=40)


@settings(deadline=None)
@given(rows=TABLES, delay=st.integers(0, 3))
def test_features_equal_their_definition_row_by_row(rows: list[tuple[int, int, int, int, int]], delay: int) -> None:
    table = table_of(schema_with_delay(delay), rows)
    np.testing.assert_allclose(raw_features(table), slow_features(table), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(rows=TABLES, data=st.data())
def test_amounts_of_rows_that_are_no_longer_kept_count_as_if_they_were(
    rows: list[tuple[int, int, int, int, int]], data: st.DataObject
) -> None:
    table = table_of(schema_with_delay(0), rows)
    first, second = sorted(data.draw(st.integers(0, len(table))) for _ in range(2))
    parts = (np.arange(first), np.arange(first, second))
    earlier = AmountMoments()
    for part in parts:
        earlier = earlier.with_rows(table.take(part))
    names = [feature.name for feature in features(table.schema)]
    columns = [names.index("customer_amount_zscore"), names.index("customer_amount_log_ratio")]
    later = raw_features(table.take(np.arange(second, len(table))), earlier=earlier)[:, columns]
    np.testing.assert_allclose(later, raw_features(table)[second:, columns], rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(rows=TABLES, data=st.data())
def test_features_of_some_rows_equal_those_rows_of_all_features(
    rows: list[tuple[int, int, int, int, int]], data: st.DataObject
) -> None:
    table = table_of(schema_with_delay(1), rows)
    some = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), max_size=9)), np.int64)
    assert np.array_equal(raw_features(table, some), raw_features(table)[some])


@settings(deadline=None)
@given(rows=TABLES, data=st.data(), delay=st.integers(0, 3))
def test_features_never_look_ahead_of_the_transaction(
    rows: list[tuple[int, int, int, int, int]], data: st.DataObject, delay: int
) -> None:
    table = table_of(schema_with_delay(delay), rows)
    cut = data.draw(st.integers(0, len(table) - 1))
    assert table.time is not None
    later = data.draw(st.lists(ROWS, max_size=10))
    end = int(table.time[cut] // HOUR_US)
    kept = sorted(rows, key=lambda row: row[0])[: cut + 1]
    changed = table_of(table.schema, kept + [(end + 1 + hour, *rest) for hour, *rest in later])  # type: ignore[misc]
    before, after = raw_features(table)[: cut + 1], raw_features(changed)[: cut + 1]
    # Rows of the very moment of the cut are part of its past only if they stand above it.
    settled = np.flatnonzero(table.time[: cut + 1] < table.time[cut])
    assert np.array_equal(before[settled], after[settled]), "bit for bit: not even rounding may know the future"
    assert np.array_equal(before[cut], after[cut])


@settings(deadline=None)
@given(rows=TABLES, delay=st.integers(1, 3), data=st.data())
def test_a_label_changes_nothing_until_its_delay_has_passed(
    rows: list[tuple[int, int, int, int, int]], delay: int, data: st.DataObject
) -> None:
    table = table_of(schema_with_delay(delay), rows)
    at = data.draw(st.integers(0, len(table) - 1))
    assert table.label is not None and table.time is not None
    flipped = table.label.copy()
    flipped[at] = 1 - flipped[at]
    unknown = table.time < table.time[at] + delay * DAY_US
    before, after = raw_features(table), raw_features(replace(table, label=flipped))
    assert np.array_equal(before[unknown], after[unknown])


def test_a_label_counts_from_the_moment_its_delay_has_passed() -> None:
    rows = [(0, 0, 0, 100, 1), (24 * 2 - 1, 1, 0, 100, 0), (24 * 2, 2, 0, 100, 0)]
    risk = [f.name for f in features(schema_with_delay(2))].index("terminal_risk_1d")
    assert raw_features(table_of(schema_with_delay(2), rows))[:, risk].tolist() == [0.0, 0.0, 1.0]


def test_without_a_delay_a_row_still_does_not_see_its_own_label() -> None:
    rows = [(0, 0, 0, 100, 1), (0, 1, 0, 100, 1), (1, 2, 0, 100, 0)]
    risk = [f.name for f in features(schema_with_delay(0))].index("terminal_risk_1d")
    assert raw_features(table_of(schema_with_delay(0), rows))[:, risk].tolist() == [0.0, 0.0, 1.0]


def test_extreme_times_and_many_groups_do_not_overflow_the_search_key() -> None:
    schema = schema_with_delay(1)
    n = 50_000
    rng = np.random.default_rng(0)
    time = np.sort(rng.integers(-(2**61), 2**61, n))
    table = replace(
        table_of(schema, [(0, 0, 0, 100, 0)] * n),
        time=time,
        customer=Identifiers(np.arange(n)[::-1].copy(), np.arange(n).astype(str).astype(object)),
    )
    names = [f.name for f in features(schema)]
    assert (raw_features(table)[:, names.index("customer_count_3d")] == 1).all()


@settings(deadline=None)
@given(rows=TABLES)
def test_scaled_features_are_finite_and_within_the_bound(rows: list[tuple[int, int, int, int, int]]) -> None:
    table = table_of(schema_with_delay(1), [(h, c, t, 10 ** cents.bit_length(), y) for h, c, t, cents, y in rows])
    x = scaled_features(table)
    assert x.dtype == np.float32 and x.shape == (len(table), len(features(table.schema)))
    assert np.isfinite(x).all() and np.abs(x).max() <= table.schema.bound


def customer_means(amounts: list[float], days: list[float]) -> NDArray[np.float64]:
    """Of one customer's rows, per window of 1 and 3 days."""
    table = table_of(schema_with_delay(0), [(int(24 * day), 0, 0, 0, 0) for day in days])
    table = replace(table, amount=np.array(amounts))
    names = [feature.name for feature in features(table.schema)]
    wanted = [names.index(f"customer_mean_amount_{days}d") for days in (1, 3)]
    return raw_features(table)[:, wanted]


def test_a_mean_keeps_what_a_sum_from_before_its_window_would_have_rounded_away() -> None:
    means = customer_means([1e17, 1.5, 2.5], [0, 5, 5.5])
    assert means[1:].tolist() == [[1.5, 1.5], [2.0, 2.0]]


def test_a_mean_of_the_largest_numbers_is_finite_and_scales_to_the_bound() -> None:
    largest = float(np.finfo(np.float64).max)
    means = customer_means(
        [largest, largest, largest, 7.0, -largest, -largest, -largest], [0, 0.1, 0.2, 9, 20, 20.1, 20.2]
    )
    assert means[2].tolist() == [largest, largest] and means[3].tolist() == [7.0, 7.0]
    assert means[6].tolist() == [-largest, -largest]
    table = replace(
        table_of(schema_with_delay(0), [(hour, 0, 0, 0, 0) for hour in range(3)]), amount=np.full(3, largest)
    )
    assert np.isfinite(scaled_features(table)).all()


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), FINITE), min_size=1, max_size=40), st.integers(1, 12))
def test_a_mean_is_that_of_the_exact_sum_within_its_stated_error(rows: list[tuple[int, float]], longest: int) -> None:
    group, values = np.array([g for g, _ in rows]), np.array([value for _, value in rows])
    windows = GroupWindows.of(group, np.arange(len(rows)), np.arange(len(rows)))
    start, end = windows.later_than(longest), windows.after()
    (means,) = windows.means(values, [start], end)
    for at, mean in enumerate(means):
        inside = [Fraction(float(value)) for value in values[windows.order][start[at] : end[at]]]
        exact, size = sum(inside) / len(inside), sum(map(abs, inside)) / len(inside)
        allowed = 2 * max(1, math.log2(len(inside))) * Fraction(2) ** -53 * size + Fraction(2) ** -1030
        assert abs(Fraction(float(mean)) - exact) <= allowed


def test_public_scaling_puts_a_typical_transaction_at_zero() -> None:
    schema = schema_with_delay(1)
    names = [f.name for f in features(schema)]
    raw = np.zeros((1, len(names)))
    raw[0, names.index("amount")] = 50.0
    raw[0, names.index("customer_count_3d")] = 6.0
    raw[0, names.index("terminal_risk_1d")] = 1.0
    scaled = scale_publicly(raw, schema)[0]
    assert scaled[names.index("amount")] == pytest.approx(0.0, abs=1e-6)
    assert scaled[names.index("customer_count_3d")] == pytest.approx(0.0, abs=1e-6)
    assert scaled[names.index("terminal_risk_1d")] == pytest.approx(schema.bound)


PLAIN = Schema(
    name="plain",
    label=LabelColumn("y"),
    numeric=(NumericColumn("a", "log1p", missing=0.0), NumericColumn("b", "signed_log1p", scale=2.0)),
    categorical=(CategoricalColumn("kind", vocabulary=("x", "y")), CategoricalColumn("city", hash_width=8)),
    text=(TextColumn("note", hash_width=32, use=True),),
)


def plain_table(**changed: list[str]) -> Transactions:
    cells = {"y": ["0", "1", "0"], "a": ["1", "", "3"], "b": ["-5", "0", "5"], "kind": ["x", "z", "y"]}
    cells |= {"city": ["Oslo", "Rome", "Oslo"], "note": ["rent for May", "", "gift card codes"]} | changed
    return transactions_from_frame(pd.DataFrame(cells), PLAIN, "frame")


def test_a_schema_without_time_and_parties_has_only_its_plain_columns() -> None:
    names = [feature.name for feature in features(PLAIN)]
    assert names[:5] == ["a", "a_missing", "b", "kind=x", "kind=y"]
    assert len(names) == 3 + 2 + 8 + 32
    x = scaled_features(plain_table())
    assert x[:, 0] == pytest.approx([np.log(2), 0.0, np.log(4)])
    assert x[:, 1].tolist() == [0, 1, 0]
    assert x[:, 2] == pytest.approx([-np.log(6) / 2, 0.0, np.log(6) / 2])
    assert x[:, 3:5].tolist() == [[1, 0], [0, 0], [0, 1]]


def test_hashed_categories_depend_on_the_word_alone() -> None:
    x = scaled_features(plain_table())[:, 5:13]
    assert np.array_equal(x[0], x[2]) and not np.array_equal(x[0], x[1])
    assert (np.abs(x).sum(axis=1) == 1).all()
    other = scaled_features(plain_table(city=["Rome", "Oslo", "Bern"]))[:, 5:13]
    assert np.array_equal(other[1], x[0])


def test_hashed_text_has_length_one_and_is_zero_for_no_text() -> None:
    x = scaled_features(plain_table())[:, 13:]
    assert np.linalg.norm(x, axis=1) == pytest.approx([1.0, 0.0, 1.0], abs=1e-6)


def test_no_rows_have_features_of_the_same_width() -> None:
    """A bank may have no rows in a period. The vectorisers of scikit-learn end in StopIteration there."""
    assert scaled_features(plain_table(), np.empty(0, np.int64)).shape == (0, len(features(PLAIN)))


def test_log1p_of_a_negative_number_is_refused_by_row_and_column() -> None:
    with pytest.raises(DataError, match=r"row 3, column 'a'.*signed_log1p"):
        scaled_features(plain_table(a=["1", "2", "-3"]))


def test_a_schema_without_any_feature_is_refused() -> None:
    with pytest.raises(FeatureError, match="has no column for a feature"):
        features(Schema("empty", LabelColumn("y")))


HANDBOOK = {"weekend": "TX_DURING_WEEKEND", "night": "TX_DURING_NIGHT", "amount": "TX_AMOUNT"} | {
    f"{party}_{ours}_{days}d": f"{party.upper()}_ID_{theirs}_{days}DAY_WINDOW"
    for party, ours, theirs in (
        ("customer", "count", "NB_TX"),
        ("customer", "mean_amount", "AVG_AMOUNT"),
        ("terminal", "count", "NB_TX"),
        ("terminal", "risk", "RISK"),
    )
    for days in (1, 7, 30)
}


@pytest.mark.shared_data
def test_features_of_the_whole_table_are_the_handbooks(shared_data: Path) -> None:
    file = shared_data / "transactions_2018-04_to_2018-08.csv.gz"
    table = load_transactions(file, load_schema("fdh"))
    reference = pd.read_parquet(shared_data / "reference_features_2018-07-25_to_2018-08-14.parquet")
    rows = np.flatnonzero((table.day >= 17737) & (table.day <= 17757))
    numbers = pd.read_csv(file, usecols=["TRANSACTION_ID"]).TRANSACTION_ID.to_numpy()[table.index[rows]]
    reference = reference.set_index("TRANSACTION_ID").loc[numbers].reset_index()
    ours = raw_features(table, rows)
    names = [feature.name for feature in features(table.schema)]
    ours_alone = {"customer_amount_zscore", "customer_amount_log_ratio"}
    assert sorted({*names} - ours_alone) == sorted(HANDBOOK) and len(rows) == len(reference)
    # Two rows of one customer in the same second: which comes first is the handbook's unstable sort's choice.
    tied = reference.duplicated(["TX_DATETIME", "CUSTOMER_ID"], keep=False).to_numpy()
    assert tied.sum() < 20
    for column, name in enumerate(names):
        if name in ours_alone:
            continue
        theirs = reference[HANDBOOK[name]].to_numpy(np.float64)
        np.testing.assert_allclose(ours[~tied, column], theirs[~tied], rtol=1e-9, atol=1e-9, err_msg=name)
        if "mean" not in name:
            assert sorted(ours[tied, column]) == sorted(theirs[tied]), name

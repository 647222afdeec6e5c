"""A whole federation: partition, split, bank-local features, baselines, streams that agree with batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.data.federation import (
    BankData,
    Federation,
    PartitionedTable,
    federation_of,
    load_federation,
    own_histories,
    pooled_global,
    pooled_local,
    read_partitioned,
)
from fl.data.partition import keyed_hash, partition_for
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import DAY_US, DatedSplit, Days, FractionSplit, LabelColumn, NumericColumn, Schema
from fl.data.schema_file import load_schema
from fl.data.simulate import Simulation, simulate
from fl.data.split import periods_for, split
from fl.data.stream import FeatureStream, feature_stream, stream_file
from fl.errors import FeatureError, OrderError, PartitionError, SchemaError, SplitError

SMALL = Simulation(customers=500, terminals=120, banks=4, fraud_share=0.03, seed=3)


@pytest.fixture(scope="module")
def source() -> PartitionedTable:
    return read_partitioned("simulated", simulation=SMALL, test_windows=2)


@pytest.fixture(scope="module")
def federation(source: PartitionedTable) -> Federation:
    return federation_of(source)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return simulate(SMALL)


def all_rows(bank: BankData) -> list[int]:
    return np.concatenate([rows.index for rows in (bank.train, bank.validation, *bank.test)]).tolist()


def test_shapes_and_types_are_those_of_the_contract(federation: Federation) -> None:
    assert [bank.name for bank in federation.banks] == ["bank-0", "bank-1", "bank-2", "bank-3"]
    for bank in federation.banks:
        for rows in (bank.train, bank.validation, *bank.test):
            assert rows.x.dtype == np.float32 and rows.x.shape == (len(rows), len(federation.feature_names))
            assert rows.y.dtype == np.float32 and set(np.unique(rows.y)) <= {0.0, 1.0}
            assert rows.day.dtype == np.int32 and rows.customer.dtype == np.int64 and rows.index.dtype == np.int64
            assert np.abs(rows.x).max(initial=0) <= federation.schema.bound
        assert len(bank.test) == 2


def test_every_row_belongs_to_its_own_bank_and_to_one_period(federation: Federation, frame: pd.DataFrame) -> None:
    for bank in federation.banks:
        rows = all_rows(bank)
        assert len(set(rows)) == len(rows)
        assert set(frame.BANK.iloc[rows]) == {bank.name}


def test_validation_holds_whole_customers_of_the_training_days(federation: Federation) -> None:
    for bank in federation.banks:
        assert not set(bank.train.customer) & set(bank.validation.customer)
        assert bank.validation.day.min() >= bank.train.day.min() and bank.validation.day.max() <= bank.train.day.max()
    train = sum(len(bank.train) for bank in federation.banks)
    validation = sum(len(bank.validation) for bank in federation.banks)
    assert 0.03 < validation / (train + validation) < 0.2


def test_test_rows_start_after_the_label_delay(federation: Federation) -> None:
    for bank in federation.banks:
        assert bank.test[0].day.min() > bank.train.day.max() + federation.schema.label.delay_days
        assert bank.test[1].day.min() == bank.test[0].day.max() + 1


def test_a_compromised_card_leaves_the_test_on_the_day_after_its_label_is_known(
    federation: Federation, source: PartitionedTable, frame: pd.DataFrame
) -> None:
    assert isinstance(federation.schema.split, DatedSplit)
    train, delay = federation.schema.split.train, federation.schema.label.delay_days
    day = source.table.day[np.argsort(source.table.index)]
    left_out = 0
    for i, window in enumerate(federation.schema.split.test[0].later(7 * k) for k in range(2)):
        expected = set()
        for today in range(window.first, window.last + 1):
            known = (frame.IS_FRAUD == 1) & (day >= train.first)
            known &= (day <= train.last) | (day <= today - delay - 1)
            todays = frame[day == today]
            expected |= set(todays.index[~todays.CUSTOMER.isin(frame.CUSTOMER[known])])
            left_out += int(todays.CUSTOMER.isin(frame.CUSTOMER[known]).sum())
        assert {int(row) for bank in federation.banks for row in bank.test[i].index} == expected
    assert left_out > 100, "the law above must not hold for want of compromised customers"


def test_another_banks_rows_change_nothing_here(frame: pd.DataFrame) -> None:
    schema = load_schema("simulated")
    plain = _federation_from(frame, schema)
    altered = frame.copy()
    elsewhere = altered.BANK != "bank-1"
    altered.loc[elsewhere, "AMOUNT"] = 1.0
    altered.loc[elsewhere, "IS_FRAUD"] = 1 - altered.loc[elsewhere, "IS_FRAUD"]
    altered.loc[elsewhere, "TERMINAL"] = "T00000"
    other = _federation_from(altered, schema)
    for before, after in zip(_named(plain, "bank-1"), _named(other, "bank-1"), strict=True):
        assert np.array_equal(before.x, after.x) and np.array_equal(before.index, after.index)
    assert not np.array_equal(_named(plain, "bank-0")[0].x, _named(other, "bank-0")[0].x)


def _federation_from(frame: pd.DataFrame, schema: Schema) -> Federation:
    table = transactions_from_frame(frame, schema, "frame", bank_column="BANK")
    rule = partition_for(schema, None, None, 0)
    periods = periods_for(schema, table)
    banks = tuple((name, rows, split(table.take(rows), periods, 0)) for name, rows in rule.assign(table))
    return federation_of(PartitionedTable(table, rule, periods, banks, 0))


def _named(federation: Federation, name: str) -> list:  # type: ignore[type-arg]
    (bank,) = (bank for bank in federation.banks if bank.name == name)
    return [bank.train, bank.validation, *bank.test]


def test_pooled_baselines_hold_the_same_rows_and_global_features_see_more(
    source: PartitionedTable, federation: Federation
) -> None:
    everyone, local = pooled_global(source), pooled_local(federation)
    assert everyone.name == local.name == "pooled"
    assert sorted(all_rows(everyone)) == sorted(all_rows(local))
    count = federation.feature_names.index("terminal_count_30d")
    order = np.argsort(local.train.index)
    assert (everyone.train.x[:, count] >= local.train.x[order, count] - 1e-6).all()
    assert (everyone.train.x[:, count] > local.train.x[order, count] + 0.01).any()
    mine = federation.feature_names.index("customer_count_7d")
    assert np.array_equal(everyone.train.x[:, mine], local.train.x[order, mine])


def test_the_same_seed_gives_the_same_federation_and_another_seed_other_validation(
    federation: Federation,
) -> None:
    again = load_federation("simulated", simulation=SMALL, test_windows=2)
    other = load_federation("simulated", simulation=SMALL, test_windows=2, seed=1)
    assert again.description == federation.description
    for a, b, c in zip(federation.banks, again.banks, other.banks, strict=True):
        assert np.array_equal(a.train.x, b.train.x)
        assert not np.array_equal(a.validation.index, c.validation.index)


def test_reprs_and_the_description_hold_no_rows(federation: Federation) -> None:
    shown = repr(federation.banks)
    assert len(shown) < 1000 and "array" not in shown
    assert set(federation.description["banks"]) == {bank.name for bank in federation.banks}
    assert "C000" not in str(federation.description)


def test_a_partition_file_assigns_customers_and_names_one_it_does_not_know(tmp_path: Path, frame: pd.DataFrame) -> None:
    data, file = tmp_path / "data.csv", tmp_path / "banks.csv"
    frame.to_csv(data, index=False)
    customers = np.array(sorted(frame.CUSTOMER.unique()))
    pd.DataFrame({"CUSTOMER": customers, "B": np.arange(len(customers)) % 3 + 9}).to_csv(file, index=False)
    federation = load_federation(data, partition=f"{file}:B")
    assert federation.schema.name == "simulated"
    assert [bank.name for bank in federation.banks] == ["9", "10", "11"]
    assert set(frame.CUSTOMER.iloc[federation.banks[0].train.index]) <= set(customers[::3])
    pd.DataFrame({"CUSTOMER": customers[:-1], "B": 1}).to_csv(file, index=False)
    with pytest.raises(PartitionError, match=rf"row \d+: customer '{customers[-1]}' has no bank"):
        load_federation(data, partition=f"{file}:B")


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("CUSTOMER,B\na,1\na,2\n", ":B", "row 3: expected one bank of 'a', got '2'"),
        ("CUSTOMER,B\na,\n", ":B", "row 2: expected a bank of 'a' in B, got an empty cell"),
        ("CUSTOMER,B\na,1\n", ":Z", r"expected columns \['Z'\]"),
        ("CUSTOMER,B\na,1\n", "", "expected FILE.csv:COLUMN"),
        (None, ":B", "no such file"),
    ],
)
def test_a_bad_partition_file_is_refused_by_name(tmp_path: Path, text: str | None, spec: str, message: str) -> None:
    file = tmp_path / "banks.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PartitionError, match=message):
        partition_for(load_schema("simulated"), f"{file}{spec}", None, 0)


def test_contradictory_and_unknown_partitions_are_refused() -> None:
    schema = load_schema("simulated")
    with pytest.raises(PartitionError, match="give one of them"):
        partition_for(schema, "BANK", 4, 0)
    with pytest.raises(PartitionError, match="at least 2"):
        partition_for(schema, None, 1, 0)
    with pytest.raises(PartitionError, match="expected a column 'BRANCH' to partition by"):
        load_federation("simulated", partition="BRANCH", simulation=SMALL)


def test_random_banks_keep_customers_together_and_are_about_equal(frame: pd.DataFrame) -> None:
    federation = load_federation("simulated", clients=5, simulation=SMALL)
    assert [bank.name for bank in federation.banks] == [f"bank-{i}" for i in range(5)]
    homes: dict[str, int] = {}
    for number, bank in enumerate(federation.banks):
        for customer in frame.CUSTOMER.iloc[all_rows(bank)].unique():
            assert homes.setdefault(customer, number) == number
    assert np.bincount(list(homes.values())).min() > 60


@given(st.lists(st.text(), min_size=1), st.integers(0, 2**63))
def test_keyed_hashes_depend_on_text_purpose_and_seed_only(texts: list[str], seed: int) -> None:
    values = np.array(texts, object)
    hashes = keyed_hash(values, "bank", seed)
    assert np.array_equal(hashes, keyed_hash(values.copy(), "bank", seed))
    assert np.array_equal(hashes[::-1], keyed_hash(values[::-1], "bank", seed))
    assert not np.array_equal(hashes, keyed_hash(values, "valid", seed))
    assert not np.array_equal(hashes, keyed_hash(values, "bank", seed + 1))


def test_a_bank_without_training_rows_is_refused_by_name(frame: pd.DataFrame, tmp_path: Path) -> None:
    late = frame[(frame.BANK != "bank-2") | (frame.TIME > "2024-02-20")]
    late.to_csv(tmp_path / "late.csv", index=False)
    with pytest.raises(PartitionError, match=r"bank 'bank-2'.*none in the training period"):
        load_federation(tmp_path / "late.csv")


def test_test_windows_beyond_the_data_are_refused() -> None:
    with pytest.raises(SplitError, match="2024-03-18 to 2024-03-24, got 2024-01-01 to 2024-03-17"):
        load_federation("simulated", simulation=SMALL, test_windows=4)
    with pytest.raises(SplitError, match="at least one"):
        load_federation("simulated", simulation=SMALL, test_windows=0)


def plain_frame(n: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    y = rng.random(n) < 0.1
    return pd.DataFrame({"a": rng.normal(y * 1.0), "b": rng.normal(size=n), "y": y.astype(int)})


def test_data_without_time_and_parties_make_a_federation(tmp_path: Path) -> None:
    plain_frame().to_csv(tmp_path / "plain.csv", index=False)
    schema = Schema("plain", LabelColumn("y"), numeric=(NumericColumn("a"), NumericColumn("b")))
    federation = load_federation(tmp_path / "plain.csv", schema, clients=3, test_windows=2)
    assert federation.feature_names == ("a", "b")
    rows = [row for bank in federation.banks for row in all_rows(bank)]
    assert len(rows) == len(set(rows)) == 600
    tested = sum(len(test) for bank in federation.banks for test in bank.test)
    assert 0.2 < tested / 600 < 0.4
    assert all((bank.train.day == 0).all() for bank in federation.banks)


def test_a_time_that_is_only_an_order_splits_first_to_last(tmp_path: Path) -> None:
    plain_frame().assign(n=np.arange(600)[::-1]).to_csv(tmp_path / "ordered.csv", index=False)
    (tmp_path / "s.toml").write_text(
        '[label]\ncolumn = "y"\n[time]\ncolumn = "n"\nunit = "order"\n[[numeric]]\ncolumns = ["a", "b"]\n'
        "[split]\ntrain_fraction = 0.6\ntest_fraction = 0.2\n"
    )
    federation = load_federation(tmp_path / "ordered.csv", tmp_path / "s.toml", clients=2, test_windows=2)
    train = np.concatenate([bank.train.index for bank in federation.banks])
    tests = [np.concatenate([bank.test[i].index for bank in federation.banks]) for i in (0, 1)]
    assert train.min() >= 240 and tests[0].max() < 120 and tests[1].max() < tests[0].min()
    assert sum(map(len, tests)) == 120


def test_fractions_wait_out_the_label_delay() -> None:
    schema = Schema(**{**vars(load_schema("simulated")), "split": FractionSplit(0.6, 0.4)})
    source = read_partitioned("simulated", schema, simulation=SMALL)
    assert source.periods.train is not None
    assert source.periods.test[0].start >= source.periods.train.end + 7 * DAY_US
    short = Simulation(customers=500, terminals=120, banks=4, days=12, fraud_share=0.03)
    with pytest.raises(SplitError, match="too few days"):
        read_partitioned("simulated", schema, simulation=short)


@settings(deadline=None, max_examples=10)
@given(size=st.integers(500, 4000))
def test_streamed_features_equal_batch_features_whatever_the_chunks(source: PartitionedTable, size: int) -> None:
    table = source.table
    assert table.time is not None
    cut = int(np.searchsorted(table.time, table.time[0] + 60 * DAY_US))
    history, new = table.take(np.arange(cut)), table.take(np.arange(cut, len(table)))
    chunks = (new.take(np.arange(i, min(i + size, len(new)))) for i in range(0, len(new), size))
    streamed = list(feature_stream(table.schema, source.partition, history, chunks))
    x = np.concatenate([part.x for part in streamed])
    index = np.concatenate([part.table.index for part in streamed])
    assert np.array_equal(index, new.index)
    place = np.full(len(table), -1)
    place[index] = np.arange(len(index))
    compared = 0
    for bank in federation_of(source).banks:
        for rows in bank.test:
            at = place[rows.index]
            np.testing.assert_allclose(x[at[at >= 0]], rows.x[at >= 0], rtol=0, atol=1e-5)
            compared += int((at >= 0).sum())
    assert compared > 1000


def test_a_stream_forgets_what_no_feature_can_reach(source: PartitionedTable) -> None:
    stream = FeatureStream(source.table.schema, source.table)
    kept = stream._history
    assert kept is not None and kept.time is not None and kept.customer is not None
    assert kept.time[0] > kept.time[-1] - 37 * DAY_US
    assert len(kept) < 0.6 * len(source.table)
    assert len(kept.customer.ids) == len(np.unique(kept.customer.code))


def test_a_file_streams_with_a_history_file_and_without_labels(tmp_path: Path, frame: pd.DataFrame) -> None:
    past, new = frame[frame.TIME < "2024-03-10"], frame[frame.TIME >= "2024-03-10"].drop(columns="IS_FRAUD")
    past.to_csv(tmp_path / "past.csv", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    schema = load_schema("simulated")
    rule = partition_for(schema, None, None, 0)
    parts = list(stream_file(tmp_path / "new.csv", schema, rule, tmp_path / "past.csv", rows=700))
    assert sum(len(part.x) for part in parts) == len(new)
    assert {bank for part in parts for bank in part.bank} == set(new.BANK)
    fresh = next(stream_file(tmp_path / "new.csv", schema, rule, rows=700))
    assert not np.array_equal(fresh.x, parts[0].x), "the history must have mattered"


def test_a_stream_out_of_order_is_refused_by_row(tmp_path: Path, frame: pd.DataFrame) -> None:
    schema = load_schema("simulated")
    rule = partition_for(schema, None, None, 0)
    some = frame.head(200)
    shuffled = pd.concat([some.iloc[:120], some.iloc[[10]], some.iloc[120:]])
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    with pytest.raises(OrderError, match="row 122"):
        list(stream_file(tmp_path / "shuffled.csv", schema, rule))
    some.to_csv(tmp_path / "some.csv", index=False)
    table = transactions_from_frame(frame.head(500), schema, "past", bank_column="BANK")
    with pytest.raises(OrderError, match="end the history before it"):
        list(feature_stream(schema, rule, table, [table.take(np.arange(200))]))


def test_data_that_no_shipped_schema_fits_ask_for_one(tmp_path: Path) -> None:
    plain_frame().to_csv(tmp_path / "plain.csv", index=False)
    with pytest.raises(SchemaError, match="--schema"):
        load_federation(tmp_path / "plain.csv")


@pytest.mark.shared_data
def test_the_handbooks_split_has_the_handbooks_counts(shared_data: Path) -> None:
    source = read_partitioned(
        shared_data / "transactions_2018-04_to_2018-08.csv.gz",
        partition=f"{shared_data / 'customer_partition.csv'}:REGION8",
        validation_share=0.0,
    )
    assert source.table.schema.name == "fdh" and isinstance(source.table, Transactions)
    federation = federation_of(source)
    pooled = pooled_local(federation)
    assert len(federation.banks) == 8
    assert (len(pooled.train), pooled.train.y.sum()) == (67_240, 598)
    assert (len(pooled.test[0]), pooled.test[0].y.sum()) == (58_264, 385)
    assert isinstance(federation.schema.split, DatedSplit) and len(federation.schema.split.train) == len(Days(0, 6))


def test_a_federation_keeps_the_columns_that_are_asked_for_in_that_order(federation: Federation) -> None:
    narrow = federation.only(("amount", "weekend"))
    assert narrow.feature_names == ("amount", "weekend") and federation.only(federation.feature_names) is federation
    for bank, whole in zip(narrow.banks, federation.banks, strict=True):
        assert np.array_equal(bank.test[1].x, whole.test[1].x[:, [2, 0]])
        assert np.array_equal(bank.train.y, whole.train.y)
    with pytest.raises(FeatureError, match="no column moon"):
        federation.only(("moon",))


def test_a_banks_own_history_is_longer_than_its_training_and_leaves_validation_customers_out(
    source: PartitionedTable, federation: Federation
) -> None:
    week, weeks = own_histories(source, 7), own_histories(source, 21)
    for bank in federation.banks:
        assert np.array_equal(week[bank.name].x, bank.train.x) and np.array_equal(week[bank.name].y, bank.train.y)
        held = weeks[bank.name]
        assert held.day.max() == bank.train.day.max() and held.day.min() == bank.train.day.max() - 20
        assert not set(held.customer) & set(bank.validation.customer)
        assert np.isin(bank.train.index, held.index).all() and len(held) > 2 * len(bank.train)

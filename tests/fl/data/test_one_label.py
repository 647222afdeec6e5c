"""Another label for one row decides nothing about other rows: neither who is trained on, nor how they are scaled.

The accounting of private steps rests on this (docs/privacy.md, "What one label changes").
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fl.data.federation import PartitionedTable
from fl.data.partition import partition_for
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.data.split import own_history, periods_for, split

SCHEMA = """
[label]
column = "FRAUD"
delay_days = 2
known = "LABELLED"
[time]
column = "TIME"
[amount]
column = "AMOUNT"
constants = "bank"
[parties]
customer = "CARD"
[partition]
column = "BANK"
[split]
train = [2024-02-20, 2024-02-26]
test = [[2024-02-29, 2024-03-06]]
validation_share = 0.3
"""
START, DAYS, CARDS = pd.Timestamp("2024-01-01"), 66, 40
TRAINED = range(50, 57)  # days of the training period, from START
LATE = START + pd.Timedelta(days=65)  # a label that comes in the test


@pytest.fixture
def schema() -> Schema:
    return parse_schema(SCHEMA, "some.toml")


def rows() -> pd.DataFrame:
    """Every card pays once in the training period, and on every tenth other day."""
    pairs = [(day, card) for day in range(DAYS) for card in range(CARDS)]
    pairs = [(d, c) for d, c in pairs if (d == TRAINED[c % 7] if d in TRAINED else d % 10 == c % 10)]
    day, card = np.array(pairs).T
    return pd.DataFrame(
        {
            "TIME": START + pd.to_timedelta(day, unit="D"),
            "DAY": day,
            "CARD": [f"c{number}" for number in card],
            "AMOUNT": 10.0 + 7 * card + day,
            "BANK": np.where(card % 2, "odd", "even"),
            "FRAUD": (card == 0).astype(int),
            "LABELLED": START + pd.to_timedelta(day + 1, unit="D"),
        }
    )


def table(frame: pd.DataFrame, schema: Schema) -> Transactions:
    return transactions_from_frame(frame, schema, "made up", bank_column="BANK")


def late_fraud(frame: pd.DataFrame, at: int) -> pd.DataFrame:
    other = frame.copy()
    other.loc[at, ["FRAUD", "LABELLED"]] = [1, LATE]
    return other


def source(frame: pd.DataFrame, schema: Schema) -> PartitionedTable:
    read, rule = table(frame, schema), partition_for(schema, None, None, 0)
    periods = periods_for(schema, read)
    banks = tuple((name, at, split(read.take(at), periods, 0)) for name, at in rule.assign(read))
    return PartitionedTable(read, rule, periods, banks, 0)


def test_a_late_label_of_one_row_moves_no_other_row_into_or_out_of_training(schema: Schema) -> None:
    frame = rows()
    before = table(frame, schema)
    periods = periods_for(schema, before)
    learned = set(own_history(before, split(before, periods, 0), periods, 56).tolist())
    for at in np.flatnonzero(frame.DAY.isin(TRAINED) & (frame.FRAUD == 0)).tolist():
        after = table(late_fraud(frame, at), schema)
        now = set(own_history(after, split(after, periods, 0), periods, 56).tolist())
        assert now ^ learned <= {at}, f"the label of row {at} moved {len(now ^ learned)} rows"


def test_a_late_label_of_one_row_changes_no_constant_of_its_bank(schema: Schema) -> None:
    frame = rows()
    # Amounts so far apart that a median of 20 rows moves when one of them is left out.
    frame["AMOUNT"] = np.exp(np.arange(len(frame)) % 23)
    constants = source(frame, schema).constants_at_banks()
    for at in np.flatnonzero(frame.DAY.isin(TRAINED) & (frame.FRAUD == 0)).tolist():
        assert source(late_fraud(frame, at), schema).constants_at_banks() == constants


def test_a_late_fraud_is_not_trained_on(schema: Schema) -> None:
    frame = rows()
    at = int(np.flatnonzero(frame.DAY.isin(TRAINED) & (frame.FRAUD == 0))[0])
    after = table(late_fraud(frame, at), schema)
    periods = periods_for(schema, after)
    held = split(after, periods, 0)
    assert at not in {*held.train.tolist(), *held.validation.tolist(), *own_history(after, held, periods, 56).tolist()}
    assert at in {*held.drawn_train.tolist(), *held.drawn_validation.tolist()}

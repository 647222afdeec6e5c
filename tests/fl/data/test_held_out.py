"""Rows for thresholds and calibration: no model was trained on them, and their cards are not blocked."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fl.data.held_out import held_out, held_out_days
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.data.split import Periods, Split, own_history, periods_for, split

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

[features]
windows_days = [1, 3]

[split]
train = [2024-03-21, 2024-03-24]
test = [[2024-03-28, 2024-03-30]]
validation_share = 0.3
"""
FRAUDS = {("c0", 5), ("c0", 9), ("c1", 17), ("c2", 20)}  # (card, day of March from 0)


def table() -> tuple[Schema, Transactions]:
    rows = [
        (f"2024-03-{day + 1:02}T12:00:00", f"c{card}", 10.0, int((f"c{card}", day) in FRAUDS))
        for day in range(31)
        for card in range(12)
    ]
    schema = parse_schema(SCHEMA, "some.toml")
    frame = pd.DataFrame(rows, columns=["TIME", "CARD", "AMOUNT", "LABEL"])
    return schema, transactions_from_frame(frame, schema, "frame")


def parts() -> tuple[Transactions, Split, Periods, int]:
    schema, rows = table()
    periods = periods_for(schema, rows)
    return rows, split(rows, periods, seed=0), periods, int(rows.day[0])


def test_no_row_of_training_or_test_is_held_out() -> None:
    rows, held, periods, first = parts()
    chosen = held_out(rows, held, periods, first, days=10).positions
    used = np.concatenate([held.train, *held.test])
    assert len(chosen) > 0 and len(np.intersect1d(chosen, used)) == 0
    assert bool((np.diff(chosen) > 0).all())


def test_days_whose_features_look_back_beyond_the_data_are_left_out() -> None:
    _, _, periods, first = parts()
    schema, _ = table()
    days = held_out_days(periods, schema, first)
    assert (days.start - first, days.stop - first) == (schema.history_days, 20)
    assert len(held_out_days(periods, schema, first, 10)) == 10
    assert len(held_out_days(periods, schema, first + 20)) == 0


def test_a_card_is_left_out_on_the_days_on_which_a_bank_would_know_of_its_fraud() -> None:
    rows, held, periods, first = parts()
    chosen = held_out(rows, held, periods, first).positions
    assert rows.customer is not None
    names = rows.customer.ids[rows.customer.code[chosen]]
    days = {name: set((rows.day[chosen][names == name] - first).tolist()) for name in ("c0", "c3")}
    early = set(range(5, 20))
    assert days["c3"] >= early
    # The delay is 2 days, and the first test day looks back 7: frauds of days 5 and 9 are known from 8 and 12 on.
    assert days["c0"] & early == {5, 6, 7, 17, 18, 19}


def test_validation_rows_count_for_their_share_of_a_day() -> None:
    rows, held, periods, first = parts()
    share = len(held.validation) / (len(held.validation) + len(held.train))
    assert 0.0 < share < 1.0
    assert held_out(rows, held, periods, first, days=10).days == 10 + 4 * share
    assert held_out(rows, held, periods, first, days=0).days == 4 * share


def test_days_that_the_model_learned_from_leave_the_rows_of_validation_customers() -> None:
    rows, held, periods, first = parts()
    learned = own_history(rows, held, periods, 12)  # days 12 to 23 of the data; training begins on day 20
    chosen = held_out(rows, held, periods, first, days=4, learned_days=12)
    assert len(np.intersect1d(chosen.positions, learned)) == 0
    days = rows.day[chosen.positions] - first
    assert set(days[days < 12].tolist()) == {8, 9, 10, 11}
    assert rows.customer is not None
    validation = set(rows.customer.code[held.validation].tolist())
    later = set(rows.customer.code[chosen.positions][days >= 12].tolist())
    assert later and later <= validation
    share = len(held.validation) / (len(held.validation) + len(held.train))
    assert chosen.days == 4 + 12 * share


def test_a_history_that_is_shorter_than_training_leaves_all_weeks_before_it() -> None:
    rows, held, periods, first = parts()
    assert np.array_equal(
        held_out(rows, held, periods, first, learned_days=2).positions, held_out(rows, held, periods, first).positions
    )


def test_without_time_the_validation_rows_are_all_there_is() -> None:
    rows, held, _, first = parts()
    chosen = held_out(rows, held, Periods(None, (), 1, {}), first)
    assert chosen.positions.tolist() == held.validation.tolist() and 0 < chosen.days < 1


def test_no_row_of_a_test_that_lies_before_training_is_held_out() -> None:
    _, rows = table()
    days = rows.day - rows.day[0]
    words = np.where(days >= 20, "train", np.where(days >= 15, "test", "past"))
    text = SCHEMA[: SCHEMA.index("[split]")] + '[split]\ncolumn = "PART"\ntrain = ["train"]\ntest = ["test"]\n'
    assert rows.time is not None and rows.customer is not None and rows.label is not None
    frame = pd.DataFrame(
        {
            "TIME": pd.to_datetime(rows.time, unit="us"),
            "CARD": rows.customer.ids[rows.customer.code],
            "AMOUNT": 10.0,
            "LABEL": rows.label.astype(int),
            "PART": words,
        }
    )
    divided = transactions_from_frame(frame, parse_schema(text, "some.toml"), "frame")
    periods = periods_for(divided.schema, divided)
    held = split(divided, periods, seed=0)
    chosen = held_out(divided, held, periods, int(divided.day[0]), days=10).positions
    assert len(chosen) > 0 and len(np.intersect1d(chosen, np.concatenate([held.train, *held.test]))) == 0

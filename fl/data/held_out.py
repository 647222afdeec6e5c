"""Find labelled rows that no model was trained on and that look like the rows that a model will score.

A threshold and a calibration need such rows, and the validation rows are a poor choice for both. They are few, and they
hold cards that a bank has blocked by the time it scores: on test days the split leaves out the cards that are known to
be compromised (`fl.data.split`), so that validation rows hold more frauds.

What it does: `held_out` takes the rows of the weeks before those that a model learned from, and the validation rows. It
leaves out the rows of cards that were known to be compromised on the day of the row. A model may have learned from
weeks before training as well (`fl.data.split.own_history`); of these days the rows of validation customers are left.

What it leaves to others: features and scores of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.data.reading import Transactions
from fl.data.schema import DAY_US, Schema
from fl.data.split import Periods, Positions, Split, known_by

HELD_OUT_DAYS = 28  # before the rows that a model learned from: four of each weekday


@dataclass(frozen=True)
class HeldOutRows:
    """`positions`: int64[n], ascending, in the bank's table. `days`: of how many days they are all rows.

    `days` counts validation rows by their share of the rows of their days. Without days it is the share of all rows.
    """

    positions: Positions = field(repr=False)
    days: float


def held_out(
    table: Transactions,
    held: Split,
    periods: Periods,
    first_day: int,
    days: int = HELD_OUT_DAYS,
    learned_days: int = 0,
) -> HeldOutRows:
    """The held-out rows of one bank.

    `table`: the bank's; `held`: its split. `first_day`: of the data of all banks; earlier rows are left out whose
    features would look back beyond it. `days`: how many days before the learned ones are taken. `learned_days`: the
    days up to the end of training that the model learned from; 0, or fewer than training has: those of training.
    """
    validation = held.validation
    share = len(validation) / max(1, len(validation) + len(held.train))
    if periods.train is None or table.schema.time is None or not table.schema.time.measures_days:
        return HeldOutRows(validation, share)
    assert table.time is not None
    start, end = periods.train.start // DAY_US, -(-periods.train.end // DAY_US)
    early_days = held_out_days(periods, table.schema, first_day, days, learned_days)
    early = (table.day >= early_days.start) & (table.day < early_days.stop)
    if table.customer is not None and early_days.stop < start:
        never_learned = np.isin(table.customer.code, table.customer.code[validation])
        early |= (table.day >= early_days.stop) & never_learned
    early &= (table.time < periods.train.start) & known_by(table, periods)
    for tested in held.test:  # where a column divides the rows, the test may lie before training
        early[tested] = False
    positions = np.union1d(np.flatnonzero(early), validation)
    look_back = max(start, min((test.start for test in periods.test), default=start) // DAY_US) - start
    open_rows = positions[~_blocked(table, positions, look_back)]
    of_validation = end - (start if table.customer is None else early_days.stop)
    return HeldOutRows(open_rows, float(len(early_days) + share * of_validation))


def held_out_days(
    periods: Periods, schema: Schema, first_day: int, days: int = HELD_OUT_DAYS, learned_days: int = 0
) -> range:
    """The days before the learned ones whose rows are held out, all customers' rows; none where data have no days."""
    if periods.train is None or not (schema.time is not None and schema.time.measures_days):
        return range(0)
    start = periods.train.start // DAY_US
    if learned_days:
        # Training that begins or ends within a day is learned from to that moment: the day itself counts as learned.
        start = max(first_day, min(start, periods.train.end // DAY_US - learned_days))
    return range(min(start, max(first_day + schema.history_days, start - days)), start)


def _blocked(table: Transactions, positions: Positions, look_back: int) -> NDArray[np.bool_]:
    """bool[len(positions)]: whether the row's customer was known to be compromised on the day of the row.

    A fraud counts from the day after its label delay on, for as long as the first test day looks back to training.
    """
    if table.customer is None or table.label is None:
        return np.zeros(len(positions), bool)
    fraud, width = table.label == 1, np.int64(int(table.day[-1]) - int(table.day[0]) + 2)
    day = table.day.astype(np.int64) - int(table.day[0])
    known = np.sort(table.customer.code[fraud] * width + day[fraud])
    customer, today = table.customer.code[positions] * width, day[positions]
    last = today - table.schema.label.delay_days - 1
    begin = np.searchsorted(known, customer + np.maximum(today - look_back, 0), side="left")
    end = np.searchsorted(known, customer + np.maximum(last, -1), side="right")
    return np.asarray((end > begin) & (last >= 0))

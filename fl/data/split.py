"""Split rows into training, validation and test in time order, with the label delay between training and test.

The protocol is the Fraud Detection Handbook's (chapters 3 and 5): train on some days, skip the label
delay, test on later days, and leave out of the test the cards that are known to be compromised. On a test
day d those are the customers with a fraud in the training period or after it up to day d - delay - 1, whose
label has become known: an issuer has blocked them.

Validation holds whole customers, chosen by keyed hash, over the training days: a threshold chosen on them
does not depend on rows of training. Without customers it holds single rows.

Leaves to others: features (they may use rows outside all periods), banks (each splits its own rows).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fl.data.partition import keyed_hash
from fl.data.reading import Transactions
from fl.data.schema import DAY_US, DatedSplit, Days, FractionSplit, Schema
from fl.errors import SplitError

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Positions, ascending, in the table that was split; `test` holds one entry per window."""

    train: Positions = field(repr=False)
    validation: Positions = field(repr=False)
    test: tuple[Positions, ...] = field(repr=False)


@dataclass(frozen=True)
class Period:
    """Times from `start` (included) to `end` (excluded), in the unit of `Transactions.time`."""

    start: int
    end: int

    def holds(self, time: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (time >= self.start) & (time < self.end)


@dataclass(frozen=True)
class Periods:
    """The periods of an experiment: public and the same for every bank. `train` is None where data have no time."""

    train: Period | None
    test: tuple[Period, ...]
    windows: int  # test windows, also where there is no time
    described: dict[str, object]  # as people write them, for the manifest


def periods_for(schema: Schema, table: Transactions, windows: int | None = None) -> Periods:
    """The schema's periods, with `windows` consecutive test windows, checked against the days the data cover.

    `windows` None: those that the schema lists. More: windows as long as its last one follow it. A schema
    with fractions has its test part cut into `windows` parts of equally many rows, one by default. Raises
    `SplitError` when a window lies outside the data or the label delay leaves none.
    """
    if windows is not None and windows < 1:
        raise SplitError(f"expected at least one test window, got {windows}")
    if isinstance(schema.split, FractionSplit):
        return _fraction_periods(schema, schema.split, table, 1 if windows is None else windows)
    for name, days in [("training", schema.split.train), *(("test", test) for test in _tests(schema.split, windows))]:
        _check_covered(schema, table, name, days)
    return calendar_of(schema, windows)


def calendar_of(schema: Schema, windows: int | None = None) -> Periods:
    """The periods of a schema that names days, whatever the data cover: what banks agree on before they look at rows.

    Raises `SplitError` for a schema that divides its rows by fractions: those days depend on everybody's rows.
    """
    if isinstance(schema.split, FractionSplit):
        raise SplitError(
            f"schema {schema.name!r}: [split] has fractions of all banks' rows, and banks that do not show each other "
            "their rows need days: name them, as in train = [2024-02-12, 2024-02-18]"
        )
    tests = _tests(schema.split, windows)
    described = {
        "train": [schema.day_name(schema.split.train.first), schema.day_name(schema.split.train.last)],
        "test": [[schema.day_name(test.first), schema.day_name(test.last)] for test in tests],
    }
    return Periods(_period(schema.split.train), tuple(_period(test) for test in tests), len(tests), dict(described))


def _tests(days: DatedSplit, windows: int | None) -> list[Days]:
    """The test windows of a schema, its last one repeated until there are `windows`."""
    tests = list(days.test[:windows])
    while windows is not None and len(tests) < windows:
        tests.append(tests[-1].later(len(tests[-1])))
    return tests


def split(table: Transactions, periods: Periods, seed: int, validation_share: float | None = None) -> Split:
    """Split one bank's table (or a pooled one). `validation_share` overrides the schema's."""
    share = table.schema.validation_share if validation_share is None else validation_share
    if periods.train is None:
        return _split_without_time(table, seed, periods.windows, share)
    assert table.time is not None
    trained = periods.train.holds(table.time) & known_by(table, periods)
    validated = trained & _validates(table, share, seed)
    blocked_on = _blocked_from_day(table, trained, periods.train)
    allowed = table.day < blocked_on
    tests = tuple(np.flatnonzero(test.holds(table.time) & allowed) for test in periods.test)
    return Split(np.flatnonzero(trained & ~validated), np.flatnonzero(validated), tests)


def own_history(table: Transactions, held: Split, periods: Periods, days: int) -> NDArray[np.int64]:
    """int64[n]: positions of a bank's rows of the last `days` days of training and before, without validation.

    `table`: the bank's; `held`: its split. A customer who is used for validation is left out on all days. Their labels
    are known when those of the training period are. Without periods: the training rows.
    """
    if periods.train is None:
        return held.train
    assert table.time is not None
    inside = (table.time >= periods.train.end - days * DAY_US) & (table.time < periods.train.end)
    inside &= known_by(table, periods)
    validates = np.zeros(len(table), bool)
    validates[held.validation] = True
    if table.customer is not None:
        validates = np.isin(table.customer.code, table.customer.code[held.validation])
    return np.flatnonzero(inside & ~validates)


def known_by(table: Transactions, periods: Periods) -> NDArray[np.bool_]:
    """bool[n]: False for frauds whose label comes when the first test day has begun: no model can learn from them."""
    if table.known_day is None or table.label is None or not periods.test:
        return np.ones(len(table), bool)
    known: NDArray[np.bool_] = (table.label == 0) | (table.known_day < periods.test[0].start // DAY_US)
    return known


def _period(days: Days) -> Period:
    return Period(days.first * DAY_US, (days.last + 1) * DAY_US)


def _check_covered(schema: Schema, table: Transactions, name: str, days: Days) -> None:
    first, last = int(table.day[0]), int(table.day[-1])
    if days.first < first or days.last > last:
        raise SplitError(
            f"{table.source}: expected rows on all {name} days, {schema.day_name(days.first)} to "
            f"{schema.day_name(days.last)}, got {schema.day_name(first)} to {schema.day_name(last)}; "
            "change [split] in the schema or ask for fewer test windows"
        )


def _fraction_periods(schema: Schema, fractions: FractionSplit, table: Transactions, windows: int) -> Periods:
    described: dict[str, object] = {"train_fraction": fractions.train, "test_fraction": fractions.test}
    if table.time is None:
        return Periods(None, (), windows, described)
    n = len(table)
    train_end = int(table.time[min(round(n * fractions.train), n - 1)])
    delay = schema.label.delay_days * DAY_US if schema.has_windows else 0
    begin = max(int(table.time[min(round(n * (1 - fractions.test)), n - 1)]), train_end + delay)
    tested = np.flatnonzero(table.time >= begin)
    if train_end == table.time[0] or len(tested) < windows:
        raise SplitError(
            f"{table.source}: expected rows for training and {windows} test window(s) after a label delay of "
            f"{schema.label.delay_days} days, got none; the data cover too few days: change [split] or delay_days"
        )
    edges = [int(table.time[tested[len(tested) * i // windows]]) for i in range(windows)]
    test = tuple(Period(start, end) for start, end in pairwise([*edges, int(table.time[-1]) + 1]))
    return Periods(Period(int(table.time[0]), train_end), test, windows, described)


def _validates(table: Transactions, share: float, seed: int) -> NDArray[np.bool_]:
    """bool[n]: rows of validation customers (single rows where the schema names no customer)."""
    return _chosen(table, share, "valid", seed)


def _chosen(table: Transactions, share: float, purpose: str, seed: int) -> NDArray[np.bool_]:
    """bool[n]: rows of about `share` of the customers, by keyed hash."""
    limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    if table.customer is None:
        return keyed_hash(table.index.astype(str).astype(object), purpose, seed) < limit
    # Only customers with rows here: a bank's table lists the identifiers of all banks.
    here, code = np.unique(table.customer.code, return_inverse=True)
    return (keyed_hash(table.customer.ids[here], purpose, seed) < limit)[code]


def _blocked_from_day(table: Transactions, trained: NDArray[np.bool_], train: Period) -> NDArray[np.int64]:
    """int64[n]: the first day on which each row's customer is known as compromised; far future for the others.

    A fraud of the training period counts as known on every test day, as in the handbook.
    """
    always, never = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    if table.customer is None or table.label is None or table.time is None:
        return np.full(len(table), never)
    known_on = np.where(trained, always, table.day + np.int64(table.schema.label.delay_days + 1))
    counts = (table.label == 1) & (table.time >= train.start)
    first = np.full(len(table.customer.ids), never)
    np.minimum.at(first, table.customer.code[counts], known_on[counts])
    return first[table.customer.code]


def _split_without_time(table: Transactions, seed: int, windows: int, share: float) -> Split:
    """Split by keyed hash of the customer, or of the row where the schema names no customer."""
    assert isinstance(table.schema.split, FractionSplit)
    fractions = table.schema.split
    trained = _chosen(table, fractions.train, "period", seed)
    tested = np.flatnonzero(~_chosen(table, max(fractions.train, 1 - fractions.test), "period", seed))
    validated = trained & _validates(table, share, seed)
    tests = tuple(np.sort(part) for part in np.array_split(tested, windows))
    return Split(np.flatnonzero(trained & ~validated), np.flatnonzero(validated), tests)

"""Split rows into training, validation and test in time order, with the label delay between training and test.

The protocol is the Fraud Detection Handbook's (chapters 3 and 5): train on some days, skip the label
delay, test on later days, and leave out of the test the cards that are known to be compromised. On a test
day d those are the customers with a fraud in the training period or after it up to day d - delay - 1, whose
label has become known: an issuer has blocked them.

Validation holds whole customers, chosen by keyed hash, over the training days: a threshold chosen on them
does not depend on rows of training. Without customers it holds single rows.

Where a column of the data names the part of each row, the rows are taken as it says, and no card is left out. Frauds
whose label came when the test had begun are left out of training and validation there, too.

Leaves to others: features (they may use rows outside all periods), banks (each splits its own rows).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fl.data.partition import keyed_hash
from fl.data.reading import Transactions
from fl.data.schema import DAY_US, ColumnSplit, DatedSplit, Days, FractionSplit, Moments, Schema
from fl.errors import SplitError

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Positions, ascending, in the table that was split; `test` holds one entry per window.

    `late_train` and `late_validation` are frauds that would be among `train` and `validation`, but whose label came too
    late to be learned from.
    """

    train: Positions = field(repr=False)
    validation: Positions = field(repr=False)
    test: tuple[Positions, ...] = field(repr=False)
    late_train: Positions = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    late_validation: Positions = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @property
    def drawn_train(self) -> Positions:
        """`train` and the late frauds among them: no label decides which rows these are.

        What reaches beyond one row (a bank's constants, the customers that are left out of its history) follows from
        them, so that another label for one row changes nothing for other rows.
        """
        return np.union1d(self.train, self.late_train)

    @property
    def drawn_validation(self) -> Positions:
        """`validation` and the late frauds among them, as `drawn_train`."""
        return np.union1d(self.validation, self.late_validation)


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
    if isinstance(schema.split, ColumnSplit):
        return _column_periods(schema.split, table, windows)
    for name, days in [("training", schema.split.train), *(("test", test) for test in _tests(schema.split, windows))]:
        _check_covered(schema, table, name, days)
    return calendar_of(schema, windows)


def calendar_of(schema: Schema, windows: int | None = None) -> Periods:
    """The periods of a schema that names days, whatever the data cover: what banks agree on before they look at rows.

    Raises `SplitError` for a schema that divides its rows by fractions: those days depend on everybody's rows.
    """
    if not isinstance(schema.split, DatedSplit):
        has = "fractions of all banks' rows" if isinstance(schema.split, FractionSplit) else "a column of the rows"
        raise SplitError(
            f"schema {schema.name!r}: [split] has {has}, and banks that do not show each other "
            "their rows need days: name them, as in train = [2024-02-12, 2024-02-18]"
        )
    tests = _tests(schema.split, windows)
    described = {
        "train": _described(schema, schema.split.train),
        "test": [_described(schema, test) for test in tests],
    }
    return Periods(_period(schema.split.train), tuple(_period(test) for test in tests), len(tests), dict(described))


def _tests(days: DatedSplit, windows: int | None) -> list[Days | Moments]:
    """The test windows of a schema, its last one repeated until there are `windows`."""
    tests = list(days.test[:windows])
    while windows is not None and len(tests) < windows:
        tests.append(tests[-1].next)
    return tests


def _described(schema: Schema, period: Days | Moments) -> list[str]:
    """As the schema has it: first and last day, or first moment and the one at which the period is over."""
    if isinstance(period, Days):
        return [schema.day_name(period.first), schema.day_name(period.last)]
    return [schema.moment_name(period.start_us), schema.moment_name(period.end_us)]


def split(table: Transactions, periods: Periods, seed: int, validation_share: float | None = None) -> Split:
    """Split one bank's table (or a pooled one). `validation_share` overrides the schema's."""
    share = table.schema.validation_share if validation_share is None else validation_share
    if isinstance(table.schema.split, ColumnSplit):
        return _split_by_column(table, table.schema.split, periods, seed, share)
    if periods.train is None:
        return _split_without_time(table, seed, periods.windows, share)
    assert table.time is not None
    drawn, validates = periods.train.holds(table.time), _validates(table, share, seed)
    trained = drawn & known_by(table, periods)
    blocked_on = _blocked_from_day(table, trained, periods.train)
    allowed = table.day < blocked_on
    tests = tuple(np.flatnonzero(test.holds(table.time) & allowed) for test in periods.test)
    late = drawn & ~trained
    train, validation = np.flatnonzero(trained & ~validates), np.flatnonzero(trained & validates)
    return Split(train, validation, tests, np.flatnonzero(late & ~validates), np.flatnonzero(late & validates))


def own_history(table: Transactions, held: Split, periods: Periods, days: int) -> NDArray[np.int64]:
    """int64[n]: positions of a bank's rows of the last `days` days up to the end of training, without validation.

    All of the training period is among them, if that is longer.
    `table`: the bank's; `held`: its split. A customer who is used for validation is left out on all days, whatever the
    labels say. Labels are known when those of the training period are. Without periods, or where a column divides the
    rows: the training rows.
    """
    if periods.train is None or isinstance(table.schema.split, ColumnSplit):
        return held.train
    assert table.time is not None
    since = min(periods.train.start, periods.train.end - days * DAY_US)
    inside = (table.time >= since) & (table.time < periods.train.end)
    inside &= known_by(table, periods)
    validates = np.zeros(len(table), bool)
    validates[held.drawn_validation] = True
    if table.customer is not None:
        validates = np.isin(table.customer.code, table.customer.code[held.drawn_validation])
    return np.flatnonzero(inside & ~validates)


def known_by(table: Transactions, periods: Periods) -> NDArray[np.bool_]:
    """bool[n]: False for frauds whose label comes when the first test day has begun: no model can learn from them."""
    if table.known_day is None or table.label is None or not periods.test:
        return np.ones(len(table), bool)
    known: NDArray[np.bool_] = (table.label == 0) | (table.known_day < periods.test[0].start // DAY_US)
    return known


def _period(period: Days | Moments) -> Period:
    return Period(period.start_us, period.end_us)


def _check_covered(schema: Schema, table: Transactions, name: str, days: Days | Moments) -> None:
    if isinstance(days, Moments):
        _check_has_rows(schema, table, name, days)
        return
    first, last = int(table.day[0]), int(table.day[-1])
    if days.first < first or days.last > last:
        raise SplitError(
            f"{table.source}: expected rows on all {name} days, {schema.day_name(days.first)} to "
            f"{schema.day_name(days.last)}, got {schema.day_name(first)} to {schema.day_name(last)}; "
            "change [split] in the schema or ask for fewer test windows"
        )


def _check_has_rows(schema: Schema, table: Transactions, name: str, period: Moments) -> None:
    assert table.time is not None
    if not _period(period).holds(table.time).any():
        named = [schema.moment_name(int(table.time[at])) for at in (0, -1)]
        raise SplitError(
            f"{table.source}: expected rows in the {name} period, {' to '.join(_described(schema, period))}, got rows "
            f"from {named[0]} to {named[1]}; change [split] in the schema or ask for fewer test windows"
        )


def _column_periods(words: ColumnSplit, table: Transactions, windows: int | None) -> Periods:
    """From the first to the last row of each part, whichever other rows lie between them."""
    if windows not in (None, 1):
        raise SplitError(
            f"{table.source}: expected one test window, because column {words.column!r} names the rows of the test, "
            f"got {windows}; leave out --test-windows"
        )
    parts = {"train": words.train, "validation": words.validation, "test": words.test}
    described: dict[str, object] = {"column": words.column, **{name: list(listed) for name, listed in parts.items()}}
    held = {name: _holds_word(table, listed) for name, listed in parts.items() if listed}
    for name, rows in held.items():
        if not rows.any():
            assert table.part is not None
            found = ", ".join(repr(word) for word in sorted(set(table.part.ids))[:8])
            raise SplitError(
                f"{table.source}: column {words.column!r}: expected rows with {' or '.join(parts[name])} for {name}, "
                f"got {found}; correct [split] {name} in the schema"
            )
    if table.time is None:
        return Periods(None, (), 1, described)

    def span(rows: NDArray[np.bool_]) -> Period:
        assert table.time is not None
        times = table.time[rows]
        return Period(int(times[0]), int(times[-1]) + 1)

    test = span(held["test"])
    if table.known_day is not None:
        _check_test_comes_last(table, words, span(held["train"] | held.get("validation", held["train"])), test)
    return Periods(span(held["train"]), (test,), 1, described)


def _check_test_comes_last(table: Transactions, words: ColumnSplit, learned: Period, test: Period) -> None:
    """A label that came before a test began tells nothing where rows of the test lie among those of training."""
    if learned.end <= test.start:
        return
    name = table.schema.moment_name
    raise SplitError(
        f"{table.source}: [label] known leaves out labels that came when the test had begun, and needs a test after "
        f"training and validation; column {words.column!r} has rows of these two until {name(learned.end - 1)}, and "
        f"of the test from {name(test.start)} on: remove known, or divide the rows by days"
    )


def _holds_word(table: Transactions, words: tuple[str, ...]) -> NDArray[np.bool_]:
    """bool[n]: whether the split column holds one of `words`."""
    assert table.part is not None, "the table was loaded without its split column"
    return np.isin(table.part.code, np.flatnonzero(np.isin(table.part.ids, words)))


def _split_by_column(table: Transactions, words: ColumnSplit, periods: Periods, seed: int, share: float) -> Split:
    trained, tested = _holds_word(table, words.train), _holds_word(table, words.test)
    validated = _holds_word(table, words.validation) if words.validation else trained & _validates(table, share, seed)
    trained &= ~validated
    known = known_by(table, periods)
    train, validation, late_train, late_validation = (
        np.flatnonzero(each) for each in (trained & known, validated & known, trained & ~known, validated & ~known)
    )
    return Split(train, validation, (np.flatnonzero(tested),), late_train, late_validation)


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

"""Compute the inputs of the model from transactions: the handbook's columns, categories and hashed text, scaled.

Every bank computes features from its own rows only. A feature of a transaction at time t uses the rows of
its customer and terminal up to t, and labels only once they are known: a label of time s is used from s +
delay on, and never at s itself. The columns and windows are those of chapter 3 of the Fraud Detection
Handbook (Le Borgne et al., 2022); a customer's windows are (t - w, t] and hold the transaction itself, a
terminal's are (t - delay - w, t - delay].

Each column is scaled by the schema's transform, centre and scale and is clipped to +-its bound. A schema that leaves
constants to be computed must have got them first (`Schema.with_constants`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import HashingVectorizer

from fl.data.amount_history import AmountMoments, before_rows
from fl.data.constants import Constant
from fl.data.conversion import Identifiers
from fl.data.derived_columns import DerivedColumn
from fl.data.reading import Transactions
from fl.data.schema import (
    DAY_US,
    MICROSECONDS,
    CategoricalColumn,
    NumericColumn,
    Schema,
    TextColumn,
    Transform,
)
from fl.data.signed_log import signed_expm1, signed_log1p
from fl.data.windows import GroupWindows, Positions
from fl.errors import DataError, FeatureError

NIGHT_ENDS_HOUR = 6  # a transaction before 7:00 is made at night (handbook, chapter 3)
MONDAY_OF_EPOCH = 3  # 1970-01-01 was a Thursday
FIRST_DEVIATION, LEAST_DEVIATION = 0.5, 0.02  # of the typical amount
FURTHEST = 1e6  # standard deviations: beyond every bound, and finite
LOG_TRANSFORMS: tuple[Transform, ...] = ("log1p", "signed_log1p")


@dataclass(frozen=True)
class Feature:
    """One input of the model: scaled value = clip((transform(raw) - center) / scale, +-bound).

    `bound`: None for the schema's.
    """

    name: str
    transform: Transform = "identity"
    center: float = 0.0
    scale: float = 1.0
    bound: float | None = None


class Block(Protocol):
    """Features that are computed together."""

    @property
    def features(self) -> tuple[Feature, ...]: ...

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        """float64[len(rows), len(features)], unscaled, of the rows at these positions, given the whole `table`."""


def blocks(schema: Schema, earlier: AmountMoments | None = None) -> tuple[Block, ...]:
    """The feature blocks that the schema's columns allow, in a fixed order.

    `earlier`: amounts of rows before the table that features are asked of. Raises `FeatureError` when there are none.
    """
    blocks: list[Block] = []
    if schema.time is not None and schema.time.has_calendar:
        blocks.append(Calendar())
    if schema.amount is not None:
        blocks.append(Amount(schema))
    if schema.has_windows and schema.parties.customer is not None:
        blocks.append(CustomerWindows(schema))
        if schema.amount is not None:
            blocks.append(CustomerHistory(schema, earlier))
    if schema.has_windows and schema.parties.terminal is not None:
        blocks.append(TerminalWindows(schema))
    blocks.extend(Number(column, schema.constant_of(column.column)) for column in schema.numeric)
    blocks.extend(Derived(column, schema) for column in schema.derived)
    blocks.extend(Category(column) for column in schema.categorical)
    blocks.extend(HashedText(column) for column in schema.text if column.use)
    if not blocks:
        raise FeatureError(f"schema {schema.name!r} has no column for a feature: add an amount or a numeric column")
    return tuple(blocks)


def features(schema: Schema) -> tuple[Feature, ...]:
    """Every input of a model on this schema, in column order."""
    return tuple(feature for block in blocks(schema) for feature in block.features)


def features_at_first(schema: Schema) -> tuple[str, ...]:
    """Names of the features of a run that names none: it was begun before `CustomerHistory` was computed."""
    later = {feature.name for feature in CustomerHistory.features}
    return tuple(feature.name for feature in features(schema) if feature.name not in later)


def raw_features(
    table: Transactions, rows: Positions | None = None, earlier: AmountMoments | None = None
) -> NDArray[np.float64]:
    """float64[m, d]: unscaled features of the rows at positions `rows` (all by default), from the whole `table`.

    `earlier`: amounts of rows that came before the table and are not in it.
    """
    wanted = np.arange(len(table), dtype=np.int64) if rows is None else rows
    return np.concatenate([block.raw(table, wanted) for block in blocks(table.schema, earlier)], axis=1)


def scaled_features(
    table: Transactions, rows: Positions | None = None, earlier: AmountMoments | None = None
) -> NDArray[np.float32]:
    """float32[m, d]: `raw_features`, scaled by the schema's public constants."""
    return scale_publicly(raw_features(table, rows, earlier), table.schema)


def scale_publicly(raw: NDArray[np.float64], schema: Schema) -> NDArray[np.float32]:
    """float32[m, d] within +-the columns' bounds, from unscaled features of that schema.

    Raises `FeatureError` where the schema leaves constants to be computed that are not known yet.
    """
    if lacking := (*schema.lacking("shared"), *schema.lacking("bank")):
        raise FeatureError(
            f"schema {schema.name!r}: the constants of {', '.join(lacking)} are computed from the rows of the banks, "
            "and nobody has computed them yet: train with it (demos train), or take the schema.toml that a run has "
            "written, which holds them"
        )
    scaled = np.empty(raw.shape, np.float32)
    for column, feature in enumerate(features(schema)):
        bound = schema.bound if feature.bound is None else feature.bound
        scaled[:, column] = np.clip(unclipped(raw[:, column], feature), -bound, bound)
    return scaled


def largest_bound(schema: Schema) -> float:
    """The largest absolute value of any scaled feature."""
    return max([schema.bound, *(feature.bound for feature in features(schema) if feature.bound is not None)])


def unclipped(values: NDArray[np.float64], feature: Feature) -> NDArray[np.float64]:
    """float64[n]: unscaled values of one feature, transformed and scaled; infinite where that overflows."""
    if feature.transform in LOG_TRANSFORMS:
        values = signed_log1p(values)
    with np.errstate(over="ignore"):
        scaled: NDArray[np.float64] = (values - feature.center) / feature.scale
    return scaled


class Calendar:
    """Whether the transaction is on a weekend and at night: 0 or 1 each."""

    features = (Feature("weekend"), Feature("night"))

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        assert table.time is not None
        time = table.time[rows]
        weekday = (time // DAY_US + MONDAY_OF_EPOCH) % 7
        hour = time % DAY_US // MICROSECONDS["hours"]
        return np.stack([weekday >= 5, hour <= NIGHT_ENDS_HOUR], axis=1).astype(np.float64)


def _amount_feature(schema: Schema, name: str) -> Feature:
    assert schema.amount is not None
    amount = schema.amount
    return Feature(name, "signed_log1p", float(np.log1p(amount.typical)), amount.spread, amount.bound)


def _count_feature(name: str, typical: float) -> Feature:
    return Feature(name, "log1p", float(np.log1p(typical)))


class Amount:
    """The amount of the transaction itself."""

    def __init__(self, schema: Schema) -> None:
        self.features = (_amount_feature(schema, "amount"),)

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        assert table.amount is not None
        return table.amount[rows, None]


class CustomerWindows:
    """Per window: the customer's number of transactions, this one included, and, where amounts exist, their mean."""

    def __init__(self, schema: Schema) -> None:
        self._lengths = [length for _, length in schema.windows]
        named: list[Feature] = []
        for name, length in schema.windows:
            usual = schema.parties.customer_per_day * (length / DAY_US)
            named.append(_count_feature(f"customer_count_{name}", usual))
            if schema.amount is not None:
                named.append(_amount_feature(schema, f"customer_mean_amount_{name}"))
        self.features = tuple(named)

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        assert table.customer is not None and table.time is not None
        windows = GroupWindows.of(table.customer.code, table.time, rows)
        end = windows.after()
        starts = [windows.later_than(length) for length in self._lengths]
        columns = [(end - start).astype(np.float64) for start in starts]
        if table.amount is not None:
            means = windows.means(table.amount, starts, end)
            columns = [column for pair in zip(columns, means, strict=True) for column in pair]
        return windows.in_asked_order(columns)


class CustomerHistory:
    """The amount against all earlier amounts of the customer: in standard deviations, and as a log ratio to their mean.

    Two public guesses stand in for what is not known yet: the schema's typical amount for a mean of no amount, and half
    of it for the deviation of fewer than two. A deviation is at least `LEAST_DEVIATION` of the typical amount.
    """

    # A bound of 3 is reached at six standard deviations.
    features = (Feature("customer_amount_zscore", scale=2.0), Feature("customer_amount_log_ratio"))

    def __init__(self, schema: Schema, earlier: AmountMoments | None = None) -> None:
        assert schema.amount is not None
        self._typical = schema.amount.typical or 1.0
        self._earlier = earlier

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        assert table.amount is not None
        past = before_rows(table, rows, self._earlier)
        mean = np.where(past.count > 0, past.mean, self._typical)
        variance = past.deviations / np.maximum(past.count, 1)
        deviation = np.where(past.count > 1, np.sqrt(variance), FIRST_DEVIATION * self._typical)
        deviation = np.maximum(deviation, LEAST_DEVIATION * self._typical)
        amount = table.amount[rows]
        with np.errstate(over="ignore"):  # beyond float64 is beyond the bound
            zscore = np.clip((amount - mean) / deviation, -FURTHEST, FURTHEST)
        return np.stack([zscore, signed_log1p(amount) - signed_log1p(mean)], axis=1)


class TerminalWindows:
    """Per window: the terminal's number of transactions whose label is known by now, and their share of frauds."""

    def __init__(self, schema: Schema) -> None:
        self._lengths = [length for _, length in schema.windows]
        self._delay = schema.label.delay_days
        named: list[Feature] = []
        for name, length in schema.windows:
            usual = schema.parties.terminal_per_day * (length / DAY_US)
            named.append(_count_feature(f"terminal_count_{name}", usual))
            # A share is in [0, 1]; scaled to [0, bound] it has the range of the other columns.
            named.append(Feature(f"terminal_risk_{name}", scale=1.0 / schema.bound))
        self.features = tuple(named)

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        assert table.terminal is not None and table.time is not None
        windows = GroupWindows.of(table.terminal.code, table.time, rows)
        fraud = np.zeros(len(table), bool) if table.label is None else table.label == 1
        # Without a delay the window would include the row and thus its own label: it ends before the row.
        end = windows.later_than(self._delay * DAY_US, or_at=self._delay == 0)
        columns = []
        for length in self._lengths:
            start = windows.later_than(self._delay * DAY_US + length)
            count = end - start
            columns.append(count.astype(np.float64))
            columns.append(windows.count(fraud, start, end) / np.maximum(count, 1))
        return windows.in_asked_order(columns)


class Number:
    """A numeric column. With a public value for empty cells, also a 0/1 column that marks empty cells."""

    def __init__(self, column: NumericColumn, computed: Constant | None = None) -> None:
        self._column = column
        scaled_by: NumericColumn | Constant = column if computed is None else computed
        value = Feature(column.column, column.transform, scaled_by.center, scaled_by.scale, column.bound)
        self.features = (value,) if column.missing is None else (value, Feature(f"{column.column}_missing"))

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        values = table.numeric[self._column.column][rows]
        absent = np.isnan(values)
        if self._column.missing is not None:
            values = np.where(absent, self._column.missing, values)
        if self._column.transform == "log1p" and (values < 0).any():
            at = int(rows[int(np.argmax(values < 0))])
            raise DataError(
                f"{table.row_name(at)}, column {self._column.column!r}: log1p expects a number >= 0, "
                f'got {values[values < 0][0]:g}; set transform = "signed_log1p" in the schema'
            )
        return values[:, None] if self._column.missing is None else np.stack([values, absent], axis=1)


class Derived:
    """A derived column. Where a value can be missing, also a 0/1 column that marks rows without it.

    Such a row has the value that is scaled to 0.
    """

    def __init__(self, column: DerivedColumn, schema: Schema) -> None:
        self._column, self._known = column, schema.constant_of(column.name)
        scaled_by: DerivedColumn | Constant = column if self._known is None else self._known
        self._vocabulary: tuple[str, ...] = ()
        if column.kind == "ratio_to_mean":
            self._vocabulary = next(each.vocabulary for each in schema.categorical if each.column == column.columns[1])
        value = Feature(column.name, column.transform, scaled_by.center, scaled_by.scale, column.bound)
        marker = Feature(f"{column.name}_missing")
        self.features = (value, marker) if column.is_scaled else (Feature(column.name),)

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        values = table.derived[self._column.name][rows]
        if not self._column.is_scaled:
            return values[:, None]
        if self._vocabulary and self._known is not None:
            means = [*(self._known.means.get(word, self._known.rest) for word in self._vocabulary), self._known.rest]
            category = table.categorical[self._column.columns[1]].take(rows)
            values = values - np.array(means)[word_positions(category, self._vocabulary)]
        absent = np.isnan(values)
        center = self.features[0].center
        unscaled = signed_expm1(np.array(center)) if self._column.transform == "signed_log1p" else center
        return np.stack([np.where(absent, unscaled, values), absent], axis=1)


def word_positions(category: Identifiers, vocabulary: tuple[str, ...]) -> NDArray[np.int64]:
    """int64[n]: position of each row's word in `vocabulary`; its length for any other word."""
    place = {word: position for position, word in enumerate(vocabulary)}
    by_code = np.array([place.get(str(word), len(vocabulary)) for word in category.ids], np.int64)
    positions: NDArray[np.int64] = by_code[category.code]
    return positions


class Category:
    """A category: one 0/1 column per word of the vocabulary (others all 0), or signed hashed columns."""

    def __init__(self, column: CategoricalColumn) -> None:
        self._column = column
        labels = column.vocabulary or tuple(f"hash{i}" for i in range(column.hash_width))
        self.features = tuple(Feature(f"{column.column}={label}") for label in labels)

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        party = table.categorical[self._column.column]
        used, code = np.unique(party.code[rows], return_inverse=True)
        return self._of_words([str(word) for word in party.ids[used]])[code]

    def _of_words(self, words: list[str]) -> NDArray[np.float64]:
        """float64[len(words), d]: each distinct word once."""
        if not words:  # scikit-learn's hashers end in StopIteration without a first row
            return np.zeros((0, len(self.features)))
        if self._column.vocabulary:
            return np.array([[word == known for known in self._column.vocabulary] for word in words], np.float64)
        hasher = FeatureHasher(n_features=self._column.hash_width, input_type="string")
        hashed: NDArray[np.float64] = hasher.transform([[word] for word in words]).toarray()
        return hashed


class HashedText:
    """Free text as hashed character n-grams within words, of Euclidean length 1."""

    def __init__(self, column: TextColumn) -> None:
        self._column = column
        self.features = tuple(Feature(f"{column.column}~{i}") for i in range(column.hash_width))
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=column.ngrams, n_features=column.hash_width, norm="l2"
        )

    def raw(self, table: Transactions, rows: Positions) -> NDArray[np.float64]:
        if len(rows) == 0:  # as in `Category`
            return np.zeros((0, self._column.hash_width))
        hashed: NDArray[np.float64] = self._vectorizer.transform(table.text[self._column.column][rows]).toarray()
        return hashed

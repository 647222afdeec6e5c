"""Count the columns of a schema whose constants are computed, and say how much of each column a bound cuts off.

What it does: `counted_columns` lists what is to be counted, `counts_in` counts one bank's rows on the public grid of
`fl.data.log_grid`, `own_constants` computes the constants that stay at a bank, and `clipped_shares` measures.

Counts and shares of one bank are plaintext: they leave a bank only inside an encrypted sum, or where its own analyst
asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fl.data.constants import BOUND, Constant, ConstantsFrom
from fl.data.features import LOG_TRANSFORMS, Feature, features, raw_features, unclipped, word_positions
from fl.data.log_grid import Counted, Counts, Values, constant_of, counts_of
from fl.data.reading import Transactions
from fl.data.schema import Schema
from fl.data.signed_log import signed_log1p
from fl.errors import DataError

MOST_CLIPPED = 0.01  # of a column's values at one bank: beyond it the constants do not fit the data


def counted_columns(schema: Schema, source: ConstantsFrom) -> tuple[Counted, ...]:
    """What is counted for the constants that come from `source` and are not known yet, in order of the names."""
    wanted, counted = schema.lacking(source), []
    if schema.amount is not None and schema.amount.column in wanted:
        counted.append(Counted(schema.amount.column, True, schema.amount.bound or BOUND))
    for number in schema.numeric:
        if number.column in wanted:
            counted.append(Counted(number.column, number.transform in LOG_TRANSFORMS, number.bound or BOUND))
    vocabularies = {each.column: each.vocabulary for each in schema.categorical}
    for derived in schema.derived:
        if derived.name in wanted:
            words = vocabularies[derived.columns[1]] if derived.kind == "ratio_to_mean" else ()
            is_log = derived.transform in LOG_TRANSFORMS or derived.kind in ("log_ratio", "ratio_to_mean")
            counted.append(Counted(derived.name, is_log, derived.bound, words))
    return tuple(sorted(counted, key=lambda each: each.column))


def counts_in(table: Transactions, counted: Sequence[Counted]) -> Counts:
    """int64[sum of lengths]: one bank's exact counts of its rows, column after column. Plaintext: never log it."""
    parts = [counts_of(each, *_values(table, each)) for each in counted]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def constants_of(counted: Sequence[Counted], counts: Values, sigma: float = 0.0) -> tuple[Constant, ...]:
    """The constants that counts of all columns give. `sigma`: of the noise in one count, in rows.

    Raises `StatisticsError` for a column of which no count stands out of the noise.
    """
    ends = np.cumsum([each.length for each in counted])[:-1]
    return tuple(constant_of(each, part, sigma) for each, part in zip(counted, np.split(counts, ends), strict=True))


def own_constants(table: Transactions, source: ConstantsFrom = "bank") -> tuple[Constant, ...]:
    """The constants that `table` (a bank's training rows) gives by itself, exactly. They stay with whoever computed
    them. Raises `StatisticsError` for a column without values."""
    counted = counted_columns(table.schema, source)
    return constants_of(counted, counts_in(table, counted).astype(np.float64)) if counted else ()


def at_bank(table: Transactions, constants: Iterable[Constant]) -> Transactions:
    """The table with a schema that holds these constants of one bank; its TOML text does not get them."""
    return replace(table, schema=table.schema.with_constants(constants, written=False))


@dataclass(frozen=True)
class Clipped:
    """How much of one column lies beyond its bound. `shares`: by bank, of the bank's rows."""

    column: str
    bound: float
    shares: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest share of a bank."""
        return max(self.shares.values(), default=0.0)

    @property
    def warning(self) -> str | None:
        """One sentence where more than `MOST_CLIPPED` of a bank's values are cut off; else None."""
        if self.worst <= MOST_CLIPPED:
            return None
        bank = max(self.shares, key=lambda name: self.shares[name])
        return (
            f"column {self.column!r}: {100 * self.worst:.3g} % of the values at {bank} lie beyond the bound of "
            f'{self.bound:g} and look alike to the model: say constants = "shared" in the schema, or give another '
            "center, scale or bound"
        )


def clipped_shares(tables: Mapping[str, Transactions]) -> tuple[Clipped, ...]:
    """Of every scaled column of numbers, the share of values beyond the bound at each bank; the most clipped first.

    `tables`: by bank, its rows, with a schema whose constants are all known, or left to be computed: then they are
    computed exactly from all of these rows, as whoever sees all rows may do. Raises `StatisticsError`.
    """
    if not tables:
        raise DataError("expected the rows of one bank or more, got none")
    schema = next(iter(tables.values())).schema
    schema = schema.with_constants(exact_constants(tables), written=False)
    shares: dict[str, dict[str, float]] = {}
    scaled: dict[str, Feature] = {}
    for bank, table in tables.items():
        table = replace(table, schema=schema)
        table = at_bank(table, own_constants(table))
        raw = raw_features(table) if len(table) else None
        for place, feature in enumerate(features(table.schema)):
            if feature.name not in _scaled_columns(schema):
                continue
            scaled[feature.name] = feature
            beyond = np.zeros(0) if raw is None else np.abs(unclipped(raw[:, place], feature)) > _bound(feature, schema)
            shares.setdefault(feature.name, {})[bank] = float(beyond.mean()) if len(beyond) else 0.0
    found = (Clipped(name, _bound(feature, schema), shares[name]) for name, feature in scaled.items())
    return tuple(sorted(found, key=lambda each: -each.worst))


def by_bank(table: Transactions) -> dict[str, Transactions]:
    """The rows of each bank that the table's bank column names; all rows together where it has none."""
    if table.bank is None:
        return {"all rows": table}
    return {str(table.bank.ids[code]): table.take(table.bank.code == code) for code in np.unique(table.bank.code)}


def exact_constants(tables: Mapping[str, Transactions]) -> tuple[Constant, ...]:
    """The shared constants that the rows of all banks give, without noise, where one process sees them all.

    Raises `StatisticsError` for a column without values.
    """
    counted = counted_columns(next(iter(tables.values())).schema, "shared")
    if not counted:
        return ()
    return constants_of(counted, np.sum([counts_in(table, counted) for table in tables.values()], axis=0).astype(float))


def _bound(feature: Feature, schema: Schema) -> float:
    return schema.bound if feature.bound is None else feature.bound


def _scaled_columns(schema: Schema) -> set[str]:
    """Names of the features that are scaled numbers of the file, or derived from it."""
    names = {number.column for number in schema.numeric} | {each.name for each in schema.derived if each.is_scaled}
    return names if schema.amount is None else names | {"amount"}


def _values(table: Transactions, counted: Counted) -> tuple[Values, NDArray[np.int64]]:
    """(the transformed values of a column, NaN where there is none; the position of each row's word)."""
    schema, group = table.schema, np.zeros(len(table), np.int64)
    if schema.amount is not None and counted.column == schema.amount.column:
        assert table.amount is not None
        return signed_log1p(table.amount), group
    if counted.column in table.numeric:
        values = table.numeric[counted.column]
        return (signed_log1p(values) if counted.is_log else values), group
    derived = next(each for each in schema.derived if each.name == counted.column)
    values = table.derived[derived.name]
    if counted.words:
        group = word_positions(table.categorical[derived.columns[1]], counted.words)
    return (signed_log1p(values) if derived.transform in LOG_TRANSFORMS else values), group

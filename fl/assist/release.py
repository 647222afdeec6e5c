"""Decide which columns may leave a bank, and in what form: only allowed columns, and never their raw values.

| what | released form |
|---|---|
| text | redacted words (`redact`) |
| amount, numeric | a band of the 1-2-5 series |
| time | part of the day, and whether it is a weekend |
| category of a public vocabulary | its word, or `other` |
| a feature of the model, by its name | one of five levels |
| `score` | two decimals |

Nobody can allow customers, terminals, the label, the bank and columns that the schema keeps from the model
(`never`), nor a hashed category, because its words are not public.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fl.assist.errors import ColumnNotAllowed
from fl.assist.redact import Redactor
from fl.data.features import features
from fl.data.schema import DAY_US, MICROSECONDS, NumericColumn, Schema

SCORE = "score"
MONDAY_OF_EPOCH = 3  # 1970-01-01 was a Thursday
PARTS_OF_DAY = ((6, "night"), (12, "morning"), (18, "afternoon"), (22, "evening"), (24, "night"))  # until hour
LEVELS = ((-1.5, "very low"), (-0.5, "low"), (0.5, "usual"), (1.5, "high"), (math.inf, "very high"))  # scaled


@dataclass(frozen=True)
class Policy:
    """The allow-list of one schema. `allowed`: columns, features and `score` that a person has released."""

    schema: Schema
    allowed: frozenset[str]

    @classmethod
    def of(cls, schema: Schema, allow: Iterable[str], *, with_label: bool = False) -> Policy:
        """A policy that releases `allow`. Raises `ColumnNotAllowed` for a name that cannot be released.

        `with_label`: the label may be among them, as it must for examples to train a model on.
        """
        names = frozenset(allow)
        label = frozenset({schema.label.column}) if with_label else frozenset()
        can, never = releasable(schema) | label, _never(schema) - label
        for name in sorted(names):
            if name in never:
                raise ColumnNotAllowed(
                    f"{name!r} identifies a party or tells the label: it cannot be allowed; remove it from --allow"
                )
            if name not in can:
                raise ColumnNotAllowed(
                    f"--allow {name}: expected a column or feature of schema {schema.name!r} that may be sent, "
                    f"one of {', '.join(sorted(can))}"
                )
        return cls(schema, names)

    @classmethod
    def nothing_leaves(cls, schema: Schema) -> Policy:
        """A policy that allows all releasable columns, for providers on this machine, which send nothing."""
        return cls(schema, releasable(schema))

    def release(self, record: Mapping[str, object], redactor: Redactor) -> dict[str, str]:
        """The released form of `record` (raw values by column; features scaled).

        Raises `ColumnNotAllowed` for the first value that nobody has allowed.
        """
        for name in record:
            if name not in self.allowed:
                raise ColumnNotAllowed(
                    f"{name!r} may not be sent: nobody has allowed it. To send its released form "
                    f"(docs/assist.md), give --allow {name}"
                )
        return {name: self._form(name, value, redactor) for name, value in record.items()}

    def _form(self, name: str, value: Any, redactor: Redactor) -> str:
        schema = self.schema
        if any(name == column.column for column in schema.text):
            return redactor.redact(str(value))
        for column in schema.categorical:
            if name == column.column:
                return str(value) if str(value) in column.vocabulary else "other"
        number = float(value)
        if name == schema.label.column:
            return "fraud" if number else "genuine"
        if schema.time is not None and name == schema.time.column:
            return moment(int(number))
        if name == SCORE:
            return f"{number:.2f}"
        amounts = [] if schema.amount is None else [schema.amount.column]
        if name in (*amounts, *(column.column for column in schema.numeric)):
            return band(number)
        return next(level for limit, level in LEVELS if number < limit)


def releasable(schema: Schema) -> frozenset[str]:
    """Names of everything that a person may release under this schema."""
    columns = [text.column for text in schema.text] + [number.column for number in schema.numeric]
    columns += [column.column for column in schema.categorical if column.vocabulary]
    if schema.amount is not None:
        columns.append(schema.amount.column)
    if schema.time is not None and schema.time.has_calendar:
        columns.append(schema.time.column)
    hashed = {f"{column.column}=" for column in schema.categorical if not column.vocabulary}
    hashed |= {f"{column.column}~" for column in schema.text}
    named = [f.name for f in features(schema) if not any(f.name.startswith(prefix) for prefix in hashed)]
    return frozenset([*columns, *named, SCORE]) - _never(schema)


def _never(schema: Schema) -> frozenset[str]:
    parties = (*schema.parties.columns.values(), schema.partition, schema.label.column, schema.label.known)
    return frozenset(name for name in (*parties, *schema.never) if name is not None)


def band(value: float) -> str:
    """The band of the series 1, 2, 5, 10, 20, ... that holds `value`: "50 to 100"."""
    if not math.isfinite(value):
        return "missing"
    size = abs(value)
    if size < 0.01:
        return "0"
    decade = 10.0 ** math.floor(math.log10(size))
    edges = [decade, 2 * decade, 5 * decade, 10 * decade]
    low = max(edge for edge in edges if edge <= size * (1 + 1e-12))
    high = min((edge for edge in edges if edge > size * (1 + 1e-12)), default=20 * decade)
    return f"{'minus ' if value < 0 else ''}{low:g} to {high:g}"


def moment(time_us: int) -> str:
    """A time in microseconds since 1970-01-01 as "weekday, night"."""
    hour = time_us % DAY_US // MICROSECONDS["hours"]
    weekend = (time_us // DAY_US + MONDAY_OF_EPOCH) % 7 >= 5
    part = next(name for until, name in PARTS_OF_DAY if hour < until)
    return f"{'weekend' if weekend else 'weekday'}, {part}"


@dataclass(frozen=True)
class Aggregates:
    """Averages over all banks that an encrypted sum has released; see `aggregates`.

    `mean`, `deviation`: of each scaled feature, banks weighed equally. `banks`: how many.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    banks: int
    typical_amount: float | None  # in the amount's currency, from the mean of its logarithm

    def as_json(self) -> dict[str, object]:
        named = zip(self.features, self.mean, self.deviation, strict=True)
        return {
            "banks": self.banks,
            "typical_amount": None if self.typical_amount is None else rounded(self.typical_amount),
            "scaled_features": {name: {"mean": rounded(m), "deviation": rounded(d)} for name, m, d in named},
        }


@dataclass(frozen=True)
class Facts:
    """The content of a request that is not about single transactions. A scenario is text that a person wrote."""

    scenario: str
    schema: Schema
    days: int  # length of the period that rows are spread over
    rows: int
    batch: int  # number of the request in its set, so that answers differ
    aggregates: Aggregates | None = None

    def as_json(self) -> dict[str, object]:
        facts: dict[str, object] = {"scenario": self.scenario, "schema": describe_schema(self.schema)}
        facts |= {"days": self.days, "rows": self.rows, "batch": self.batch}
        return facts if self.aggregates is None else facts | {"aggregates": self.aggregates.as_json()}


def describe_schema(schema: Schema) -> dict[str, object]:
    """The public meaning of a transaction's columns, without dates, hashes or statistics of data."""
    columns: list[dict[str, object]] = []
    if schema.amount is not None:
        low, high = amount_range(schema)
        columns.append({"column": schema.amount.column, "kind": "amount", "typical": schema.amount.typical})
        columns[-1] |= {"least": low, "most": high}
    for number in schema.numeric:
        low, high = numeric_range(number)
        columns.append({"column": number.column, "kind": "number", "least": low, "most": high})
    for category in schema.categorical:
        words: list[str] | str = list(category.vocabulary) or "any short code"
        columns.append({"column": category.column, "kind": "category", "words": words})
    columns += [{"column": text.column, "kind": "description"} for text in schema.text]
    return {
        "name": schema.name,
        "columns": columns,
        "has_customers": schema.parties.customer is not None,
        "has_terminals": schema.parties.terminal is not None,
    }


def amount_range(schema: Schema) -> tuple[float, float]:
    """(least, most) amount of a synthetic transaction, from the schema's public constants alone."""
    assert schema.amount is not None
    return 0.01, rounded(100 * max(schema.amount.typical, 1.0))


def numeric_range(column: NumericColumn) -> tuple[float, float]:
    """(least, most) value of a numeric column: ten public scales around the public centre."""
    low, high = column.center - 10 * column.scale, column.center + 10 * column.scale
    if column.transform == "identity":
        return rounded(low), rounded(high)
    least, most = (math.copysign(math.expm1(min(abs(edge), 50.0)), edge) for edge in (low, high))
    return rounded(max(least, 0.0) if column.transform == "log1p" else least), rounded(most)


def rounded(value: float) -> float:
    """`value` with six significant digits: enough for a prompt, too few for a card number."""
    return float(f"{value:.6g}")

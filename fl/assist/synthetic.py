"""Request synthetic transactions of a described scenario, and turn them into rows of the schema.

Answers have the schema's own columns with types. The ordinary reader reads the rows, and the ordinary code computes
their features.

A request contains the schema's public meaning, the scenario in a person's words and, with `--with-aggregates`, averages
that an encrypted sum released. It contains no transaction. A set consists of numbered batches, so that batches differ
and each is cached separately.

An answer names customers and terminals by number. Here they become identifiers that no bank uses (`SYN-...`). Days are
moved so that they end with the training period, which gives the features a past. The days that features do not look
back on are folded into the training period where that is shorter. On a day that is only partly of that period, minutes
are spread over that part, since a file may span less than a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import GenericAlias
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, create_model

from fl.assist.answers import AnswerPart, PlainText
from fl.assist.errors import AnswerMalformed, ScenarioError
from fl.assist.gateway import Gateway, Progress
from fl.assist.prompts import load_prompt
from fl.assist.provider import MadeBy, Task
from fl.assist.release import Aggregates, Facts
from fl.data.features import scaled_features
from fl.data.federation import Rows
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import DAY_US, EPOCH, MICROSECONDS, ColumnSplit, Schema, TimeColumn
from fl.data.split import Periods

ROWS_PER_REQUEST = 40
TOKENS_PER_ROW = 160  # output limit; a row of the shipped schemas takes about half
MINUTE_US = MICROSECONDS["minutes"]
MINUTES = DAY_US // MINUTE_US  # of a day
WITHOUT_TIME_DAYS = 30  # length of the period where the schema has no time


class Transaction(AnswerPart):
    """The fields of every synthetic transaction; `row_model` adds the schema's columns."""

    actor: int = Field(ge=0, le=99)
    place: int = Field(ge=0, le=99)
    day: int = Field(ge=0)
    minute: int = Field(ge=0, le=1439)
    fraud: bool


@dataclass(frozen=True)
class SyntheticSet:
    """Transactions as answered: `rows[i]` by column and field name, from request `batch[i]`."""

    schema: Schema
    scenario: str
    days: int
    made_by: MadeBy
    rows: tuple[dict[str, Any], ...] = field(repr=False)
    batch: tuple[int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)


def days_asked_for(schema: Schema) -> int:
    """Days that a set spans: the days that features look back on, plus a week to train on."""
    return schema.history_days + 7 if schema.has_windows else WITHOUT_TIME_DAYS


@lru_cache(maxsize=8)
def row_model(schema: Schema) -> type[Transaction]:
    """The pydantic model of one transaction of this schema; columns keep their names as aliases.

    It has no ranges: a row beyond them is a finding of `validation`, and its batch is kept.
    """
    fields: dict[str, Any] = {}

    def add(column: str, kind: Any) -> None:
        fields[f"column_{len(fields)}"] = (kind, Field(alias=column))

    if schema.amount is not None:
        add(schema.amount.column, float)
    for number in schema.numeric:
        add(number.column, float)
    for category in schema.categorical:
        add(category.column, Literal[category.vocabulary] if category.vocabulary else PlainText)
    for text in schema.text:
        add(text.column, PlainText)
    model: type[Transaction] = create_model("SyntheticTransaction", __base__=Transaction, **fields)
    return model


@lru_cache(maxsize=8)
def task(schema: Schema) -> Task[Transaction]:
    """The request for synthetic transactions of this schema."""
    rows: Any = GenericAlias(list, (row_model(schema),))  # list[...] of a class that is created at run time
    batch = create_model("SyntheticTransactions", __base__=AnswerPart, transactions=(rows, ...))
    return Task(load_prompt("synthetic"), batch, "transactions", TOKENS_PER_ROW, _check)


def _check(row: Transaction, facts: dict[str, Any]) -> None:
    if row.day >= facts["days"]:
        raise AnswerMalformed(f"expected days below {facts['days']}, got {row.day}")


def generate(
    gateway: Gateway,
    schema: Schema,
    scenario: str,
    rows: int,
    aggregates: Aggregates | None = None,
    progress: Progress | None = None,
) -> SyntheticSet:
    """Ask for `rows` transactions, `ROWS_PER_REQUEST` at a time.

    Raises `ScenarioError` for an empty scenario or fewer than two rows, and whatever the gateway raises; batches that
    were answered stay in its cache.
    """
    if not scenario.strip() or rows < 2:
        raise ScenarioError(f"expected a scenario in words and at least 2 rows, got {scenario!r} and {rows}")
    days, rows_answered, batches = days_asked_for(schema), [], []
    made_by: MadeBy | None = None
    for number, start in enumerate(range(0, rows, ROWS_PER_REQUEST)):
        wanted = min(ROWS_PER_REQUEST, rows - start)
        facts = Facts(scenario, schema, days, wanted, number, aggregates)
        answered, made_by = gateway.ask(task(schema), facts)
        rows_answered += [row.model_dump(mode="json", by_alias=True) for row in answered[:wanted]]
        batches += [number] * min(len(answered), wanted)
        if progress is not None:
            progress(start + wanted)
    assert made_by is not None
    return SyntheticSet(schema, scenario, days, made_by, tuple(rows_answered), tuple(batches))


def to_frame(invented: SyntheticSet, periods: Periods) -> pd.DataFrame:
    """The rows in the schema's own columns, in the order of the answers, like a file of real rows.

    Days end with the last day of the training period, and minutes with its end.
    """
    schema = invented.schema
    rows = pd.DataFrame(list(invented.rows))
    time_us = _moments(invented, rows["day"].to_numpy(np.int64), rows["minute"].to_numpy(np.int64), periods)
    columns: dict[str, Any] = {}
    if schema.time is not None:
        columns[schema.time.column] = _times(schema.time, time_us, periods)
    names = [f"B{batch}" for batch in invented.batch]
    for kind, column in schema.parties.columns.items():
        number = "place" if kind in ("terminal", "merchant") else "actor"
        columns[column] = [f"SYN-{kind[0].upper()}-{n}-{i}" for n, i in zip(names, rows[number], strict=True)]
    if schema.time is not None and schema.label.known is not None:
        labelled_us = time_us + schema.label.delay_days * DAY_US
        columns[schema.label.known] = _times(schema.time, labelled_us, periods)
    for column in value_columns(schema):
        columns[column] = rows[column]
    words = np.where(rows["fraud"], schema.label.positive[0], schema.label.negative[0])
    columns[schema.label.column] = words
    if isinstance(schema.split, ColumnSplit):
        columns[schema.split.column] = schema.split.train[0]  # invented rows are for training
    return pd.DataFrame(columns)


def value_columns(schema: Schema) -> tuple[str, ...]:
    """The columns whose values a provider answers."""
    named = [] if schema.amount is None else [schema.amount.column]
    named += [c.column for group in (schema.numeric, schema.categorical, schema.text) for c in group]
    return tuple(named)


def transactions(frame: pd.DataFrame, schema: Schema) -> Transactions:
    """`frame` read by the ordinary reader. Raises `fl.errors.DataError` where that refuses a file."""
    return transactions_from_frame(frame.reset_index(drop=True), schema, "synthetic transactions")


def training_rows(frame: pd.DataFrame, schema: Schema, periods: Periods) -> Rows:
    """The rows of `frame` that fall into the training period, with features computed from `frame` alone.

    Customers count from -1 downwards, so that none equals a bank's customer; `index` is -1.
    """
    table = transactions(frame, schema)
    inside = np.arange(len(table), dtype=np.int64)
    if periods.train is not None and table.time is not None:
        inside = np.flatnonzero(periods.train.holds(table.time))
    assert table.label is not None
    customer = table.index if table.customer is None else table.customer.code
    return Rows(
        x=scaled_features(table, inside),
        y=table.label[inside].astype(np.float32),
        day=table.day[inside],
        customer=-1 - customer[inside],
        index=np.full(len(inside), -1, np.int64),
    )


def _moments(
    invented: SyntheticSet, day: NDArray[np.int64], minute: NDArray[np.int64], periods: Periods
) -> NDArray[np.int64]:
    """int64[n]: the time of each row, in microseconds, from its answered `day` and `minute`."""
    schema = invented.schema
    if periods.train is None or schema.time is None or not schema.time.measures_days:
        return day * DAY_US + minute * MINUTE_US
    first, last = periods.train.start // DAY_US, (periods.train.end - 1) // DAY_US
    placed = last - invented.days + 1 + day
    past = schema.history_days if schema.has_windows else 0
    placed = np.where(day >= past, last - (last - placed) % (last - first + 1), placed)
    begins = np.where(placed == first, periods.train.start - first * DAY_US, 0)
    ends = np.where(placed == last, periods.train.end - last * DAY_US, DAY_US)
    moments: NDArray[np.int64] = placed * DAY_US + begins + minute * (ends - begins) // MINUTES
    return moments


def _times(time: TimeColumn, time_us: Any, periods: Periods) -> Sequence[Any]:
    if time.unit == "datetime":
        stamps = pd.to_datetime(time_us, unit="us")
        return list(stamps.strftime(time.format)) if time.format else list(stamps)
    if time.unit == "order":
        end = len(time_us) if periods.train is None else periods.train.end
        return list(range(end - len(time_us), end))
    origin = 0 if time.origin is None else (time.origin - EPOCH).days * DAY_US
    return list((time_us - origin) / MICROSECONDS[time.unit])

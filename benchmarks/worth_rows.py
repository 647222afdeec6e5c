"""The rows of a federation for many releases over the same data: read, counted and placed once.

What it does: `WorthRows` keeps what no noise changes, and makes from any release the views of `fl.runs.risk`: what
training sees, and what each bank knows with its own labels as further evidence.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import BenchmarkSettingsError
from fl.counts.entity_risk import EntityRisk, Own, RiskByDay, blocks_of
from fl.counts.evidence import own_evidence
from fl.counts.key_slots import SALT_BYTES, AllSlots
from fl.counts.plan import StatisticsPlan, Totals, bank_counts, contribution
from fl.counts.risk_columns import Placed, PlacedBank, placed
from fl.counts.settings import default_settings, key_slots
from fl.data.federation import (
    SIMULATED,
    BankData,
    Federation,
    PartitionedTable,
    Rows,
    federation_of,
    own_histories,
    read_partitioned,
    resolve_schema,
)
from fl.data.reading import Transactions
from fl.data.schema import DatedSplit, Schema
from fl.runs.config import DataSettings
from fl.runs.plan import simulation_of
from fl.runs.risk import HISTORY_DAYS, first_test_day, learning_rows


@dataclass(frozen=True)
class WorthRows:
    """The banks of one source, and where their rows' parties stand among the keys of a release.

    `learns_from`: days of rows that the common model learns from; 0: the training period.
    """

    source: PartitionedTable = field(repr=False)
    local: Federation = field(repr=False)
    keys: AllSlots = field(repr=False)
    learns_from: int = 0

    @staticmethod
    def of(data: DataSettings, seed: int, shift: int, learns_from: int = 0) -> WorthRows:
        """`shift`: days by which training and test are later than in the schema.

        Raises `BenchmarkSettingsError` for data of which no counts are shared, and what reading them raises.
        """
        schema = shifted(resolve_schema(data.source, data.schema), shift)
        simulation = simulation_of(data, seed) if data.source == SIMULATED else None
        source = read_partitioned(
            data.source,
            schema,
            data.partition,
            data.random_banks,
            seed,
            test_windows=data.test_windows,
            simulation=simulation,
        ).with_exact_constants()
        if not schema.shares_counts:
            raise BenchmarkSettingsError(f"schema {schema.name}: expected [parties] shared to name a party, got none")
        keys = key_slots(source, default_settings(True), secrets.token_bytes(SALT_BYTES))
        return WorthRows(source, federation_of(source), keys, learns_from)

    @property
    def schema(self) -> Schema:
        return self.source.table.schema

    @property
    def delay(self) -> int:
        return self.schema.label.delay_days

    @cached_property
    def tables(self) -> tuple[Transactions, ...]:
        return tuple(self.source.table.take(rows) for _, rows, _ in self.source.banks)

    @cached_property
    def banks(self) -> tuple[PlacedBank, ...]:
        histories = tuple(own_histories(self.source, HISTORY_DAYS).values())
        learned = learning_rows(self.source, self.local.banks, self.learns_from, histories)
        return placed(learned, histories, self.source.table, self.keys, "probability")

    def own(self, risk: EntityRisk | None = None) -> list[Own]:
        """Of each bank, its own labelled rows, as they were counted for the release of `risk` if there is one."""
        periods = {kind: () if risk is None else risk.periods(kind) for kind in self.keys.sections}
        return [
            {kind: own_evidence(table, self.keys, kind, each) for kind, each in periods.items()}
            for table in self.tables
        ]

    @cached_property
    def days(self) -> list[int]:
        """Every day on which some bank trains or scores."""
        parts = [part.rows.day for bank in self.banks for part in (bank.train, bank.validation, *bank.test)]
        return [int(day) for day in np.unique(np.concatenate(parts))]

    def counts(self, sharing: StatisticsPlan) -> list[NDArray[np.int64]]:
        """Each bank's exact counts."""
        return [bank_counts(table, self.keys, sharing) for table in self.tables]

    def released(self, counts: Sequence[NDArray[np.int64]], sharing: StatisticsPlan) -> Totals:
        """A release whose shares are drawn anew and summed in the clear: the sum that decryption would give."""
        sums = np.zeros(sharing.length, np.int64)
        for each in counts:
            sums += contribution(each, sharing, len(counts))
        return Totals(sharing, sums.reshape(sharing.shape))

    def risk(self, totals: Totals) -> EntityRisk:
        """What a release says, by the constants that fit what of it is known when the test begins."""
        per_day = self.schema.parties.terminal_per_day
        return EntityRisk.of(blocks_of(totals), self.keys, self.delay, per_day, first_test_day(self.source))

    def seen_by_all(self, risk: EntityRisk) -> tuple[BankData, ...]:
        """The rows with the risk that the release alone shows."""
        known = risk.on(self.days)
        return tuple(bank.with_risk(known, known) for bank in self.banks)

    def known_to_each(self, risk: EntityRisk) -> list[RiskByDay]:
        """The risk that each bank knows: the release's, and its own labels as further evidence."""
        others, per_day = 1.0 - 1.0 / len(self.banks), self.schema.parties.terminal_per_day
        return [
            risk.with_clearer(alone.episodes, per_day).on(bank.days.tolist(), own, others)
            for bank, own, alone in zip(self.banks, self.own(risk), self.by_own_rows, strict=True)
        ]

    def known_alone(self) -> list[RiskByDay]:
        """The risk that each bank knows from its own labels alone."""
        own_rows = zip(self.banks, self.own(), self.by_own_rows, strict=True)
        return [alone.on(bank.days.tolist(), own) for bank, own, alone in own_rows]

    @cached_property
    def by_own_rows(self) -> tuple[EntityRisk, ...]:
        """What each bank knows without any release."""
        today = first_test_day(self.source)
        return tuple(EntityRisk.alone(own, self.keys, self.delay, today) for own in self.own())

    def at_home(self, known: Sequence[RiskByDay | None], *, history: bool = True) -> tuple[BankData, ...]:
        """The rows as each bank knows them; it learns from its last eight weeks, or as the common model does."""
        views = []
        for bank, risk in zip(self.banks, known, strict=True):
            learning = replace(bank, train=bank.history) if history else bank
            views.append(learning.with_risk(risk, risk))
        return tuple(views)

    def with_column(self, by_day: Mapping[str, NDArray[np.float64]]) -> tuple[BankData, ...]:
        """The rows with any public figure of their parties as the last column, instead of the risk.

        by_day: by kind, float64[days, slots] on `days`; figures of several kinds are added.
        """
        days = np.array(self.days)

        def with_figures(place: Placed, rows: Rows) -> Rows:
            at = np.searchsorted(days, rows.day)
            x = rows.x.copy()
            x[:, -1] = sum(values[at, place.slots[kind]] for kind, values in by_day.items())
            return replace(rows, x=x)

        found = []
        for bank in self.banks:
            plain = bank.with_risk(None, None)
            tests = tuple(map(with_figures, bank.test, plain.test))
            train, validation = with_figures(bank.train, plain.train), with_figures(bank.validation, plain.validation)
            found.append(replace(plain, train=train, validation=validation, test=tests))
        return tuple(found)


def shifted(schema: Schema, days: int) -> Schema:
    """`schema` with training and test periods `days` later. Raises `BenchmarkSettingsError` where they are no dates."""
    if not days:
        return schema
    if not isinstance(schema.split, DatedSplit):
        raise BenchmarkSettingsError(f"schema {schema.name}: expected [split] with dates, to move them by {days} days")
    split = DatedSplit(schema.split.train.later(days), tuple(test.later(days) for test in schema.split.test))
    return replace(schema, split=split)

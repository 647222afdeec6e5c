"""What each bank of a run knows of the risk of shared parties, by where its knowledge comes from.

What it does: `RiskOfParties` gives the banks' rows in four views:

- `released`: from the release alone. It is what private training sees, and what has the run's epsilon.
- `with_evidence`: the same for training; a bank that scores adds its own labelled rows as evidence.
- `at_home`: a bank's own longer history, with the release and its own evidence, for a model that stays at home.
- `alone`: the same without the release, for a bank that joined nobody.

Whatever is computed with a bank's own evidence has no epsilon: its scores, alerts and declines may show single labels
to whoever sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from fl.counts.entity_risk import EntityRisk, Own, RiskByDay, blocks_of
from fl.counts.episodes import Episodes
from fl.counts.evidence import own_evidence
from fl.counts.key_slots import SALT_BYTES, AllSlots, KeySlots
from fl.counts.plan import Totals
from fl.counts.risk_columns import PlacedBank, Scale, placed
from fl.data.federation import BankData, Federation, PartitionedTable, Rows, own_histories
from fl.data.reading import Transactions
from fl.data.schema import DAY_US

HISTORY_DAYS = 56  # that a model at home learns from: eight weeks


@dataclass(frozen=True)
class RiskOfParties:
    """The rows of all banks and what their labels say.

    `risk` is None where nothing is shared; `keys` too, where the rows name no party or no day. `members`: how many
    banks the release is of, where not all of them have their rows here; 0: those of `source`. `learns_from`: days of
    rows that the common model learns from, as `fl.runs.config.ModelSettings.history_days`. `windows`: as in
    `fl.counts.risk_columns.columns_beside_risk`.
    """

    source: PartitionedTable = field(repr=False)
    local: Federation = field(repr=False)
    risk: EntityRisk | None
    keys: AllSlots | None
    scale: Scale
    members: int = 0
    learns_from: int = 0
    windows: bool = False
    # By bank, what it knows without any release; by `learns_from`, all banks' placed rows; once they were asked for.
    # Neither scale nor totals enter, so that copies of these rows with another scale or release share them.
    own_risks: dict[str, EntityRisk] = field(default_factory=dict, repr=False, compare=False)
    all_placed: dict[int, tuple[PlacedBank, ...]] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(
        source: PartitionedTable,
        local: Federation,
        released: tuple[Totals, AllSlots] | None,
        scale: Scale,
        episodes: Mapping[str, Episodes] | None = None,
        *,
        learns_from: int = 0,
        windows: bool = False,
    ) -> RiskOfParties:
        """`released`: the totals of a release and where its keys stand; None where nothing is shared.

        `episodes`: the constants of that release by kind, where they have been fitted before. `learns_from`,
        `windows`: see above.
        """
        if released is None:
            keys = own_keys(source.table)
            return RiskOfParties(source, local, None, keys, scale, learns_from=learns_from, windows=windows)
        totals, keys = released
        if episodes is None:
            risk = _fitted(source, totals, keys)
        else:
            risk = EntityRisk(keys, source.table.schema.label.delay_days, blocks_of(totals), episodes)
        return RiskOfParties(source, local, risk, keys, scale, learns_from=learns_from, windows=windows)

    def with_totals(self, totals: Totals) -> RiskOfParties:
        """The same rows with another release of the same counts."""
        assert self.risk is not None
        return replace(self, risk=_fitted(self.source, totals, self.risk.keys))

    @cached_property
    def banks(self) -> tuple[PlacedBank, ...]:
        if self.learns_from not in self.all_placed:
            histories = tuple(own_histories(self.source, HISTORY_DAYS).values())
            learned = learning_rows(self.source, self.local.banks, self.learns_from, histories)
            every = placed(learned, histories, self.source.table, self.keys, self.scale, windows=self.windows)
            self.all_placed[self.learns_from] = every
        return tuple(bank.scaled(self.scale) for bank in self.all_placed[self.learns_from])

    @property
    def released(self) -> tuple[BankData, ...]:
        days = sorted({int(day) for bank in self.banks for day in bank.days})
        known = None if self.risk is None else self.risk.on(days)
        return tuple(bank.with_risk(known, known) for bank in self.banks)

    def with_evidence(self, released: Sequence[BankData]) -> tuple[BankData, ...]:
        """The banks whose training rows are those of `released`, scored with their own evidence."""
        seen = zip(released, self._by_bank(self._release_and_own), strict=True)
        return tuple(replace(own, train=bank.train) for bank, own in seen)

    @property
    def at_home(self) -> tuple[BankData, ...]:
        return self._by_bank(self._release_and_own)

    @property
    def alone(self) -> tuple[BankData, ...]:
        return self._by_bank(self._own_alone)

    def _by_bank(self, knowing: Callable[[PlacedBank, Transactions], RiskByDay | None]) -> tuple[BankData, ...]:
        """Every bank's history and rows to score, with the risk that it knows by itself."""
        views = []
        for bank, (_, rows, _) in zip(self.banks, self.source.banks, strict=True):
            risk = knowing(bank, self.source.table.take(rows))
            views.append(replace(bank, train=bank.history).with_risk(risk, risk))
        return tuple(views)

    def _release_and_own(self, bank: PlacedBank, table: Transactions) -> RiskByDay | None:
        if self.risk is None:
            return self._own_alone(bank, table)
        # A public guess: nobody knows how many transactions the others have.
        others = 1.0 - 1.0 / (self.members or len(self.banks))
        per_day = table.schema.parties.terminal_per_day
        known = self.risk.with_clearer(self._by_own_rows(bank.name, table).episodes, per_day)
        return known.on(bank.days.tolist(), self._evidence(table, self.risk), others)

    def _own_alone(self, bank: PlacedBank, table: Transactions) -> RiskByDay | None:
        if self.keys is None:
            return None
        return self._by_own_rows(bank.name, table).on(bank.days.tolist(), self._evidence(table))

    def _by_own_rows(self, bank: str, table: Transactions) -> EntityRisk:
        """What the bank with the rows `table` knows without any release."""
        assert self.keys is not None
        if bank not in self.own_risks:
            delay, today = table.schema.label.delay_days, first_test_day(self.source)
            self.own_risks[bank] = EntityRisk.alone(self._evidence(table), self.keys, delay, today)
        return self.own_risks[bank]

    def _evidence(self, table: Transactions, risk: EntityRisk | None = None) -> Own:
        """Own rows as they were counted for the release of `risk`; without it, as they are known day by day."""
        assert self.keys is not None
        periods = {kind: () if risk is None else risk.periods(kind) for kind in self.keys.sections}
        return {kind: own_evidence(table, self.keys, kind, each) for kind, each in periods.items()}


def learning_rows(
    source: PartitionedTable, banks: Sequence[BankData], days: int, histories: Sequence[Rows]
) -> tuple[BankData, ...]:
    """`banks` with the training rows of `days` days, 0: those they have. `histories`: of `HISTORY_DAYS` days."""
    if days == 0:
        return tuple(banks)
    longer = histories if days == HISTORY_DAYS else tuple(own_histories(source, days).values())
    return tuple(replace(bank, train=rows) for bank, rows in zip(banks, longer, strict=True))


def first_test_day(source: PartitionedTable) -> int:
    """The day on which the model is used first: what is known when it begins may shape the model."""
    return min(period.start for period in source.periods.test) // DAY_US


def _fitted(source: PartitionedTable, totals: Totals, keys: AllSlots) -> EntityRisk:
    delay, per_day = source.table.schema.label.delay_days, source.table.schema.parties.terminal_per_day
    return EntityRisk.of(blocks_of(totals), keys, delay, per_day, first_test_day(source))


def own_keys(table: Transactions) -> AllSlots | None:
    """A slot for every terminal, for banks that keep their counts to themselves; None without terminals or time."""
    if table.terminal is None or table.label is None or not table.schema.has_windows:
        return None
    names = tuple(str(name) for name in table.terminal.ids)
    return AllSlots((KeySlots(names, 1, bytes(SALT_BYTES), "terminal"),))

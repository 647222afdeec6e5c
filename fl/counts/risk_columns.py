"""Rows of banks as a model sees them that knows the risk of shared parties: features without labels, and one input.

What it does: takes from every row the features that no label of the bank's own enters, and adds the row's risk
(`fl.counts.entity_risk`) as the last column: as a probability for the noisy-or model, as scaled log odds for the
network. Without privacy trees keep the features that labels enter too: windows at a terminal, of a bank's own rows.

Training under privacy sees released values alone: changing one label then changes one row's loss and one released
count, and no feature of another row. The same rows with a bank's own evidence are for scoring, and for models that stay
at home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl.counts.columns import Parties, parties_at
from fl.counts.entity_risk import EntityRisk, Own, RiskByDay, Slots, slots_of
from fl.counts.key_slots import AllSlots
from fl.data.features import features
from fl.data.federation import BankData, Rows
from fl.data.reading import Transactions
from fl.data.schema import Schema
from fl.learning.noisy_or import noisy_or_columns

RISK = "entity_risk"
Scale = Literal["probability", "log odds"]
LEAST, MOST = 1e-6, 1 - 1e-4  # of a probability, before its log odds are taken
CENTER, SPREAD = -5.0, 2.0  # of log odds: public constants, which bring the usual range within the bound of features


def risk_column(q: NDArray[np.float64], scale: Scale) -> NDArray[np.float32]:
    """float32[n, 1]: the last input of a model, from the probability q."""
    if scale == "probability":
        return q.astype(np.float32)[:, None]
    bounded = np.clip(q, LEAST, MOST)
    return ((np.log(bounded / (1 - bounded)) - CENTER) / SPREAD).astype(np.float32)[:, None]


def columns_beside_risk(schema: Schema, *, windows: bool) -> tuple[str, ...]:
    """Names of the features that stay beside the risk: those without labels; with `windows`, all of a bank's own."""
    return tuple(feature.name for feature in features(schema)) if windows else noisy_or_columns(schema)


@dataclass(frozen=True)
class RiskColumns:
    """The same inputs for any rows with a day and the identifiers of their parties, as in scoring.

    `risk` None: nothing was shared. `own`: a bank's own labelled rows as further evidence, for its own customers.
    `windows`: as in `columns_beside_risk`.
    """

    schema: Schema
    scale: Scale
    risk: EntityRisk | None
    own: Own | None = field(default=None, repr=False)
    others_share: float = 1.0
    windows: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in order."""
        return (*columns_beside_risk(self.schema, windows=self.windows), RISK)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of parties whose risk is known."""
        return () if self.risk is None else tuple(self.risk.episodes)

    def extend(self, x: NDArray[np.float32], day: NDArray[np.int32], parties: Parties) -> NDArray[np.float32]:
        """float32[n, d']: of `x`, float32[n, d], the features that stay, then the risk."""
        every = [feature.name for feature in features(self.schema)]
        kept = x[:, [every.index(name) for name in self.names[:-1]]]
        q = np.zeros(len(x))
        if self.risk is not None and len(x):
            by_day = self.risk.on(np.unique(day).tolist(), self.own, self.others_share)
            q = by_day.of(day, slots_of(self.risk.keys, parties))
        return np.concatenate([kept, risk_column(q, self.scale)], axis=1)


@dataclass(frozen=True)
class Placed:
    """A bank's rows with all its own features, and where their parties stand: `with_risk` makes any view of them."""

    rows: Rows
    slots: Slots = field(repr=False)
    kept: NDArray[np.int64] = field(repr=False)  # columns of `rows.x` that stay
    scale: Scale

    def with_risk(self, risk: RiskByDay | None) -> Rows:
        """The rows with the risk of their parties as the last column; 0 where none is known."""
        q = np.zeros(len(self.rows)) if risk is None else risk.of(self.rows.day, self.slots)
        return replace(self.rows, x=np.concatenate([self.rows.x[:, self.kept], risk_column(q, self.scale)], axis=1))


@dataclass(frozen=True)
class PlacedBank:
    """All rows of one bank. `history`: those of the weeks before the test, for models that stay at home."""

    name: str
    train: Placed
    validation: Placed
    test: tuple[Placed, ...]
    history: Placed

    def scaled(self, scale: Scale) -> PlacedBank:
        """The same rows for a model that has the risk on this scale."""
        train, validation, history = (replace(e, scale=scale) for e in (self.train, self.validation, self.history))
        return PlacedBank(self.name, train, validation, tuple(replace(e, scale=scale) for e in self.test), history)

    def with_risk(self, train: RiskByDay | None, test: RiskByDay | None) -> BankData:
        """The bank's rows, those that a model learns from with one risk, those that it scores with another."""
        return BankData(
            self.name,
            self.train.with_risk(train),
            self.validation.with_risk(test),
            tuple(each.with_risk(test) for each in self.test),
        )

    @property
    def days(self) -> NDArray[np.int32]:
        """Every day on which some row is, ascending."""
        parts = (self.train, self.validation, *self.test, self.history)
        return np.unique(np.concatenate([part.rows.day for part in parts]))


def placed(
    banks: Sequence[BankData],
    histories: Sequence[Rows],
    table: Transactions,
    keys: AllSlots | None,
    scale: Scale,
    *,
    windows: bool = False,
) -> tuple[PlacedBank, ...]:
    """Every bank's rows, with features as `fl.data.features` computes them, placed among the slots of `keys`.

    `table` holds all rows of the source; `keys` None: the rows name no party. `windows`: as in `columns_beside_risk`.
    """
    names = [feature.name for feature in features(table.schema)]
    stay = columns_beside_risk(table.schema, windows=windows)
    kept = np.array([names.index(name) for name in stay], np.int64)
    order = np.argsort(table.index)

    def place(rows: Rows) -> Placed:
        slots: Slots = {}
        if keys is not None:
            position = order[np.searchsorted(table.index, rows.index, sorter=order)]
            slots = slots_of(keys, parties_at(table.take(position), list(keys.sections)))
        return Placed(rows, slots, kept, scale)

    return tuple(
        PlacedBank(
            bank.name, place(bank.train), place(bank.validation), tuple(place(t) for t in bank.test), place(history)
        )
        for bank, history in zip(banks, histories, strict=True)
    )

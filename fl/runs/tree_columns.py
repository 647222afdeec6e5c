"""What trees see of a row: the columns that the run builds for its banks, folded back where trees need no spreading.

A network needs a category as one 0/1 column a word, and a missing value as a number beside a 0/1 column that says so.
Trees split categories and missing values themselves. So the 0/1 columns of a vocabulary become one column of categories
(position of the word; one more for every other word), and a value with its marker becomes one number, NaN where it is
missing. All other columns stay: scaling and logarithms keep the order of values, which is all that a tree looks at.

Inside the noisy-or link the last feature is no column: it is q, the probability that a shared party explains the row
(`fl.counts.risk_columns`), which the trees are grown beside.

Everything here follows from the public schema, so that all banks have the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.data.features import Calendar, CustomerWindows, blocks
from fl.data.schema import Schema
from fl.trees.settings import Column


@dataclass(frozen=True)
class Fold:
    """Where a column comes from. `places`: of one number, of a value and its marker, or of the words of a category."""

    column: Column
    places: tuple[int, ...]


@dataclass(frozen=True)
class TreeColumns:
    """The columns of trees, made of `inputs` features. `linked`: the last feature is q, and no column."""

    folds: tuple[Fold, ...] = field(repr=False)
    inputs: int
    linked: bool = False

    @classmethod
    def of(cls, schema: Schema, features: Sequence[str], *, linked: bool = False) -> TreeColumns:
        """Those of the `features` of these names. Raises `TreesError` for a vocabulary that is too large."""
        names = features[:-1] if linked else features
        place = {name: position for position, name in enumerate(names)}
        words = {each.column: [f"{each.column}={word}" for word in each.vocabulary] for each in schema.categorical}
        whole = {name: each for name, each in words.items() if each and all(word in place for word in each)}
        word_of = {word: name for name, each in whole.items() for word in each}
        marked = {each.column for each in schema.numeric if each.missing is not None}
        marked |= {each.name for each in schema.derived if each.is_scaled}
        marker_of = {name: f"{name}_missing" for name in marked if {name, f"{name}_missing"} <= place.keys()}
        direction = {name: 1 if each == "up" else -1 for name, each in schema.monotone.items()}
        folds: list[Fold] = []
        for name in names:
            if name in word_of:
                category = word_of[name]
                if name == whole[category][0]:
                    column = Column(category, len(whole[category]) + 1)
                    folds.append(Fold(column, tuple(place[word] for word in whole[category])))
            elif name in marker_of:
                column = Column(name, monotone=direction.get(name, 0))
                folds.append(Fold(column, (place[name], place[marker_of[name]])))
            elif name not in marker_of.values():
                folds.append(Fold(Column(name, monotone=direction.get(name, 0)), (place[name],)))
        return cls(tuple(folds), len(features), linked)

    @property
    def columns(self) -> tuple[Column, ...]:
        """As the training agrees on them."""
        return tuple(fold.column for fold in self.folds)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in order."""
        return tuple(fold.column.name for fold in self.folds)

    def cause(self, x: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """float64[n]: q of features float32[n, inputs]; None where there is no link."""
        return x[:, -1].astype(np.float64) if self.linked else None

    def fold(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n, columns] of features float32[n, inputs]; NaN where a value is missing."""
        folded = np.empty((len(x), len(self.folds)), np.float32)
        for at, fold in enumerate(self.folds):
            given = x[:, list(fold.places)]
            if fold.column.categories:
                folded[:, at] = np.where(given.any(axis=1), given.argmax(axis=1), len(fold.places))
            elif len(fold.places) == 2:
                folded[:, at] = np.where(given[:, 1] > 0, np.nan, given[:, 0])
            else:
                folded[:, at] = given[:, 0]
        return folded


def columns_to_split(schema: Schema, columns: TreeColumns) -> tuple[int, ...]:
    """Positions of the columns that random trees split by: a public rule.

    All but whether it is weekend or night, and a customer's counts and means of days: those say little by themselves,
    and a split that is drawn among them is lost. What compares an amount with the customer's past stays. All of them
    where nothing else is there.
    """
    left_out = {
        feature.name
        for block in blocks(schema)
        if isinstance(block, Calendar | CustomerWindows)
        for feature in block.features
    }
    chosen = tuple(place for place, name in enumerate(columns.names) if name not in left_out)
    return chosen or tuple(range(len(columns.names)))

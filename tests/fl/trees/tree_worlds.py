"""Random rows for tests of trees: numbers and categories that say something of fraud, missing values, uneven banks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import log

import numpy as np
import slow_trees
from slow_trees import Asked, Row

from fl.trees.member import Member, TreeRows
from fl.trees.progress import Request
from fl.trees.settings import Column, Terms, TreeSettings
from fl.trees.training import sum_encrypted
from fl.trees.tree import TreeModel


class World:
    """Rows of one seed, their columns and the settings under which they are learned. Many settings are drawn too."""

    def __init__(self, seed: int, rows: int = 400, trees: int = 5) -> None:
        rng = np.random.default_rng([20, seed])
        self.columns = (
            Column("amount", monotone=int(rng.integers(-1, 2))),
            Column("shop", categories=6),
            Column("risk", monotone=int(rng.integers(0, 2))),
            Column("word", categories=25),
            Column("count"),
        )
        self.settings = TreeSettings(
            trees=trees,
            depth=int(rng.integers(2, 5)),
            rate=float(rng.choice([0.1, 0.2, 0.37])),
            penalty=float(rng.choice([0.5, 1.0, 5.0])),
            bins=int(rng.choice([4, 16, 64, 250])),
            class_weight=int(rng.choice([1, 2, 4])),
            least_hessian=float(rng.choice([0.0, 0.5, 1.0])),
            least_rows=int(rng.choice([1, 5])),
            row_share=float(rng.choice([1.0, 0.7, 0.5])),
            column_share=float(rng.choice([1.0, 0.6])),
            patience=int(rng.choice([0, 3])),
            most_categories=int(rng.choice([4, 32])),
            seed=seed,
        )
        self.noisy_or = bool(rng.integers(0, 2))
        self.train = self._rows(rng, rows)
        self.validation = self._rows(rng, rows // 2)

    def _rows(self, rng: np.random.Generator, count: int) -> TreeRows:
        shop, word = rng.integers(0, 6, count), np.minimum(rng.geometric(0.15, count) - 1, 24)
        amount = np.exp(rng.normal(3, 1.5, count)) * rng.choice([1, -1], count, p=[0.9, 0.1])
        risk, number = rng.beta(0.3, 3, count), rng.poisson(2, count)
        q = np.where(rng.random(count) < 0.2, rng.random(count), 0.0)
        logit = np.log(np.abs(amount)) - 5 + 6 * risk + 2 * np.sin(3.0 * shop) + 2 * np.cos(2.0 * word)
        y = rng.random(count) < 1 - (1 - 1 / (1 + np.exp(-logit))) * (1 - q * self.noisy_or)
        x = np.column_stack([amount, shop, risk, word, number]).astype(np.float64)
        x[rng.random(x.shape) < 0.1] = np.nan
        return TreeRows(x, y.astype(np.float32), rng.permutation(10 * count)[:count], q if self.noisy_or else None)

    def divided(self, banks: int) -> list[np.ndarray]:
        """Positions of the training rows of each bank, some banks with many rows and some with few."""
        share = np.random.default_rng([21, banks]).dirichlet(np.full(banks, 0.7))
        owner = np.random.default_rng([22, banks]).choice(banks, len(self.train), p=share)
        return [np.flatnonzero(owner == bank) for bank in range(banks)]

    def members(self, banks: int) -> tuple[Terms, list[Member]]:
        """So many banks, and their terms; bank 0 of one has the pooled rows."""
        terms = Terms(self.columns, self.settings, banks)
        parts = self.divided(banks)
        held_out = [np.arange(len(self.validation))[bank::banks] for bank in range(banks)]
        return terms, [
            Member(terms, taken(self.train, part), taken(self.validation, other))
            for part, other in zip(parts, held_out, strict=True)
        ]

    def slowly(self, *, exact: bool = True, banks: int = 1) -> tuple[object, list[list[tuple[object, ...]]]]:
        """What the slow reference learns from the pooled rows. `banks`: whose parts of a sum are added up first."""
        owner = np.zeros(len(self.train), int)
        for bank, part in enumerate(self.divided(banks)):
            owner[part] = bank
        asked = asked_of(self.columns, self.settings, exact=exact)
        return slow_trees.train(
            plain_rows(self.train, owner), plain_rows(self.validation, np.zeros(len(self.validation), int)), asked
        )


def asked_of(columns: tuple[Column, ...], settings: TreeSettings, *, exact: bool = True) -> Asked:
    """The same settings, as the reference takes them."""
    categories, monotone = tuple(each.categories for each in columns), tuple(each.monotone for each in columns)
    return Asked(categories, monotone, **asdict(settings), exact=exact)


def add_encrypted(request: Request, contributions: Sequence[np.ndarray]) -> np.ndarray:
    return sum_encrypted(request, contributions).totals


def taken(rows: TreeRows, at: np.ndarray) -> TreeRows:
    return TreeRows(rows.x[at], rows.y[at], rows.ids[at], None if rows.q is None else rows.q[at])


def plain_rows(rows: TreeRows, owner: np.ndarray) -> list[Row]:
    """For the reference: no numpy from here on."""
    found = []
    for i in range(len(rows)):
        q = 0.0 if rows.q is None else float(rows.q[i])
        values = tuple(None if value != value else float(value) for value in rows.x[i])
        offset = round(-log(q) * 65536) if q > 0 else None
        found.append(Row(values, bool(rows.y[i]), int(rows.ids[i]), int(owner[i]), offset, round((1 - q) * 1024)))
    return found


def said(model: TreeModel) -> tuple[int, list[list[tuple[object, ...]]]]:
    """A model in the form of the slow reference."""
    trees = []
    for tree in model.trees:
        nodes: list[tuple[object, ...]] = []
        for node in tree.nodes:
            if (split := node.split) is None:
                nodes.append((node.leaf,))
                continue
            ends = (*model.edges[split.column], float("inf"))
            what = frozenset(split.right) if split.bin < 0 else ends[split.bin]
            nodes.append((split.column, what, split.missing_left, node.left))
        trees.append(nodes)
    return model.base, trees

"""The part of one bank in a training of trees: its rows, and the integers that it adds to each sum.

What it keeps between sums follows from its rows and the progress: a member that was made anew continues where the
progress stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.trees import kernels
from fl.trees.coding import Codes, Values, checked_values, codes_of, require_known
from fl.trees.gradients import LIFT, Labels, gradients_and_hessians, labels_of, loss_sum
from fl.trees.grid import Grid
from fl.trees.progress import Growing, Progress
from fl.trees.sampling import drawn_rows
from fl.trees.settings import MOST_ROWS, Terms
from fl.trees.tree import added_by, bins_of, routes_of

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TreeRows:
    """`n` rows of one bank. `x`: floats[n, columns], NaN where a value is missing, integers in categorical columns.

    `y`: [n], 0 or 1. `ids`: int64[n], what row sampling hashes. `q`: float64[n], the probability that a second cause
    explains a row (`fl.trees.gradients`); None: there is none.
    """

    x: NDArray[np.floating] = field(repr=False)
    y: NDArray[np.generic] = field(repr=False)
    ids: Integers = field(repr=False)
    q: NDArray[np.float64] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.y)


class Member:
    """One bank. Raises `TreesError` for rows that are not what the terms say."""

    def __init__(self, terms: Terms, train: TreeRows, validation: TreeRows | None = None) -> None:
        self._terms = terms
        self._train = _Part(terms, train)
        self._held_out = None if validation is None else _Part(terms, validation)
        if len(train) > MOST_ROWS:
            raise TreesError(f"expected at most {MOST_ROWS:,} training rows of a bank, got {len(train):,}")
        require_known(self._train.values, terms.columns)
        self._tree = -1  # of the gradients
        self._gradients = self._hessians = np.empty(0, np.int64)
        self._drawn = np.empty(0, np.bool_)

    def contribution(self, progress: Progress) -> Integers:
        """int64[values of `progress.request`]: what this bank adds to the next sum.

        Raises `TreesError` for a progress under other terms.
        """
        if progress.terms != self._terms:
            raise TreesError("the next sum is asked for under other terms than this bank agreed to")
        if progress.counted is None:
            return self._counts(progress.grid)
        parts = [np.array([self._loss(progress)], np.int64)] if progress.asks_for_loss else []
        if progress.growing is not None:
            parts.append(self._histograms(progress, progress.growing))
        return np.concatenate(parts)

    def _counts(self, grid: Grid) -> Integers:
        labels, values = self._train.labels, self._train.values
        held_out = 0 if self._held_out is None else len(self._held_out.values)
        first = [len(values), int(labels.unexplained[labels.fraud].sum()), held_out]
        counts = [
            grid.counts_on(np.ascontiguousarray(values[:, place]))
            for place, column in enumerate(self._terms.columns)
            if column.categories == 0
        ]
        return np.concatenate([np.array(first, np.int64), *counts])

    def _loss(self, progress: Progress) -> int:
        if self._held_out is None:
            return 0
        scores = self._held_out.scores(progress)
        return loss_sum(scores, self._held_out.labels, self._terms.settings.weight_bits)

    def _histograms(self, progress: Progress, growing: Growing) -> Integers:
        """Sums of the nodes to build, by node and cell: of gradients that are lifted above 0, of hessians, and rows."""
        codes = self._train.codes(progress)
        self._prepare(progress)
        ends = kernels.positions(codes, *routes_of(growing.nodes, self._train.bins))
        slot_of = np.full(len(growing.nodes), -1, np.int64)
        slot_of[list(growing.build)] = np.arange(len(growing.build))
        sums = kernels.histograms(
            codes,
            np.where(self._drawn, slot_of[ends], -1),
            self._gradients,
            self._hessians,
            np.array(growing.cells.columns, np.int64),
            np.array(growing.cells.starts, np.int64),
            (len(growing.build), growing.cells.count),
        )
        sums[:, :, 0] += sums[:, :, 2] * LIFT
        return sums.reshape(-1)

    def _prepare(self, progress: Progress) -> None:
        """Gradients and drawn rows of the tree that is being grown."""
        tree, settings = len(progress.trees), self._terms.settings
        if tree == self._tree:
            return
        scores = self._train.scores(progress)
        self._gradients, self._hessians = gradients_and_hessians(scores, self._train.labels, settings.weight_bits)
        self._drawn = drawn_rows(self._train.ids, settings.row_share, settings.seed, tree)
        self._tree = tree


class _Part:
    """Training or validation rows, coded once the edges are known, and their scores after the finished trees."""

    def __init__(self, terms: Terms, rows: TreeRows) -> None:
        if not len(rows.x) == len(rows.y) == len(rows.ids):
            raise TreesError(f"rows: expected as many labels and ids as rows, {len(rows.x)}, got others")
        self._columns = terms.columns
        self.values: Values = checked_values(rows.x, terms.columns)
        self.labels: Labels = labels_of(rows.y, rows.q)
        self.ids = rows.ids
        self.bins: tuple[int, ...] = ()
        self._codes: Codes | None = None
        self._scores = np.empty(0, np.int64)
        self._trees = 0  # in the scores

    def codes(self, progress: Progress) -> Codes:
        """uint16[n, columns]"""
        if self._codes is None:
            assert progress.counted is not None
            edges = progress.counted.edges
            self.bins = bins_of(self._columns, edges)
            self._codes = codes_of(self.values, self._columns, edges)
            self._scores = np.full(len(self.values), progress.counted.base, np.int64)
        return self._codes

    def scores(self, progress: Progress) -> Integers:
        """int64[n]: after the finished trees of `progress`."""
        codes = self.codes(progress)
        for tree in progress.trees[self._trees :]:
            self._scores = self._scores + added_by(tree, codes, self.bins)
        self._trees = len(progress.trees)
        return self._scores

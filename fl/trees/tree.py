"""A finished model: trees of nodes, and the score that they give a row.

A row goes left where its number does not exceed the split's edge, where its category is not among those that go right,
and where its value is missing and the split says so. A category that no training row of the node had, or that nobody
knew in training, goes left: that is the side with more rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.trees import kernels
from fl.trees.coding import Codes, checked_values, codes_of
from fl.trees.settings import Column
from fl.trees.tables import SCORE_BITS

Integers = NDArray[np.int64]

MOST_BASE = 14 << SCORE_BITS  # 14 nats: one fraud in a million rows
MOST_LEAF = 8 << SCORE_BITS  # 8 nats


@dataclass(frozen=True)
class Split:
    """Where a node divides its rows. `column`: position. `bin`: the last that goes left; -1 in a categorical column.

    `right`: ascending categories that go right. `gain`: as in Chen and Guestrin 2016, equation 7, without the half.
    """

    column: int
    bin: int
    missing_left: bool
    right: tuple[int, ...] = ()
    gain: float = 0.0


@dataclass(frozen=True)
class Node:
    """`rows`, `gradient`, `hessian`: sums over the drawn training rows of all banks (units: `fl.trees.gradients`).

    `left`: position of the left child, whose sibling is the next one; 0 of a leaf. `leaf`: the score that it adds, in
    multiples of 2^-16; 0 of a split.
    """

    rows: int
    gradient: int
    hessian: int
    split: Split | None = None
    left: int = 0
    leaf: int = 0


@dataclass(frozen=True)
class Tree:
    """Nodes in the order of levels; the first is the root."""

    nodes: tuple[Node, ...] = field(repr=False)

    @property
    def largest(self) -> int:
        """The largest absolute value of a leaf."""
        return max(abs(node.leaf) for node in self.nodes)

    @cached_property
    def leaves(self) -> Integers:
        """int64[nodes]"""
        return np.array([node.leaf for node in self.nodes], np.int64)


def routes_of(nodes: Sequence[Node], bins: Sequence[int]) -> kernels.Routes:
    """What the kernels need to send rows down: arrays over `nodes`. `bins`: of each column."""
    count, width = len(nodes), max(bins) + 2
    column, left = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    goes_right = np.zeros((count, width), np.bool_)
    for place, node in enumerate(nodes):
        if (split := node.split) is None:
            continue
        column[place], left[place] = split.column, node.left
        if split.bin < 0:
            goes_right[place, list(split.right)] = True
        else:
            goes_right[place, split.bin + 1 : bins[split.column]] = True
        goes_right[place, bins[split.column]] = not split.missing_left
    return column, left, goes_right


@dataclass(frozen=True)
class TreeModel:
    """Everything that scoring needs. `edges`: by column; none of a categorical one. `base`: the score before any tree.

    `weight_bits`: log2 of the class weight, which gives the sums of the nodes their unit.
    """

    columns: tuple[Column, ...]
    edges: tuple[tuple[float, ...], ...] = field(repr=False)
    base: int
    trees: tuple[Tree, ...] = field(repr=False)
    weight_bits: int = 0

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins or categories of each column."""
        return bins_of(self.columns, self.edges)

    def scores(self, x: NDArray[np.floating]) -> Integers:
        """int64[n]: scores of rows `x`, [n, columns], in multiples of 2^-16 of a nat. Raises `TreesError`."""
        return self.scores_of_codes(codes_of(checked_values(x, self.columns), self.columns, self.edges))

    def scores_of_codes(self, codes: Codes) -> Integers:
        """int64[n]: as `scores`, of rows that are coded."""
        total = np.full(len(codes), self.base, np.int64)
        for tree in self.trees:
            total += added_by(tree, codes, self.bins)
        return total

    def probabilities(self, x: NDArray[np.floating], q: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """float64[n]: the probability of fraud.

        `q`: float64[n], the probability that the other cause of a noisy-or explains a row; as in training.
        """
        own: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-self.scores(x) * 2.0**-SCORE_BITS))
        if q is None:
            return own
        if q.shape != own.shape:
            raise TreesError(f"q: expected one probability a row, shape {own.shape}, got {q.shape}")
        return q + (1.0 - q) * own


def bins_of(columns: Sequence[Column], edges: Sequence[tuple[float, ...]]) -> tuple[int, ...]:
    """Bins or categories of each column, without the missing value."""
    return tuple(column.categories or len(ends) + 1 for column, ends in zip(columns, edges, strict=True))


def added_by(tree: Tree, codes: Codes, bins: Sequence[int]) -> Integers:
    """int64[n]: what a tree adds to the scores of coded rows."""
    if len(tree.nodes) == 1:
        return np.full(len(codes), tree.nodes[0].leaf, np.int64)
    added: Integers = tree.leaves[kernels.positions(codes, *routes_of(tree.nodes, bins))]
    return added

"""Trees whose splits are drawn and not learned, so that only the sums of their leaves need noise.

Where each of them splits follows from public values alone: columns, edges at equal distances between public bounds,
and the run's public seed. No row enters it. A tree's rows add up to one gradient and one curvature a leaf, and each row
is in one leaf. So one row moves the sums of a tree by its own gradient and curvature, an L2 length of at most `BOUND`,
and another label moves them by less: the gradient by at most 1, and the curvature not at all. Under noise for `BOUND`
such sums are a Gaussian mechanism, and trees that are boosted by them compose.

A learned tree asks for the histograms of every column at every node instead, under the same noise in every bin.

Source: Maddock, Cormode, Wang, Maple, Jha, "Federated Boosted Decision Trees with Differential Privacy" (CCS 2022),
section 4: totally random trees, Newton steps of leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.seeds import derive_seed
from fl.trees.coding import Codes
from fl.trees.gradients import (
    GRADIENT_BITS,
    HESSIAN_BITS,
    Labels,
    gradient_unit,
    gradients_and_hessians,
    hessian_unit,
)
from fl.trees.kernels import positions
from fl.trees.progress import base_score
from fl.trees.settings import Column, TreeSettings
from fl.trees.tables import SCORE_BITS
from fl.trees.tree import MOST_LEAF, Node, Split, Tree, routes_of

Integers = NDArray[np.int64]

# L2 length of one row's gradient, at most 1, and curvature, at most 1/4: both in nats.
BOUND = math.hypot(1.0, 0.25)
LEAST_CURVATURE = 1  # of a node, in units of a curvature: TreeSHAP divides by those of nodes


def linear_edges(columns: Sequence[Column], bound: float, bins: int) -> tuple[tuple[float, ...], ...]:
    """Float32 edges of so many bins of equal width from -`bound` to `bound`, by column; none of a categorical one."""
    inner = np.linspace(-bound, bound, bins + 1)[1:-1].astype(np.float32)
    edges = tuple(float(edge) for edge in np.unique(inner))
    return tuple(() if column.categories else edges for column in columns)


def drawn_tree(
    columns: Sequence[Column],
    edges: Sequence[tuple[float, ...]],
    splittable: Sequence[int],
    settings: TreeSettings,
    number: int,
) -> Tree:
    """The `number`-th tree, without sums: all its nodes down to `settings.depth` split one of the columns `splittable`.

    Raises `TreesError` where no column can be split.
    """
    if not splittable:
        raise TreesError("random trees need a column to split, got none")
    inner = (1 << settings.depth) - 1
    nodes = []
    for place in range(inner):

        def drawn(below: int, *what: str | int, at: int = place) -> int:
            return derive_seed(settings.seed, "random tree", number, at, *what) % below

        column = splittable[drawn(len(splittable), "column")]
        missing_left = bool(drawn(2, "missing"))
        if count := columns[column].categories:
            # Each category goes right with probability one half; at least one does.
            right = tuple(code for code in range(count) if drawn(2, "category", code))
            split = Split(column, -1, missing_left, right or (drawn(count, "right"),))
        else:
            split = Split(column, drawn(len(edges[column]), "edge"), missing_left)
        nodes.append(Node(0, 0, 0, split=split, left=2 * place + 1))
    return Tree((*nodes, *[Node(0, 0, 0)] * (inner + 1)))


def leaf_sums(tree: Tree, codes: Codes, bins: Sequence[int], scores: Integers, labels: Labels) -> NDArray[np.float64]:
    """float64[2 * leaves]: a bank's sums of gradients by leaf, then of curvatures, in nats. Plaintext: never log it.

    They are multiples of 2^-11 and 2^-14, which float64 adds exactly. `scores`: int64[n], before this tree.
    """
    leaves = (len(tree.nodes) + 1) // 2
    ends = positions(codes, *routes_of(tree.nodes, bins)) - (leaves - 1)
    gradients, hessians = gradients_and_hessians(scores, labels, 0)
    summed = [
        np.bincount(ends, weights=values, minlength=leaves) * unit
        for values, unit in ((gradients, gradient_unit(0)), (hessians, hessian_unit(0)))
    ]
    return np.concatenate(summed)


def with_leaves(tree: Tree, sums: NDArray[np.float64], settings: TreeSettings) -> Tree:
    """The tree whose leaves are Newton steps of released `sums`, float64[2 * leaves] as `leaf_sums`, noise included.

    A curvature below 0 is noise, and counts as 0.
    """
    leaves = len(sums) // 2
    if len(tree.nodes) != 2 * leaves - 1 or not np.isfinite(sums).all():
        expected = (len(tree.nodes) + 1) // 2
        raise TreesError(
            f"expected {2 * expected} finite sums of {expected} leaves, got {len(sums)}, or some that are not finite"
        )
    gradients, curvatures = sums[:leaves], np.maximum(sums[leaves:], 0.0)
    steps = -settings.rate * gradients / (curvatures + settings.penalty)
    values = np.clip(np.rint(steps * (1 << SCORE_BITS)), -MOST_LEAF, MOST_LEAF).astype(np.int64)
    whole = np.rint(gradients * (1 << GRADIENT_BITS)).astype(np.int64)
    curved = np.maximum(np.rint(curvatures * (1 << HESSIAN_BITS)).astype(np.int64), LEAST_CURVATURE)
    nodes = list(tree.nodes)
    for place in range(leaves):
        at = leaves - 1 + place
        nodes[at] = replace(nodes[at], gradient=int(whole[place]), hessian=int(curved[place]), leaf=int(values[place]))
    for at in reversed(range(leaves - 1)):
        left, right = nodes[nodes[at].left], nodes[nodes[at].left + 1]
        nodes[at] = replace(nodes[at], gradient=left.gradient + right.gradient, hessian=left.hessian + right.hessian)
    return Tree(tuple(nodes))


def public_base(prior: float) -> int:
    """The score before any tree, in multiples of 2^-16: the log odds of a public guess of the share of frauds."""
    share = Decimal(repr(prior))
    return base_score(share, 1 - share)

"""Random trees: draws follow from public values, and one row moves the sums of leaves by no more than is paid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fl.errors import TreesError
from fl.runs.config import LEAF_BOUND
from fl.trees.coding import codes_of
from fl.trees.gradients import labels_of
from fl.trees.random_trees import BOUND, drawn_tree, leaf_sums, linear_edges, public_base, with_leaves
from fl.trees.settings import Column, TreeSettings
from fl.trees.tree import Node, Tree, TreeModel, added_by, bins_of

COLUMNS = (Column("amount"), Column("kind", 5), Column("age"), Column("night"))
SPLITTABLE = (0, 1, 2)
SETTINGS = TreeSettings(trees=3, depth=3, rate=0.5, penalty=20.0, bins=8, seed=5)
EDGES = linear_edges(COLUMNS, 3.0, SETTINGS.bins)
BINS = bins_of(COLUMNS, EDGES)


def tree(number: int = 0, settings: TreeSettings = SETTINGS) -> Tree:
    return drawn_tree(COLUMNS, EDGES, SPLITTABLE, settings, number)


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(codes, y, q, scores) with missing values; q of 0 and near 1 among them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    x[:, 1] = rng.integers(0, 5, count)
    x[rng.random(count) < 0.1, 0] = np.nan
    q = np.where(rng.random(count) < 0.3, 0.0, rng.beta(0.3, 2.0, count))
    scores = rng.integers(-14 << 16, 14 << 16, count)
    return codes_of(x, COLUMNS, EDGES), (rng.random(count) < 0.4).astype(int), q, scores


def test_edges_stand_at_equal_distances_between_the_public_bounds() -> None:
    assert EDGES[0] == (-2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25)
    assert EDGES[1] == () and EDGES[3] == EDGES[0]


def test_a_tree_follows_from_the_seed_and_its_number_and_splits_the_chosen_columns_down_to_its_depth() -> None:
    drawn = tree()
    assert drawn == tree() != tree(1)
    assert drawn != tree(settings=TreeSettings(depth=3, bins=8, seed=6))
    splits = [node.split for node in drawn.nodes if node.split]
    assert len(drawn.nodes) == 15 and len(splits) == 7
    every = [node.split for number in range(30) for node in tree(number).nodes if node.split]
    assert {split.column for split in every} == set(SPLITTABLE)
    assert {split.missing_left for split in every} == {True, False}
    assert len({split.bin for split in every}) == 8  # every edge, and -1 of categories
    assert all(0 < len(split.right) <= 5 for split in every if split.column == 1)
    with pytest.raises(TreesError, match="a column to split"):
        drawn_tree(COLUMNS, EDGES, (), SETTINGS, 0)


def test_the_sums_of_leaves_are_those_of_gradients_and_curvatures_one_by_one() -> None:
    codes, y, q, scores = rows(400)
    drawn = tree()
    found = leaf_sums(drawn, codes, BINS, scores, labels_of(y, q))
    numbered = Tree(tuple(drawn.nodes[:7]) + tuple(_leaf(drawn, at) for at in range(8)))
    ends = added_by(numbered, codes, BINS)
    expected = np.zeros(16)
    for end, label, risk, score in zip(ends, y, q, scores, strict=True):
        p = 1 / (1 + math.exp(-score / 65_536))
        either = 1 - (1 - p) * (1 - risk)
        expected[end] += p - (p / either if label else 0.0)
        expected[8 + end] += p * (1 - p)
    np.testing.assert_allclose(found, expected, atol=400 * 2.0**-10)
    halves = [leaf_sums(drawn, codes[i::2], BINS, scores[i::2], labels_of(y[i::2], q[i::2])) for i in range(2)]
    np.testing.assert_array_equal(halves[0] + halves[1], found)


def _leaf(drawn: Tree, at: int) -> Node:
    return replace(drawn.nodes[7 + at], leaf=at)


def test_one_row_moves_the_sums_by_no_more_than_the_bound_and_another_label_by_at_most_one() -> None:
    codes, y, q, scores = rows(3000, seed=1)
    q[:20], y[:20], scores[:20] = 0.0, 1, -(14 << 16)  # gradients near -1
    drawn, moved, turned = tree(), [], []
    for at in range(len(y)):
        one = slice(at, at + 1)
        as_it_is = leaf_sums(drawn, codes[one], BINS, scores[one], labels_of(y[one], q[one]))
        other = leaf_sums(drawn, codes[one], BINS, scores[one], labels_of(1 - y[one], q[one]))
        moved.append(float(np.linalg.norm(as_it_is)))
        turned.append(float(np.linalg.norm(as_it_is - other)))
        np.testing.assert_array_equal(as_it_is[8:], other[8:])
    assert max(moved) <= BOUND <= LEAF_BOUND
    assert max(turned) <= 1.0
    assert max(moved) > 0.99 and max(turned) > 0.99, "the bound is nearly met"


def test_leaves_are_newton_steps_and_curvature_below_zero_is_noise() -> None:
    sums = np.array([10.0, -10, 0, 1, 2, 3, 4, 5, 30.0, -70, 0, 1, 1, 1, 1, 1])
    grown = with_leaves(tree(), sums, SETTINGS)
    leaves = [node.leaf for node in grown.nodes[7:]]
    assert leaves[0] == round(-0.5 * 10 / 50 * 65_536) and leaves[1] == round(0.5 * 10 / 20 * 65_536)
    assert all(node.hessian >= 1 for node in grown.nodes)
    assert grown.nodes[0].gradient == sum(node.gradient for node in grown.nodes[7:])
    assert all(node.split == before.split for node, before in zip(grown.nodes, tree().nodes, strict=True))
    model = TreeModel(COLUMNS, EDGES, public_base(0.004), (grown,))
    assert model.base == round(math.log(0.004 / 0.996) * 65_536)
    for wrong in (sums[:14], np.full(16, np.nan)):
        with pytest.raises(TreesError, match="finite sums of 8 leaves"):
            with_leaves(tree(), wrong, SETTINGS)

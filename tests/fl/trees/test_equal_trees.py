"""The trees of a federation are the trees of its pooled rows, bit for bit: every split, default, leaf and base score.

What they must be is said by a reference that shares no code with them (`slow_trees`). Twenty random sets of rows have
categories, missing values, drawn rows and columns, monotone columns, a second cause of fraud, class weights and early
stopping; what each has is drawn with its rows.
"""

from __future__ import annotations

import pytest
from tree_worlds import World, add_encrypted, said

from fl.trees.training import Sum, add_plainly, grow
from fl.trees.tree import TreeModel

SEEDS = range(20)
SOME = [seed if seed < 5 else pytest.param(seed, marks=pytest.mark.long) for seed in SEEDS]


def grown(world: World, banks: int, add: Sum) -> TreeModel:
    terms, members = world.members(banks)
    *_, last = grow(members, terms, add)
    return last.model


@pytest.mark.parametrize("seed", SOME)
def test_pooled_rows_and_federations_of_3_and_10_banks_give_the_trees_of_the_reference(seed: int) -> None:
    world = World(seed)
    expected = world.slowly()
    for banks in (1, 3, 10):
        assert said(grown(world, banks, add_plainly)) == expected


@pytest.mark.parametrize("seed", [3, 6])
def test_encrypted_sums_of_3_banks_give_the_trees_of_the_reference(seed: int) -> None:
    world = World(seed, rows=200, trees=2)
    assert said(grown(world, 3, add_encrypted)) == world.slowly()


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_encrypted_sums_of_3_and_10_banks_give_the_trees_of_the_reference(seed: int) -> None:
    world = World(seed)
    expected = world.slowly()
    for banks in (3, 10):
        assert said(grown(world, banks, add_encrypted)) == expected


@pytest.mark.parametrize("seed", SOME)
def test_with_gradients_that_are_not_rounded_the_trees_depend_on_who_adds_up_which_rows(seed: int) -> None:
    """The control: the comparison above finds a difference in the last bit of one leaf."""
    world = World(seed)
    assert world.slowly(exact=False, banks=3) != world.slowly(exact=False, banks=1)


def test_the_random_rows_hold_every_kind_of_split_that_equality_is_claimed_for() -> None:
    """Otherwise the tests above would say nothing of it."""
    worlds = [World(seed) for seed in SEEDS]
    models = [grown(world, 1, add_plainly) for world in worlds]
    splits = [node.split for model in models for tree in model.trees for node in tree.nodes if node.split]
    assert all(model.trees for model in models)
    assert sum(split.bin < 0 for split in splits) > 100, "splits by categories"
    assert sum(split.missing_left for split in splits) > 100
    assert sum(not split.missing_left for split in splits) > 100
    columns = {
        world.columns[split.column].monotone
        for world, model in zip(worlds, models, strict=True)
        for tree in model.trees
        for node in tree.nodes
        if (split := node.split)
    }
    assert columns == {-1, 0, 1}
    assert any(len(model.trees) < world.settings.trees for world, model in zip(worlds, models, strict=True))
    assert {world.noisy_or for world in worlds} == {True, False}
    assert {world.settings.class_weight for world in worlds} == {1, 2, 4}
    assert any(world.settings.row_share < 1 for world in worlds)
    assert any(world.settings.column_share < 1 for world in worlds)

"""Models and trainings of trees on disk: nothing is lost, and what a stranger wrote is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tree_worlds import World

from fl.errors import TreesError
from fl.trees.member import Member
from fl.trees.model_file import model_from_json, model_to_json
from fl.trees.progress import Progress
from fl.trees.progress_file import Kept
from fl.trees.settings import Terms
from fl.trees.training import add_plainly, grow
from fl.trees.tree import TreeModel


def as_read(content: Any) -> Any:
    return json.loads(json.dumps(content, allow_nan=False))


def model_of(world: World) -> TreeModel:
    terms, members = world.members(3)
    *_, last = grow(members, terms, add_plainly)
    return last.model


MODEL = model_of(World(4, rows=300))


@pytest.mark.parametrize("seed", [1, 4, 12])
def test_a_model_is_read_as_it_was_written(seed: int) -> None:
    model = model_of(World(seed, rows=300))
    assert model_from_json(as_read(model_to_json(model))) == model


def by_category(content: Any) -> Any:
    return next(node for tree in content["trees"] for node in tree if node.get("right"))


def by_number(content: Any) -> Any:
    return next(node for tree in content["trees"] for node in tree if "bin" in node and not node["right"])


def leaf(content: Any) -> Any:
    return next(node for tree in content["trees"] for node in tree if "leaf" in node)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another format": lambda content: content.update(format="trees 9"),
    "a field more": lambda content: content.update(extra=1),
    "a field less": lambda content: content.pop("base"),
    "no columns": lambda content: content.update(columns=[]),
    "a column of another kind": lambda content: content["columns"][0].update(categories=3),
    "edges that descend": lambda content: content["edges"][0].reverse(),
    "an edge that is no float32": lambda content: content["edges"][0].__setitem__(0, -1e30 / 3),
    "an edge that is no number": lambda content: content["edges"][0].__setitem__(0, "1"),
    "edges of categories": lambda content: content["edges"].__setitem__(1, [1.0]),
    "a base out of range": lambda content: content.update(base=2**40),
    "a class weight of 3": lambda content: content.update(class_weight=3),
    "a tree without nodes": lambda content: content["trees"].append([]),
    "too many trees": lambda content: content.update(trees=content["trees"] * 1000),
    "a loop": lambda content: content["trees"][0][0].update(left=0),
    "a child of two nodes": lambda content: content["trees"][0][1:].reverse() or by_number(content).update(left=900),
    "a leaf out of range": lambda content: leaf(content).update(leaf=2**30),
    "a leaf that is no whole number": lambda content: leaf(content).update(leaf=0.5),
    "rows below zero": lambda content: leaf(content).update(rows=-1),
    "a bin that is none": lambda content: by_number(content).update(bin=300),
    "a bin before the first": lambda content: by_number(content).update(bin=-1),
    "categories beside a bin": lambda content: by_number(content).update(right=[1]),
    "a column that is none": lambda content: by_number(content).update(column=5),
    "no category": lambda content: by_category(content).update(right=[]),
    "categories twice": lambda content: by_category(content).update(right=[1, 1]),
    "a category that is none": lambda content: by_category(content).update(right=[4000]),
    "a direction that is none": lambda content: by_number(content).update(missing_left=2),
    "no tree but a text": lambda content: content.update(trees=["tree"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_model_that_was_tampered_with_is_refused(change: Callable[[Any], Any]) -> None:
    content = as_read(model_to_json(MODEL))
    change(content)
    with pytest.raises(TreesError):
        model_from_json(content)


@pytest.mark.parametrize("content", [None, [], "{}", 3, {"format": "fl trees 1"}])
def test_what_is_no_model_is_refused(content: Any) -> None:
    with pytest.raises(TreesError):
        model_from_json(content)


def killed_and_continued(world: World, at: int) -> tuple[TreeModel, list[str]]:
    """The model of a training that is killed after `at` sums, and the name of every sum in order."""
    names: list[str] = []

    def played(members: list[Member], kept: Kept, sums: int | None) -> Kept:
        while not kept.progress.finished and sums != 0:
            request = kept.progress.request
            names.append(request.name)
            kept = kept.after(add_plainly(request, [member.contribution(kept.progress) for member in members]))
            sums = None if sums is None else sums - 1
        return kept

    terms, members = world.members(3)
    written = as_read(played(members, Kept.of(terms), at).as_json())
    terms, members = world.members(3)  # of processes that know nothing of what was
    return played(members, Kept.from_json(written, terms), None).progress.model, names


@pytest.mark.parametrize("seed", [1, 4])
def test_a_training_that_is_killed_after_any_sum_continues_to_the_same_model_and_asks_for_no_sum_twice(
    seed: int,
) -> None:
    world = World(seed, rows=300)
    terms, members = world.members(3)
    states = list(grow(members, terms, add_plainly))
    assert len(states) > 4
    for at in range(len(states) + 1):
        model, names = killed_and_continued(world, at)
        assert model == states[-1].model
        assert len(set(names)) == len(names) == len(states)


def begun_content(sums: int) -> tuple[Any, Terms]:
    world = World(4, rows=300)
    terms, members = world.members(3)
    kept = Kept.of(terms)
    for _ in range(sums):
        request = kept.progress.request
        kept = kept.after(add_plainly(request, [member.contribution(kept.progress) for member in members]))
    return as_read(kept.as_json()), terms


TRAINING_CHANGES: dict[str, Callable[[Any], Any]] = {
    "another format": lambda content: content.update(format="x"),
    "other terms": lambda content: content["terms"]["settings"].update(trees=7),
    "more losses than trees": lambda content: content.update(losses=[1, 2, 3]),
    "finished without its trees": lambda content: content.update(finished=True),
    "a short chain": lambda content: content.update(chain="00"),
    "a sum that is too short": lambda content: content["sums"][0].pop(),
    "a sum below zero": lambda content: content["sums"][0].__setitem__(0, -1),
    "a sum of other rows": lambda content: content["sums"][0].__setitem__(2, content["sums"][0][2] + 1),
    "rows beyond the banks'": lambda content: content["counted"].update(rows=2**60),
    "trees of another training": lambda content: content.update(trees=[[{"leaf": 1}]]),
}


@pytest.mark.parametrize("change", TRAINING_CHANGES.values(), ids=TRAINING_CHANGES.keys())
def test_a_training_that_was_tampered_with_is_refused(change: Callable[[Any], Any]) -> None:
    content, terms = begun_content(3)
    assert content["sums"], "a tree is half grown"
    change(content)
    with pytest.raises(TreesError):
        Kept.from_json(content, terms)


def test_a_member_that_is_asked_under_other_terms_contributes_nothing() -> None:
    world = World(4, rows=300)
    terms, members = world.members(3)
    with pytest.raises(TreesError, match="other terms"):
        members[0].contribution(Progress.of(Terms(terms.columns, terms.settings, 4)))
    assert np.all(members[0].contribution(Progress.of(terms)) >= 0)

"""A model of trees as JSON, and JSON that a stranger wrote as a model of trees.

Everything is checked that scoring relies on: which nodes exist, that each is the child of one node before it, that bins
and categories are those of the column, and the range of every number. The content says nothing about rows beyond what
the sums of the training say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from fl import options
from fl.errors import TreesError
from fl.trees.coding import LARGEST
from fl.trees.settings import Column
from fl.trees.tree import MOST_BASE, MOST_LEAF, Node, Split, Tree, TreeModel, bins_of

FORMAT = "fl trees 1"
BASE = options.Whole(-MOST_BASE, MOST_BASE, "multiples of 2^-16 nats")

_WHOLE = options.Whole(-(2**62), 2**62)
_COUNT = options.Whole(0, 2**62)
_LEAF = options.Whole(-MOST_LEAF, MOST_LEAF, "multiples of 2^-16 nats")
_EDGE = options.Real(-LARGEST, LARGEST)
_GAIN = options.Real(0, 1e300)
_MOST_NODES = 2**10  # more than a tree of the largest depth has
_NODE = frozenset({"rows", "gradient", "hessian"})
_SPLIT = _NODE | {"column", "bin", "missing_left", "right", "gain", "left"}


def model_to_json(model: TreeModel) -> dict[str, Any]:
    """What `model_from_json` reads."""
    return {
        "format": FORMAT,
        "columns": [asdict(column) for column in model.columns],
        "edges": [list(edges) for edges in model.edges],
        "base": model.base,
        "class_weight": 1 << model.weight_bits,
        "trees": [tree_to_json(tree) for tree in model.trees],
    }


def model_from_json(content: Any) -> TreeModel:
    """Raises `TreesError` for anything but the content of a model."""
    try:
        fields = _fields(content, {"format", "columns", "edges", "base", "class_weight", "trees"})
        if fields["format"] != FORMAT:
            raise TreesError(f"format: expected {FORMAT!r}, got {fields['format']!r:.60}")
        columns = tuple(Column(**_mapping(each)) for each in _listed(fields["columns"], 1, 65_536))
        edges = edges_from_json(fields["edges"], columns)
        weight = options.CLASS_WEIGHT.of(fields["class_weight"])
        if weight & (weight - 1):
            raise TreesError(f"class_weight: expected a power of two, got {weight}")
        bins = bins_of(columns, edges)
        trees = tuple(tree_from_json(each, columns, bins) for each in _listed(fields["trees"], 0, options.TREES.high))
        return TreeModel(columns, edges, BASE.of(fields["base"]), trees, weight.bit_length() - 1)
    except (options.Refused, TypeError, ValueError, KeyError) as fault:
        raise TreesError(f"no model of trees that can be read: {fault}") from fault


def edges_from_json(content: Any, columns: Sequence[Column]) -> tuple[tuple[float, ...], ...]:
    """The edges of each column, ascending float32 numbers; none of a categorical one.

    Raises `TreesError`, or `fl.options.Refused`.
    """
    by_column = _listed(content, len(columns), len(columns))
    found = []
    for column, edges in zip(columns, by_column, strict=True):
        most = 0 if column.categories else options.BINS.high - 1
        numbers = tuple(_EDGE.of(edge) for edge in _listed(edges, 0, most))
        if any(float(np.float32(edge)) != edge for edge in numbers) or any(
            low >= high for low, high in pairwise(numbers)
        ):
            raise TreesError(f"column {column.name!r}: expected ascending float32 numbers as edges, got others")
        found.append(numbers)
    return tuple(found)


def tree_to_json(tree: Tree) -> list[dict[str, Any]]:
    """Its nodes."""
    return [_node_to_json(node) for node in tree.nodes]


def tree_from_json(content: Any, columns: Sequence[Column], bins: Sequence[int]) -> Tree:
    """The tree of these nodes. Raises `TreesError`, or `fl.options.Refused`."""
    nodes = tuple(_node_from_json(each, columns, bins) for each in _listed(content, 1, _MOST_NODES))
    children = [child for node in nodes if node.split for child in (node.left, node.left + 1)]
    if sorted(children) != list(range(1, len(nodes))):
        raise TreesError("a tree's nodes: expected each but the root to be the child of one node, got others")
    if any(node.split and node.left <= place for place, node in enumerate(nodes)):
        raise TreesError("a tree's nodes: expected every child behind its parent, got another order")
    return Tree(nodes)


def _node_to_json(node: Node) -> dict[str, Any]:
    sums: dict[str, Any] = {"rows": node.rows, "gradient": node.gradient, "hessian": node.hessian}
    if node.split is None:
        return {**sums, "leaf": node.leaf}
    return {**sums, **asdict(node.split), "right": list(node.split.right), "left": node.left}


def _node_from_json(content: Any, columns: Sequence[Column], bins: Sequence[int]) -> Node:
    is_leaf = "leaf" in _mapping(content)
    fields = _fields(content, _NODE | {"leaf"} if is_leaf else _SPLIT)
    sums = (_COUNT.of(fields["rows"]), _WHOLE.of(fields["gradient"]), _COUNT.of(fields["hessian"]))
    if is_leaf:
        return Node(*sums, leaf=_LEAF.of(fields["leaf"]))
    place = options.Whole(0, len(columns) - 1, "position of a column").of(fields["column"])
    categories = columns[place].categories
    right = tuple(_COUNT.of(code) for code in _listed(fields["right"], min(categories, 1), categories))
    if any(code >= categories for code in right) or list(right) != sorted(set(right)):
        raise TreesError(
            f"column {columns[place].name!r}: expected ascending categories below {categories}, got others"
        )
    last = options.Whole(-1, -1) if categories else options.Whole(0, bins[place] - 1, "bin")
    left = options.Whole(1, _MOST_NODES, "position of a node").of(fields["left"])
    split = Split(
        place,
        last.of(fields["bin"]),
        options.SWITCH.of(fields["missing_left"]),
        right,
        _GAIN.of(fields["gain"]),
    )
    return Node(*sums, split=split, left=left)


def _mapping(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise TreesError(f"expected an object, got {options.shown(content)}")
    return content


def _fields(content: Any, names: set[str] | frozenset[str]) -> Mapping[str, Any]:
    """The fields of an object that has these and no others."""
    found = _mapping(content)
    if set(found) != names:
        raise TreesError(f"expected the fields {', '.join(sorted(names))}, got {', '.join(sorted(found))[:200]}")
    return found


def _listed(content: Any, least: int, most: float) -> list[Any]:
    if not isinstance(content, list) or not least <= len(content) <= most or not math.isfinite(most):
        raise TreesError(f"expected a list of {least} to {most:g} items, got {options.shown(content)}")
    return content

"""Boosted trees as ONNX operators, whose input is what every model of this package has: scaled features.

What it does: makes the columns of the trees from features (`fl.runs.tree_columns`), and one TreeEnsembleRegressor of
them. Its rule `value <= threshold` goes left as the trees do, and missing values go where the split says. ONNX has no
splits by sets of categories: each set that a split sends right is a column of its own, 0 or 1, which a matrix product
makes of the 0/1 features of the words. Leaves are multiples of 2^-16, so that sums of float32 are exact below 256.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl.learning.kinds import Boosted
from fl.runs.tree_columns import TreeColumns
from fl.runs.tree_module import TreeScores
from fl.trees.tables import SCORE_BITS
from fl.trees.tree import Node, Tree, TreeModel
from fl.trees.xgboost_file import require_exact_in_float32

INPUT = "features"
DOMAIN = "ai.onnx.ml"


class Graph(Protocol):
    """A graph that takes nodes and constants, and gives their names."""

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str: ...
    def constant(self, name: str, value: NDArray[Any]) -> str: ...


def log_odds_of_trees(graph: Graph, module: Boosted) -> str:
    """Add the trees to `graph`; the name of their float32[n, 1] log odds.

    Raises `ExportError` where sums of leaves could exceed 256.
    """
    assert isinstance(module, TreeScores)
    trees, columns = module.trees, module.columns
    require_exact_in_float32(trees)
    sets = _sets(trees)
    made, offsets, markers = _matrices(columns, sets)
    inputs = [INPUT, graph.constant("made", made), graph.constant("offsets", offsets)]
    values = graph.node("Gemm", inputs, "values")
    marked = graph.node("MatMul", [INPUT, graph.constant("markers", markers)], "marked")
    zero = graph.constant("zero", np.array(0.0, np.float32))
    missing = graph.node("Greater", [marked, zero], "missing")
    nothing = graph.constant("nothing.known", np.array(np.nan, np.float32))
    columns_of_rows = graph.node("Where", [missing, nothing, values], "columns")
    return graph.node(
        "TreeEnsembleRegressor", [columns_of_rows], "log.odds", domain=DOMAIN, **_ensemble(trees, columns, sets)
    )


def _sets(trees: TreeModel) -> dict[tuple[int, tuple[int, ...]], int]:
    """By (column, categories that go right): its number among the sets of all splits."""
    splits = [node.split for tree in trees.trees for node in tree.nodes if node.split is not None]
    found = dict.fromkeys((split.column, split.right) for split in splits if split.bin < 0)
    return {key: number for number, key in enumerate(found)}


def _matrices(
    columns: TreeColumns, sets: dict[tuple[int, tuple[int, ...]], int]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(features to values, what is added to values, features to markers): one column a tree column, then one a set."""
    width = len(columns.folds) + len(sets)
    made = np.zeros((columns.inputs, width), np.float32)
    offsets, markers = np.zeros(width, np.float32), np.zeros((columns.inputs, width), np.float32)
    for at, fold in enumerate(columns.folds):
        if fold.column.categories:
            continue
        made[fold.places[0], at] = 1.0
        if len(fold.places) == 2:
            markers[fold.places[1], at] = 1.0
    for (column, right), number in sets.items():
        places, at = columns.folds[column].places, len(columns.folds) + number
        others = len(places) in right  # rows without any of the words
        offsets[at] = float(others)
        for word, place in enumerate(places):
            made[place, at] = float(word in right) - float(others)
    return made, offsets, markers


def _ensemble(trees: TreeModel, columns: TreeColumns, sets: dict[tuple[int, tuple[int, ...]], int]) -> dict[str, Any]:
    """The attributes of the ensemble. A model without trees is one tree of one leaf."""
    asked: dict[str, list[Any]] = {name: [] for name in (*_OF_NODES, *_OF_LEAVES)}
    for number, tree in enumerate(trees.trees or (Tree((Node(0, 0, 0),)),)):
        nodes = tree.nodes
        for place, node in enumerate(nodes):
            split = node.split
            feature, threshold, mode = 0, 0.0, "LEAF"
            if split is not None:
                mode = "BRANCH_LEQ"
                if split.bin < 0:
                    feature, threshold = len(columns.folds) + sets[split.column, split.right], 0.5
                else:
                    edges = trees.edges[split.column]
                    whole = split.bin >= len(edges)  # all numbers go left, and missing values right
                    feature, threshold = split.column, float(np.finfo(np.float32).max) if whole else edges[split.bin]
            values = (
                number,
                place,
                feature,
                threshold,
                mode,
                node.left if split else 0,
                node.left + 1 if split else 0,
                int(split is not None and split.missing_left),
            )
            for name, value in zip(_OF_NODES, values, strict=True):
                asked[name].append(value)
            if split is None:
                leaf = (number, place, 0, node.leaf * 2.0**-SCORE_BITS)
                for name, value in zip(_OF_LEAVES, leaf, strict=True):
                    asked[name].append(value)
    return {
        **asked,
        "n_targets": 1,
        "base_values": [trees.base * 2.0**-SCORE_BITS],
        "aggregate_function": "SUM",
        "post_transform": "NONE",
    }


_OF_NODES = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
)
_OF_LEAVES = ("target_treeids", "target_nodeids", "target_ids", "target_weights")

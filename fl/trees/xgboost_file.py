"""A model of trees in XGBoost's JSON format.

What differs between the two libraries, and how it is bridged without changing one score:

- Here a row goes left where x <= e, there where x < c: c is the next float32 above e.
- There the categories of a node's set go right; here too. An unknown category goes left in both.
- There the base score passes through a sigmoid and a logarithm, which rounds. The margin is 0 there, and the base
  score of the model is part of the first tree's leaves.
- Margins are sums of float32 there. Every leaf is a multiple of 2^-16, so such sums are exact below 256.

XGBoost (Chen and Guestrin, KDD 2016), model format of version 3.2: https://xgboost.readthedocs.io/en/stable/tutorials/
saving_model.html. The package is imported when it is needed (extra `trees`).
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.errors import ExportError
from fl.trees.gradients import hessian_unit
from fl.trees.tables import SCORE_BITS
from fl.trees.tree import Node, Tree, TreeModel

VERSION = [3, 2, 0]
NO_PARENT = 2**31 - 1
CATEGORICAL = 1e-45  # what XGBoost writes as the condition of a categorical split
MOST_MARGIN = 256 << SCORE_BITS  # float32 holds multiples of 2^-16 exactly below it


def require_exact_in_float32(model: TreeModel) -> None:
    """Raise `ExportError` where a reader that adds leaves in float32, as XGBoost and ONNX do, could round a score."""
    if abs(model.base) + sum(tree.largest for tree in model.trees) >= MOST_MARGIN:
        raise ExportError(
            f"the scores of {len(model.trees)} trees can exceed 256, beyond which float32 does not add them exactly: "
            "lower the rate or train fewer trees"
        )


def xgboost_json(model: TreeModel) -> dict[str, Any]:
    """The content of XGBoost's JSON file: its margins are the model's scores times 2^-16, to the last bit.

    Raises `ExportError` where scores could be too large for exact sums of float32.
    """
    require_exact_in_float32(model)
    trees = model.trees or (Tree((Node(0, 0, 0),)),)
    columns = model.columns
    return {
        "learner": {
            "attributes": {},
            "feature_names": [column.name for column in columns],
            "feature_types": ["c" if column.categories else "float" for column in columns],
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
                    "iteration_indptr": list(range(len(trees) + 1)),
                    "tree_info": [0] * len(trees),
                    "trees": [
                        _tree(tree, number, model, 0 if number else model.base) for number, tree in enumerate(trees)
                    ],
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": "[5E-1]",
                "boost_from_average": "0",
                "num_class": "0",
                "num_feature": str(len(columns)),
                "num_target": "1",
            },
            "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": VERSION,
    }


def booster_of(model: TreeModel) -> Any:
    """An `xgboost.Booster` of the model. Raises `ModuleNotFoundError` without the extra, and as `xgboost_json` does."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(json.dumps(xgboost_json(model)).encode()))
    return booster


def contributions(model: TreeModel, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64[n, columns + 1]: TreeSHAP's part of each column in the margins of rows `x`, and the usual margin last.

    Raises as `booster_of`.
    """
    import xgboost

    booster = booster_of(model)
    if len(x) == 0:
        return np.zeros((0, x.shape[1] + 1))
    rows = xgboost.DMatrix(
        x,
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
        nthread=1,
    )
    found: NDArray[np.float64] = booster.predict(rows, pred_contribs=True).astype(np.float64)
    return found


def _tree(tree: Tree, number: int, model: TreeModel, base: int) -> dict[str, Any]:
    nodes = tree.nodes
    parents = [NO_PARENT] * len(nodes)
    categories: list[list[int]] = []
    categorical: list[int] = []
    for place, node in enumerate(nodes):
        if node.split is not None:
            parents[node.left] = parents[node.left + 1] = place
            if node.split.bin < 0:
                categorical.append(place)
                categories.append(list(node.split.right))
    starts = [0, *np.cumsum([len(each) for each in categories]).tolist()]
    splits = [node.split for node in nodes]
    values = [(node.leaf + base) * 2.0**-SCORE_BITS for node in nodes]
    return {
        "base_weights": [0.0 if node.split else value for node, value in zip(nodes, values, strict=True)],
        "categories": [code for each in categories for code in each],
        "categories_nodes": categorical,
        "categories_segments": starts[:-1],
        "categories_sizes": [end - start for start, end in pairwise(starts)],
        "default_left": [int(split is not None and split.missing_left) for split in splits],
        "id": number,
        "left_children": [node.left if node.split else -1 for node in nodes],
        "loss_changes": [0.0 if split is None else split.gain for split in splits],
        "parents": parents,
        "right_children": [node.left + 1 if node.split else -1 for node in nodes],
        "split_conditions": [
            value if node.split is None else _condition(node, model) for node, value in zip(nodes, values, strict=True)
        ],
        "split_indices": [0 if split is None else split.column for split in splits],
        "split_type": [int(split is not None and split.bin < 0) for split in splits],
        "sum_hessian": [node.hessian * hessian_unit(model.weight_bits) for node in nodes],
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(len(model.columns)),
            "num_nodes": str(len(nodes)),
            "size_leaf_vector": "1",
        },
    }


def _condition(node: Node, model: TreeModel) -> float:
    """The number below which XGBoost goes left."""
    assert node.split is not None
    if node.split.bin < 0:
        return CATEGORICAL
    edges = model.edges[node.split.column]
    if node.split.bin >= len(edges):  # all numbers go left, and missing values right
        return float(np.finfo(np.float32).max)
    return float(np.nextafter(np.float32(edges[node.split.bin]), np.float32(np.inf)))

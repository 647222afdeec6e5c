"""XGBoost gives every row the score that the model gives it, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tree_worlds import World

from fl.errors import ExportError, TreesError
from fl.trees.training import add_plainly, grow
from fl.trees.tree import TreeModel
from fl.trees.xgboost_file import booster_of, xgboost_json

xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (extra `trees`)")


def model_of(seed: int) -> tuple[TreeModel, np.ndarray]:
    """A model, and rows: trained ones, missing values, unknown categories, numbers at an edge and just above one."""
    world = World(seed, rows=1500, trees=15)
    terms, members = world.members(3)
    *_, last = grow(members, terms, add_plainly)
    rng = np.random.default_rng(seed)
    x = np.concatenate([world.train.x, world.validation.x])
    x[rng.random(len(x)) < 0.1, 1] = rng.integers(6, 40)
    x[rng.random(len(x)) < 0.1, 3] = 400
    for column in (0, 2, 4):
        edges = np.array(last.model.edges[column], np.float32)
        x[200 : 200 + len(edges), column] = edges
        x[300 : 300 + len(edges), column] = np.nextafter(edges, np.float32(np.inf))
    x[:50, 0] *= 1e30
    return last.model, x


def margins(model: TreeModel, x: np.ndarray, **asked: bool) -> np.ndarray:
    booster = booster_of(model)
    rows = xgboost.DMatrix(
        x.astype(np.float32),
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    return booster.predict(rows, **(asked or {"output_margin": True}))


@pytest.mark.parametrize("seed", [2, 4, 9])
def test_margins_of_the_exported_model_are_the_scores_to_the_last_bit(seed: int) -> None:
    model, x = model_of(seed)
    kinds = {node.split.bin < 0 for tree in model.trees for node in tree.nodes if node.split}
    assert kinds == {True, False}
    np.testing.assert_array_equal(margins(model, x).astype(np.float64), model.scores(x) * 2.0**-16)


def test_a_threshold_that_is_the_edge_itself_would_be_noticed() -> None:
    """The control: XGBoost goes left below its threshold, and a row at the edge goes left here."""
    model, x = model_of(2)
    lower = tuple(tuple(float(np.nextafter(np.float32(e), np.float32(-np.inf))) for e in each) for each in model.edges)
    assert (margins(replace(model, edges=lower), x) != model.scores(x) * 2.0**-16).any()


def test_the_shares_of_the_columns_by_tree_shap_add_up_to_the_margin() -> None:
    model, x = model_of(4)
    shares = margins(model, x, pred_contribs=True)
    assert shares.shape == (len(x), len(model.columns) + 1)
    np.testing.assert_allclose(shares.sum(axis=1), model.scores(x) * 2.0**-16, atol=1e-4)


def test_a_model_without_trees_is_its_base_score() -> None:
    model, x = model_of(2)
    bare = replace(model, trees=())
    assert (margins(bare, x) == model.base * 2.0**-16).all()


def test_scores_beyond_exact_sums_of_float32_are_not_exported() -> None:
    model, _ = model_of(2)
    with pytest.raises(ExportError, match="256"):
        xgboost_json(replace(model, trees=model.trees * 400))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (0, np.inf, "infinite"),
        (0, -np.inf, "infinite"),
        (0, 1e39, "infinite"),
        (1, 0.5, "integers"),
        (1, -1, "integers"),
    ],
)
def test_rows_that_xgboost_would_refuse_are_refused_here(column: int, value: float, expected: str) -> None:
    model, x = model_of(2)
    x[3, column] = value
    with pytest.raises(TreesError, match=expected):
        model.scores(x)

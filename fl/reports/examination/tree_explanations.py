"""The SHAP values of trees, exact for each tree: TreeSHAP as xgboost computes it for the exported model.

What it does: gives the same tables as `fl.reports.examination.explanations`, by the columns of the trees. The usual
score is the mean over the rows of training as they went down the trees, whose weights the sums of curvature are.

Inside the noisy-or link that is said of the trees' part, and one column more is the rest: by how much the risk of a
row's shared parties raises its log odds above those of the trees. It is a difference and no SHAP value.

Source: Lundberg et al., Nature Machine Intelligence 2020, algorithm 2 (path-dependent TreeSHAP). Needs the extra
`trees`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl.runs.tree_module import TreeScores, beside
from fl.trees.tables import SCORE_BITS
from fl.trees.xgboost_file import contributions


def tree_shap_values(module: TreeScores, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(parts of the logit, float64[n, columns]; |their sum with the usual score - the logit| a row).

    The columns are those of the trees, and the risk of shared parties after them inside the noisy-or link.
    """
    folded, q = module.columns.fold(x), module.columns.cause(x)
    values = contributions(module.trees, folded)
    own = module.trees.scores(folded) * 2.0**-SCORE_BITS
    gap = np.abs(values.sum(axis=1) - own)
    if q is None:
        return values[:, :-1], gap
    return np.column_stack([values[:, :-1], beside(own, q) - own]), gap

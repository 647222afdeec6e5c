"""The SHAP values of trees, exact for each tree: TreeSHAP as xgboost computes it for the exported model.

What it does: gives the same tables as `fl.reports.examination.explanations`, by the columns of the trees. The usual
score is the mean over the rows of training as they went down the trees, whose weights the sums of curvature are.

Source: Lundberg et al., Nature Machine Intelligence 2020, algorithm 2 (path-dependent TreeSHAP). Needs the extra
`trees`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl.runs.tree_module import TreeScores
from fl.trees.tables import SCORE_BITS
from fl.trees.xgboost_file import contributions


def tree_shap_values(module: TreeScores, x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(SHAP values of the logit, float64[n, columns]; |their sum with the usual score - the logit| a row)."""
    folded = module.columns.fold(x)
    values = contributions(module.trees, folded)
    logit = module.trees.scores(folded) * 2.0**-SCORE_BITS
    return values[:, :-1], np.abs(values.sum(axis=1) - logit)

"""A model of trees as a torch module, so that all that scores, measures and calibrates a model does so with trees too.

Its only tensor is the JSON of `fl.trees.model_file` as bytes. So the model file of a run and its hash hold every split
and every leaf, and two runs with the same hash have the same trees.

Inside the noisy-or link the trees give p, the customer's part, and a row's last feature is q, that of its shared
parties: P = 1 - (1 - p)(1 - q), as in `fl.learning.noisy_or`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl.errors import TreesError
from fl.learning.kinds import Boosted
from fl.learning.noisy_or import MOST
from fl.runs.tree_columns import TreeColumns
from fl.trees.model_file import model_from_json, model_to_json
from fl.trees.tables import SCORE_BITS
from fl.trees.tree import TreeModel

TENSOR = "content"  # of the model file


class TreeScores(Boosted):
    """float32[n, inputs] features -> float64[n, 1] log odds of P; multiples of 2^-16 where there is no link."""

    def __init__(self, trees: TreeModel, columns: TreeColumns) -> None:
        super().__init__()
        self.trees, self.columns = trees, columns
        text = json.dumps(model_to_json(trees), separators=(",", ":")).encode()
        self.register_buffer(TENSOR, torch.from_numpy(np.frombuffer(text, np.uint8).copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The log odds of rows."""
        rows = x.detach().cpu().numpy()
        own = self.trees.scores(self.columns.fold(rows)) * 2.0**-SCORE_BITS
        q = self.columns.cause(rows)
        return torch.from_numpy(own if q is None else beside(own, q))[:, None].to(x.device)


def beside(own: NDArray[np.floating], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n]: log odds of 1 - (1 - p)(1 - q), where `own`, float64[n], are those of p.

    q is at most 1 - 1e-6, as in `fl.learning.noisy_or`, so that they are finite.
    """
    cause = np.clip(q, 0.0, MOST)
    with np.errstate(divide="ignore"):
        # The odds are q / (1 - q) (1 + exp(own)) + exp(own). Where q is 0, these are `own` to the last bit.
        odds: NDArray[np.float64] = np.logaddexp(own, np.log(cause) - np.log1p(-cause) + np.logaddexp(0.0, own))
    return odds


def module_from(tensors: dict[str, torch.Tensor], columns: TreeColumns) -> TreeScores:
    """The module of a model file's tensors. Raises `TreesError` for a file that holds no such model."""
    if tensors.keys() != {TENSOR} or tensors[TENSOR].dtype != torch.uint8:
        raise TreesError(f"expected one tensor {TENSOR!r} of bytes, got {', '.join(sorted(tensors))[:200] or 'none'}")
    try:
        content: Any = json.loads(tensors[TENSOR].numpy().tobytes())
    except (ValueError, RecursionError) as fault:
        raise TreesError(f"the bytes of the trees are no JSON ({fault})") from fault
    trees = model_from_json(content)
    if trees.columns != columns.columns:
        raise TreesError("the columns of the trees are not those that the schema gives")
    return TreeScores(trees, columns)

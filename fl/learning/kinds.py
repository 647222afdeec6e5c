"""The kinds of model that a run can train, by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fl.learning.model import build_model
from fl.learning.noisy_or import NoisyOr

ModelKind = Literal["mlp", "noisy-or", "trees"]


class Boosted(nn.Module):
    """A model of boosted trees. `fl.runs.tree_module` makes it, which needs the extra `trees`; this name does not."""


def model_of(kind: ModelKind, inputs: int, *, seed: int, dropout: float = 0.0, prior: float) -> nn.Module:
    """The first model of a run: float32[n, inputs] -> float32[n, 1] logits. Raises `ModelError`.

    Trees begin with no model that is averaged: for them it is the network that a run compares them with.
    """
    if kind == "noisy-or":
        return NoisyOr(inputs, prior=prior)
    return build_model(inputs, seed=seed, dropout=dropout, prior=prior)

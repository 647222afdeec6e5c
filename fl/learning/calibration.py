"""Turn scores into probabilities: a line in the log odds, fitted to labelled rows that no model was trained on.

What it does: `fit` finds slope a and intercept b, so that sigmoid(a * logit(score) + b) is the probability of fraud of
a row with this score. The maximum likelihood has the intercept at which probabilities add up to the frauds. The map is
increasing: it changes no ranking. With few frauds only the intercept is fitted, beginning with the odds divided by the
weight that the loss gave a fraud. Without any fraud, that division alone remains.

Sources: Platt, Advances in Large Margin Classifiers, 1999 (the sigmoid); Elkan, IJCAI 2001, theorem 2 (the weight).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fl import options
from fl.errors import MetricError
from fl.learning.metrics import Floats

FOR_SLOPE, FOR_INTERCEPT = 50, 5  # frauds from which on each is fitted
FURTHEST = 30.0  # log odds: of scores that a float rounds to 0 or 1
NEWTON_STEPS = 100

Fitted = Literal["slope and intercept", "intercept", "nothing"]


@dataclass(frozen=True)
class Calibration:
    """The map from scores to probabilities. `rows`, `frauds`: what it was fitted to. `fitted`: which of its numbers."""

    slope: Annotated[float, options.SLOPE]
    intercept: Annotated[float, options.INTERCEPT]
    fitted: Fitted
    rows: Annotated[int, options.COUNT]
    frauds: Annotated[int, options.COUNT]

    def __post_init__(self) -> None:
        options.check(self, MetricError, "calibration ")

    def of(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64[n] from 0 to 1: the probabilities of rows with these scores."""
        probability: NDArray[np.float64] = expit(self.slope * log_odds(score) + self.intercept)
        return probability


def log_odds(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n], within +-`FURTHEST`."""
    with np.errstate(divide="ignore"):
        odds: NDArray[np.float64] = np.log(score) - np.log1p(-score)
    return np.clip(odds, -FURTHEST, FURTHEST)


def fit(label: Floats, score: NDArray[np.float64], weight: float) -> Calibration:
    """The calibration for rows like these. `label`: float[n], 0 or 1; `score`: float64[n] in [0, 1].

    `weight`: that of a fraud in the loss of the model. Raises `MetricError` for scores that are not finite.
    """
    if not np.isfinite(score).all():
        raise MetricError(f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are NaN or infinite")
    rows, frauds = len(label), int(label.sum())
    odds, prior = log_odds(score), -math.log(weight)
    rarer = min(frauds, rows - frauds)
    if rarer >= FOR_SLOPE:
        line = _newton(label, np.stack([odds, np.ones(rows)], axis=1), np.array([1.0, prior]))
        if line is not None and line[0] > 0:
            return Calibration(float(line[0]), float(line[1]), "slope and intercept", rows, frauds)
    if rarer >= FOR_INTERCEPT:
        moved = _newton(label, np.ones((rows, 1)), np.array([prior]), odds)
        if moved is not None:
            return Calibration(1.0, float(moved[0]), "intercept", rows, frauds)
    return Calibration(1.0, prior, "nothing", rows, frauds)


def _newton(
    label: Floats, inputs: NDArray[np.float64], start: NDArray[np.float64], offset: float | NDArray[np.float64] = 0.0
) -> NDArray[np.float64] | None:
    """The coefficients of the largest likelihood; None where there are none, as with classes that do not overlap."""
    at, value = start, _loss(label, inputs @ start + offset)
    for _ in range(NEWTON_STEPS):
        probability = expit(inputs @ at + offset)
        gradient = inputs.T @ (probability - label)
        hessian = (inputs * (probability * (1.0 - probability))[:, None]).T @ inputs
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return None
        size = 1.0
        while (further := _loss(label, inputs @ (at - size * step) + offset)) > value and size > 1e-9:
            size /= 2.0
        if not math.isfinite(further):
            return None
        moved = at - size * step
        if float(np.abs(moved - at).max()) < 1e-10 * (1.0 + float(np.abs(at).max())):
            return moved
        at, value = moved, further
    return None


def _loss(label: Floats, odds: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, odds) - label * odds).sum())

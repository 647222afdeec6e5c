"""Whether a score is a probability: how often rows with a given score are frauds.

What it does: reliability bins, expected calibration error, Brier score and its skill over the constant fraud share,
and expected against observed frauds; for scores as they are, corrected for the weight that the loss gives a fraud, and
calibrated as the run's calibration.json says. The calibrated ones are compared with the frauds of each test window.
Training multiplies the loss of frauds by a public constant w, which multiplies the odds of a perfectly trained score
by w; dividing them by w again is exact, changes no ranking and looks at no label.

Sources: Brier 1950; Naeini, Cooper and Hauskrecht, AAAI 2015 (ECE); Elkan, IJCAI 2001, theorem 2 (odds under a changed
base rate); Wilson 1927 (intervals).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from fl.learning.calibration import Calibration
from fl.reports.examination.evidence import Evidence

BINS = 10  # of equal width, as ECE is usually given
TAIL = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)  # shares of rows between which reliability is looked at


def calibration(evidence: Evidence) -> dict[str, Any]:
    """Calibration of test rows.

    `corrected` undoes the weight of a fraud in the loss. `calibrated` is fitted to held-out rows; it is None where the
    run has no calibration.
    """
    label, score = evidence.test.label, evidence.test.score
    weight = evidence.config.training.pos_weight
    return {
        "pos_weight": weight,
        "as_is": measured(label, score),
        "corrected": measured(label, unweighted(score, weight)),
        "calibrated": None if evidence.calibration is None else measured(label, evidence.calibration.of(score)),
        "fitted": None if evidence.calibration is None else asdict(evidence.calibration),
        "windows": [] if evidence.calibration is None else _windows(evidence, evidence.calibration),
    }


def _windows(evidence: Evidence, calibration: Calibration) -> list[dict[str, float | int]]:
    """Frauds that calibrated scores expect in each test window, and those seen.

    `deviations`: seen minus expected, in standard deviations of frauds that happen independently. Frauds of one
    compromised party do not, so that more than two are no rarity.
    """
    test, rows = evidence.test, []
    for number in range(evidence.windows):
        inside = test.window == number
        chance, frauds = calibration.of(test.score[inside]), int(test.label[inside].sum())
        spread = float(np.sqrt((chance * (1.0 - chance)).sum()))
        expected = float(chance.sum())
        rows.append(
            {
                "expected_frauds": expected,
                "frauds": frauds,
                "standard_deviation": spread,
                "deviations": (frauds - expected) / spread if spread > 0 else 0.0,
            }
        )
    return rows


def unweighted(score: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """`score` with its odds divided by `weight`."""
    corrected: NDArray[np.float64] = score / (score + weight * (1.0 - score))
    return corrected


def measured(label: NDArray[np.integer], score: NDArray[np.float64]) -> dict[str, Any]:
    """All figures for labels (0 or 1) and scores in [0, 1], shape (n,)."""
    base = float(label.mean())
    brier, constant = float(((score - label) ** 2).mean()), base * (1.0 - base)
    return {
        "rows": len(label),
        "brier": brier,
        "brier_of_constant": constant,
        "brier_skill": 1.0 - brier / constant,
        "ece": expected_calibration_error(label, score),
        "ece_bins": BINS,
        "expected_frauds": float(score.sum()),
        "frauds": int(label.sum()),
        "expected_over_observed": float(score.sum() / label.sum()),
        "reliability": (slices := reliability(label, score)),
        "slices": len(slices),
        "slices_off": sum(not row["low"] <= row["mean_score"] <= row["high"] for row in slices),
    }


def expected_calibration_error(label: NDArray[np.integer], score: NDArray[np.float64], bins: int = BINS) -> float:
    """Mean over rows of |mean score - share of frauds| of the row's bin; `bins` of equal width."""
    which = np.minimum((score * bins).astype(np.int64), bins - 1)
    rows = np.bincount(which, minlength=bins)
    gap = np.abs(np.bincount(which, score, bins) - np.bincount(which, label, bins))  # already times rows
    return float(gap.sum() / rows.sum())


def reliability(label: NDArray[np.integer], score: NDArray[np.float64]) -> list[dict[str, float | int]]:
    """Mean score and share of frauds of the rows between quantiles of the score, narrower towards the top.

    Bins of equal width would put nearly every row into the first: frauds are rare.
    """
    edges = np.unique(np.quantile(score, TAIL))
    which = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, max(len(edges) - 2, 0))
    bins = []
    for b in np.unique(which):
        rows = which == b
        count, frauds = int(rows.sum()), int(label[rows].sum())
        low, high = wilson(frauds, count)
        bins.append(
            {
                "rows": count,
                "frauds": frauds,
                "mean_score": float(score[rows].mean()),
                "fraud_share": frauds / count,
                "low": low,
                "high": high,
            }
        )
    return bins


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share of `hits` in `count` > 0 independent trials."""
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return float(low), float(high)

"""Figures of a model at each bank and in each test window, at several thresholds.

What it does: `bank_figures` measures one bank, window by window, at .5, at the threshold of all banks, at the bank's
own, and at the one of both that a rule chooses. `points_of_all` measures all banks together at the same thresholds.

The rule: a bank's own threshold is used if its validation rows hold `fl.learning.thresholds.ENOUGH_FRAUDS` frauds. A
threshold from fewer is a matter of luck, and the bank uses the one of all banks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from fl.learning.metrics import Floats, at_threshold, card_precision, choose_threshold
from fl.learning.thresholds import ENOUGH_FRAUDS

HALF = 0.5
Point = dict[str, float | int | None]


@dataclass(frozen=True)
class ScoredBank:
    """One bank's rows with their scores: `validation` as (labels, scores), and test windows, each float[n]."""

    name: str
    validation: tuple[Floats, NDArray[np.float64]] = field(repr=False)
    label: tuple[Floats, ...] = field(repr=False)
    score: tuple[NDArray[np.float64], ...] = field(repr=False)
    day: tuple[NDArray[np.integer], ...] = field(repr=False)
    customer: tuple[NDArray[np.integer], ...] = field(repr=False)

    @property
    def average_precision(self) -> float | None:
        """Over all test windows; None without frauds, or with nothing else."""
        return _average_precision(np.concatenate(self.label), np.concatenate(self.score))


@dataclass(frozen=True)
class BankFigures:
    """`own`: the bank's own threshold of best F1; None where its validation rows allow none. `windows`: as JSON."""

    own: float | None
    chosen: Literal["own", "shared"]
    validation_frauds: int
    windows: tuple[dict[str, object], ...] = field(repr=False)

    def as_json(self) -> dict[str, object]:
        return {
            "own_threshold": self.own,
            "chosen_threshold": self.chosen,
            "validation_frauds": self.validation_frauds,
            "windows": list(self.windows),
        }

    def threshold(self, shared: float) -> float:
        """The threshold that the rule chooses."""
        return self.own if self.chosen == "own" and self.own is not None else shared


def bank_figures(bank: ScoredBank, shared: float) -> BankFigures:
    """The figures of one bank. `shared`: the threshold of all banks. Metrics without frauds are None."""
    label, score = bank.validation
    frauds = int(label.sum())
    own = choose_threshold(label, score) if 0 < frauds < len(label) else None
    chosen: Literal["own", "shared"] = "own" if own is not None and frauds >= ENOUGH_FRAUDS else "shared"
    figures = BankFigures(own, chosen, frauds, ())
    windows: list[dict[str, object]] = []
    for labels, scores, day, customer in zip(bank.label, bank.score, bank.day, bank.customer, strict=True):
        hits, both = int(labels.sum()), 0 < labels.sum() < len(labels)
        windows.append(
            {
                "rows": len(labels),
                "frauds": hits,
                "average_precision": _average_precision(labels, scores),
                "roc_auc": float(roc_auc_score(labels, scores)) if both else None,
                "card_precision_at_100": card_precision(labels, scores, day, customer) if len(labels) else None,
                "at_half": point(labels, scores, HALF),
                "at_shared": point(labels, scores, shared),
                "at_own": None if own is None else point(labels, scores, own),
                "at_chosen": point(labels, scores, figures.threshold(shared)),
            }
        )
    return replace(figures, windows=tuple(windows))


def points_of_all(
    banks: Sequence[ScoredBank], figures: Mapping[str, BankFigures], window: int, shared: float
) -> dict[str, Point]:
    """All banks' rows of one window, flagged at .5, at `shared`, each at its own threshold, and each by the rule.

    A bank that has no threshold of its own uses `shared` in its place.
    """
    label = np.concatenate([bank.label[window] for bank in banks])
    of_bank = {
        "at_half": [HALF] * len(banks),
        "at_shared": [shared] * len(banks),
        "at_own": [shared if (own := figures[bank.name].own) is None else own for bank in banks],
        "at_chosen": [figures[bank.name].threshold(shared) for bank in banks],
    }
    found = {}
    for name, thresholds in of_bank.items():
        flagged = [bank.score[window] >= threshold for bank, threshold in zip(banks, thresholds, strict=True)]
        found[name] = _point(label, np.concatenate(flagged))
    return found


def point(label: Floats, score: NDArray[np.float64], threshold: float) -> Point:
    """Precision, recall and F1 of flagging scores at or above `threshold`, with the threshold and the alerts."""
    return {"threshold": threshold, **_point(label, score >= threshold)}


def _point(label: Floats, flagged: NDArray[np.bool_]) -> Point:
    """Precision is None without an alert; recall and F1 are None without a fraud."""
    alerts, frauds = int(flagged.sum()), int(label.sum())
    precision, recall, f1 = at_threshold(label, flagged.astype(np.float64), HALF)
    return {
        "alerts": alerts,
        "precision": precision if alerts else None,
        "recall": recall if frauds else None,
        "f1": f1 if frauds else None,
    }


def _average_precision(label: Floats, score: NDArray[np.float64]) -> float | None:
    return float(average_precision_score(label, score)) if 0 < label.sum() < len(label) else None

"""Compute metrics of fraud scores that are meaningful when fraud is rare.

What it does: average precision (the primary figure), ROC-AUC, precision, recall and F1 at a threshold
chosen on validation data, and the handbook's card precision@100 per day. Accuracy is left out: with one fraud
in 120 rows, a model that flags nothing has an accuracy of 99.2 %.

Sources: Davis and Goadrich 2006 (precision-recall under imbalance); Le Borgne et al., Reproducible Machine
Learning for Credit Card Fraud Detection, section 4.4 (card precision top-k, with cards already detected
left out on later days).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from fl.errors import MetricError

TOP_CARDS = 100  # cards that investigators can check per day, as in the handbook

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of scored rows. `threshold`: that of precision, recall and F1."""

    average_precision: float
    roc_auc: float
    precision: float
    recall: float
    f1: float
    threshold: float
    card_precision_at_100: float
    rows: int
    frauds: int


def measure(
    labels: Floats,
    scores: Floats,
    day: NDArray[np.integer],
    customer: NDArray[np.integer],
    *,
    threshold: float,
) -> Metrics:
    """All metrics of rows with `labels` (0 or 1), `scores`, `day` and `customer`, each of shape (n,).

    Raises `MetricError` when the rows hold no fraud or nothing but fraud, or a score is not finite.
    """
    _require_both_classes(labels, scores)
    precision, recall, f1 = at_threshold(labels, scores, threshold)
    return Metrics(
        average_precision=float(average_precision_score(labels, scores)),
        roc_auc=float(roc_auc_score(labels, scores)),
        precision=precision,
        recall=recall,
        f1=f1,
        threshold=threshold,
        card_precision_at_100=card_precision(labels, scores, day, customer),
        rows=len(labels),
        frauds=int(labels.sum()),
    )


def choose_threshold(labels: Floats, scores: Floats) -> float:
    """The score at and above which flagging maximises F1 on these (validation) rows; the highest such score on ties.

    Raises `MetricError` when the rows hold no fraud or nothing but fraud, or a score is not finite.
    """
    _require_both_classes(labels, scores)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = _f1(precision[:-1], recall[:-1])
    return float(thresholds[np.flatnonzero(f1 == f1.max())[-1]])


def at_threshold(labels: Floats, scores: Floats, threshold: float) -> tuple[float, float, float]:
    """(precision, recall, F1) of flagging every row with score >= `threshold`; a precision over no flagged row is 0."""
    flagged = scores >= threshold
    hits = float((labels[flagged] == 1).sum())
    precision = hits / max(float(flagged.sum()), 1.0)
    recall = hits / max(float((labels == 1).sum()), 1.0)
    return precision, recall, float(_f1(np.array([precision]), np.array([recall]))[0])


def card_precision(
    labels: Floats,
    scores: Floats,
    day: NDArray[np.integer],
    customer: NDArray[np.integer],
    top: int = TOP_CARDS,
) -> float:
    """Mean over days of (compromised cards among the day's `top` most suspicious) / `top`.

    A card's suspicion is its highest score of the day; it is compromised when one of its rows that day is a
    fraud. A card that was detected is blocked and left out on later days. Ties go to the smaller customer code.
    """
    blocked: NDArray[np.integer] = np.empty(0, dtype=customer.dtype)
    daily: list[float] = []
    for today in np.unique(day):
        rows = (day == today) & ~np.isin(customer, blocked)
        cards, card = np.unique(customer[rows], return_inverse=True)
        suspicion = np.full(len(cards), -np.inf)
        np.maximum.at(suspicion, card, scores[rows])
        compromised = np.zeros(len(cards), dtype=bool)
        np.logical_or.at(compromised, card, labels[rows] == 1)
        checked = np.argsort(-suspicion, kind="stable")[:top]
        hits = cards[checked[compromised[checked]]]
        daily.append(len(hits) / top)
        blocked = np.concatenate([blocked, hits])
    return float(np.mean(daily))


def highest(scores: Floats, group: NDArray[np.integer], most: int) -> NDArray[np.bool_]:
    """bool[n]: the rows with the `most` highest scores of each group, int[n]; the earlier row on ties."""
    order = np.lexsort((np.arange(len(scores)), -scores, group))
    ranked = group[order]
    begins = np.concatenate(([True], np.diff(ranked) != 0))[: len(ranked)]
    place = np.arange(len(ranked)) - np.maximum.accumulate(np.where(begins, np.arange(len(ranked)), 0))
    chosen = np.zeros(len(scores), bool)
    chosen[order[place < most]] = True
    return chosen


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    total = precision + recall
    f1: NDArray[np.float64] = 2 * precision * recall / np.where(total > 0, total, 1.0)
    return f1


def _require_both_classes(labels: Floats, scores: Floats) -> None:
    frauds = int(labels.sum())
    if not 0 < frauds < len(labels):
        raise MetricError(
            f"{frauds} of {len(labels)} rows are frauds: metrics need frauds and other rows. Choose a longer "
            "test period, more validation customers, or fewer banks."
        )
    if not np.isfinite(scores).all():
        raise MetricError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite: the model has diverged"
        )

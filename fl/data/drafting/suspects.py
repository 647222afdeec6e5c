"""Columns that must not become inputs: the label in disguise, copies of time, row numbers, constants.

A column is taken for the label in disguise if it alone ranks the sample's frauds almost perfectly, or if its name
speaks of fraud. How well a column ranks them is measured on rows that did not set the ranks: the share of frauds of
each value (of each of 50 bands of a number) comes from every second row and ranks the others, and the reverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from fl.data.drafting import names
from fl.data.drafting.looks import Look

ALMOST_PERFECT_AP, ALMOST_PERFECT_AUC = 0.9, 0.98
LEAST_FRAUDS = 20  # in the sample: fewer say too little about a column
FEW_VALUES, BANDS = 200, 50  # a number with more values is cut into bands
LEAST_NAME = 4  # letters of a label's name that another name may contain by chance
LEAST_MOMENTS = 10  # distinct values of a column that is compared with time


def gives_away(look: Look, label: str, fraud: NDArray[np.int8]) -> str | None:
    """Why the column may be the label in disguise; None where nothing says so.

    label: its name.  fraud: int8[n] of the sample's rows: 1, 0, or -1 where the label is neither.
    """
    if len(label) >= LEAST_NAME and label.lower() in look.name.lower():
        return "its name contains the label's: it may be known only once the label is"
    if names.GIVEAWAY.search(look.name):
        return "its name speaks of fraud: it may be known only once the label is"
    if len(look.words) + bool(look.absent) < 2:
        return None
    precision, area = _alone(look, fraud)
    if precision >= ALMOST_PERFECT_AP and area >= ALMOST_PERFECT_AUC:
        return f"alone it finds the frauds almost perfectly (average precision {precision:.2f} in the sample)"
    return None


def copies_time(look: Look, instants: NDArray[np.int64] | None) -> bool:
    """Whether the column ascends with the time, as running numbers and the time in other units do."""
    if instants is None or look.numbers is None or look.empties or len(look.words) < LEAST_MOMENTS:
        return False
    in_order = look.numbers[np.argsort(instants, kind="stable")]
    ascending = (np.diff(in_order) >= 0).mean()
    return bool(ascending >= 0.999 and in_order[-1] > in_order[0])


def numbers_rows(look: Look) -> bool:
    """Whether no value repeats although the values are words or whole numbers."""
    return look.is_whole and not look.repeats and look.rows > 50


def _alone(look: Look, fraud: NDArray[np.int8]) -> tuple[float, float]:
    """(average precision, area under the ROC curve) of the column alone; zeros where there are too few frauds."""
    known = fraud >= 0
    y = fraud[known]
    if min((y[::2] == 1).sum(), (y[1::2] == 1).sum()) < LEAST_FRAUDS / 2 or (y == 0).sum() < LEAST_FRAUDS:
        return 0.0, 0.0
    ranks = [_shares(_codes(look)[known], y)]
    if look.numbers is not None and not look.empties:
        value = look.column[known]
        ranks += [value, -value]
    return max((float(average_precision_score(y, rank)), float(roc_auc_score(y, rank))) for rank in ranks)


def _codes(look: Look) -> NDArray[np.int64]:
    """A code per row: of its word, or of the band of its number; empty cells have one of their own."""
    if look.numbers is None or len(look.words) <= FEW_VALUES:
        code: NDArray[np.int64] = np.unique(look.values.astype(str), return_inverse=True)[1]
        return code
    edges = np.unique(np.quantile(look.numbers, np.linspace(0, 1, BANDS + 1)[1:-1]))
    banded = np.searchsorted(edges, look.column, side="right")
    return np.where(np.isnan(look.column), BANDS + 1, banded).astype(np.int64)


def _shares(code: NDArray[np.int64], y: NDArray[np.int8]) -> NDArray[np.float64]:
    """float64[n]: the share of frauds among the other half's rows of the same code."""
    shares = np.empty(len(y))
    for half in (0, 1):
        others, own = slice(1 - half, None, 2), slice(half, None, 2)
        rows = np.bincount(code[others], minlength=code.max() + 1)
        frauds = np.bincount(code[others], weights=y[others], minlength=code.max() + 1)
        prior = y[others].mean()
        shares[own] = ((frauds + prior) / (rows + 1))[code[own]]
    return shares

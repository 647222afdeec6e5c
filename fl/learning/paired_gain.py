"""By how much one model is better than another at each bank, and how sure that is.

What it does: `paired_gain` compares the average precision of two models on the same test rows, bank by bank and for all
banks together, with 95 % intervals. They come from a bootstrap: each draw takes the customers of the test with
replacement, all rows of a customer together, and measures both models on the same draw.

The intervals say what other customers could have changed. They say nothing of another training, other noise or other
weeks.

Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, section 13.3 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.learning.bank_figures import ScoredBank
from fl.learning.metrics import Floats

DRAWS = 400
SEED = 20261126  # of the draws: the same figures from the same scores; no privacy depends on them
LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """Average precision of the first model minus that of the second, and its interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedGain:
    """`all_banks`: mean over test windows, all banks' rows together. `banks`: each over all its windows.

    A bank without frauds, or with nothing else, has None.
    """

    all_banks: Gain
    banks: dict[str, Gain | None]

    def as_json(self) -> dict[str, Any]:
        banks = {name: None if gain is None else asdict(gain) for name, gain in self.banks.items()}
        return {"draws": DRAWS, "level": LEVEL, **asdict(self.all_banks), "banks": banks}


class _Ranked:
    """Rows in descending order of score, for the average precision of many weightings of them."""

    def __init__(self, label: Floats, score: NDArray[np.float64]) -> None:
        self.order = np.argsort(-score, kind="stable")
        ranked = score[self.order]
        self._frauds = np.flatnonzero(label[self.order])
        last = np.append(np.flatnonzero(np.diff(ranked) != 0), len(ranked) - 1)  # of each run of equal scores
        self._last = np.unique(last[np.searchsorted(last, self._frauds)])  # of the runs with a fraud: others add 0
        self._so_far = np.searchsorted(self._frauds, self._last, side="right")  # frauds up to there

    def average_precision(self, weight: NDArray[np.float64]) -> float:
        """Of rows that count `weight` times, float64[n], in the order `order`; nan where no fraud counts."""
        hits = np.cumsum(weight[self._frauds])[self._so_far - 1]
        if not len(hits) or hits[-1] == 0:
            return float("nan")
        rows = np.cumsum(weight)[self._last]
        precision = np.divide(hits, rows, out=np.zeros(len(rows)), where=rows > 0)
        return float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])


def paired_gain(ours: Sequence[ScoredBank], theirs: Sequence[ScoredBank]) -> PairedGain:
    """What `ours` gains over `theirs`: the same banks with the same test rows, scored by two models."""
    windows = range(len(ours[0].label))
    all_banks = [
        (
            _ranked([bank.label[w] for bank in ours], [bank.score[w] for bank in ours]),
            _ranked([bank.label[w] for bank in theirs], [bank.score[w] for bank in theirs]),
            np.concatenate([bank.customer[w] for bank in ours]),
        )
        for w in windows
        if sum(float(bank.label[w].sum()) for bank in ours) > 0
    ]
    single = {
        one.name: [(_ranked(one.label, one.score), _ranked(other.label, other.score), np.concatenate(one.customer))]
        for one, other in zip(ours, theirs, strict=True)
        if 0 < sum(float(label.sum()) for label in one.label) < sum(len(label) for label in one.label)
    }
    banks = {one.name: _gain(single[one.name]) if one.name in single else None for one in ours}
    return PairedGain(_gain(all_banks), banks)


def _ranked(label: Sequence[Floats], score: Sequence[NDArray[np.float64]]) -> _Ranked:
    return _Ranked(np.concatenate(label), np.concatenate(score))


def _gain(parts: Sequence[tuple[_Ranked, _Ranked, NDArray[np.integer]]]) -> Gain:
    """The mean gain over `parts`, each (ours, theirs, customer of each row). A draw takes customers of all parts."""
    customers, code = np.unique(np.concatenate([customer for _, _, customer in parts]), return_inverse=True)
    codes = np.split(code, np.cumsum([len(customer) for _, _, customer in parts])[:-1])
    pairs = [
        ((ours, which[ours.order]), (theirs, which[theirs.order]))
        for (ours, theirs, _), which in zip(parts, codes, strict=True)
    ]
    rng = np.random.default_rng(SEED)

    def measured(times: NDArray[np.float64]) -> float:
        return fmean(
            ours.average_precision(times[mine]) - theirs.average_precision(times[other])
            for (ours, mine), (theirs, other) in pairs
        )

    drawn = [
        measured(np.bincount(rng.integers(0, len(customers), len(customers)), minlength=len(customers)).astype(float))
        for _ in range(DRAWS)
    ]
    known = np.array([gain for gain in drawn if np.isfinite(gain)])
    gain = measured(np.ones(len(customers)))
    if len(known) == 0:  # the only fraud was in no draw
        return Gain(gain, -1.0, 1.0)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Gain(gain, float(low), float(high))

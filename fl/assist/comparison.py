"""Measure a change to the training data: average precision with and without it, on the same test rows.

Both sides train the same schedule from the same first models and batch orders, `repeats` times with different seeds,
averaged without encryption and without differential privacy. The interval is that of a paired bootstrap: each replicate
draws one of the repeats and, with replacement, whole customers (their rows are not independent), and takes the
difference on the same draw. It covers the randomness of seeds and customers, not that of weeks, so several test
windows say more than one.

An interval that contains 0 is reported as "no difference shown".

Sources: Efron and Tibshirani 1993, chapter 13 (percentile interval); Field and Welsh 2007 (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl.data.federation import BankData, Rows
from fl.errors import MetricError
from fl.learning.evaluation import require_measurable
from fl.learning.training import derive_seed, predict
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.play import Rounds, Schedule, trained_models
from fl.secure.session import plain_sum

CLIP = 1.0  # bound of every coordinate of an update, the default of runs
CONFIDENCE = 0.95

Scores = list[NDArray[np.float64]]  # one array per test window, bank after bank


@dataclass(frozen=True)
class Comparison:
    """Average precision, mean over test windows and repeats; `difference` = changed - unchanged with its interval."""

    unchanged: float
    changed: float
    difference: float
    low: float
    high: float
    confidence: float
    windows: int
    repeats: int
    replicates: int
    rows: int
    frauds: int

    @property
    def verdict(self) -> str:
        """The meaning of the interval in words."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class _Window:
    """Labels and customers of one test window: `customer`: int64[n], 0 to `customers` - 1."""

    labels: NDArray[np.float32] = field(repr=False)
    customer: NDArray[np.int64] = field(repr=False)


def compare(
    unchanged: Sequence[BankData],
    changed: Sequence[BankData],
    schedule: Schedule,
    *,
    repeats: int = 3,
    replicates: int = 1000,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Train with both data sets and measure the difference. `schedule` must be without differential privacy.

    Raises `MetricError` when the test rows differ or cannot be measured.
    """
    _require_same_test_rows(unchanged, changed)
    require_measurable(unchanged)
    scores: list[tuple[Scores, Scores]] = []
    for repeat in range(repeats):
        own = derive_seed(seed, "comparison", repeat)
        pair = []
        for banks in (unchanged, changed):
            pair.append(test_scores(banks, schedule, own, device or torch.device("cpu")))
            if progress is not None:
                progress(2 * repeat + len(pair))
        scores.append((pair[0], pair[1]))
    windows, customers = _windows(unchanged)
    before, after = (float(np.mean([_mean_precision(windows, pair[side], None) for pair in scores])) for side in (0, 1))
    rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
    differences = [_replicate(windows, customers, scores, rng) for _ in range(replicates)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([d for d in differences if np.isfinite(d)], [tail, 1 - tail])
    return Comparison(
        before,
        after,
        after - before,
        float(low),
        float(high),
        CONFIDENCE,
        len(windows),
        repeats,
        replicates,
        sum(len(w.labels) for w in windows),
        int(sum(w.labels.sum() for w in windows)),
    )


def trained(banks: Sequence[BankData], schedule: Schedule, seed: int, device: torch.device) -> torch.nn.Module:
    """The model after all rounds of `schedule`, seeded by `seed`, averaged without encryption."""
    algorithm, aggregate = FedAvg(Everyone(len(banks))), partial(plain_sum, clip=CLIP)
    return trained_models(Rounds(banks, _reseeded(schedule, seed), algorithm, aggregate, clip=CLIP, device=device))[0]


def test_scores(banks: Sequence[BankData], schedule: Schedule, seed: int, device: torch.device) -> Scores:
    """Fraud probabilities of all banks' test rows, by window, from a model trained on these banks."""
    model = trained(banks, schedule, seed, device)
    return [
        np.concatenate([predict(model, bank.test[i].x, device=device) for bank in banks])
        for i in range(len(banks[0].test))
    ]


def average_precision(
    labels: NDArray[np.floating], scores: NDArray[np.float64], weights: NDArray[np.number] | None = None
) -> float:
    """Average precision of rows with `weights` (1 each by default); NaN when all frauds have weight 0.

    The same sum over thresholds as sklearn's, in one pass over sorted rows.
    """
    order = np.argsort(-scores, kind="stable")
    weight = np.ones(len(scores)) if weights is None else weights[order].astype(np.float64)
    hit = np.cumsum(weight * labels[order])
    flagged = np.cumsum(weight)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # rows of equal score share a threshold
    if hit[-1] <= 0:
        return float("nan")
    precision = hit[last] / np.maximum(flagged[last], 1e-300)
    return float(np.sum(np.diff(hit[last], prepend=0.0) * precision) / hit[-1])


def _reseeded(schedule: Schedule, seed: int) -> Schedule:
    if schedule.private is not None:
        raise MetricError("a comparison trains outside every privacy budget: expected a schedule without privacy")
    return Schedule(schedule.rounds, schedule.local, None, schedule.dropout, schedule.prior, seed)


def _rows_of(banks: Sequence[BankData], window: int) -> list[Rows]:
    return [bank.test[window] for bank in banks]


def _require_same_test_rows(unchanged: Sequence[BankData], changed: Sequence[BankData]) -> None:
    for before, after in zip(unchanged, changed, strict=True):
        for one, other in zip(before.test, after.test, strict=True):
            if not (np.array_equal(one.index, other.index) and np.array_equal(one.y, other.y)):
                raise MetricError(f"{before.name}: expected the same test rows on both sides, got different ones")


def _windows(banks: Sequence[BankData]) -> tuple[list[_Window], int]:
    """Test windows with customers numbered from 0, and the number of customers."""
    number = len(banks[0].test)
    customers = [np.concatenate([rows.customer for rows in _rows_of(banks, i)]) for i in range(number)]
    _, code = np.unique(np.concatenate(customers), return_inverse=True)
    parts = np.split(code, np.cumsum([len(c) for c in customers])[:-1])
    labels = [np.concatenate([rows.y for rows in _rows_of(banks, i)]) for i in range(number)]
    return [_Window(y, c) for y, c in zip(labels, parts, strict=True)], int(code.max()) + 1


def _mean_precision(windows: list[_Window], scores: Scores, drawn: NDArray[np.int64] | None) -> float:
    """Mean over windows; `drawn`: int64[customers], how often each customer was drawn."""
    parts = [
        average_precision(w.labels, s, None if drawn is None else drawn[w.customer])
        for w, s in zip(windows, scores, strict=True)
    ]
    return float(np.mean(parts))


def _replicate(
    windows: list[_Window], customers: int, scores: list[tuple[Scores, Scores]], rng: np.random.Generator
) -> float:
    before, after = scores[int(rng.integers(len(scores)))]
    drawn = np.bincount(rng.integers(customers, size=customers), minlength=customers)
    return _mean_precision(windows, after, drawn) - _mean_precision(windows, before, drawn)

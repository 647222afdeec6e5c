"""Whether the test days still look like the training days, watched day by day as a bank would, and when it alarms.

Three kinds of signal:

- **PSI**, the population stability index, of every feature and of the score: the last week's distribution beside that
  of the training period. The expected distribution weights weekdays as they occur in the last week; otherwise
  every Monday would be a drift.
- **ADWIN on scores** of the test rows, one after the other.
- **ADWIN on errors** (squared, of a score against its label) of the test rows, each entered when its label is known.

A signal alarms once. PSI must exceed its limit on several days in a row, because one unusual week of a few customers is
no drift. Limits were chosen on simulated runs and confirmed on twenty others, see docs/evaluation.md.

What it leaves to others: what to do about an alarm.

Sources: Bifet and Gavalda, Learning from time-changing data with adaptive windowing, SDM 2007 (ADWIN, `river`);
Siddiqi, Credit risk scorecards, 2006 (the stability index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN

from fl.reports.examination.evidence import Evidence, ScoredPart


@dataclass(frozen=True)
class AlarmLimits:
    """When a signal counts as an alarm."""

    psi: float = 0.25
    psi_days: int = 3  # test days in a row on which a PSI has to exceed its limit
    window_days: int = 7  # of the distribution that is compared
    bins: int = 10  # of equal frequency in the training period
    score_delta: float = 1e-8  # of ADWIN: probability of a false alarm if rows were independent, which they are not
    error_delta: float = 1e-8


LIMITS = AlarmLimits()
SCORE = "score"


def drift(evidence: Evidence, limits: AlarmLimits = LIMITS) -> dict[str, Any]:
    """Signals by test day, and the alarms in the order in which they would have been raised."""
    if not evidence.has_days:
        return {"available": False, "why": evidence.why_no_days}
    test, schema = evidence.test, evidence.schema
    days = np.unique(test.day)
    calendar = schema.time is not None and schema.time.has_calendar
    known = np.concatenate([evidence.train.day, evidence.validation.day])
    series = {
        name: psi_by_day(before, known, after, test.day, calendar=calendar, limits=limits)
        for name, before, after in _signals(evidence)
    }
    delay = schema.label.delay_days
    alarms = [
        *(_psi_alarm(name, values, days, limits) for name, values in series.items()),
        _alarm("scores, ADWIN", mean_alarm(test.score, test.day, limits.score_delta), 0),
        _alarm("errors, ADWIN", mean_alarm(_squared_error(test), test.day, limits.error_delta), delay),
    ]
    raised = sorted((alarm for alarm in alarms if alarm is not None), key=lambda alarm: int(alarm["known"]))
    return {
        "available": True,
        "limits": asdict(limits),
        "label_delay_days": delay,
        "days": [schema.day_name(int(day)) for day in days],
        "rows": [int((test.day == day).sum()) for day in days],
        "mean_score": [float(test.score[test.day == day].mean()) for day in days],
        "fraud_share": [float(test.label[test.day == day].mean()) for day in days],
        "mean_squared_error": [float(_squared_error(test)[test.day == day].mean()) for day in days],
        "psi": series,
        "largest_psi": {name: max(values) for name, values in series.items()},
        "alarms": [
            {
                "signal": alarm["signal"],
                "day": schema.day_name(int(alarm["day"])),
                "known_on": schema.day_name(int(alarm["known"])),
                "days_after_first_test_day": int(alarm["known"]) - int(days[0]),
            }
            for alarm in raised
        ],
    }


def _signals(evidence: Evidence) -> list[tuple[str, NDArray[np.floating], NDArray[np.floating]]]:
    """(name, values of the training period, values of the test days) of every feature and of the score."""
    train, validation, test = evidence.train, evidence.validation, evidence.test
    before = np.concatenate([train.x, validation.x])
    # Scores of training rows are slightly too extreme, and validation customers alone are too few for a distribution
    # (their PSI reached 0.3 without any drift).
    scores = np.concatenate([train.score, validation.score])
    columns = [(name, before[:, i], test.x[:, i]) for i, name in enumerate(evidence.federation.feature_names)]
    return [(SCORE, scores, test.score), *columns]


def psi_by_day(
    before: NDArray[np.floating],
    before_day: NDArray[np.integer],
    after: NDArray[np.floating],
    after_day: NDArray[np.integer],
    *,
    calendar: bool,
    limits: AlarmLimits = LIMITS,
) -> list[float]:
    """The stability index of the days up to each test day against the training period; one value per test day.

    With `calendar` the training period is weighted by weekday as the compared days are; a weekday that it does not
    hold is compared with the whole of it.
    """
    edges = np.unique(np.quantile(before, np.arange(1, limits.bins) / limits.bins))
    expected_of = {int(w): _shares(before[before_day % 7 == w], edges) for w in np.unique(before_day % 7)}
    overall = _shares(before, edges)
    counts = {int(day): _counts(after[after_day == day], edges) for day in np.unique(after_day)}
    values = []
    for day in counts:
        recent = [d for d in counts if day - limits.window_days < d <= day]
        observed = np.sum([counts[d] for d in recent], axis=0)
        if calendar:
            expected = np.sum([counts[d].sum() * expected_of.get(d % 7, overall) for d in recent], axis=0)
        else:
            expected = overall
        values.append(stability_index(expected / expected.sum(), observed / observed.sum()))
    return values


def stability_index(expected: NDArray[np.floating], observed: NDArray[np.floating]) -> float:
    """Sum of (q - p) ln(q / p) over bins with shares `expected` p and `observed` q; shares below 1e-4 count as 1e-4."""
    p, q = np.maximum(expected, 1e-4), np.maximum(observed, 1e-4)
    return float(((q - p) * np.log(q / p)).sum())


def _counts(values: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows per bin: at or below the first edge, ..., above the last. A value that is often 0 thus has a bin for 0."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).astype(np.float64)


def _shares(values: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.float64]:
    counts = _counts(values, edges)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def mean_alarm(values: NDArray[np.float64], day: NDArray[np.integer], delta: float) -> int | None:
    """The first day on which ADWIN finds that the mean of `values`, float64[n] in time order, has changed."""
    watch = ADWIN(delta=delta)
    for value, today in zip(values.tolist(), day.tolist(), strict=True):
        watch.update(value)
        if watch.drift_detected:
            return int(today)
    return None


def _squared_error(test: ScoredPart) -> NDArray[np.float64]:
    error: NDArray[np.float64] = (test.score - test.label) ** 2
    return error


def _psi_alarm(
    name: str, values: Sequence[float], days: NDArray[np.integer], limits: AlarmLimits
) -> dict[str, str | int] | None:
    """The day on which the index has exceeded its limit for the last time that is needed."""
    in_a_row = 0
    for value, day in zip(values, days.tolist(), strict=True):
        in_a_row = in_a_row + 1 if value > limits.psi else 0
        if in_a_row == limits.psi_days:
            return _alarm(f"{name}, PSI", day, 0)
    return None


def _alarm(signal: str, day: int | None, delay: int) -> dict[str, str | int] | None:
    return None if day is None else {"signal": signal, "day": day, "known": day + delay}

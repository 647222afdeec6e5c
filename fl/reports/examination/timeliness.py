"""Measure how soon a compromise is detected: days from a card's or terminal's first fraud to its first alert.

What it does: for every card and terminal with a fraud on the test days, the days until one of its rows is at or above
the threshold, from its first fraud on. Compromises late in the test days are followed for fewer days; `within` counts,
for each number of days, only those that could be followed that long.

A terminal with a fraud in the weeks before the test days was compromised before the test and is counted separately.
A card with such a fraud is blocked, so it has no test rows.

What it leaves to others: the threshold (`fl.learning.metrics`), what happens after an alert.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.reports.examination.evidence import Evidence, ScoredPart

LOOK_BACK_DAYS = 30  # a terminal with a fraud in these days before the test days is no new compromise
FOLLOWED_DAYS = 14  # at most


def timeliness(evidence: Evidence) -> dict[str, Any]:
    """Days to the first alert, for cards and for terminals; `available` False where rows have no days or parties."""
    if not evidence.has_days:
        return {"available": False, "why": evidence.why_no_days}
    test, parties = evidence.test, {}
    if evidence.schema.parties.customer is not None:
        parties["cards"] = _followed(test, test.customer, evidence.flagged(test), np.empty(0, np.int64))
    if test.terminal is not None:
        parties["terminals"] = _followed(test, test.terminal, evidence.flagged(test), _already_compromised(evidence))
    if not parties:
        return {"available": False, "why": "the schema names neither customers nor terminals"}
    return {"available": True, "threshold": evidence.threshold, "look_back_days": LOOK_BACK_DAYS, **parties}


def _followed(
    test: ScoredPart, party: NDArray[np.int64], flagged: NDArray[np.bool_], already: NDArray[np.int64]
) -> dict[str, Any]:
    """Figures of the parties with a fraud on the test days."""
    compromised = np.unique(party[test.label == 1])
    new = np.setdiff1d(compromised, already)
    wait, followed = days_to_alert(party, test.day, test.label, flagged, new)
    alerted = np.isfinite(wait)
    return {
        "compromised": len(new),
        "compromised_before": len(compromised) - len(new),
        "alerted": int(alerted.sum()),
        "never_alerted": int((~alerted).sum()),
        "median_days": float(np.median(wait[alerted])) if alerted.any() else None,
        "mean_days": float(np.mean(wait[alerted])) if alerted.any() else None,
        "within": _within(wait, followed),
    }


def days_to_alert(
    party: NDArray[np.int64],
    day: NDArray[np.integer],
    label: NDArray[np.integer],
    flagged: NDArray[np.bool_],
    wanted: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(days from first fraud to first later alert, inf where there is none; days followed), one per `wanted` party.

    `party`, `day`, `label`, `flagged` describe rows in time order; an alert before the first fraud does not count.
    """
    wait = np.full(len(wanted), np.inf)
    followed = np.zeros(len(wanted), np.int64)
    for i, who in enumerate(wanted.tolist()):
        rows = np.flatnonzero(party == who)
        rows = rows[np.argmax(label[rows] == 1) :]
        followed[i] = int(day.max()) - int(day[rows[0]])
        alerts = rows[flagged[rows]]
        if len(alerts):
            wait[i] = int(day[alerts[0]]) - int(day[rows[0]])
    return wait, followed


def _within(wait: NDArray[np.float64], followed: NDArray[np.int64]) -> list[dict[str, float | int]]:
    """For each number of days: parties followed at least so long, and how many of them were alerted by then."""
    shares: list[dict[str, float | int]] = []
    for days in range(FOLLOWED_DAYS + 1):
        able = followed >= days
        if not able.any():
            break
        alerted = int((wait[able] <= days).sum())
        shares.append(
            {"days": days, "followed": int(able.sum()), "alerted": alerted, "share": alerted / int(able.sum())}
        )
    return shares


def _already_compromised(evidence: Evidence) -> NDArray[np.int64]:
    """Terminals with a fraud, known or not, in the days before the test days."""
    table, first = evidence.table, int(evidence.test.day.min())
    assert table.terminal is not None and table.label is not None
    recent = (table.day >= first - LOOK_BACK_DAYS) & (table.day < first) & (table.label == 1)
    return np.unique(table.terminal.code[recent])

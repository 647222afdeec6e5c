"""What a team finds that can review only so many transactions: the highest scores a day, of each bank, or in all.

What it does: `review` takes the K highest scores of each group of test rows and counts the frauds among them. Unlike
precision at a threshold, it fits what people can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from fl import options
from fl.errors import ExaminationError, OptionError
from fl.learning.metrics import highest
from fl.reports.examination.evidence import Evidence

Per = Literal["day", "bank", "all"]


@dataclass(frozen=True)
class Team:
    """`alerts`: transactions that are reviewed; `per`: a day at all banks together, a day at each bank, or in all.

    `per` None: a day where rows have days, and in all where they have none. Without days, "bank" is each bank in all.
    """

    alerts: Annotated[int, options.REVIEWED]
    per: Per | None = None

    def __post_init__(self) -> None:
        options.check(self, OptionError)


def review(evidence: Evidence, team: Team | None) -> dict[str, Any] | None:
    """Figures of what the team reviews of the test rows; None without a team.

    Raises `ExaminationError` for a number a day where rows have no days.
    """
    if team is None:
        return None
    test, days = evidence.test, evidence.has_days
    per: Per = team.per or ("day" if days else "all")
    if per == "day" and not days:
        raise ExaminationError(f"--alerts-per day: {evidence.why_no_days}; use --alerts-per bank or all")
    day = test.day.astype(np.int64) - int(test.day.min())
    group = {
        "day": day,
        "bank": test.bank * (int(day.max()) + 1) + day if days else test.bank,
        "all": np.zeros(len(test), np.int64),
    }[per]
    chosen = highest(test.score, group, team.alerts)
    hits, frauds = int(test.label[chosen].sum()), int(test.label.sum())
    return {
        "alerts": team.alerts,
        "per": per,
        "words": words(team.alerts, per, days),
        "reviewed": int(chosen.sum()),
        "frauds": hits,
        "all_frauds": frauds,
        "precision": hits / int(chosen.sum()),
        "recall": hits / frauds,
    }


def words(alerts: int, per: Per, days: bool) -> str:
    """Which transactions are reviewed, after "of"."""
    highest_scores = f"the {alerts:,} highest score{'s' if alerts > 1 else ''}"
    where = {
        "day": "of each day at all banks together",
        "bank": "of each bank and day" if days else "of each bank",
        "all": "of all test transactions",
    }
    return f"{highest_scores} {where[per]}"

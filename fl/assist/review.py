"""Request a second assessment of the highest-scored alerts: verdicts that order a queue and change no score.

The k rows with the highest scores are sent in coarse or redacted form. The verdicts order these k rows and no other
row: likely frauds first, then unclear ones, each by confidence and then by score. Every alert keeps its score. An alert
without a usable verdict counts as unclear with confidence 0.

Agreement is measured against labels: the share of frauds among the first n alerts in the order of the model and in the
order of the verdicts, with a bootstrap interval of the difference over alerts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.assist.answers import Review, ReviewAnswer
from fl.assist.gateway import Gateway, ItemAnswer, Progress
from fl.assist.prompts import load_prompt
from fl.assist.provider import Task

TOKENS_PER_ITEM = 160  # output limit; an answer takes about half
RANK = {"likely_fraud": 2, "unclear": 1, "likely_genuine": 0}
DEPTHS = (10, 25, 50)  # numbers of first alerts at which precision is measured, if the queue is longer
REPLICATES = 2000


@lru_cache(maxsize=1)
def task() -> Task[Review]:
    """The request for verdicts."""
    return Task(load_prompt("review"), ReviewAnswer, "answers", TOKENS_PER_ITEM, lambda *_: None)


@dataclass(frozen=True)
class Alert:
    """An alert and its verdict. `position`: among all scored rows. `queue`: place in the queue, from 0."""

    position: int
    score: float
    outcome: ItemAnswer[Review]
    queue: int

    def as_json(self) -> dict[str, Any]:
        value = self.outcome.value
        verdict = {"verdict": None, "unanswered": self.outcome.reason} if value is None else value.model_dump()
        verdict.pop("item", None)
        return {"position": self.position, "score": self.score, "queue": self.queue, **verdict}


@dataclass(frozen=True)
class Agreement:
    """Share of frauds among the first `depth` alerts by score and by queue, and the difference's interval."""

    depth: int
    by_score: float
    by_queue: float
    low: float
    high: float


def review(
    gateways: Sequence[Gateway],
    scores: NDArray[np.float64],
    records: Mapping[int, tuple[int, Mapping[str, object]]],
    progress: Progress | None = None,
) -> list[Alert]:
    """Ask about the rows in `records` and return alerts in the order of the queue.

    `records`: (number of the bank, raw values by column), by position in `scores`. Each bank uses its own
    gateway. Raises what a gateway raises.
    """
    positions = sorted(records, key=lambda p: (-scores[p], p))
    answered: dict[int, ItemAnswer[Review]] = {}
    for bank, gateway in enumerate(gateways):
        own = [p for p in positions if records[p][0] == bank]
        answered |= dict(zip(own, gateway.ask_each(task(), [records[p][1] for p in own]), strict=True))
        if progress is not None:
            progress(bank + 1)
    outcomes = [answered[p] for p in positions]
    order = sorted(range(len(positions)), key=lambda i: (_weight(outcomes[i]), scores[positions[i]]), reverse=True)
    return [Alert(positions[i], float(scores[positions[i]]), outcomes[i], place) for place, i in enumerate(order)]


def highest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Positions of the `count` highest scores, the highest first; equal scores keep their order."""
    return np.argsort(-scores, kind="stable")[:count].astype(np.int64)


def agreement(alerts: Sequence[Alert], labels: NDArray[np.floating], seed: int = 0) -> list[Agreement]:
    """Precision at each depth with and without the verdicts; `labels`: of all scored rows."""
    y = np.array([labels[alert.position] for alert in alerts], np.float64)
    score = np.array([alert.score for alert in alerts])
    queue = np.array([-alert.queue for alert in alerts], np.float64)
    measured, rng = [], np.random.default_rng(seed)
    for depth in (d for d in DEPTHS if d < len(alerts)):
        draws = rng.integers(len(y), size=(REPLICATES, len(y)))
        differences = [_precision(y[i], queue[i], depth) - _precision(y[i], score[i], depth) for i in draws]
        low, high = np.quantile(differences, [0.025, 0.975])
        by_score, by_queue = _precision(y, score, depth), _precision(y, queue, depth)
        measured.append(Agreement(depth, by_score, by_queue, float(low), float(high)))
    return measured


def _weight(outcome: ItemAnswer[Review]) -> tuple[int, float]:
    if outcome.value is None:
        return RANK["unclear"], 0.0
    rank = RANK[outcome.value.verdict]
    return rank, outcome.value.confidence if rank else -outcome.value.confidence


def _precision(y: NDArray[np.float64], order: NDArray[np.float64], depth: int) -> float:
    return float(y[np.argsort(-order, kind="stable")[:depth]].mean())

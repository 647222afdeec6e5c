"""Choose the score from which on a transaction is an alert: by F1, by alerts, or by cost; for all banks or for each.

What it does: each rule takes labelled rows that no model was trained on, and gives a threshold. `ByF1` has the best F1.
`ByAlerts` flags so many rows a day. `ByCost` has the least cost of missed frauds and of alerts.

A threshold of one bank is an estimate from that bank's frauds. With few of them it is a matter of luck. `per_bank`
therefore gives a bank its own threshold only if its rows hold `ENOUGH_FRAUDS` frauds. A rule by alerts needs no frauds.

Sources: Lipton, Elkan and Naryanaswamy, ECML 2014 (F1 over thresholds); Elkan, IJCAI 2001 (costs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np

from fl import options
from fl.errors import MetricError, OptionError
from fl.learning.metrics import Floats, choose_threshold

ENOUGH_FRAUDS = 50  # of one bank's rows, for a threshold of its own


@dataclass(frozen=True)
class HeldOut:
    """Labelled rows of one bank that no model was trained on. `label`, `score`: float[n].

    `days`: of how many days they are all rows, such as 2.8 for a tenth of the rows of 28 days. Without days: which part
    of all rows they are.
    """

    label: Floats = field(repr=False)
    score: Floats = field(repr=False)
    days: float


class Rule(Protocol):
    """How a threshold is chosen. `name` is the word for it in files."""

    name: str
    needs_frauds: bool  # whether a threshold from few frauds would be luck

    def choose(self, rows: HeldOut) -> float:
        """The threshold, from 0 to 1. Raises `MetricError` for rows that do not allow one."""

    def words(self) -> str:
        """The rule in words, after "chosen"."""


@dataclass(frozen=True)
class ByF1:
    """The best F1; the highest such score on ties."""

    name = "f1"
    needs_frauds = True

    def choose(self, rows: HeldOut) -> float:
        return choose_threshold(rows.label, rows.score)

    def words(self) -> str:
        return "by the best F1"


@dataclass(frozen=True)
class ByAlerts:
    """At most `alerts` rows a day are flagged on average; in all, where rows have no days."""

    alerts: Annotated[float, options.ALERTS_A_DAY]

    name = "alerts"
    needs_frauds = False

    def __post_init__(self) -> None:
        options.check(self, OptionError)

    def choose(self, rows: HeldOut) -> float:
        if len(rows.score) == 0:
            raise MetricError("expected rows to count alerts on, got none; choose a longer training period")
        allowed = math.floor(self.alerts * rows.days)
        ordered = np.sort(rows.score)[::-1]
        if allowed >= len(ordered):
            return float(ordered[-1])
        # The next score is not flagged, and no score that equals it.
        above = ordered[ordered > ordered[allowed]]
        return float(above[-1]) if len(above) else _above(ordered[0])

    def words(self) -> str:
        return f"for {self.alerts:g} alerts a day"


@dataclass(frozen=True)
class ByCost:
    """The least cost: `missed` for a fraud that is not flagged, `alert` for a row that is flagged, fraud or not."""

    missed: Annotated[float, options.COST_OF_ONE]
    alert: Annotated[float, options.COST_OF_ONE]

    name = "cost"
    needs_frauds = True

    def __post_init__(self) -> None:
        options.check(self, OptionError)

    def choose(self, rows: HeldOut) -> float:
        if len(rows.score) == 0:
            raise MetricError("expected rows to count costs on, got none; choose a longer training period")
        order = np.argsort(-rows.score, kind="stable")
        score, label = rows.score[order], rows.label[order]
        last = np.append(np.flatnonzero(np.diff(score) != 0), len(score) - 1)  # of each run of equal scores
        flagged = last + 1
        caught = np.cumsum(label)[last]
        cost = self.missed * (label.sum() - caught) + self.alert * flagged
        none = self.missed * float(label.sum())
        best = int(np.argmin(cost))
        if none <= cost[best]:
            return _above(score[0])
        return float(score[last[best]])

    def words(self) -> str:
        return f"by the least cost, {self.missed:g} for a missed fraud and {self.alert:g} for an alert"


@dataclass(frozen=True)
class Thresholds:
    """`shared`: of all banks; `banks`: of the banks that have their own. `rule`: how they were chosen, as JSON."""

    shared: float
    banks: Mapping[str, float]
    rule: Mapping[str, Any]

    def of(self, bank: str) -> float:
        return self.banks.get(bank, self.shared)


def shared_threshold(rule: Rule, rows: Mapping[str, HeldOut]) -> float:
    """The threshold of all banks together. Raises `MetricError` for rows that do not allow one."""
    parts = list(rows.values())
    everything = HeldOut(
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.score for part in parts]),
        max(part.days for part in parts),
    )
    return rule.choose(everything)


def per_bank(rule: Rule, rows: Mapping[str, HeldOut], enough: int = ENOUGH_FRAUDS) -> dict[str, float]:
    """Each bank's own threshold, of those banks whose rows allow one: enough frauds, where the rule needs frauds.

    `rule`: of a single bank; an alerts rule says how many alerts of that one bank. A bank that is not in the result
    uses the threshold of all banks.
    """
    chosen = {}
    for bank, part in rows.items():
        frauds = int(part.label.sum())
        if len(part.label) == 0 or (rule.needs_frauds and not enough <= frauds < len(part.label)):
            continue
        chosen[bank] = rule.choose(part)
    return chosen


def rule_as_json(rule: Rule) -> dict[str, Any]:
    """The rule for a file: its name and its numbers."""
    return {"name": rule.name, **asdict(rule)}  # type: ignore[call-overload]  # every rule is a dataclass


def rule_in_words(rule: Mapping[str, Any]) -> str:
    """How a threshold was chosen, after "chosen". A rule that this version does not know is named.

    `rule`: as `rule_as_json` gives it, or that of the threshold in a model file.
    """
    known: dict[str, type[ByF1 | ByAlerts | ByCost]] = {"f1": ByF1, "alerts": ByAlerts, "cost": ByCost}
    if rule.get("rows") == "validation":
        return "by the best F1 on validation rows"
    try:
        return known[str(rule.get("name"))](**{key: value for key, value in rule.items() if key != "name"}).words()
    except (KeyError, TypeError, OptionError):
        return f"by a rule of another version ({rule.get('name')})"


def _above(score: float) -> float:
    """The smallest threshold that does not flag `score`."""
    return float(np.nextafter(score, 2.0))

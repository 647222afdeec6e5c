"""What an attack is, and how its two performances are judged.

Every attack is played twice. The control plays it where the defence is missing. There it must succeed, since an attack
that fails everywhere proves nothing. The second performance plays it against this project as shipped. It is judged by
the attacker's final estimate of the victim's update, compared with the update itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from secagg.arrays import F64
from secagg.errors import SecAggError

_MODULES = {"flower": "flwr"}  # extra -> what it brings

EXPOSED_CORRELATION = 0.9
"""An estimate that correlates with the victim's update at least this well exposes it. The average of K independent,
equally large updates has correlation 1/sqrt(K) with each of them: 0.45 for the five clients of most attacks."""


@dataclass(frozen=True)
class Control:
    """The attack where the defence is missing. against: the attacked system. figure: what was measured."""

    against: str
    succeeded: bool
    figure: str


@dataclass(frozen=True)
class Shipped:
    """The attack against this project.

    outcome: "refused" (every request to an honest party that must be refused raised an error), "harmless" (nothing was
    refused, and no estimate exposes the victim), "accepted" (a request that must be refused was not) or "exposed".
    errors: names of the errors, in order. exposed_updates: number of estimates that expose the victim.
    """

    outcome: str
    errors: tuple[str, ...]
    exposed_updates: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class Loot:
    """What an attacker has at the end of an attempt.

    estimate: of the victim's update, float64[length]. victim: the true update, same shape. accepted: an honest party
    released something or took a message that it must refuse. False if the estimate comes from public values alone.
    """

    estimate: F64
    victim: F64
    accepted: bool = True


Attempt = Callable[[], Loot]


@dataclass(frozen=True)
class Attack:
    """name: on the command line. story: what the attacker does, in one sentence. needs: an extra, or an empty text."""

    name: str
    story: str
    control: Callable[[], Control]
    shipped: Callable[[], Shipped]
    needs: str = ""

    @property
    def playable(self) -> bool:
        """Whether the extra that it needs is installed."""
        return not self.needs or importlib.util.find_spec(_MODULES[self.needs]) is not None


@dataclass(frozen=True)
class Performance:
    """The results of both performances of one attack."""

    attack: Attack
    control: Control
    shipped: Shipped


def perform(attack: Attack) -> Performance:
    """Play an attack's control and the attack itself."""
    return Performance(attack, attack.control(), attack.shipped())


def judge(attempts: Sequence[Attempt], note: str = "") -> Shipped:
    """Play attempts against this project. An error of `secagg` is a refusal. Any other exception passes through."""
    errors: list[str] = []
    exposed, accepted = 0, False
    for attempt in attempts:
        try:
            loot = attempt()
        except SecAggError as error:
            errors.append(type(error).__name__)
        else:
            exposed += exposes(loot.estimate, loot.victim)
            accepted |= loot.accepted
    outcome = "exposed" if exposed else "accepted" if accepted else "refused" if errors else "harmless"
    return Shipped(outcome, tuple(errors), exposed, note)


def exposes(estimate: F64, victim: F64) -> bool:
    """Whether an estimate gives the victim's update away."""
    return abs(correlation(estimate, victim)) >= EXPOSED_CORRELATION


def correlation(a: F64, b: F64) -> float:
    """Pearson's correlation; 0 if one of both vectors is constant."""
    if float(np.std(a)) == 0.0 or float(np.std(b)) == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def largest_error(estimate: F64, truth: F64) -> float:
    """max |estimate - truth|."""
    return float(np.abs(estimate - truth).max())

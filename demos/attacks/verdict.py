"""What an attack is, and how its two performances are judged.

Every attack is played twice. The control plays it where the defence is missing, and must succeed there: an attack that
fails everywhere proves nothing. The second performance plays it against this project as shipped; it is judged by what
the attacker holds in the end, compared with the victim's own update, never by what the attack claims.
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
"""An estimate that correlates with the victim's update at least this well exposes it. An honest average of K equally
large updates correlates with each of them at 1/sqrt(K): 0.45 for the five clients of these stories."""


@dataclass(frozen=True)
class Control:
    """The attack where the defence is missing. against: what it was played against. figure: what was measured."""

    against: str
    succeeded: bool
    figure: str


@dataclass(frozen=True)
class Shipped:
    """The attack against this project.

    outcome: "refused" (whatever was asked of an honest party raised), "harmless" (nothing was refused, and what the
    attacker computed from it says nothing about the victim), "accepted" (something that must be refused was not) or
    "exposed". errors: the named errors, in order. exposed_updates: estimates that hit.
    """

    outcome: str
    errors: tuple[str, ...]
    exposed_updates: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class Loot:
    """What an attacker holds in the end.

    estimate: of the victim's update; victim: the truth, to compare with. accepted: an honest party gave this out, or
    took a message, where it must refuse; False when the attacker computed the estimate from what is rightly public.
    """

    estimate: F64
    victim: F64
    accepted: bool = True


Attempt = Callable[[], Loot]


@dataclass(frozen=True)
class Attack:
    """name: as on the command line. story: what the attacker does, in one sentence. needs: an extra, or nothing."""

    name: str
    story: str
    control: Callable[[], Control]
    shipped: Callable[[], Shipped]
    needs: str = ""

    @property
    def playable(self) -> bool:
        """Whether what it needs is installed here."""
        return not self.needs or importlib.util.find_spec(_MODULES[self.needs]) is not None


@dataclass(frozen=True)
class Performance:
    """Both performances of one attack, really played."""

    attack: Attack
    control: Control
    shipped: Shipped


def perform(attack: Attack) -> Performance:
    """Play an attack's control and the attack itself."""
    return Performance(attack, attack.control(), attack.shipped())


def judge(attempts: Sequence[Attempt], note: str = "") -> Shipped:
    """Play attempts against this project: errors of this package are refusals, any other exception passes."""
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
    """Pearson's; 0 for a constant, which says nothing about anybody."""
    if float(np.std(a)) == 0.0 or float(np.std(b)) == 0.0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def largest_error(estimate: F64, truth: F64) -> float:
    """max |estimate - truth|."""
    return float(np.abs(estimate - truth).max())

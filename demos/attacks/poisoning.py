"""Poisoned updates, which encryption by itself makes worse, because nobody can look at them.

Two of ten clients send -10 times the mean of the honest updates (inner product manipulation: Xie, Koyejo, Gupta, "Fall
of Empires", UAI 2020). In a plain average of ten the model then moves the wrong way. They are given the honest mean,
which encryption denies to real attackers. In other attempts they send four times their update with its sign turned, and
ten times their update.

What stops it here: a robust round (`secagg.robust`). The key holder sees inner products of sketches, applies a rule,
and closes the roster over those who pass, before anybody contributes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import secagg
from demos.attacks import federation
from demos.attacks.verdict import Attack, Control, Shipped
from secagg.arrays import F64

CLIENTS = 10
ATTACKERS = (8, 9)  # positions
TURNED = -0.5  # a cosine with the honest mean below this is a model that moves the wrong way

Trick = Callable[[F64, F64], F64]  # (own update, mean of the honest updates) -> what an attacker sends

TRICKS: dict[str, Trick] = {
    "inner product manipulation": lambda own, mean: -10.0 * mean,
    "sign flip": lambda own, mean: -4.0 * own,
    "scale": lambda own, mean: 10.0 * own,
}


def control() -> Control:
    """The masked round without a rule: it adds whatever it is given."""
    updates, mean = _poisoned(TRICKS["inner product manipulation"])
    average = secagg.run_round(updates, plan=_plan(), quorum=federation.QUORUM).average
    cosine = _cosine(average, mean)
    figure = f"the average points against the honest mean: cosine {cosine:.2f}"
    return Control("this project without a rule", cosine < TURNED, figure)


def shipped() -> Shipped:
    """A robust round for every trick: the attackers are left out, and the release is the mean of the others."""
    errors: list[str] = []
    accepted, off = False, 0.0
    for trick in TRICKS.values():
        updates, mean = _poisoned(trick)
        result = secagg.run_round(updates, plan=_plan(), quorum=federation.QUORUM, robust=secagg.Robust(secagg.Rule()))
        # `run_round` catches the `LeftOut` of each client that is left out, and tells its position.
        errors += ["LeftOut"] * len(set(result.left_out) & set(ATTACKERS))
        off = max(off, float(np.abs(result.average - mean).max()))
        accepted |= result.left_out != ATTACKERS or off > result.error_bound + 1e-12
    note = f"{len(errors)} of {len(TRICKS) * len(ATTACKERS)} attackers left out; off by {off:.0e}"
    return Shipped("accepted" if accepted else "refused", tuple(errors), 0, note)


def _plan() -> secagg.RoundPlan:
    return secagg.plan_round(federation.LENGTH, max_clients=CLIENTS)


def _poisoned(trick: Trick) -> tuple[list[F64], F64]:
    """(the updates of all clients, the mean of the honest ones). Honest updates have one direction in common."""
    rng = np.random.default_rng()
    common = rng.normal(scale=federation.UPDATE_SCALE, size=federation.LENGTH)
    own = [common + rng.normal(scale=federation.UPDATE_SCALE, size=federation.LENGTH) for _ in range(CLIENTS)]
    mean = np.mean([update for i, update in enumerate(own) if i not in ATTACKERS], axis=0)
    return [trick(update, mean) if i in ATTACKERS else update for i, update in enumerate(own)], mean


def _cosine(a: F64, b: F64) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


ATTACK = Attack("poisoning", "send updates that turn the model around or drown it", control, shipped)

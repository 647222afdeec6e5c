"""Attack 4: a Sybil sends a thousand times the victim's ciphertext as its own contribution.

The average of 21 clients is then nearly a multiple of the victim's update (correlation at least 0.9999), and every
message of the round is well formed and signed by its sender.

What stops it here: a thousand times the victim's residues contains a thousand times the victim's masks, and the masks
of the others do not cancel them. The aggregator cannot detect this. The key holder's checks of the sum do.
"""

from __future__ import annotations

from typing import Any

from demos.attacks import stock
from demos.attacks.federation import COLLUDER, VICTIM, Federation
from demos.attacks.verdict import Attack, Control, Loot, Shipped, correlation, judge
from secagg.aggregator import Aggregator

CLIENTS = 21
FACTOR = 1000
WANTED_CORRELATION = 0.9999


def control() -> Control:
    """The Sybil computes its multiple by doubling, which keeps the CKKS scale: it looks like any other vector."""
    target = stock.StockAggregation()
    updates = stock.updates(CLIENTS)
    vectors = [target.encrypt(update) for update in updates]
    vectors[-1] = _multiple(vectors[VICTIM], FACTOR)
    average = target.release(stock.added(vectors), CLIENTS)
    likeness = correlation(average, updates[VICTIM])
    return Control(stock.NAME, likeness >= WANTED_CORRELATION, f"a {CLIENTS}-client mean correlates at {likeness:.5f}")


def _multiple(vector: Any, factor: int) -> Any:
    """`factor` times a TenSEAL vector, by doubling. factor: at least 1. TenSEAL's binding has no types, hence `Any`."""
    total, doubled = None, vector
    while factor:
        if factor & 1:
            total = doubled if total is None else total + doubled
        doubled, factor = doubled + doubled, factor >> 1
    return total


def shipped() -> Shipped:
    """The honest aggregator accepts the Sybil's contribution, since its signature and its residues are valid."""

    def amplified(factor: int) -> Loot:
        cast = Federation()
        collected = cast.collect()
        victim = cast.residues(collected.contributions[VICTIM])
        sybil = cast.signed_contribution(collected, cast.scaled(victim, factor), by=COLLUDER)
        aggregator: Aggregator = cast.aggregator
        aggregator.open(collected.offer, collected.roster)
        for contribution in (*collected.contributions[:COLLUDER], sybil):
            aggregator.receive(contribution)
        release = cast.key_holder.release(aggregator.close())
        return Loot(cast.estimate(release.sums), cast.victim)

    return judge([lambda: amplified(FACTOR), lambda: amplified(1)])


ATTACK = Attack("amplification", f"as a Sybil, contribute {FACTOR} times the victim's ciphertext", control, shipped)

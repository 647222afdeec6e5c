"""Attack 10: a sum that is honest only in the block that is checked.

A secret token in a lane (here the sum of weights) protects only the block that holds it. In the other blocks the
aggregator swaps blocks, multiplies by a power of X, inserts its own values, or puts in one client's block once or
twice. All digits stay well formed. No variant has more noise than the five honest contributions. The control must
release all five sums, and the noise of one of them is refused with probability below 2**-43 (`federation.py`,
"Chance").

What stops it here: the masks cover every coefficient of every block, and each block has a mask stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demos.attacks.federation import CLIENTS, VICTIM, Collected, Federation, asking
from demos.attacks.verdict import Attack, Control, Shipped, judge, largest_error
from secagg.arrays import U32
from secagg.errors import SumRefused
from secagg.ring import ring_of

LENGTH = 20_000  # three blocks of 8192 values; the last holds the sum of weights

Trick = Callable[[Federation, Collected], U32]


def swapped(cast: Federation, collected: Collected) -> U32:
    """Blocks 0 and 1 exchanged."""
    return cast.honest_sum(collected)[[1, 0, 2]]


def victim_twice(cast: Federation, collected: Collected) -> U32:
    """Block 0 replaced by twice the victim's: the noise variance of four contributions, in a sum of five."""
    total = cast.honest_sum(collected)
    total[0] = cast.scaled(cast.residues(collected.contributions[VICTIM]), 2)[0]
    return total


def shifted(cast: Federation, collected: Collected) -> U32:
    """Block 0 times X**7."""
    total = cast.honest_sum(collected)
    monomial = np.zeros_like(total[0, 0])
    monomial[:, 7] = 1
    ring_of(cast.plan.params).to_ntt(monomial)
    primes = np.array(cast.plan.params.primes, dtype=np.uint64)[:, None]
    total[0] = (total[0].astype(np.uint64) * monomial % primes).astype(np.uint32)
    return total


def made_up(cast: Federation, collected: Collected) -> U32:
    """Block 0 replaced by an encryption of the attacker's values."""
    total = cast.honest_sum(collected)
    invented = cast.added(
        cast.plaintext(np.full(cast.plan.values_per_block, 1_000)), cast.encryption_of_zero(collected.offer)
    )
    total[0] = invented[0]
    return total


def victim_block(cast: Federation, collected: Collected) -> U32:
    """Block 0 replaced by the victim's."""
    total = cast.honest_sum(collected)
    total[0] = cast.residues(collected.contributions[VICTIM])[0]
    return total


TRICKS: tuple[Trick, ...] = (swapped, shifted, made_up, victim_twice, victim_block)


def control() -> Control:
    """The key holder as shipped, without masks: all checks of digits are on, and the sum of weights is the token."""
    released = 0
    error = np.inf
    for trick in TRICKS:
        cast = Federation(CLIENTS, LENGTH, masking=False)
        collected = cast.collect()
        try:
            release = cast.key_holder.release(cast.signed_sum(collected, trick(cast, collected)))
        except SumRefused:
            continue
        released += 1
        if trick is victim_block:
            count = cast.plan.values_per_block
            error = largest_error(cast.estimate(release.sums)[:count], cast.victim[:count])
    return Control(
        "this project without masks",
        released == len(TRICKS) and error <= cast.plan.max_error,
        f"{released} of {len(TRICKS)} tampered sums released; a victim's block to {error:.1e} (half a step)",
    )


def shipped() -> Shipped:
    """All of them again, with masks."""
    return judge([asking(trick, CLIENTS, LENGTH) for trick in TRICKS])


ATTACK = Attack(
    "tokens-in-lanes", "tamper with the blocks that hold no token: swap, shift, replace, repeat", control, shipped
)

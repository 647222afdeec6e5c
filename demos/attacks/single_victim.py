"""Attack 2: the aggregator asks for one client's ciphertext instead of the sum.

The ciphertext comes as it is, with an encryption of zeros added (so that nobody recognises it), or doubled. A stock key
holder cannot tell a single ciphertext from a sum and decrypts either.

What stops it here: a contribution is masked pairwise over the whole roster. Anything but the sum of the whole roster is
uniformly random and fails the key holder's checks of every coefficient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from demos.attacks import federation, stock
from demos.attacks.federation import VICTIM, Collected, Federation, asking
from demos.attacks.verdict import Attack, Control, Loot, Shipped, judge, largest_error
from secagg.arrays import U32
from secagg.messages import SignedHash

StockTrick = Callable[[stock.StockAggregation, Any], tuple[Any, int]]
Trick = Callable[[Federation, Collected], U32]


def _control(trick: StockTrick) -> Control:
    target = stock.StockAggregation()
    updates = stock.updates(federation.CLIENTS)
    vectors = [target.encrypt(update) for update in updates]
    asked, clients = trick(target, vectors[VICTIM])
    error = largest_error(target.release(asked, clients), updates[VICTIM])
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's update with max error {error:.1e}")


def _shipped(trick: Trick) -> Shipped:
    """As a signed sum, with the sum of weights corrected by a chosen plaintext, and with one signer named only."""

    def repaired(cast: Federation, collected: Collected) -> U32:
        return cast.added(trick(cast, collected), cast.missing_weight())

    def naming_one() -> Loot:
        cast = Federation()
        collected = cast.collect()
        victim = collected.contributions[VICTIM]
        parts = [SignedHash(victim.payload_hash, victim.signature)]
        release = cast.key_holder.release(cast.signed_sum(collected, trick(cast, collected), parts))
        return Loot(cast.estimate(release.sums), cast.victim)

    return judge([asking(trick), asking(repaired), naming_one])


def _victim(cast: Federation, collected: Collected) -> U32:
    return cast.residues(collected.contributions[VICTIM])


def _plus_zeros(cast: Federation, collected: Collected) -> U32:
    """A fresh encryption of zero under the offer's key hides which ciphertext this is."""
    return cast.added(_victim(cast, collected), cast.encryption_of_zero(collected.offer))


ATTACKS = (
    Attack(
        "victim-only",
        "have one client's ciphertext decrypted as if it were the sum",
        partial(_control, lambda target, victim: (victim, 1)),
        partial(_shipped, _victim),
    ),
    Attack(
        "victim-plus-zeros",
        "hide that ciphertext under a fresh encryption of zeros",
        partial(_control, lambda target, victim: (victim + target.encrypt(np.zeros(stock.SLOTS)), 1)),
        partial(_shipped, _plus_zeros),
    ),
    Attack(
        "twice-the-victim",
        "have twice that ciphertext decrypted as a sum of two",
        partial(_control, lambda target, victim: (victim + victim, 2)),
        partial(_shipped, lambda cast, collected: cast.scaled(_victim(cast, collected), 2)),
    ),
)

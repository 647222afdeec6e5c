"""Attacks 9 and 11: a malformed ciphertext makes an exact release reveal the decryption key.

A client adds the constant 2**k * span to every residue of its c1, or the aggregator adds it to c1 of the sum.
Decryption multiplies this constant by the key s. The lowest lane of the *exact integer* sum therefore holds the honest
sum plus 2**k * s, with one ternary coefficient of s per value. All residues are in range, the noise is normal and every
message is signed. With the key, the attacker can decrypt every ciphertext that it saw under this key.

What stops it here: the leak itself is not prevented, but it reveals no update. Contributions are masked pairwise under
the encryption, so the key opens uniform residues, and the one sum that decodes has been released already. The release
is the honest sum plus a vector that depends on the key and on the attacker's choice alone (docs/parameters.md, "What a
release may carry"). To refuse such a ciphertext would need proofs of encryption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from demos.attacks.federation import COLLUDER, VICTIM, Collected, Federation
from demos.attacks.verdict import Attack, Control, Loot, Shipped, correlation, judge, largest_error
from secagg.arrays import I64, U32
from secagg.messages import EncryptedSum
from secagg.ring import ring_of

SHIFT = 15
"""2**15 quantisation steps: more than twice any honest sum here, and both together stay within the lane's bound. A sum
of five updates has a standard deviation of 1,465 steps. That one of 6,000 values exceeds 2**14 steps (eleven standard
deviations) has probability below 2**-75."""


@dataclass(frozen=True, eq=False)
class Leak:
    """cast and collected: the round.

    key: int64[N], the ternary key as read from the release. matching: number of its coefficients that are right.
    others: int64[length], the sum without the key's part.
    """

    cast: Federation
    collected: Collected
    key: I64
    matching: int
    others: I64


Play = Callable[[Federation, Collected], EncryptedSum]


def leak(masking: bool, play: Play) -> Leak:
    """A round in which `play` makes the encrypted sum, with one dishonest party, and all others are honest."""
    cast = Federation(masking=masking)
    collected = cast.collect()
    truth = _centred(cast, cast.stolen_key().decrypt(cast.constant(1, 1)[0]))  # to keep score with
    release = cast.key_holder.release(play(cast, collected))
    degree = cast.plan.params.degree
    lane = release.sums[:degree]  # the lowest lane of block 0 holds values 0..N-1
    key = np.rint(lane / 2**SHIFT).astype(np.int64)
    others = release.sums.copy()
    others[:degree] -= key << SHIFT
    return Leak(cast, collected, key, int((key == truth).sum()), others)


def by_a_client(cast: Federation, collected: Collected) -> EncryptedSum:
    """The honest aggregator accepts the malformed contribution, since no check of it fails."""
    residues = cast.added(cast.residues(collected.contributions[COLLUDER]), _shift(cast))
    malformed = cast.signed_contribution(collected, residues)
    cast.aggregator.open(collected.offer, collected.roster)
    for contribution in (*collected.contributions[:COLLUDER], malformed):
        cast.aggregator.receive(contribution)
    return cast.aggregator.close()


def by_the_aggregator(cast: Federation, collected: Collected) -> EncryptedSum:
    """All clients are honest; the shift is added to their sum."""
    return cast.signed_sum(collected, cast.added(cast.honest_sum(collected), _shift(cast)))


def _shift(cast: Federation) -> U32:
    return cast.constant(1, cast.plan.span << SHIFT)


def control(play: Play) -> Control:
    """Masks removed: the leaked key opens the victim's contribution."""
    leaked = leak(False, play)
    cast, degree = leaked.cast, leaked.cast.plan.params.degree
    error = largest_error(cast.estimate(_open(leaked, VICTIM)), cast.victim)
    return Control(
        "this project without masks",
        leaked.matching == degree and error <= cast.plan.max_error,
        f"{leaked.matching} of {degree} key coefficients; the victim's update with max error {error:.1e} (half a step)",
    )


def shipped(play: Play) -> Shipped:
    """As shipped: the key leaks too. The attacker opens every contribution, and the sum, with it."""
    leaked = leak(True, play)
    cast, count = leaked.cast, len(leaked.cast.clients)
    victims = [i for i in range(count) if i != COLLUDER]
    opened = {i: cast.estimate(_open(leaked, i)) for i in victims}
    worst = max(abs(correlation(opened[i], cast.updates[i])) for i in victims)

    def trying(i: int) -> Callable[[], Loot]:
        return lambda: Loot(opened[i], cast.updates[i], accepted=False)

    others = cast.estimate(leaked.others) - cast.updates[COLLUDER]
    exact = np.array_equal(leaked.others, cast.integers())
    return judge(
        [*(trying(i) for i in victims), lambda: Loot(others, cast.victim, accepted=not exact)],
        note=(
            f"{leaked.matching} of {cast.plan.params.degree} key coefficients leak; contributions open to noise "
            f"(largest correlation {worst:.2f}); the release minus 2^{SHIFT} times the key is "
            f"{'' if exact else 'not '}the honest sum"
        ),
    )


def _open(leaked: Leak, client: int) -> I64:
    """A contribution decrypted with the leaked key, c0 + c1 * s, and read as lanes: int64[length]."""
    cast, ring = leaked.cast, ring_of(leaked.cast.plan.params)
    primes = np.array(cast.plan.params.primes, dtype=np.int64)[:, None]
    key = np.mod(leaked.key, primes).astype(np.uint32)
    ring.to_ntt(key)
    plaintexts = []
    for block in cast.residues(leaked.collected.contributions[client]):
        plain = ((block[0] + block[1].astype(np.uint64) * key) % primes.astype(np.uint64)).astype(np.uint32)
        ring.from_ntt(plain)
        plaintexts.append(plain)
    return cast.read(plaintexts)


def _centred(cast: Federation, residues: U32) -> I64:
    prime = cast.plan.params.primes[0]
    signed: I64 = residues[0].astype(np.int64)
    signed[signed > prime // 2] -= prime
    return signed


ATTACKS = (
    Attack(
        "malformed-ciphertext",
        "as a client, leak the decryption key through an exact release and open every ciphertext seen",
        partial(control, by_a_client),
        partial(shipped, by_a_client),
    ),
    Attack(
        "key-in-the-release",
        "as the aggregator, add a multiple of the noise span to every c1 residue and read the key in the sums",
        partial(control, by_the_aggregator),
        partial(shipped, by_the_aggregator),
    ),
)

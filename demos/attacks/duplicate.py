"""Attack 5, copies: the victim's contribution counted many times.

A serialised TenSEAL ciphertext has many encodings (compression, unknown fields, trailing bytes). A server that rejects
repeated bytes therefore does not reject a repeated ciphertext. A client may also send its contribution twice.

What stops it here: each ciphertext has exactly one encoding, and this is checked first. Each roster entry allows one
contribution, signed by that entry's client. A copy under another client's name contains masks that do not cancel.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from demos.attacks import federation, stock
from demos.attacks.federation import COLLUDER, VICTIM, Collected, Federation, asking
from demos.attacks.verdict import Attack, Control, Loot, Shipped, correlation, judge, largest_error
from secagg import wire
from secagg.messages import Contribution, SignedHash

COPIES = 60
WANTED_CORRELATION = 0.99
_UNKNOWN_FIELD = b"\xfa\x01"  # protobuf field 31, length-delimited: every loader skips it


def reencoded_control() -> Control:
    """A server that refuses bytes it has already received accepts every new encoding of the same ciphertext."""
    target = stock.StockAggregation()
    updates = stock.updates(federation.CLIENTS)
    taken: dict[bytes, object] = {}
    original = target.encrypt(updates[VICTIM]).serialize()
    for update in updates[VICTIM + 1 :]:
        data = target.encrypt(update).serialize()
        taken[hashlib.sha256(data).digest()] = target.load(data)
    for number in range(COPIES):
        data = original + _UNKNOWN_FIELD + bytes([1, number])
        taken[hashlib.sha256(data).digest()] = target.load(data)
    average = target.release(stock.added(list(taken.values())), len(taken))
    likeness = correlation(average, updates[VICTIM])
    accepted = len(taken) - (len(updates) - 1)
    return Control(
        stock.NAME,
        accepted == COPIES and likeness >= WANTED_CORRELATION,
        f"{accepted} encodings of one ciphertext taken as {accepted} clients; the mean correlates at {likeness:.4f}",
    )


def reencoded() -> Shipped:
    """Bytes appended, a residue written above its prime, and the copy in the colluder's name."""

    def trailing_byte() -> Loot:
        cast, collected = _collected()
        data = wire.encode(collected.contributions[VICTIM], cast.plan) + b"\x00"
        return _taken(cast, collected, wire.decode(data, cast.plan))

    def residue_above_its_prime() -> Loot:
        cast, collected = _collected()
        residues = cast.residues(collected.contributions[VICTIM])
        residues[0, 0, 0, 0] = 2**30 - 1  # fits into the 30 bits of the wire format, but is above the prime
        return _taken(cast, collected, cast.signed_contribution(collected, residues))

    def in_another_name() -> Loot:
        cast, collected = _collected()
        copy = cast.signed_contribution(collected, cast.residues(collected.contributions[VICTIM]))
        return _taken(cast, collected, copy)

    return judge([trailing_byte, residue_above_its_prime, in_another_name])


def twice_control() -> Control:
    """The victim's ciphertext is added a second time in the colluder's place."""
    target = stock.StockAggregation()
    updates = stock.updates(federation.CLIENTS)
    vectors = [target.encrypt(update) for update in updates]
    vectors[COLLUDER] = vectors[VICTIM]
    average = target.release(stock.added(vectors), len(vectors))
    known = sum(updates[1:COLLUDER]) / len(vectors)  # given to the attacker, so that the error can be measured
    error = largest_error((average - known) * len(vectors) / 2, updates[VICTIM])
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"released; twice the victim stands in it to {error:.1e}")


def twice() -> Shipped:
    """Sent twice, joined twice, named twice in the sum, and added twice by the aggregator."""

    def sent_twice() -> Loot:
        cast, collected = _collected()
        cast.aggregator.open(collected.offer, collected.roster)
        cast.aggregator.receive(collected.contributions[VICTIM])
        return _taken(cast, collected, collected.contributions[VICTIM], opened=True)

    def joined_twice() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        joins = cast.join_all(offer)
        cast.key_holder.receive_join(joins[VICTIM])
        return cast.taken()

    def named_twice() -> Loot:
        cast, collected = _collected()
        parts = [SignedHash(c.payload_hash, c.signature) for c in collected.in_roster_order()]
        release = cast.key_holder.release(
            cast.signed_sum(collected, cast.honest_sum(collected), [parts[0], parts[0], *parts[2:]])
        )
        return Loot(cast.estimate(release.sums), cast.victim)

    def added_twice(cast: Federation, collected: Collected) -> federation.U32:
        terms = [cast.residues(c) for c in (*collected.contributions[:COLLUDER], collected.contributions[VICTIM])]
        return cast.added(*terms)

    return judge([sent_twice, joined_twice, named_twice, asking(added_twice)])


def _collected() -> tuple[Federation, Collected]:
    cast = Federation()
    return cast, cast.collect()


def _taken(cast: Federation, collected: Collected, message: object, opened: bool = False) -> Loot:
    """The honest aggregator's sum and the key holder's release, with `message` as the colluder's contribution.

    opened: the aggregator has the roster already.
    """
    assert isinstance(message, Contribution)
    if not opened:
        cast.aggregator.open(collected.offer, collected.roster)
        for contribution in collected.contributions[:COLLUDER]:
            cast.aggregator.receive(contribution)
    cast.aggregator.receive(replace(message))
    release = cast.key_holder.release(cast.aggregator.close())
    return Loot(cast.estimate(release.sums), cast.victim)


ATTACKS = (
    Attack(
        "re-encoded-duplicate",
        f"send {COPIES} encodings of the victim's ciphertext as {COPIES} contributions",
        reencoded_control,
        reencoded,
    ),
    Attack("one-client-twice", "count one client's contribution twice", twice_control, twice),
)

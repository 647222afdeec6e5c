"""Any sum but the roster's: random wrong sums of ten kinds, signed by a malicious aggregator, none of them released.

Every wrong sum is a well-formed message with a valid signature and all the genuine signed hashes; all that is wrong is
what stands in the residues. Most of them therefore get past every check of the message and are refused after the
decryption; a few are signed for a round that is over, and are refused before. The control is the honest sum, and the
honest sum with a plaintext of the attacker's choice added, which is released: docs/threat-model.md lists it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from secagg import errors, kernels, packing
from secagg.blocks import empty_block, payload_hash, read_block, write_block
from secagg.ckks import Encryptor
from secagg.keyholder import KeyHolder
from secagg.ledger import Outcome
from secagg.messages import Contribution, EncryptedSum, Offer, Release, Roster, SignedHash
from secagg.parameters import ALLOWED
from secagg.plan import RoundPlan, plan_round
from secagg.ring import ring_of
from secagg.states import KeyHolderState
from secagg.transcript import message_hash, parts_hash, signed_bytes
from tests.simulator import Federation, Peers

CLIENTS = 3
LENGTH = 9_000  # two blocks: the second holds the sum of weights and mostly nothing
ROUNDS_PER_CAST = 50  # a client's journal looks through all its updates before it takes one


# --- a malicious aggregator -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Given:
    """What the malicious aggregator has: a round's messages, all contributions as residues, and the round before."""

    federation: Federation
    offer: Offer
    roster: Roster
    contributions: tuple[Contribution, ...]  # in roster order
    residues: np.ndarray  # uint32[clients, blocks, 2, primes, N]
    before: Given | None

    @property
    def plan(self) -> RoundPlan:
        return self.federation.plan

    @property
    def sum(self) -> np.ndarray:
        return added(self.plan, *self.residues)


def added(plan: RoundPlan, *terms: np.ndarray) -> np.ndarray:
    total = np.zeros_like(terms[0])
    for term in terms:
        kernels.add_modular(total, term, ring_of(plan.params).primes)
    return total


def multiplied(plan: RoundPlan, residues: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """residues * factors modulo the primes; factors broadcast against [..., primes, N]."""
    primes = np.array(plan.params.primes, dtype=np.uint64)[:, None]
    return (residues.astype(np.uint64) * (factors.astype(np.uint64) % primes) % primes).astype(np.uint32)


def plaintext(plan: RoundPlan, values: np.ndarray, weight: int) -> np.ndarray:
    """Integers of the attacker's choice with c1 = 0: uint32[blocks, 2, primes, N]."""
    flat = np.zeros(plan.blocks * plan.values_per_block, dtype=np.int64)
    flat[: plan.length] = values
    flat[plan.length] = weight
    blocks = np.zeros((plan.blocks, 2, len(plan.params.primes), plan.params.degree), dtype=np.uint32)
    for block, lanes in zip(blocks, flat.reshape(plan.blocks, plan.lanes, -1), strict=True):
        kernels.pack_lanes(lanes, packing.lane_factors(plan), ring_of(plan.params).primes, block[0])
        ring_of(plan.params).to_ntt(block[0])
    return blocks


def encryption_of(given: Given, message: np.ndarray) -> np.ndarray:
    """A fresh encryption under the round's public key."""
    engine, fresh = Encryptor(given.offer.public_key), np.empty_like(message)
    for block, plain in zip(fresh, message, strict=True):
        engine.encrypt_into(plain[0], block)
    return fresh


# Each kind takes what the aggregator has, and a generator, and gives residues that are not the roster's sum.
Kind = Callable[[Given, random.Random], np.ndarray]


def one_missing(given: Given, rng: random.Random) -> np.ndarray:
    left_out = rng.randrange(CLIENTS)
    others = added(given.plan, *(r for i, r in enumerate(given.residues) if i != left_out))
    return added(given.plan, others, plaintext(given.plan, np.zeros(given.plan.length), weight=rng.randrange(2)))


def several_missing(given: Given, rng: random.Random) -> np.ndarray:
    kept = rng.sample(range(CLIENTS), rng.randrange(1, CLIENTS - 1))
    weight = CLIENTS - len(kept) if rng.random() < 0.8 else 0
    filler = plaintext(given.plan, np.zeros(given.plan.length), weight)
    return added(given.plan, *given.residues[kept], filler)


def one_doubled(given: Given, rng: random.Random) -> np.ndarray:
    doubled = added(given.plan, given.sum, given.residues[rng.randrange(CLIENTS)])
    return added(given.plan, doubled, plaintext(given.plan, np.zeros(given.plan.length), weight=-rng.randrange(2)))


def all_scaled(given: Given, rng: random.Random) -> np.ndarray:
    factor = rng.choice([2, 3, -1, 1000, rng.randrange(2, given.plan.params.modulus)])
    factors = np.array([[factor % prime] for prime in given.plan.params.primes], dtype=np.uint64)
    return multiplied(given.plan, given.sum, factors)


def shifted(given: Given, rng: random.Random) -> np.ndarray:
    monomial = np.zeros((len(given.plan.params.primes), given.plan.params.degree), dtype=np.uint32)
    monomial[:, rng.randrange(1, given.plan.params.degree)] = 1
    ring_of(given.plan.params).to_ntt(monomial)
    total, chosen = given.sum, rng.choice([[0], [1], [0, 1]])
    total[chosen] = multiplied(given.plan, total[chosen], monomial)
    return total


def blocks_swapped(given: Given, rng: random.Random) -> np.ndarray:
    total = given.sum[::-1].copy()
    if rng.random() < 0.5:  # with the sum of weights put where it belongs
        total = added(given.plan, total, plaintext(given.plan, np.zeros(given.plan.length), CLIENTS))
    return total


def one_block_replaced(given: Given, rng: random.Random) -> np.ndarray:
    total, block = given.sum, rng.randrange(given.plan.blocks)
    values = np.array([rng.randrange(-100, 100) for _ in range(given.plan.length)])
    replacements = [
        encryption_of(given, plaintext(given.plan, values, CLIENTS)),
        given.residues[rng.randrange(CLIENTS)],
        given.sum[::-1],
    ]
    total[block] = rng.choice(replacements)[block]
    return total


def one_residue_changed(given: Given, rng: random.Random) -> np.ndarray:
    total, params = given.sum, given.plan.params
    prime, slot = rng.randrange(len(params.primes)), rng.randrange(params.degree)
    place = (rng.randrange(given.plan.blocks), rng.randrange(2), prime, slot)
    total[place] = (int(total[place]) + rng.choice([1, -1, rng.randrange(1, params.primes[prime])])) % (
        params.primes[prime]
    )
    return total


def another_rounds(given: Given, rng: random.Random) -> np.ndarray:
    assert given.before is not None
    old = given.before.sum
    return rng.choice([old, added(given.plan, old, given.residues[rng.randrange(CLIENTS)])])


def made_up(given: Given, rng: random.Random) -> np.ndarray:
    values = np.full(given.plan.length, rng.randrange(-1000, 1000))
    message = plaintext(given.plan, values, CLIENTS)
    invented = encryption_of(given, message)
    bare = message.copy()
    bare[:, 1] = 1
    return rng.choice([invented, bare, added(given.plan, invented, given.residues[rng.randrange(CLIENTS)])])


KINDS: tuple[Kind, ...] = (
    one_missing,
    several_missing,
    one_doubled,
    all_scaled,
    shifted,
    blocks_swapped,
    one_block_replaced,
    one_residue_changed,
    another_rounds,
    made_up,
)


def signed_sum(given: Given, residues: np.ndarray) -> EncryptedSum:
    """The residues as the roster's sum, signed by the aggregator over all genuine hashes."""
    plan, server = given.plan, given.federation.server
    packed = np.empty(plan.residue_bytes, dtype=np.uint8)
    for index, block in enumerate(residues):
        write_block(np.ascontiguousarray(block), index, plan.params, packed)
    payload = packed.tobytes()
    parts = tuple(SignedHash(c.payload_hash, c.signature) for c in given.contributions)
    roster_hash = message_hash(given.roster)
    header = given.roster.header.reply(server.key, previous=parts_hash(parts), roster=roster_hash)
    message = EncryptedSum(header, parts, payload_hash(payload), payload, b"")
    return replace(message, signature=server.sign(signed_bytes(message)))


# --- rounds to attack -----------------------------------------------------------------------------------------------


class Rounds:
    """One honest round after the other, up to its contributions; fresh peers now and then."""

    def __init__(self, *, masking: bool = True) -> None:
        self.masking = masking
        self.peers = self._fresh()
        self.step = 0
        self.last: Given | None = None

    @property
    def key_holder(self) -> KeyHolder:
        return self.peers.key_holder

    def next(self) -> Given:
        if self.step >= ROUNDS_PER_CAST:
            self.peers, self.step, self.last = self._fresh(), 0, None
        if self.last is None:
            self.last = self._collect()
        given = self._collect()
        self.last = replace(given, before=None)
        return given

    def _fresh(self) -> Peers:
        federation = Federation(CLIENTS, LENGTH, quorum=3, masking=self.masking)
        federation.plan = plan_round(LENGTH, CLIENTS, params=ALLOWED[0])
        assert federation.plan.blocks == 2
        return Peers(federation)

    def _collect(self) -> Given:
        if self.key_holder.state is KeyHolderState.CLOSED:
            self.key_holder.abort()
        self.step += 1
        federation = self.peers.federation
        updates = [np.random.default_rng().normal(scale=0.02, size=LENGTH) for _ in range(CLIENTS)]
        offer, roster, made = self.peers.contributions(self.step, updates)
        by_sender = {contribution.header.sender: contribution for contribution in made}
        ordered = tuple(by_sender[entry.sender] for entry in roster.entries)
        for client in self.peers.clients:
            client.abort()  # they are not needed any more, and must be free for the next round
        residues = np.stack([unpacked(contribution, federation.plan) for contribution in ordered])
        return Given(federation, offer, roster, ordered, residues, self.last)


def unpacked(contribution: Contribution, plan: RoundPlan) -> np.ndarray:
    blocks = np.stack([empty_block(plan.params) for _ in range(plan.blocks)])
    for index, block in enumerate(blocks):
        read_block(contribution.payload, index, plan.params, block)
    return blocks


def refuse(count: int, seed: int) -> None:
    """`count` wrong sums of all kinds in turn, each through `KeyHolder.release` in a round of its own."""
    rounds, rng = Rounds(), random.Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        given = rounds.next()
        message = signed_sum(given, kind(given, rng))
        with pytest.raises(errors.SumRefused):
            rounds.key_holder.release(message)
        step = given.offer.header.step
        assert rounds.key_holder.outcome(step) is Outcome.REFUSED, kind.__name__
        assert rounds.key_holder.stored_release(step) is None


def test_200_random_wrong_sums_are_refused_and_none_is_released():
    refuse(200, seed=1)


@pytest.mark.long
def test_2000_random_wrong_sums_are_refused_and_none_is_released():
    refuse(2_000, seed=2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_wrong_sum_fails_in_every_block_that_it_touches_not_only_where_the_weights_are(kind):
    """Decoded block by block: uniform coefficients fail the headroom, whatever the sum of weights says."""
    rounds, rng = Rounds(), random.Random(3)
    given = rounds.next()
    wrong, honest = kind(given, rng), given.sum
    state = rounds.key_holder._current()
    for index in range(given.plan.blocks):
        if np.array_equal(wrong[index], honest[index]):
            continue
        mixed = honest.copy()
        mixed[index] = wrong[index]
        with pytest.raises(errors.SumRefused):
            rounds.key_holder._open(signed_sum(given, mixed), state)
    assert rounds.key_holder._open(signed_sum(given, honest), state).total_weight == CLIENTS


def test_a_wrong_sum_for_a_round_that_is_over_is_refused_before_anything_is_decrypted():
    rounds = Rounds()
    given = rounds.next()
    assert given.before is not None
    with pytest.raises(errors.WrongRound):
        rounds.key_holder.release(signed_sum(given.before, given.before.sum))
    assert rounds.key_holder.outcome(given.offer.header.step) is Outcome.OPEN
    assert isinstance(rounds.key_holder.release(signed_sum(given, given.sum)), Release)


# --- controls -------------------------------------------------------------------------------------------------------


def test_the_honest_sum_made_the_same_way_is_released_exactly():
    rounds = Rounds()
    given = rounds.next()
    release = rounds.key_holder.release(signed_sum(given, given.sum))
    assert (release.total_weight, release.contributors) == (CLIENTS, CLIENTS)


def test_the_honest_sum_with_a_chosen_plaintext_added_is_released():
    """A promise that is not made: whoever adds can add a vector of its own (docs/threat-model.md)."""
    rounds = Rounds()
    given = rounds.next()
    state = rounds.key_holder._current()
    honest = rounds.key_holder._open(signed_sum(given, given.sum), state)
    chosen = np.arange(LENGTH) % 2001 - 1000
    shifted_sum = added(given.plan, given.sum, plaintext(given.plan, chosen, weight=0))
    release = rounds.key_holder.release(signed_sum(given, shifted_sum))
    assert np.array_equal(release.sums, honest.sums + chosen)


def test_an_encryption_of_zero_added_to_the_honest_sum_changes_nothing():
    """Rerandomised, the sum is another ciphertext of the same sum: refusing it would refuse honest noise.

    SEAL encrypts this zero, with a 250th of the noise variance that the plan has for one client: no matter of luck.
    """
    rounds = Rounds()
    given = rounds.next()
    state = rounds.key_holder._current()
    honest = rounds.key_holder._open(signed_sum(given, given.sum), state)
    zero = encryption_of(given, np.zeros_like(given.sum))
    release = rounds.key_holder.release(signed_sum(given, added(given.plan, given.sum, zero)))
    assert np.array_equal(release.sums, honest.sums)


# What passes every check of the digits without masks, and always: no more noise than the honest sum has, whose noise is
# refused with probability below 2**-45 (tests/test_demos_attack.py). One contribution doubled has twice as much of it.
def one_left_out(given: Given) -> np.ndarray:
    filler = plaintext(given.plan, np.zeros(given.plan.length), weight=1)
    return added(given.plan, *given.residues[1:], filler)


def one_alone(given: Given) -> np.ndarray:
    return added(given.plan, given.residues[0], plaintext(given.plan, np.zeros(given.plan.length), CLIENTS - 1))


def first_block_times_x(given: Given) -> np.ndarray:
    monomial = np.zeros((len(given.plan.params.primes), given.plan.params.degree), dtype=np.uint32)
    monomial[:, 1] = 1
    ring_of(given.plan.params).to_ntt(monomial)
    total = given.sum
    total[0] = multiplied(given.plan, total[0], monomial)
    return total


def first_block_replaced(given: Given) -> np.ndarray:
    total = given.sum
    total[0] = given.residues[0, 0]
    return total


def invented(given: Given) -> np.ndarray:
    return encryption_of(given, plaintext(given.plan, np.full(given.plan.length, 777), CLIENTS))


@pytest.mark.filterwarnings("ignore:masking is off")
@pytest.mark.parametrize(
    "wrong", [one_left_out, one_alone, first_block_times_x, first_block_replaced, invented], ids=lambda f: f.__name__
)
def test_without_masks_wrong_sums_of_half_the_kinds_are_released(wrong):
    """The control that shows what the masks do: sums of five kinds, the same checks of every digit, no masks."""
    for masking in (True, False):
        rounds = Rounds(masking=masking)
        given = rounds.next()
        honest = rounds.key_holder._open(signed_sum(given, given.sum), rounds.key_holder._current())
        message = signed_sum(given, wrong(given))
        if masking:
            with pytest.raises(errors.SumRefused):
                rounds.key_holder.release(message)
        else:
            assert not np.array_equal(rounds.key_holder.release(message).sums, honest.sums)

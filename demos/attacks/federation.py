"""The parties of the attacks on this project: honest roles, and what malicious parties can compute and sign.

Honest roles are those of `secagg`, and their messages pass through bytes. A malicious aggregator or client has its own
identity and signs what it likes (`signed_sum`, `signed_contribution`). A malicious or compromised key holder has the
decryption key (`stolen_key`). Small parameters (N = 4096) keep a round at about 30 ms; nothing else is weakened.

Chance: the noise of an honest sum is refused with probability below 2**-45. The plan's 2**-40 is the bound for the
worst key that key generation accepts; tests/test_demos_attack.py computes the probability over all keys. A control that
opens a sum must not have more noise in it than the honest contributions have, so that its success does not depend on
chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from demos.attacks.verdict import Attempt, Loot
from secagg import RoundPlan, kernels, packing, plan_round
from secagg.arrays import F64, I64, U32
from secagg.blocks import empty_block, payload_hash, read_block, write_block
from secagg.ckks import Encryptor
from secagg.engines import DecryptionKey
from secagg.masks import MaskStream, MaskTerm
from secagg.messages import (
    Contribution,
    EncryptedSum,
    Join,
    Offer,
    Roster,
    SignedHash,
)
from secagg.parameters import ALLOWED
from secagg.ring import ring_of
from secagg.session import Parties, Session, Terms
from secagg.transcript import message_hash, parts_hash, signed_bytes

CLIENTS = 5
QUORUM = 3
LENGTH = 6_000  # one block of two lanes, the lower lane full
UPDATE_SCALE = 0.02  # standard deviation of an update's values; the clip is 1
VICTIM = 0  # position among the clients; the last client colludes where an attack needs one
COLLUDER = CLIENTS - 1

SMALL = ALLOWED[0]  # N = 4096, two primes


@dataclass(frozen=True, eq=False)
class Collected:
    """A round up to the moment when every client has contributed."""

    offer: Offer
    roster: Roster
    contributions: tuple[Contribution, ...]  # in the order of `Federation.clients`

    def in_roster_order(self) -> tuple[Contribution, ...]:
        by_sender = {contribution.header.sender: contribution for contribution in self.contributions}
        return tuple(by_sender[entry.sender] for entry in self.roster.entries)


class Federation:
    """A key holder, an aggregator and clients, each with its own identity, all in this process.

    model_repeats: of every client, as in `secagg.Client`. None switches that rule off, so that an attack meets the
    other rules. plan: of the round. If it is given, `length` is ignored; otherwise a plan with small parameters is
    made.
    """

    def __init__(
        self,
        clients: int = CLIENTS,
        length: int = LENGTH,
        *,
        masking: bool = True,
        model_repeats: int | None = None,
        plan: RoundPlan | None = None,
    ) -> None:
        self.plan = plan or plan_round(length, max_clients=16, params=SMALL)
        self.masking = masking
        self.parties = Parties.generate([f"bank {i}" for i in range(clients)])
        self.identities, self.authority = self.parties.clients, self.parties.key_holder
        self.server, self.enrolment = self.parties.aggregator, self.parties.enrolment
        terms = Terms(self.plan, QUORUM, masking, model_repeats, threads=1)
        roles = Session(self.parties).roles(terms)
        self.key_holder, self.aggregator, self.clients = roles.key_holder, roles.aggregator, roles.clients
        self.sent = roles.sent  # encodes a message and decodes it, as its receivers do
        self.updates: list[F64] = [_update(self.plan.length) for _ in range(clients)]

    @property
    def victim(self) -> F64:
        """The update that the attacks are after."""
        return self.updates[VICTIM]

    def join_all(self, offer: Offer) -> list[Join]:
        """Every client answers the offer, and the key holder takes each join."""
        joins = [client.join(offer, offer.header.model) for client in self.clients]
        for join in joins:
            self.key_holder.receive_join(join)
        return joins

    def collect(self, step: int = 1, model: bytes = bytes(32), updates: Sequence[F64] | None = None) -> Collected:
        """An honest round up to its contributions."""
        offer = self.key_holder.open(step, model)
        self.join_all(offer)
        roster = self.key_holder.close_roster()
        contributions = []
        for client, update in zip(self.clients, self.updates if updates is None else updates, strict=True):
            contributions.append(self.sent(client.contribute(roster, update)))
        return Collected(offer, roster, tuple(contributions))

    def fresh_updates(self) -> list[F64]:
        """New updates for a following round."""
        return [_update(self.plan.length) for _ in self.updates]

    # --- what malicious parties do ----------------------------------------------------------------------------------

    def residues(self, contribution: Contribution | EncryptedSum) -> U32:
        """uint32[blocks, 2, primes, N] of a payload."""
        blocks = []
        for index in range(self.plan.blocks):
            block = empty_block(self.plan.params)
            read_block(contribution.payload, index, self.plan.params, block)
            blocks.append(block)
        return np.stack(blocks)

    def honest_sum(self, collected: Collected) -> U32:
        """The residues of the sum that an honest aggregator computes."""
        return self.added(*(self.residues(contribution) for contribution in collected.contributions))

    def added(self, *terms: U32) -> U32:
        """Terms added modulo the primes."""
        total = np.zeros_like(terms[0])
        for term in terms:
            kernels.add_modular(total, term, ring_of(self.plan.params).primes)
        return total

    def subtracted(self, total: U32, term: U32) -> U32:
        """total - term modulo the primes."""
        result = total.copy()
        kernels.subtract_modular(result, term, ring_of(self.plan.params).primes)
        return result

    def scaled(self, residues: U32, factor: int) -> U32:
        """factor * residues modulo the primes."""
        primes = np.array(self.plan.params.primes, dtype=np.uint64)[:, None]
        reduced = np.array([factor % prime for prime in self.plan.params.primes], dtype=np.uint64)[:, None]
        return (residues.astype(np.uint64) * reduced % primes).astype(np.uint32)

    def plaintext(self, values: I64, weight: int = 0) -> U32:
        """Integers of the attacker's choice as a ciphertext with c1 = 0, to be added: uint32[blocks, 2, primes, N].

        values: int64[length] or shorter. Anybody can add this to a ciphertext, without any key.
        """
        plan, ring = self.plan, ring_of(self.plan.params)
        flat = np.zeros(plan.blocks * plan.values_per_block, dtype=np.int64)
        flat[: len(values)] = values
        flat[plan.length] = weight
        blocks = np.zeros((plan.blocks, 2, len(plan.params.primes), plan.params.degree), dtype=np.uint32)
        factors = packing.lane_factors(plan)
        for block, lanes in zip(blocks, flat.reshape(plan.blocks, plan.lanes, plan.params.degree), strict=True):
            kernels.pack_lanes(lanes, factors, ring.primes, block[0])
            ring.to_ntt(block[0])
        return blocks

    def integers(self) -> I64:
        """The exact sum of all clients' quantised values, for comparison: int64[length]."""
        return np.sum([np.rint(update * (1.0 / self.plan.step)).astype(np.int64) for update in self.updates], axis=0)

    def constant(self, polynomial: int, value: int) -> U32:
        """`value` in every residue of c0 (polynomial 0) or c1 (polynomial 1) of every block, to be added.

        In c0 it adds `value` to the constant coefficient of the plaintext, in c1 it adds `value` times the key.
        """
        blocks = np.zeros((self.plan.blocks, 2, len(self.plan.params.primes), self.plan.params.degree), np.uint32)
        blocks[:, polynomial] = np.array([[value % prime] for prime in self.plan.params.primes], dtype=np.uint32)
        return blocks

    def encryption_of_zero(self, offer: Offer) -> U32:
        """A fresh encryption of zero in every block, under the offer's key: anybody can make one."""
        engine = Encryptor(offer.public_key)
        blocks = np.zeros((self.plan.blocks, 2, len(self.plan.params.primes), self.plan.params.degree), np.uint32)
        for block in blocks:
            engine.encrypt_into(np.zeros_like(block[0]), block)
        return blocks

    def missing_weight(self, clients: int = 1) -> U32:
        """A plaintext that raises the sum of weights of `clients` clients to what the key holder expects."""
        return self.plaintext(np.zeros(0, dtype=np.int64), weight=len(self.clients) - clients)

    def payload(self, residues: U32) -> bytes:
        """Residues as the canonical payload."""
        packed = np.empty(self.plan.residue_bytes, dtype=np.uint8)
        for index, block in enumerate(residues):
            write_block(np.ascontiguousarray(block), index, self.plan.params, packed)
        return packed.tobytes()

    def signed_sum(
        self, collected: Collected, residues: U32, parts: Sequence[SignedHash] | None = None
    ) -> EncryptedSum:
        """Any residues as the sum of the roster, well formed and signed by the malicious aggregator.

        parts: the signed hashes to show; all of the round's genuine ones when None.
        """
        if parts is None:
            parts = [SignedHash(c.payload_hash, c.signature) for c in collected.in_roster_order()]
        shown, payload, roster_hash = tuple(parts), self.payload(residues), message_hash(collected.roster)
        header = collected.roster.header.reply(self.server.key, previous=parts_hash(shown), roster=roster_hash)
        unsigned = EncryptedSum(header, shown, payload_hash(payload), payload, b"")
        signature = self.server.sign(signed_bytes(unsigned))
        return self.sent(EncryptedSum(header, shown, unsigned.payload_hash, payload, signature))

    def signed_contribution(self, collected: Collected, residues: U32, by: int = COLLUDER) -> Contribution:
        """Any residues as the contribution of a malicious client, well formed and signed by it."""
        payload, roster_hash = self.payload(residues), message_hash(collected.roster)
        identity = self.identities[by]
        header = collected.roster.header.reply(identity.key, previous=roster_hash, roster=roster_hash)
        unsigned = Contribution(header, payload_hash(payload), payload, b"")
        signature = identity.sign(signed_bytes(unsigned))
        return self.sent(Contribution(header, unsigned.payload_hash, payload, signature))

    def estimate(self, released: I64) -> F64:
        """Sums as values in the unit of an update."""
        return released.astype(np.float64) * self.plan.step

    def taken(self) -> Loot:
        """What an attempt returns if an honest party took a message that it must refuse."""
        return Loot(np.zeros(self.plan.length), self.victim)

    def opened_in_secret(self, collected: Collected, residues: U32) -> I64:
        """What a lying key holder can always do: remove the seed masks, decrypt, and record nothing in its ledger."""
        return self.opened(self.without_seeds(residues), self.stolen_key())

    def noise(self, residues: U32) -> I64:
        """The noise of a sum of the whole roster, for comparison: int64[blocks, N]."""
        plaintexts = [self.stolen_key().decrypt(block) for block in self.without_seeds(residues)]
        return np.stack([packing.digits_of(plaintext, self.plan)[0][0] for plaintext in plaintexts])

    def without_seeds(self, residues: U32) -> U32:
        """A sum of the whole roster without the members' seed masks, as the key holder has it before it decrypts."""
        current = self.key_holder._current()
        stream = MaskStream([MaskTerm(seed, False) for seed in current.seeds.values()], self.plan.params)
        bare = residues.copy()
        for index, block in enumerate(bare):
            stream.apply(index, block[0], inverse=True)
        return bare

    def stolen_key(self) -> DecryptionKey:
        """The decryption key of the round in progress, as a dump of the key holder's memory would show it."""
        return self.key_holder._current().secret_key

    def opened(self, residues: U32, key: DecryptionKey) -> I64:
        """The values that residues decrypt to under a key, without any of the key holder's checks: int64[length]."""
        return self.read(key.decrypt(np.ascontiguousarray(block)) for block in residues)

    def read(self, plaintexts: Iterable[U32]) -> I64:
        """The lanes of decrypted blocks (uint32[primes, N] each), unchecked: int64[length]."""
        decoder = packing.Decoder(self.plan, self.plan.max_clients)
        for index, plaintext in enumerate(plaintexts):
            decoder.add(index, plaintext)
        return decoder._sums.copy()  # the attacker does not need the result of the checks


def asking(trick: Callable[[Federation, Collected], U32], clients: int = CLIENTS, length: int = LENGTH) -> Attempt:
    """A malicious aggregator's attempt: honest contributions, then residues of its own making as their sum."""

    def attempt() -> Loot:
        cast = Federation(clients, length)
        collected = cast.collect()
        release = cast.key_holder.release(cast.signed_sum(collected, trick(cast, collected)))
        return Loot(cast.estimate(release.sums), cast.victim)

    return attempt


def _update(length: int) -> F64:
    return np.random.default_rng().normal(scale=UPDATE_SCALE, size=length)

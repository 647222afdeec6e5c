"""The aggregator: checks contributions and adds their residues. It holds no secret and needs no crypto library for it.

It adds modulo 30-bit primes, into one accumulator (`accumulator.py`). A contribution is hashed and its signature
verified before any residue is read. If one has a residue out of range, what was added of it is subtracted again
exactly, so a refused contribution leaves the sum as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secagg import counts
from secagg.accumulator import Accumulator, InMemory, MakeAccumulator, fold
from secagg.arrays import U8
from secagg.blocks import payload_hash, write_block
from secagg.enrolment import Enrolment
from secagg.errors import (
    DigestMismatch,
    DuplicateClient,
    MalformedMessage,
    QuorumNotMet,
    RosterMismatch,
    UnknownClient,
)
from secagg.identity import Identity
from secagg.messages import Abort, Contribution, EncryptedSum, Header, Offer, Roster, SignedHash
from secagg.plan import RoundPlan
from secagg.stages import StageClock
from secagg.states import AGGREGATOR_MOVES, AggregatorState, Machine
from secagg.transcript import parts_hash, signed
from secagg.verification import check_offer, check_roster, check_same_round, check_signature
from secagg.workers import Workers


class Aggregator:
    """The role of the party that adds contributions.

    identity: that of the enrolled aggregator. masking: whether offers must have masks switched on; the sums are
    computed in the same way with and without masks. accumulator: makes a round's running sum; in memory by default.
    threads: for hashing, checking and adding; all cores when None.
    """

    def __init__(
        self,
        identity: Identity,
        enrolment: Enrolment,
        plan: RoundPlan,
        *,
        masking: bool = True,
        accumulator: MakeAccumulator = InMemory,
        threads: int | None = None,
        clock: StageClock | None = None,
    ) -> None:
        if identity.member != enrolment.aggregator:
            raise UnknownClient(f"identity: {identity.member.organisation} is not the enrolled aggregator")
        self._identity = identity
        self._enrolment = enrolment
        self._plan = plan
        self._masking = masking
        self._clock = clock or StageClock()
        self._machine = Machine(self._moves(), AggregatorState.IDLE, "an aggregator")
        self._make_accumulator = accumulator
        self._offer: Offer | None = None
        self._roster: Roster | None = None
        self._roster_hash = b""
        self._received: dict[bytes, SignedHash] = {}
        self._total: Accumulator | None = None
        self._threads = counts.threads(threads)
        self._workers = Workers(1)

    @property
    def state(self) -> AggregatorState:
        return self._machine.state

    def open(self, offer: Offer, roster: Roster) -> None:
        """Start collecting for a closed roster. Raises a subclass of `PeerError`."""
        following = self._machine.require("open")
        self._check_offer(offer)
        roster_hash = check_roster(roster, offer, self._enrolment, self._plan, quorum=1)
        self._total = self._make_accumulator(self._plan)
        self._workers = Workers(self._threads, self._plan.residue_bytes)
        self._offer, self._roster = offer, roster
        self._roster_hash = roster_hash
        self._received = {}
        self._machine.enter(following)

    def receive(self, contribution: Contribution) -> None:
        """Check a contribution and add it. Raises a subclass of `PeerError`; the sum is then unchanged."""
        following = self._machine.require("receive")
        total = self._running_sum()
        with self._clock.stage("check") as stage:
            self._check(contribution)
            stage.bytes += len(contribution.payload)
        with self._clock.stage("sum") as stage:
            fold(total, contribution.payload, self._plan, self._workers)
            stage.bytes += self._plan.residue_bytes * 32 // 30  # as words
        self._received[contribution.header.sender] = SignedHash(contribution.payload_hash, contribution.signature)
        self._machine.enter(following)

    def missing(self) -> tuple[str, ...]:
        """Organisations of the roster that have not contributed yet."""
        roster = self._current_roster()
        absent = [entry.sender for entry in roster.entries if entry.sender not in self._received]
        return tuple(self._enrolment.client(key).organisation for key in absent)

    def close(self) -> EncryptedSum:
        """The sum over the whole roster. Raises `QuorumNotMet` while a member is missing."""
        following = self._machine.require("close")
        roster = self._current_roster()
        self._require_all()
        total = self._running_sum()
        parts = tuple(self._received[entry.sender] for entry in roster.entries)
        with self._clock.stage("serialize") as stage:
            payload = bytearray(self._plan.residue_bytes)
            packed: U8 = np.frombuffer(payload, dtype=np.uint8)
            for index in range(self._plan.blocks):
                write_block(total.block(index), index, self._plan.params, packed)
            stage.bytes += len(payload)
            header = roster.header.reply(self._identity.key, previous=parts_hash(parts), roster=self._roster_hash)
            digest = payload_hash(payload, self._threads)
            unsigned = self._unsigned_sum(EncryptedSum(header, parts, digest, payload, b""))
            encrypted_sum = signed(unsigned, self._identity)
        self._forget(following)
        return encrypted_sum

    def abort(self, abort: Abort | None = None) -> None:
        """Drop the round: on the key holder's signed abort, or on the aggregator's own decision (None)."""
        following = self._machine.require("abort")
        if abort is not None:
            check_same_round(abort.header, self._round_header())
            check_signature(abort, self._enrolment.key_holder.key)
        self._forget(following)

    def __repr__(self) -> str:
        return f"Aggregator({self._identity.member.organisation!r}, {self.state.value}, {len(self._received)} received)"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _moves(self) -> Mapping[tuple[AggregatorState, str], AggregatorState]:
        """The role's table of moves."""
        return AGGREGATOR_MOVES

    def _check_offer(self, offer: Offer) -> bytes:
        """Its hash. Raises a subclass of `PeerError`."""
        return check_offer(offer, self._enrolment, self._plan, self._masking, quorum=1)

    def _unsigned_sum(self, plain: EncryptedSum) -> EncryptedSum:
        """The sum to sign; a robust round's has more in it."""
        return plain

    def _require_all(self) -> None:
        if missing := self.missing():
            raise QuorumNotMet(
                f"{len(missing)} of {len(self._current_roster().entries)} members have not contributed "
                f"({', '.join(missing[:5])}): wait for them, or abort and open a new round"
            )

    def _round_header(self) -> Header:
        return self._current_roster().header

    def _current_roster(self) -> Roster:
        self._machine.require_own_process()
        if self._roster is None:
            self._machine.require("receive")  # raises WrongState with advice
        assert self._roster is not None
        return self._roster

    def _running_sum(self) -> Accumulator:
        assert self._total is not None  # the state machine allows no call that gets here without one
        return self._total

    def _forget(self, following: AggregatorState) -> None:
        self._machine.enter(following)
        self._offer = self._roster = None
        self._received = {}
        self._total = None
        self._workers.close()

    def _check(self, contribution: Contribution) -> None:
        """Check everything except the residues: round, roster, sender, signature, hash."""
        roster = self._current_roster()
        header = contribution.header
        check_same_round(header, roster.header)
        if header.roster != self._roster_hash or header.previous != self._roster_hash:
            raise RosterMismatch("the contribution is for another roster than this round's: refuse it")
        if all(entry.sender != header.sender for entry in roster.entries):
            raise UnknownClient(f"{header.sender.hex()[:16]} is not on this round's roster: refuse it")
        if header.sender in self._received:
            raise DuplicateClient(f"{self._enrolment.client(header.sender).organisation} has already contributed")
        if len(contribution.payload) != self._plan.residue_bytes:
            raise MalformedMessage(
                f"payload: expected {self._plan.residue_bytes} bytes, got {len(contribution.payload)}"
            )
        check_signature(contribution, header.sender)
        if payload_hash(contribution.payload, self._threads) != contribution.payload_hash:
            raise DigestMismatch("the payload's hash is not the one that its sender signed: refuse it")

"""The aggregator of a robust round: gathers sealed sketches, multiplies them hidden, and sums as in a plain round.

It reads no sketch: it holds no secret of the round. It must be honest for the rule to mean anything, since it could
send products of its own making (docs/threat-model.md). Sketches reach it sealed to an ephemeral key of its own, because
the key holder could decrypt one that it picked up on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secagg import gram, masks
from secagg.accumulator import InMemory, MakeAccumulator
from secagg.aggregator import Aggregator
from secagg.arrays import U8, U32
from secagg.blocks import empty_block, payload_hash, read_block, write_block
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
from secagg.messages import (
    EncryptedSum,
    Header,
    Intake,
    LateSeed,
    Offer,
    Products,
    RobustEntry,
    RobustOffer,
    RobustSum,
    Roster,
    Sketch,
    SketchPart,
    Tally,
)
from secagg.plan import RoundPlan
from secagg.ring import ring_of
from secagg.robust import Robust, rule_bytes
from secagg.stages import StageClock
from secagg.states import ROBUST_AGGREGATOR_MOVES, AggregatorState
from secagg.transcript import message_hash, parts_hash, signed, sketch_parts_hash
from secagg.verification import check_robust_offer, check_same_round, check_signature


@dataclass(frozen=True, repr=False, eq=False)
class Gathered:
    """A checked sketch: uint32[2, primes, N], and what the products name of it."""

    block: U32
    part: SketchPart


class RobustAggregator(Aggregator):
    """As `Aggregator`. robust: the rule that offers must name. threads: of hidden products; all usable cores when None.

    Raises `PlanError` for a plan without robust rounds.
    """

    def __init__(
        self,
        identity: Identity,
        enrolment: Enrolment,
        plan: RoundPlan,
        *,
        robust: Robust,
        accumulator: MakeAccumulator = InMemory,
        threads: int | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self._sketch = robust.check(plan, masking=True)
        self._rule = rule_bytes(robust.rule)
        self._agreement: masks.AgreementKey | None = None
        self._answered = b""  # hash of the message that the sketches of this look answer
        self._look = 0
        self._tallied = b""  # hash of the tally that the late seed must answer
        self._sketches: dict[bytes, Gathered] = {}
        super().__init__(identity, enrolment, plan, accumulator=accumulator, threads=threads, clock=clock)

    def prepare(self, offer: Offer) -> Intake:
        """Answer an offer with a fresh key to which clients seal their sketches. Raises a subclass of `PeerError`."""
        following = self._machine.require("prepare")
        offer_hash = self._check_offer(offer)
        agreement = masks.AgreementKey()
        header = offer.header.reply(self._identity.key, previous=offer_hash)
        unsigned = Intake(header, agreement.public, b"")
        intake = signed(unsigned, self._identity)
        self._offer, self._agreement, self._answered, self._look = offer, agreement, offer_hash, 1
        self._machine.enter(following)
        return intake

    def receive_sketch(self, sketch: Sketch) -> None:
        """Open a sealed sketch and keep it. Raises a subclass of `PeerError`; nothing is kept then."""
        following = self._machine.require("receive_sketch")
        offer = self._current_offer()
        header = sketch.header
        with self._clock.stage("check") as stage:
            check_same_round(header, offer.header)
            expected = (self._look, self._answered, self._roster_named())
            if (sketch.number, header.previous, header.roster) != expected:
                raise RosterMismatch("the sketch is of another look, or answers another message: refuse it")
            self._enrolment.client(header.sender)
            if header.sender in self._sketches:
                raise DuplicateClient(f"{self._enrolment.client(header.sender).organisation} has already sent a sketch")
            if self._roster is not None and all(entry.sender != header.sender for entry in self._roster.entries):
                raise UnknownClient(f"{header.sender.hex()[:16]} is not on this round's roster: refuse it")
            if len(self._sketches) >= self._plan.max_clients:
                raise QuorumNotMet(f"sketch: expected at most {self._plan.max_clients} clients; plan for more")
            check_signature(sketch, header.sender)
            block = self._unsealed(sketch)
            stage.bytes += len(sketch.sealed)
        self._sketches[header.sender] = Gathered(
            block, SketchPart(header.sender, sketch.payload_hash, sketch.signature)
        )
        self._machine.enter(following)

    @property
    def gathered(self) -> Mapping[bytes, Gathered]:
        """The checked sketches of this look by their senders."""
        return self._sketches

    def multiply(self) -> Products:
        """The hidden products of all sketches of this look. Raises `QuorumNotMet` while a member's is missing."""
        following = self._machine.require("multiply")
        offer = self._current_offer()
        assert isinstance(offer, RobustOffer)
        if self._roster is not None and len(self._sketches) < len(self._roster.entries):
            raise QuorumNotMet(
                f"second sketches: expected {len(self._roster.entries)}, got {len(self._sketches)}: wait, or abort"
            )
        if not self._sketches:
            raise QuorumNotMet("sketches: expected at least one, got none: wait, or abort")
        senders = sorted(self._sketches)
        parts = tuple(self._sketches[sender].part for sender in senders)
        with self._clock.stage("sum", "hidden products") as stage:
            payload = gram.hidden_products(
                [self._sketches[sender].block for sender in senders], offer.sketch_key, self._sketch, self._threads
            )
            stage.bytes += len(payload)
        header = offer.header.reply(self._identity.key, previous=sketch_parts_hash(parts), roster=self._roster_named())
        with self._clock.stage("serialize"):
            unsigned = Products(header, self._look, parts, payload_hash(payload), payload, b"")
            products = signed(unsigned, self._identity)
        self._machine.enter(following)
        return products

    def open(self, offer: Offer, roster: Roster) -> None:
        """Start collecting for the roster that the verdict left. Raises a subclass of `PeerError`."""
        self._machine.require("open")
        if message_hash(offer) != self._answered:
            raise RosterMismatch("the offer is not the one that this aggregator prepared for: refuse it")
        for entry in roster.entries:
            known = self._sketches.get(entry.sender)
            if not isinstance(entry, RobustEntry) or known is None or known.part.payload_hash != entry.sketch_hash:
                raise RosterMismatch("the roster names a sketch that this aggregator did not compare: refuse it")
        super().open(offer, roster)
        members = {entry.sender for entry in roster.entries}
        self._sketches = {sender: each for sender, each in self._sketches.items() if sender in members}

    def tally(self) -> Tally:
        """Every member's signed hash, for the key holder to reveal k. Raises `QuorumNotMet` while one is missing."""
        following = self._machine.require("tally")
        roster = self._current_roster()
        self._require_all()
        parts = tuple(self._received[entry.sender] for entry in roster.entries)
        header = roster.header.reply(self._identity.key, previous=parts_hash(parts), roster=self._roster_hash)
        tally = signed(Tally(header, parts, b""), self._identity)
        self._tallied = message_hash(tally)
        self._machine.enter(following)
        return tally

    def reopen(self, late_seed: LateSeed) -> None:
        """Take sketches again, under the late seed. Raises a subclass of `PeerError`."""
        following = self._machine.require("reopen")
        roster = self._current_roster()
        check_same_round(late_seed.header, roster.header)
        if late_seed.header.roster != self._roster_hash:
            raise RosterMismatch("the late seed is for another roster than this round's: refuse it")
        named = tuple(self._received[entry.sender].payload_hash for entry in roster.entries)
        if late_seed.header.previous != self._tallied or late_seed.hashes != named:
            raise RosterMismatch("the late seed answers another tally than this aggregator's: refuse it")
        answered = check_signature(late_seed, self._enrolment.key_holder.key)
        self._answered, self._look, self._sketches = answered, 2, {}
        self._machine.enter(following)

    def __repr__(self) -> str:
        return f"RobustAggregator({self._identity.member.organisation!r}, {self.state.value})"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _moves(self) -> Mapping[tuple[AggregatorState, str], AggregatorState]:
        return ROBUST_AGGREGATOR_MOVES[self._sketch.looks]

    def _check_offer(self, offer: Offer) -> bytes:
        return check_robust_offer(offer, self._enrolment, self._plan, 1, self._sketch, self._rule)

    def _current_offer(self) -> Offer:
        assert self._offer is not None  # the state machine allows no call that gets here without one
        return self._offer

    def _round_header(self) -> Header:
        self._machine.require_own_process()
        return self._current_offer().header

    def _roster_named(self) -> bytes:
        return self._roster_hash if self._roster is not None else bytes(32)

    def _unsealed(self, sketch: Sketch) -> U32:
        """The residues of a sketch whose signature was checked."""
        agreement = self._agreement
        assert agreement is not None
        sender, offer_hash = sketch.header.sender, message_hash(self._current_offer())
        payload = masks.open_sketch(sketch.sealed, agreement, sketch.agreement_key, offer_hash, sender, self._look)
        if len(payload) != self._sketch.bytes:
            raise MalformedMessage(f"sketch: expected {self._sketch.bytes} bytes, got {len(payload)}: refuse it")
        if payload_hash(payload) != sketch.payload_hash:
            raise DigestMismatch("the sketch's hash is not the one that its sender signed: refuse it")
        block = empty_block(self._sketch.params)
        read_block(payload, 0, self._sketch.params, block)
        return block

    def _unsigned_sum(self, plain: EncryptedSum) -> RobustSum:
        total = np.zeros((2, len(self._sketch.params.primes), self._sketch.params.degree), dtype=np.uint32)
        for received in self._sketches.values():
            ring_of(self._sketch.params).add(total, received.block)
        payload = bytearray(self._sketch.bytes)
        packed: U8 = np.frombuffer(payload, dtype=np.uint8)
        write_block(total, 0, self._sketch.params, packed)
        return RobustSum(
            plain.header, plain.parts, plain.payload_hash, plain.payload, b"", payload_hash(payload), payload
        )

    def _forget(self, following: AggregatorState) -> None:
        super()._forget(following)
        self._agreement, self._answered, self._look, self._sketches, self._tallied = None, b"", 0, {}, b""
        self._roster_hash = b""

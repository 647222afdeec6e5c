"""The key holder of a robust round: it opens inner products, applies the rule, and releases what the rule was shown.

Two things are added to the plain role. Before the roster is closed it opens the hidden products of all sketches and
closes the roster over those who pass. Before the release it requires that the sketch of the sum is exactly the sum of
the members' sketches: the released sum is then the sum of what was compared. Where sketches are count sketches there is
a second look in between, under a seed that depends on a number k of its own and on every contribution.

Each matrix is opened once: from the first use of the key on, a failed call leaves the role spent, and only `abort`
remains. Distances and scores leave this process in no message; a verdict does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from secagg import gram, packing, sketches
from secagg.arrays import F64
from secagg.blocks import payload_hash
from secagg.enrolment import Enrolment
from secagg.errors import (
    BadSignature,
    DigestMismatch,
    LateOutlier,
    MalformedMessage,
    QuorumNotMet,
    RosterMismatch,
    RuleRefused,
    SumRefused,
    WrongState,
)
from secagg.identity import Identity, verify
from secagg.keyholder import KeyHolder, _Round
from secagg.ledger import Ledger
from secagg.messages import (
    EncryptedSum,
    Join,
    LateSeed,
    Offer,
    Products,
    RobustEntry,
    RobustJoin,
    RobustOffer,
    RobustRoster,
    RobustSum,
    Roster,
    SignedHash,
    Sketch,
    SketchPart,
    Tally,
)
from secagg.plan import RoundPlan
from secagg.robust import Robust, check_total, first_look, last_look, rule_bytes
from secagg.secrecy import Secret
from secagg.sketchkey import SketchKey, SketchSecret, generate_sketch_keys
from secagg.stages import StageClock
from secagg.states import ROBUST_KEY_HOLDER_MOVES, KeyHolderState
from secagg.transcript import hashes_hash, message_hash, parts_hash, signed, signed_bytes, sketch_parts_hash
from secagg.verification import check_same_round, check_signature


@dataclass
class _Comparison(Secret):
    """What a robust round adds to a round's secrets."""

    key: SketchKey
    secret: SketchSecret = field(repr=False)
    number: bytes = field(repr=False)  # k
    products: F64 | None = field(default=None, repr=False)  # of the last look, members only, in roster order
    tally: tuple[SignedHash, ...] = ()
    late_seed: LateSeed | None = None


class RobustKeyHolder(KeyHolder):
    """As `KeyHolder`. robust: the rule. Raises `PlanError` for a plan that has no robust rounds."""

    _join_kind = RobustJoin

    def __init__(
        self,
        identity: Identity,
        enrolment: Enrolment,
        plan: RoundPlan,
        quorum: int = 3,
        *,
        robust: Robust,
        ledger: Ledger | None = None,
        engine: str = "auto",
        threads: int | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self._robust = robust
        self._sketch = robust.check(plan, masking=True)
        self._next: _Comparison | None = None
        super().__init__(identity, enrolment, plan, quorum, ledger=ledger, engine=engine, threads=threads, clock=clock)

    def _moves(self) -> Mapping[tuple[KeyHolderState, str], KeyHolderState]:
        return ROBUST_KEY_HOLDER_MOVES[self._sketch.looks]

    def _unsigned_offer(self, plain: Offer) -> Offer:
        with self._clock.stage("keygen") as stage:
            key, secret = generate_sketch_keys(self._sketch.params)
            stage.bytes += key.residues.nbytes
        number = os.urandom(sketches.SECRET_BYTES)
        self._next = _Comparison(key, secret, number)
        commitment, rule = sketches.commitment(number), rule_bytes(self._robust.rule)
        return RobustOffer(
            plain.header, plain.quorum, plain.agreement_key, plain.public_key, b"", key, commitment, rule
        )

    def open(self, step: int, model: bytes) -> Offer:
        """As `KeyHolder.open`; the offer has a second key, for sketches, and a commitment to k."""
        try:
            offer = super().open(step, model)
            self._current().comparison = self._next
        finally:
            self._next = None
        return offer

    @property
    def looks(self) -> int:
        """How often sketches are compared in a round: 1 where a sketch is the update itself, 2 otherwise."""
        return self._sketch.looks

    def judge(self, products: Products) -> RobustRoster:
        """Open the products of the first sketches once, apply the rule, and close the roster over those who pass.

        Raises a subclass of `PeerError` for a message that is not the aggregator's about sketches of this round's joins
        (nothing is opened), among them `QuorumNotMet`. Once they are opened: `RuleRefused`, after which only `abort` is
        possible.
        """
        following = self._machine.require("judge")
        state, comparison = self._current(), self._compared()
        rows = self._verify_products(products, 1, state.offer_hash, sorted(state.joins))
        if len(rows) < self._quorum:
            raise QuorumNotMet(f"sketches: expected {self._quorum} or more, got {len(rows)}: wait, or abort")
        self._robust.rule.require_enough(len(rows))
        self._machine.enter(KeyHolderState.SPENT)
        found = self._open_products(products)[np.ix_(rows, rows)]
        kept = first_look(found, self._sketch, self._robust.rule)
        if len(kept) < self._quorum:
            raise RuleRefused(f"{len(kept)} members stay, fewer than the quorum of {self._quorum}: open the next step")
        members = [products.parts[rows[row]].sender for row in kept]
        roster = self._signed_roster(members, state)
        senders_bytes = b"".join(members)
        header = roster.header
        self._ledger.roster_closed(header.step, header.model, header.round_id, message_hash(roster), senders_bytes)
        comparison.products = found[np.ix_(kept, kept)]
        state.roster = roster
        self._machine.enter(following)
        return roster

    def reveal(self, tally: Tally) -> LateSeed:
        """Publish k, once every member's contribution is fixed by its own signature. Raises a subclass of `PeerError`.

        The seed depends on all contributions, so nobody could choose one for it; k depends on nobody else.
        """
        following = self._machine.require("reveal")
        roster, comparison = self._closed_roster(), self._compared()
        roster_hash = message_hash(roster)
        check_same_round(tally.header, roster.header)
        if tally.header.roster != roster_hash or tally.header.previous != parts_hash(tally.parts):
            raise RosterMismatch("the tally is of another roster or of other contributions than it names: refuse it")
        check_signature(tally, self._enrolment.aggregator.key)
        self._verify_parts(tally.parts, roster, roster_hash)
        header = roster.header.reply(self._identity.key, previous=message_hash(tally), roster=roster_hash)
        unsigned = LateSeed(header, comparison.number, tuple(part.payload_hash for part in tally.parts), b"")
        late_seed = signed(unsigned, self._identity)
        comparison.tally, comparison.late_seed = tally.parts, late_seed
        self._machine.enter(following)
        return late_seed

    def judge_again(self, products: Products) -> None:
        """Open the products of the second sketches once and look again, with wider thresholds.

        Raises a subclass of `PeerError` as `judge` does, and `LateOutlier`, which names those who fell out: only
        `abort` is possible then.
        """
        following = self._machine.require("judge_again")
        roster, comparison = self._closed_roster(), self._compared()
        assert comparison.late_seed is not None and comparison.products is not None
        previous = message_hash(comparison.late_seed)
        members = [entry.sender for entry in roster.entries]
        rows = self._verify_products(products, 2, previous, members)
        if len(products.parts) != len(members):
            raise QuorumNotMet(f"second sketches: expected {len(members)}, got {len(products.parts)}: wait, or abort")
        self._machine.enter(KeyHolderState.SPENT)
        index = np.ix_(rows, rows)
        found = self._open_products(products)[index]
        kept = last_look(comparison.products[index], found, self._sketch, self._robust.rule)
        if len(kept) < len(members):
            stayed = {members[rows[row]] for row in kept}
            out = [sender for sender in members if sender not in stayed]
            raise LateOutlier(tuple(self._enrolment.client(sender).organisation for sender in out))
        comparison.products = found
        self._machine.enter(following)

    def close_roster(self) -> Roster:
        """Not a move of robust rounds: raises `WrongState`."""
        self._machine.require("close_roster")
        raise WrongState("close_roster: a robust round's roster is closed by `judge`")

    def __repr__(self) -> str:
        return f"RobustKeyHolder({self._identity.member.organisation!r}, {self.state.value})"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _compared(self) -> _Comparison:
        comparison = self._current().comparison
        assert isinstance(comparison, _Comparison)  # made with the offer
        return comparison

    def _signed_roster(self, members: Sequence[bytes], state: _Round) -> RobustRoster:
        entries = tuple(_entry(sender, state.joins[sender]) for sender in members)
        left_out = tuple(sorted(set(state.joins) - set(members)))
        header = state.offer.header.reply(self._identity.key, previous=state.offer_hash)
        unsigned = RobustRoster(header, entries, b"", left_out)
        return signed(unsigned, self._identity)

    def _verify_products(self, products: Products, number: int, previous: bytes, known: Sequence[bytes]) -> list[int]:
        """Check everything but the residues. Returns the rows of those whose join or own signature covers their sketch.

        A client whose sketch is not the one that its join names harms itself alone: it is left out. previous: what each
        sketch answers. known: those who may have sent one.
        """
        state = self._current()
        header = products.header
        roster = message_hash(state.roster) if state.roster is not None else bytes(32)
        check_same_round(header, state.offer.header)
        senders = [part.sender for part in products.parts]
        expected = (number, roster, sketch_parts_hash(products.parts))
        if (products.number, header.roster, header.previous) != expected:
            raise RosterMismatch("the products are of another look, or name other sketches than they sign: refuse them")
        if senders != sorted(set(senders)) or not set(senders) <= set(known):
            raise RosterMismatch("the products name a sender twice, out of order, or one who has not joined: refuse")
        check_signature(products, self._enrolment.aggregator.key)
        if len(products.payload) != self._sketch.products_bytes(len(senders)):
            raise MalformedMessage(
                f"products: expected {self._sketch.products_bytes(len(senders))} bytes, got {len(products.payload)}"
            )
        with self._clock.stage("verify", "products") as stage:
            stage.bytes += len(products.payload)
            if payload_hash(products.payload) != products.payload_hash:
                raise DigestMismatch("the products' SHA-256 is not the one that the aggregator signed: refuse them")
        return [row for row, part in enumerate(products.parts) if self._is_genuine(part, number, previous, roster)]

    def _is_genuine(self, part: SketchPart, number: int, previous: bytes, roster: bytes) -> bool:
        join = self._current().joins[part.sender]
        assert isinstance(join, RobustJoin)  # `receive_join` takes no other
        if number == 1:  # the join is signed, and names the sketch
            return join.sketch_hash == part.payload_hash
        header = self._current().offer.header.reply(part.sender, previous=previous, roster=roster)
        covered = signed_bytes(Sketch(header, number, join.agreement_key, part.payload_hash, b"", b""))
        try:
            verify(part.sender, part.signature, covered)
        except BadSignature:
            return False
        return True

    def _verify_parts(self, parts: Sequence[SignedHash], roster: Roster, roster_hash: bytes) -> None:
        """As in a plain round; what the tally named was verified before k was published."""
        if not parts or tuple(parts) != self._compared().tally:
            super()._verify_parts(parts, roster, roster_hash)

    def _open_products(self, products: Products) -> F64:
        with self._clock.stage("verify", "opening of products"):
            secret, clients = self._compared().secret, len(products.parts)
            return gram.open_products(products.payload, clients, secret, self._sketch, self._threads)

    def _verify(self, encrypted_sum: EncryptedSum, roster: Roster) -> None:
        super()._verify(encrypted_sum, roster)
        comparison = self._compared()
        if not isinstance(encrypted_sum, RobustSum):
            raise MalformedMessage("the sum has no sum of sketches: this is a robust round, refuse it")
        if self._sketch.looks == 2 and encrypted_sum.parts != comparison.tally:
            raise RosterMismatch("the sum is of other contributions than the tally named: refuse it")
        if len(encrypted_sum.sketches) != self._sketch.bytes:
            raise MalformedMessage(f"sketches: expected {self._sketch.bytes} bytes, got {len(encrypted_sum.sketches)}")
        if payload_hash(encrypted_sum.sketches) != encrypted_sum.sketches_hash:
            raise DigestMismatch("the sketches' SHA-256 is not the one that the aggregator signed: refuse it")
        gram.check_block(encrypted_sum.sketches, self._sketch)

    def _open(self, encrypted_sum: EncryptedSum, state: _Round) -> packing.IntegerSums:
        """As in a plain round; then the weights must be 1 and the sketches must add up. Raises `SumRefused`."""
        sums = super()._open(encrypted_sum, state)
        roster, comparison = state.roster, state.comparison
        assert isinstance(encrypted_sum, RobustSum) and roster is not None  # `_verify` and `release` saw to both
        assert isinstance(comparison, _Comparison) and comparison.products is not None
        with self._clock.stage("verify", "sum of sketches"):
            seed = bytes(32)
            if comparison.late_seed is not None:
                hashes = hashes_hash(comparison.late_seed.hashes)
                seed = sketches.late_seed(comparison.number, message_hash(roster), hashes)
            shown = gram.open_sum(encrypted_sum.sketches, len(roster.entries), comparison.secret, self._sketch)
            sound = sums.total_weight == len(roster.entries)
            # Exactly: the released sum is the sum of what the rule was shown.
            sound &= bool(np.array_equal(sketches.sketch_of_sums(sums.sums, self._sketch, seed), shown))
            sound &= check_total(comparison.products, shown, self._sketch)
        if not sound:
            raise SumRefused("refused")
        return sums


def _entry(sender: bytes, join: Join) -> RobustEntry:
    assert isinstance(join, RobustJoin)
    return RobustEntry(sender, join.agreement_key, join.sealed_seed, join.seen, join.signature, join.sketch_hash)

"""The key holder: opens a round, closes its roster, decrypts one sum, once, and releases it only if it is well formed.

It never trusts the aggregator: what it decrypts must be the sum over exactly the closed roster, because any other sum
still carries pairwise masks and is uniform (`masks.py`), and uniform coefficients fail the checks of `packing.Decoder`
in every block. The step is consumed durably before the key is used (`ledger.py`); the CKKS key and all seeds live in
memory for one round. Other parties learn only that a sum was refused, not why.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from secagg import counts, masks, packing, wire
from secagg.blocks import Payload, empty_block, payload_hash, read_block
from secagg.ckks import SecretKey
from secagg.device import Device
from secagg.engines import BUDGETED_ENGINE, decryption_keys, resolve_engine
from secagg.enrolment import Enrolment
from secagg.errors import (
    DigestMismatch,
    DuplicateClient,
    LocalError,
    MalformedMessage,
    PeerError,
    QuorumNotMet,
    RosterMismatch,
    RoundAlreadyReleased,
    SumRefused,
    UnknownClient,
)
from secagg.eventlog import Content
from secagg.gossip import Known, check_range, check_with_ledger
from secagg.identity import Identity, verify
from secagg.ledger import Ledger, Outcome
from secagg.messages import (
    NO_ROSTER,
    Abort,
    AbortReason,
    Contribution,
    EncryptedSum,
    Ending,
    Header,
    Join,
    Offer,
    Release,
    Roster,
    RosterEntry,
    SignedHash,
)
from secagg.opening import open_sum
from secagg.plan import RoundPlan
from secagg.secrecy import Secret
from secagg.stages import StageClock
from secagg.states import KEY_HOLDER_MOVES, KeyHolderState, Machine
from secagg.transcript import (
    header_bytes,
    message_hash,
    parse_header,
    parts_hash,
    public_key_hash,
    signed,
    signed_bytes,
)
from secagg.verification import check_same_round, check_signature
from secagg.workers import Workers

if TYPE_CHECKING:
    from secagg.ckks_fast import FastSecretKey  # loads numba

ROUND_ID_BYTES = 16
_CONSUMED = (Outcome.RELEASED, Outcome.REFUSED)


@dataclass
class _Round(Secret):
    """One round's secrets, which are kept only in memory."""

    offer: Offer
    offer_hash: bytes
    secret_key: SecretKey | FastSecretKey = field(repr=False)
    agreement: masks.AgreementKey = field(repr=False)
    joins: dict[bytes, Join] = field(default_factory=dict)
    seeds: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    roster: Roster | None = None
    known: dict[int, Known] = field(default_factory=dict)  # earlier steps, as clients' statements asked for them
    comparison: Secret | None = field(default=None, repr=False)  # of a robust round, see `robust_keyholder.py`


class KeyHolder(Secret):
    """The role of the party that decrypts the sum.

    identity: that of the enrolled key holder. quorum: smallest roster it will close. ledger: its record across
    restarts; in memory when None. masking=False switches the masks off and warns: the aggregator must then be honest.
    engine: "auto" or an engine's name (`engines.py`); it decrypts. threads: all cores when None; with engine "seal" at
    most 2 are of use, to unpack one block while SEAL decrypts the next. device: decrypts and unpacks in place of the
    engine, and holds the secret key while it does (`device.py`); None: in memory. Raises `EngineUnavailable`.
    """

    def __init__(
        self,
        identity: Identity,
        enrolment: Enrolment,
        plan: RoundPlan,
        quorum: int = 3,
        *,
        masking: bool = True,
        ledger: Ledger | None = None,
        engine: str = "auto",
        threads: int | None = None,
        device: Device | None = None,
        clock: StageClock | None = None,
    ) -> None:
        if identity.member != enrolment.key_holder:
            raise UnknownClient(f"identity: {identity.member.organisation} is not the enrolled key holder")
        quorum, threads = counts.quorum(quorum, plan.max_clients), counts.threads(threads)
        if not masking:
            masks.warn_disabled()
        self._identity = identity
        self._enrolment = enrolment
        self._plan = plan
        self._quorum = quorum
        self._masking = masking
        self._ledger = ledger or Ledger.in_memory(identity)
        self._engine = resolve_engine(engine)
        self._threads = threads
        self._device = device
        self._clock = clock or StageClock()
        self._machine = Machine(self._moves(), KeyHolderState.IDLE, "a key holder")
        self._round: _Round | None = None

    @property
    def state(self) -> KeyHolderState:
        return self._machine.state

    def open(self, step: int, model: bytes) -> Offer:
        """Open a round: fresh keys, fresh round id. step: above every earlier one of this ledger, [0, 2**63).

        Raises `StepNotIncreasing`, `StepJump` or `RoundAlreadyReleased` (then `stored_release` has the bytes).
        """
        following = self._machine.require("open")
        step = counts.step(step)
        if len(model) != 32:
            raise LocalError(f"model: expected a hash of 32 bytes, got {len(model)} bytes")
        self._ledger.check_step(step)
        with self._clock.stage("keygen") as stage:
            public_key, secret_key = decryption_keys(self._engine, self._plan.params)
            stage.bytes += public_key.residues.nbytes
        agreement = masks.AgreementKey()
        header = Header(
            session=self._enrolment.session,
            round_id=os.urandom(ROUND_ID_BYTES),
            step=step,
            sender=self._identity.key,
            plan=self._plan.fingerprint,
            engine=BUDGETED_ENGINE,
            masked=self._masking,
            key=public_key_hash(public_key),
            model=model,
            roster=NO_ROSTER,
            previous=self._ledger.head,
        )
        unsigned = self._unsigned_offer(Offer(header, self._quorum, agreement.public, public_key, b""))
        offer = signed(unsigned, self._identity)
        offer_hash = message_hash(offer)
        self._ledger.opened(step, model, header.round_id, offer_hash, header_bytes(header))
        self._round = _Round(offer, offer_hash, secret_key, agreement)
        self._machine.enter(following)
        return offer

    def receive_join(self, join: Join) -> None:
        """Take a client's join.

        Raises a subclass of `PeerError` for a wrong round, an unknown or duplicate client, or a bad seal. Raises
        `HistoryMismatch` where the client's statement contradicts this ledger: the statement is false, or this
        ledger was rolled back.
        """
        following = self._machine.require("receive_join")
        state = self._current()
        if type(join) is not self._join_kind:
            raise MalformedMessage("the join is not of this kind of round, robust or plain: refuse it")
        header = join.header
        check_same_round(header, state.offer.header)
        if header.previous != state.offer_hash or header.roster != NO_ROSTER:
            raise RosterMismatch("the join answers another offer: refuse it")
        self._enrolment.client(header.sender)
        if header.sender in state.joins:
            raise DuplicateClient(f"{self._enrolment.client(header.sender).organisation} has already joined")
        if len(state.joins) >= self._plan.max_clients:
            raise QuorumNotMet(f"join: expected at most {self._plan.max_clients} clients; plan for more")
        check_signature(join, header.sender)
        check_range(join.seen, header.step)
        check_with_ledger(self._enrolment.client(header.sender).organisation, join.seen, self._known)
        with self._clock.stage("mask"):
            seed = masks.open_seed(
                join.sealed_seed, state.agreement, join.agreement_key, state.offer_hash, header.sender
            )
        state.joins[header.sender] = join
        state.seeds[header.sender] = seed
        self._machine.enter(following)

    def close_roster(self) -> Roster:
        """Close the roster. Raises `QuorumNotMet`; joins are then still accepted."""
        following = self._machine.require("close_roster")
        state = self._current()
        if len(state.joins) < self._quorum:
            raise QuorumNotMet(f"joins: expected {self._quorum} or more, got {len(state.joins)}: wait, or abort")
        entries = tuple(_entry(sender, join) for sender, join in sorted(state.joins.items()))
        header = state.offer.header.reply(self._identity.key, previous=state.offer_hash)
        roster = signed(Roster(header, entries, b""), self._identity)
        senders = b"".join(entry.sender for entry in entries)
        self._ledger.roster_closed(header.step, header.model, header.round_id, message_hash(roster), senders)
        state.roster = roster
        self._machine.enter(following)
        return roster

    def release(self, encrypted_sum: EncryptedSum) -> Release:
        """Verify, consume the step, decrypt, check, release.

        Raises a subclass of `PeerError` for a message that is not a signed sum of this roster (nothing is consumed),
        among them `RoundAlreadyReleased` for a step that has had its decryption. Raises `SumRefused` when the
        decrypted sum is not well formed; the step then stays consumed.
        """
        self._refuse_second_sum(encrypted_sum.header.step)
        following = self._machine.require("release")
        state = self._current()
        roster = self._closed_roster()
        with self._clock.stage("verify") as stage:
            self._verify(encrypted_sum, roster)
            stage.bytes += len(encrypted_sum.payload)
        header = state.offer.header
        self._ledger.consumed(header.step, header.model, header.round_id, message_hash(encrypted_sum))
        # The step is consumed from here on. If anything fails, key and seeds are dropped with the round.
        self._forget(following)
        try:
            sums = self._open(encrypted_sum, state)
            with Workers(self._threads, self._plan.residue_bytes, most=2) as workers:
                packing_them = workers.start(partial(wire.release_payload, sums.sums, self._plan))
                release, release_hash = self._signed_release(encrypted_sum, roster, sums)
                payload = packing_them()
            head, tail = wire.around_release(release, payload)
            # Stored before it is sent, so that the same bytes are sent again after a crash.
            content = Content(payload.payload, payload.hash)
            self._ledger.released(header.step, header.model, header.round_id, release_hash, head, content, tail)
        except PeerError:
            # Not only SumRefused: a payload that changes during the call must not reveal which check it failed.
            self._ledger.refused(header.step, header.model, header.round_id)
            raise SumRefused("refused") from None
        finally:
            self._wipe(state)
            self._ledger.let_go()
        return release

    def stored_release(self, step: int) -> Release | None:
        """The release of an earlier step, as it was sent, or None."""
        data = self._ledger.stored_release(counts.step(step))
        if data is None:
            return None
        message = wire.decode(data, self._plan)
        assert isinstance(message, Release)
        return message

    def abort(self, reason: AbortReason = AbortReason.ABANDONED) -> Abort:
        """End the round without a release; its key and seeds are gone."""
        following = self._machine.require("abort")
        header = self._current().offer.header.reply(self._identity.key, previous=self._current().offer_hash)
        abort = self._signed_abort(header, reason)
        self._ledger.aborted(header.step, header.model, header.round_id, reason)
        self._forget(following)
        return abort

    def outcome(self, step: int) -> Outcome | None:
        """What became of a step of this ledger; None when it was never opened."""
        return self._ledger.outcome(counts.step(step))

    def abandoned_steps(self) -> tuple[int, ...]:
        """Steps that an earlier process opened and never finished: their keys are gone, nothing will be released."""
        return tuple(each.step for each in self._ledger.abandoned())

    def report_abandoned(self) -> tuple[Abort, ...]:
        """After a restart: a signed abort for each abandoned round, for its clients; each is reported once.

        Rounds of other plans than this key holder's are reported as well; encode their aborts under their own plan.
        """
        following = self._machine.require("report_abandoned")
        aborts = []
        for each in self._ledger.abandoned():
            header = parse_header(each.header).reply(self._identity.key, previous=each.offer)
            abort = self._signed_abort(header, AbortReason.ABANDONED)
            self._ledger.aborted(each.step, each.model, each.round_id, abort.reason)
            aborts.append(abort)
        self._machine.enter(following)
        return tuple(aborts)

    @staticmethod
    def aborts_after(ledger: Ledger, identity: Identity, step: int, model: bytes, limit: int) -> tuple[Abort, ...]:
        """Signed aborts, for a client that missed them, of lost rounds from `model` above `step`: aborted, or refused.

        Lowest step first, at most `limit`; the same bytes however often they are asked for. Changes nothing, and needs
        no role: it may be asked between rounds of any plan.
        """
        aborts = []
        for each in ledger.lost_after(step, model, limit):
            header = parse_header(each.header).reply(identity.key, previous=each.offer)
            reason = AbortReason.REFUSED if each.reason is None else AbortReason(each.reason)
            aborts.append(_signed_abort(identity, header, reason))
        return tuple(aborts)

    def __repr__(self) -> str:
        return f"KeyHolder({self._identity.member.organisation!r}, {self.state.value})"

    # --- inside -----------------------------------------------------------------------------------------------------

    _join_kind: type[Join] = Join

    def _moves(self) -> Mapping[tuple[KeyHolderState, str], KeyHolderState]:
        """The role's table of moves."""
        return KEY_HOLDER_MOVES

    def _unsigned_offer(self, plain: Offer) -> Offer:
        """The offer to sign; a robust round's has more in it."""
        return plain

    def _current(self) -> _Round:
        assert self._round is not None  # the state machine allows no call that gets here without one
        return self._round

    def _refuse_second_sum(self, step: int) -> None:
        """Refuse a sum that comes again after the verdict: the sender made the error, not this process."""
        if self.state is not KeyHolderState.CLOSED and self._ledger.outcome(step) in _CONSUMED:
            raise RoundAlreadyReleased(f"step {step} was consumed before: there is one decryption per step")

    def _known(self, step: int) -> Known:
        """What the ledger holds about a step that a client's statement names. Most clients name the same step."""
        state = self._current()
        if step not in state.known:
            state.known[step] = self._held(step)
        return state.known[step]

    def _held(self, step: int) -> Known:
        record = self._ledger.record(step)
        if record is None:
            return Known()
        header = parse_header(record.header)
        if record.release is not None:
            return Known(Ending.RELEASED, record.release, header.previous)
        reason = record.reason
        if reason is None and record.refused:
            reason = AbortReason.REFUSED  # the reason that `aborts_after` gives a client
        if reason is None:
            return Known(head=header.previous)
        reply = header.reply(self._identity.key, previous=record.offer)
        abort = Abort(reply, AbortReason(reason), b"")
        return Known(Ending.ABORTED, message_hash(abort), header.previous)

    def _signed_abort(self, header: Header, reason: AbortReason) -> Abort:
        return _signed_abort(self._identity, header, reason)

    def _signed_release(
        self, encrypted_sum: EncryptedSum, roster: Roster, sums: packing.IntegerSums
    ) -> tuple[Release, bytes]:
        """The release and its hash, from one pass over its values."""
        header = roster.header.reply(
            self._identity.key, previous=message_hash(encrypted_sum), roster=message_hash(roster)
        )
        unsigned = Release(header, len(roster.entries), sums.total_weight, sums.sums, b"")
        covered = signed_bytes(unsigned)
        return replace(unsigned, signature=self._identity.sign(covered)), hashlib.sha256(covered).digest()

    def _closed_roster(self) -> Roster:
        roster = self._current().roster
        assert roster is not None
        return roster

    def _forget(self, following: KeyHolderState) -> None:
        self._machine.enter(following)
        self._round = None

    def _wipe(self, state: _Round) -> None:
        """Overwrite the keys of a round that has ended. Those of an aborted one are overwritten when they are freed."""
        state.secret_key.wipe()

    def _verify(self, encrypted_sum: EncryptedSum, roster: Roster) -> None:
        """The aggregator's signature, every member's signature under its own hash, and all residues."""
        roster_hash = message_hash(roster)
        header = encrypted_sum.header
        check_same_round(header, roster.header)
        if header.roster != roster_hash:
            raise RosterMismatch("the sum is for another roster than this round's: refuse it")
        if len(encrypted_sum.parts) != len(roster.entries) or header.previous != parts_hash(encrypted_sum.parts):
            raise RosterMismatch(
                f"contributions in the sum: expected {len(roster.entries)}, got {len(encrypted_sum.parts)}"
            )
        check_signature(encrypted_sum, self._enrolment.aggregator.key)
        self._verify_parts(encrypted_sum.parts, roster, roster_hash)
        if len(encrypted_sum.payload) != self._plan.residue_bytes:
            raise MalformedMessage(
                f"payload: expected {self._plan.residue_bytes} bytes, got {len(encrypted_sum.payload)}"
            )
        with Workers(self._threads, self._plan.residue_bytes, most=2) as workers:
            hashing = workers.start(partial(payload_hash, encrypted_sum.payload, 1))
            fault = self._fault_of_residues(encrypted_sum.payload)
            if hashing() != encrypted_sum.payload_hash:
                raise DigestMismatch("the payload's hash is not the one that the aggregator signed")
        if fault is not None:
            raise fault

    def _fault_of_residues(self, payload: Payload) -> PeerError | None:
        """What is wrong with a block of the sum: the first fault, or None."""
        block = empty_block(self._plan.params)
        try:
            for index in range(self._plan.blocks):
                read_block(payload, index, self._plan.params, block)
        except PeerError as error:
            return error
        return None

    def _verify_parts(self, parts: Sequence[SignedHash], roster: Roster, roster_hash: bytes) -> None:
        """Every member's signature under the hash of its contribution."""
        if len(parts) != len(roster.entries):
            raise RosterMismatch(f"contributions: expected {len(roster.entries)}, got {len(parts)}: refuse")
        for entry, part in zip(roster.entries, parts, strict=True):
            contribution_header = roster.header.reply(entry.sender, previous=roster_hash, roster=roster_hash)
            covered = signed_bytes(Contribution(contribution_header, part.payload_hash, b"", b""))
            verify(entry.sender, part.signature, covered)

    def _open(self, encrypted_sum: EncryptedSum, state: _Round) -> packing.IntegerSums:
        """Take the seed masks off, decrypt, check every coefficient. Raises `SumRefused`."""
        assert state.roster is not None  # `release` read it
        members = [entry.sender for entry in state.roster.entries]
        terms = [masks.MaskTerm(state.seeds[each], negative=False) for each in members] if self._masking else []
        payload, clients = encrypted_sum.payload, len(members)
        if self._device is not None:
            return self._device.open_sum(payload, state.secret_key, terms, self._plan, clients, self._clock)
        return open_sum(payload, state.secret_key, terms, self._plan, clients, self._threads, self._clock)


def _entry(sender: bytes, join: Join) -> RosterEntry:
    return RosterEntry(sender, join.agreement_key, join.sealed_seed, join.seen, join.signature)


def _signed_abort(identity: Identity, header: Header, reason: AbortReason) -> Abort:
    return signed(Abort(header, reason, b""), identity)

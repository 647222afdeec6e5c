"""The client, a bank: joins a round, encrypts and masks its update, and reads the release.

The update is quantised, weighted and packed (`packing.py`), encrypted under the offer's CKKS key (`engines.py`), and
masked pairwise over the closed roster (`masks.py`); it is sent as bytes signed by this client. What the client accepts
from others is checked against its own enrolment list, plan, quorum and journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from secagg import counts, masks, packing, sealing
from secagg.blocks import payload_hash
from secagg.device import Device, Update
from secagg.engines import resolve_engine
from secagg.enrolment import Enrolment
from secagg.errors import LocalError, RosterMismatch, UnknownClient, WrongModel, WrongPlan, WrongRound
from secagg.gossip import check_range, check_statements
from secagg.identity import Identity
from secagg.journal import Consent, Journal, JournalRound, UpdateName
from secagg.messages import Abort, Contribution, Header, Join, Offer, Release, Roster
from secagg.plan import RoundPlan
from secagg.release import Average, read_release
from secagg.secrecy import Secret
from secagg.stages import StageClock
from secagg.states import CLIENT_MOVES, ClientState, Machine
from secagg.transcript import signed
from secagg.verification import check_offer, check_roster, check_same_round, check_signature
from secagg.workers import Workers


@dataclass
class _Round(Secret):
    """One round's secrets, which are kept only in memory."""

    offer: Offer
    join: Join
    agreement: masks.AgreementKey = field(repr=False)
    seed: bytes = field(repr=False)
    roster_hash: bytes = b""
    members: int = 0


class Client(Secret):
    """The role of a bank.

    identity: that of an enrolled client. plan, quorum: what this client agreed to; other offers are refused.
    masking=False switches the masks off and warns: the aggregator must then be honest. journal: records the uses of
    updates; in memory when None. model_repeats: how many rosters may train from one model once members differ from
    those of its first roster. Each retry of a lost round without the bank that vanished counts as one. A key holder
    that lies about lost rounds could subtract the sums of such rosters. None: any number; the caller thereby states
    that every update carries fresh noise (differential privacy). engine: "auto" or an engine's name (`engines.py`).
    threads: for packing and encryption; all cores when None. device: packs and encrypts in place of the engine, and
    takes updates of its own kind beside numpy arrays (`device.py`); None: in memory.
    """

    def __init__(
        self,
        identity: Identity,
        enrolment: Enrolment,
        plan: RoundPlan,
        quorum: int = 3,
        *,
        masking: bool = True,
        journal: Journal | None = None,
        model_repeats: int | None = 0,
        engine: str = "auto",
        threads: int | None = None,
        device: Device | None = None,
        clock: StageClock | None = None,
    ) -> None:
        if identity.member not in enrolment.clients:
            raise UnknownClient(f"{identity.member.organisation} is not an enrolled client: enrol it offline first")
        quorum, threads = counts.quorum(quorum, plan.max_clients), counts.threads(threads)
        if model_repeats is not None:
            or_none = ", or None (fresh noise)"
            model_repeats = counts.count("model_repeats", model_repeats, 0, 2**31 - 1, LocalError, or_none)
        if not masking:
            masks.warn_disabled()
        self._identity = identity
        self._enrolment = enrolment
        self._plan = plan
        self._quorum = quorum
        self._masking = masking
        self._journal = journal or Journal.in_memory(identity)
        self._model_repeats = model_repeats
        self._engine = resolve_engine(engine)
        self._threads = threads
        self._device = device
        self._clock = clock or StageClock()
        self._machine = Machine(self._moves(), ClientState.IDLE, "a client")
        self._round: _Round | None = None
        self.clipped = 0
        """How many values of the last update lay outside [-clip, clip]. Stays at the client."""

    @property
    def state(self) -> ClientState:
        return self._machine.state

    def join(self, offer: Offer, model: bytes) -> Join:
        """Answer an offer. model: the hash of the model that the update will refer to, 32 bytes.

        Raises a subclass of `PeerError` for an offer that is not the enrolled key holder's for this session, plan,
        quorum and model. Raises `StepNotIncreasing` or `StepJump` for a step that does not follow those joined before.
        """
        following = self._machine.require("join")
        offer_hash = self._check_offer(offer, model)
        state = self._joining(offer, offer_hash)
        state.join = signed(state.join, self._identity)
        self._record_join(offer, offer_hash)
        self._round = state
        self._machine.enter(following)
        return state.join

    def _check_offer(self, offer: Offer, model: bytes) -> bytes:
        """The offer's hash, if this client answers it."""
        with self._clock.stage("check"):
            offer_hash = self._checked_offer(offer)
        # Different models at different clients let an attacker separate their sums (Pasquini et al., 2111.07380).
        if offer.header.model != model:
            raise WrongModel(f"model: expected {model.hex()[:16]}, got {offer.header.model.hex()[:16]}: refuse it")
        self._journal.check_step(offer.header.step)
        return offer_hash

    def _checked_offer(self, offer: Offer) -> bytes:
        return check_offer(offer, self._enrolment, self._plan, self._masking, self._quorum)

    def _joining(self, offer: Offer, offer_hash: bytes) -> _Round:
        """The secrets of a round, and the join that follows from them, not yet signed. Changes nothing."""
        with self._clock.stage("mask"):
            agreement, seed = masks.AgreementKey(), masks.new_seed()
            sealed = masks.seal_seed(seed, agreement, offer.agreement_key, offer_hash, self._identity.key)
        header = offer.header.reply(self._identity.key, previous=offer_hash)
        join = Join(header, agreement.public, sealed, self._journal.seen(offer.header.sender), b"")
        return _Round(offer, join, agreement, seed)

    def _record_join(self, offer: Offer, offer_hash: bytes) -> None:
        header = offer.header
        self._journal.joined(header.step, header.model, header.round_id, offer_hash, header.previous, header.sender)

    def check_update(self, update: Update, weight: int = 1) -> None:
        """Refuse an update that no roster could accept, before a round is joined for it. Changes nothing.

        Raises `UpdateError`, `WeightOutOfRange`, or `UpdateReused` for one that entered a round which was not aborted.
        """
        values = self._in_memory(update)
        packing.check_update(values, self._plan)
        packing.check_weight(weight, self._plan)
        with self._clock.stage("check"):
            self._check_name(self._journal.name(values, self._plan, self._threads))

    def check_roster(self, roster: Roster) -> tuple[str, ...]:
        """Organisations of a roster that `contribute` would take, before noise is drawn and paid for it.

        Changes nothing. Raises `WrongState` and subclasses of `PeerError` as `contribute` does.
        """
        self._machine.require("contribute")
        state = self._current()
        with self._clock.stage("check"):
            check_roster(roster, state.offer, self._enrolment, self._plan, self._quorum, state.join)
            self._check_history(roster, state.offer.header)
        return tuple(self._enrolment.client(entry.sender).organisation for entry in roster.entries)

    def contribute(self, roster: Roster, update: Update, weight: int = 1, *, allow_reuse: bool = False) -> Contribution:
        """Seal an update for exactly this roster.

        update: float32 or float64, shape (plan.length,), a numpy array or what the device takes; nobody may change it
        before this returns, or the journal names other values than were sent. weight: integer in
        1..plan.max_weight. allow_reuse: accept, with a warning, an update that entered another roster before. The two
        sums can then be subtracted from each other. Raises `UpdateError`, `WeightOutOfRange`, `UpdateReused` or
        `ModelRepeated`, and subclasses of `PeerError` for the roster.
        """
        following = self._machine.require("contribute")
        state = self._current()
        weight = packing.check_weight(weight, self._plan)
        values = self._in_memory(update)
        encoder = self._encoder(values, weight)
        with self._clock.stage("check"), Workers(self._threads, values.nbytes, most=2) as workers:
            named = self._naming(values, workers)
            roster_hash = check_roster(roster, state.offer, self._enrolment, self._plan, self._quorum, state.join)
            self._check_history(roster, state.offer.header)
            name = named()
        header = state.offer.header.reply(self._identity.key, previous=roster_hash, roster=roster_hash)
        with self._clock.stage("mask", "key agreement"):
            terms = self._mask_terms(roster, roster_hash, state) if self._masking else []
        members = [entry.sender for entry in roster.entries]
        consent = Consent(allow_reuse, self._model_repeats)
        self._journal.contributing(
            header.step, header.model, header.round_id, roster_hash, members, name, weight, consent
        )
        if self._device is None:
            payload, clipped = self._seal(encoder, terms, state), encoder.clipped
        else:
            public_key = state.offer.public_key
            payload, clipped = self._device.seal(update, weight, public_key, terms, self._plan, self._clock)
        with self._clock.stage("serialize") as stage:
            stage.bytes += len(payload)
            unsigned = Contribution(header, payload_hash(payload, self._threads), payload, b"")
            contribution = signed(unsigned, self._identity)
        self._journal.sealed(header.step, header.model, header.round_id, contribution.payload_hash)
        state.roster_hash, state.members = roster_hash, len(roster.entries)
        self.clipped = clipped
        self._machine.enter(following)
        return contribution

    def accept(self, release: Release) -> Average:
        """Check a release and turn it into the average. Raises a subclass of `PeerError`."""
        following = self._machine.require("accept")
        state = self._current()
        check_same_round(release.header, state.offer.header)
        average = self._finish(release, state.roster_hash, state.members)
        self._forget(following)
        return average

    def abort(self, abort: Abort | None = None) -> None:
        """Leave the round: on the key holder's signed abort, or on this client's own decision (None).

        Only the key holder's abort is remembered as one: after it, the same update may enter a roster of the same
        members again.
        """
        following = self._machine.require("abort")
        state = self._current()
        if abort is not None:
            check_same_round(abort.header, state.offer.header)
            abort_hash = check_signature(abort, self._enrolment.key_holder.key)
            header = abort.header
            self._journal.aborted(header.step, header.model, header.round_id, abort_hash)
        self._forget(following)

    def unfinished(self) -> tuple[int, ...]:
        """Steps that were joined and did not end, because of a crash or a local abort. `settle` can still end them.

        The round that this client is in now is not among them.
        """
        current = self._round.offer.header.step if self._round is not None else None
        return tuple(step for step in self._journal.unfinished() if step != current)

    def settle(self, message: Release | Abort) -> Average | None:
        """End a round that this process no longer holds, with what the journal recorded about it.

        After a crash, or after it left a round on its own, a client may still receive the release of a contribution
        that it had sealed, or the key holder's abort. Returns the average for a release and None for an abort. Raises
        `WrongRound` for a round that the journal does not hold open, and a subclass of `PeerError` as `accept` does.
        """
        following = self._machine.require("settle")
        header = message.header
        known = self._open_round(header.step)
        for what, error, got, want in (
            ("session", WrongRound, header.session, self._enrolment.session),
            ("round", WrongRound, header.round_id, known.round_id),
            ("model", WrongModel, header.model, known.model),
            ("plan", WrongPlan, header.plan, self._plan.fingerprint),
            ("masking", WrongPlan, header.masked, self._masking),
        ):
            if got != want:
                raise error(f"{what}: this message does not end the round that the journal holds at step {header.step}")
        average = None
        if isinstance(message, Release):
            if known.contribution is None:
                raise WrongRound(f"step {header.step}: the journal holds no contribution of this client to this round")
            average = self._finish(message, known.roster or b"", known.members)
        else:
            abort_hash = check_signature(message, self._enrolment.key_holder.key)
            self._journal.aborted(header.step, header.model, header.round_id, abort_hash)
        self._machine.enter(following)
        return average

    def __repr__(self) -> str:
        return f"Client({self._identity.member.organisation!r}, {self.state.value})"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _moves(self) -> Mapping[tuple[ClientState, str], ClientState]:
        """The role's table of moves."""
        return CLIENT_MOVES

    def _check_name(self, name: UpdateName) -> None:
        """Raise `UpdateReused` for an update that no round of this kind takes any more."""
        self._journal.check_update(name)

    def _encoder(self, update: NDArray[np.floating], weight: int) -> packing.Encoder:
        return packing.Encoder(update, weight, self._plan)

    def _naming(self, update: NDArray[np.floating], workers: Workers) -> Callable[[], UpdateName]:
        return self._journal.naming(update, self._plan, workers)

    def _in_memory(self, update: Update) -> NDArray[np.floating]:
        """The update as an array: what is checked, and what the journal names. `packing` refuses everything else."""
        array: NDArray[np.floating] = update if self._device is None else self._device.in_memory(update)
        return array

    def _current(self) -> _Round:
        assert self._round is not None  # the state machine allows no call that gets here without one
        return self._round

    def _open_round(self, step: int) -> JournalRound:
        known = self._journal.round_of(step)
        if known is None or known.finished:
            raise WrongRound(f"step {step}: the journal holds no open round of this step, so there is none to settle")
        return known

    def _check_history(self, roster: Roster, offer: Header) -> None:
        """Compare what the members saw of the key holder with each other and with this client's journal."""
        names = {member.key: member.organisation for member in self._enrolment.clients}
        key_holder, own = self._enrolment.key_holder.key, self._identity.member.organisation
        for entry in roster.entries:
            check_range(entry.seen, offer.step)
        statements = [(names[entry.sender], entry.seen) for entry in roster.entries]
        own_memory = partial(self._journal.known, key_holder=key_holder)
        check_statements(statements, offer.step, offer.previous, own_memory, own)

    def _finish(self, release: Release, roster_hash: bytes, members: int) -> Average:
        """Check what does not depend on the state, record the end of the round, and divide."""
        header = release.header
        if header.roster != roster_hash:
            raise RosterMismatch("the release is for another roster than this client's: refuse it")
        if release.contributors != members:
            raise RosterMismatch(f"contributors: expected {members}, as on the roster, got {release.contributors}")
        average = read_release(release, self._enrolment, self._plan, threads=self._threads, clock=self._clock)
        self._journal.finished(header.step, header.model, header.round_id, average.release_hash)
        return average

    def _forget(self, following: ClientState) -> None:
        self._machine.enter(following)
        self._round = None

    def _mask_terms(self, roster: Roster, roster_hash: bytes, state: _Round) -> list[masks.MaskTerm]:
        own = self._identity.key
        offer_hash = roster.header.previous
        entries = {entry.sender: entry for entry in roster.entries}
        terms = [masks.MaskTerm(state.seed, negative=False)]
        for peer in masks.peers_of(own, list(entries), roster_hash):
            shared = state.agreement.shared_with(entries[peer].agreement_key)
            key = masks.pair_key(shared, offer_hash, roster_hash, own, peer)
            terms.append(masks.MaskTerm(key, negative=own > peer))
        return terms

    def _seal(self, encoder: packing.Encoder, terms: list[masks.MaskTerm], state: _Round) -> bytearray:
        """Pack, encrypt and mask, straight into the payload's bytes."""
        public_key = state.offer.public_key
        return sealing.seal(encoder, self._engine, public_key, terms, self._plan, self._threads, self._clock)

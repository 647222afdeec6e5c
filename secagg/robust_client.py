"""The client of a robust round: shows a sketch of its update before it joins, and a second one after it contributed.

A sketch is encrypted under the offer's second key and sealed to the aggregator. The update is fixed when the client
joins: the journal names it before the sketch is sent, and no other update enters the roster of this step. One update is
shown in one step only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg import gram, masks, packing, sketches
from secagg.blocks import payload_hash
from secagg.client import Client, _Round
from secagg.enrolment import Enrolment
from secagg.errors import LeftOut, LocalError, RosterMismatch, WrongState
from secagg.identity import Identity
from secagg.journal import Journal, UpdateName
from secagg.messages import (
    NO_ROSTER,
    Contribution,
    Intake,
    Join,
    LateSeed,
    Offer,
    RobustJoin,
    RobustOffer,
    RobustRoster,
    Roster,
    Sketch,
)
from secagg.plan import RoundPlan
from secagg.robust import Robust, rule_bytes
from secagg.stages import StageClock
from secagg.states import ROBUST_CLIENT_MOVES, ClientState
from secagg.transcript import hashes_hash, message_hash, signed
from secagg.verification import check_robust_offer, check_same_round, check_signature
from secagg.workers import Workers


@dataclass
class _Shown(_Round):
    """A round's secrets, and the update that was shown in it. intake: the aggregator's key for sketches."""

    update: NDArray[np.floating] = field(default_factory=lambda: np.empty(0), repr=False)
    name: UpdateName | None = field(default=None, repr=False)
    intake: bytes = b""
    contribution: bytes = b""  # hash of its payload


class RobustClient(Client):
    """As `Client`. robust: the rule that offers must name; plain offers are refused. Weights are 1.

    Raises `PlanError` for a plan that has no robust rounds.
    """

    def __init__(
        self,
        identity: Identity,
        enrolment: Enrolment,
        plan: RoundPlan,
        quorum: int = 3,
        *,
        robust: Robust,
        journal: Journal | None = None,
        model_repeats: int | None = 0,
        engine: str = "auto",
        threads: int | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self._sketch = robust.check(plan, masking=True)
        self._rule = rule_bytes(robust.rule)
        super().__init__(
            identity,
            enrolment,
            plan,
            quorum,
            journal=journal,
            model_repeats=model_repeats,
            engine=engine,
            threads=threads,
            clock=clock,
        )

    def join_with_sketch(
        self, offer: Offer, model: bytes, update: NDArray[np.floating], intake: Intake
    ) -> tuple[RobustJoin, Sketch]:
        """Answer an offer: a join for the key holder, and a sketch of `update` for the aggregator.

        model: hash of the model that the update refers to. update: float32 or float64, shape (plan.length,); it is
        copied. intake: the aggregator's answer to the offer. Raises `UpdateError`, `UpdateReused` for an update that
        was shown or that entered a roster before, and what `Client.join` raises.
        """
        following = self._machine.require("join_with_sketch")
        packing.check_update(update, self._plan)
        offer_hash = self._check_offer(offer, model)
        assert isinstance(offer, RobustOffer)
        with self._clock.stage("check"):
            check_same_round(intake.header, offer.header)
            if intake.header.previous != offer_hash or intake.header.roster != NO_ROSTER:
                raise RosterMismatch("the intake answers another offer: refuse it")
            check_signature(intake, self._enrolment.aggregator.key)
            name = self._journal.name(update, self._plan, self._threads)
            self._journal.check_shown(name)
        joining = self._joining(offer, offer_hash)
        state = _Shown(offer, joining.join, joining.agreement, joining.seed)
        state.update, state.name, state.intake = update.copy(), name, intake.agreement_key
        sketch = self._sealed_sketch(state, 1, sketches.early_seed(offer_hash), offer_hash, bytes(32))
        plain = state.join
        unsigned = RobustJoin(
            plain.header, plain.agreement_key, plain.sealed_seed, plain.seen, b"", sketch.payload_hash
        )
        join = signed(unsigned, self._identity)
        state.join = join
        self._record_join(offer, offer_hash)
        self._journal.shown(offer.header.step, offer.header.model, offer.header.round_id, offer_hash, name)
        self._round = state
        self._machine.enter(following)
        return join, sketch

    def join(self, offer: Offer, model: bytes) -> Join:
        """Not a move of robust rounds: raises `WrongState`."""
        self._machine.require("join")
        raise WrongState("join: a robust round is joined by `join_with_sketch`")

    def contribute(
        self,
        roster: Roster,
        update: NDArray[np.floating] | None = None,
        weight: int = 1,
        *,
        allow_reuse: bool = False,
    ) -> Contribution:
        """Seal the update that was shown for exactly this roster.

        update: the one that was shown; it need not be given again. Raises `LeftOut` where the verdict leaves this
        client out, `LocalError` for another update, a weight or a reuse, and what `Client.contribute` raises.
        """
        self._machine.require("contribute")
        state = self._shown()
        if weight != 1 or allow_reuse:
            raise LocalError("contribute: a robust round has weights of 1, and each update is shown once")
        if update is not None and not np.array_equal(update, state.update):
            raise LocalError("contribute: expected the update that was shown when the round was joined, got another")
        self._refuse_if_left_out(roster)
        contribution = super().contribute(roster, state.update, weight)
        state.contribution = contribution.payload_hash
        return contribution

    def check_roster(self, roster: Roster) -> tuple[str, ...]:
        """As `Client.check_roster`; raises `LeftOut` where the verdict leaves this client out."""
        self._machine.require("contribute")
        self._refuse_if_left_out(roster)
        return super().check_roster(roster)

    def sketch_again(self, late_seed: LateSeed) -> Sketch:
        """The second sketch, once every contribution is fixed. Raises a subclass of `PeerError`.

        The seed must follow from the number that the offer committed to, and from contributions among which this
        client's own stands.
        """
        following = self._machine.require("sketch_again")
        state = self._shown()
        offer = state.offer
        assert isinstance(offer, RobustOffer)
        with self._clock.stage("check"):
            check_same_round(late_seed.header, offer.header)
            if late_seed.header.roster != state.roster_hash or len(late_seed.hashes) != state.members:
                raise RosterMismatch("the late seed is for another roster than this client's: refuse it")
            answered = check_signature(late_seed, self._enrolment.key_holder.key)
            if sketches.commitment(late_seed.secret) != offer.commitment:
                raise RosterMismatch("the late seed is not what the offer committed to: refuse the key holder")
            if state.contribution not in late_seed.hashes:
                raise RosterMismatch("the late seed was made without this client's contribution: refuse it")
        seed = sketches.late_seed(late_seed.secret, state.roster_hash, hashes_hash(late_seed.hashes))
        sketch = self._sealed_sketch(state, 2, seed, answered, state.roster_hash)
        self._machine.enter(following)
        return sketch

    def __repr__(self) -> str:
        return f"RobustClient({self._identity.member.organisation!r}, {self.state.value})"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _moves(self) -> Mapping[tuple[ClientState, str], ClientState]:
        return ROBUST_CLIENT_MOVES[self._sketch.looks]

    def _checked_offer(self, offer: Offer) -> bytes:
        return check_robust_offer(offer, self._enrolment, self._plan, self._quorum, self._sketch, self._rule)

    def _shown(self) -> _Shown:
        state = self._current()
        assert isinstance(state, _Shown)  # `join_with_sketch` makes no other
        return state

    def _check_name(self, name: UpdateName) -> None:
        self._journal.check_shown(name)

    def _encoder(self, update: NDArray[np.floating], weight: int) -> packing.Encoder:
        # `contribute` hands on its own copy, which was checked when the round was joined.
        return packing.Encoder(update, weight, self._plan, checked=True)

    def _naming(self, update: NDArray[np.floating], workers: Workers) -> Callable[[], UpdateName]:
        name = self._shown().name
        assert name is not None
        return lambda: name

    def _refuse_if_left_out(self, roster: Roster) -> None:
        """Raise `LeftOut` for the key holder's own roster of this offer that names this client as left out."""
        state, own = self._shown(), self._identity.key
        if not isinstance(roster, RobustRoster) or own not in roster.left_out:
            return
        check_same_round(roster.header, state.offer.header)
        if roster.header.previous != message_hash(state.offer):
            raise RosterMismatch("the roster answers another offer: refuse it")
        check_signature(roster, self._enrolment.key_holder.key)
        raise LeftOut("this round's verdict leaves this client out: leave the round, and train for the next one")

    def _sealed_sketch(self, state: _Shown, number: int, seed: bytes, answered: bytes, roster: bytes) -> Sketch:
        offer, own = state.offer, self._identity.key
        assert isinstance(offer, RobustOffer)
        with self._clock.stage("pack", "sketch"):
            integers = sketches.integer_sketch(state.update, self._plan, self._sketch, seed)
        with self._clock.stage("encrypt", "sketch") as stage:
            payload = gram.seal_sketch(integers, offer.sketch_key, self._sketch)
            stage.bytes += len(payload)
        header = offer.header.reply(own, previous=answered, roster=roster)
        sealed = masks.seal_sketch(payload, state.agreement, state.intake, state.join.header.previous, own, number)
        unsigned = Sketch(header, number, state.agreement.public, payload_hash(payload), sealed, b"")
        return signed(unsigned, self._identity)

"""The aggregator: signs its requests, checks and adds contributions, holds no secret of any update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.flower.errors import TransferError
from fl.flower.parties.party import M, Party, expect, outgoing, plan_of
from fl.flower.parties.request import ControlRequest
from fl.flower.parties.statement import statement
from fl.flower.settings import PartySettings
from fl.flower.transport import Bytes, Call, Outgoing
from secagg import packing, wire
from secagg.errors import WrongState
from secagg.messages import Abort, Contribution, LateSeed, Offer, Release, RobustRoster, Roster, Sketch
from secagg.states import AggregatorState


@dataclass(frozen=True)
class Closed:
    """A closed roster. members: organisations. rejected: those that joined and are left out."""

    step: int
    members: tuple[str, ...]
    roster: bytes
    rejected: tuple[str, ...] = ()


class AggregatorParty(Party):
    """The aggregator: signs its requests, checks and adds contributions, holds no secret of any update."""

    def __init__(self, settings: PartySettings) -> None:
        super().__init__(settings, "aggregator")
        self._role: secagg.Aggregator | None = None
        self._plan: secagg.RoundPlan | None = None
        self._offer: Offer | None = None

    def signer_of(self, call: Call, challenge: bytes) -> secagg.Member | None:
        """The enrolled bank or key holder whose status answer this is; None: its key is not on the list.

        challenge: what its node, and no other, was sent. Raises `BadSignature` or `TransferError`.
        """
        key = call.text("key")
        known = (self.enrolment.key_holder, *self.enrolment.clients)
        member = next((each for each in known if each.key.hex() == key), None)
        if member is not None:
            member.verify(call.octets("signature"), statement(self.enrolment.session, challenge, call.fields))
        return member

    def request(self, action: str, step: int, model: bytes = bytes(32), length: int = 0) -> bytes:
        """A signed control request."""
        unsigned = ControlRequest(action, self.enrolment.session, step, model, length)
        return unsigned.encode() + self.identity.sign(unsigned.signed_bytes())

    def plan(self, length: int) -> secagg.RoundPlan:
        """The plan of rounds over updates of this length."""
        return plan_of(self.settings.plan, length)

    def offered(self, data: Bytes, length: int) -> dict[str, Bytes]:
        """Take the offer of a round. Returns what banks need beside it: in a robust round the key for sketches."""
        plan = self.plan(length)
        self._offer = expect(data, Offer, plan)
        if self._role is None or self._plan != plan:
            self._plan = plan
            if self.robust is None:
                self._role = secagg.Aggregator(self.identity, self.enrolment, plan)
            else:
                self._role = secagg.RobustAggregator(self.identity, self.enrolment, plan, robust=self.robust)
        self.give_up()
        if not isinstance(self._role, secagg.RobustAggregator):
            return {}
        return {"intake": outgoing(self._role.prepare(self._offer), plan).whole()}

    def open(self, data: Bytes) -> Closed:
        """Start collecting for a roster."""
        role, plan = self._opened()
        assert self._offer is not None
        roster = expect(data, Roster, plan)
        role.open(self._offer, roster)
        members = self._organisations([entry.sender for entry in roster.entries])
        left_out = roster.left_out if isinstance(roster, RobustRoster) else ()
        return Closed(roster.header.step, members, bytes(data), self._organisations(left_out))

    # --- what only robust rounds have

    def receive_sketch(self, data: Bytes, who: str) -> None:
        """Check a sketch that came from `who`, and keep it for the products."""
        role, plan = self._robust()
        role.receive_sketch(self._require_own(expect(data, Sketch, plan), who))

    def multiply(self) -> Outgoing:
        """The hidden products of all sketches."""
        role, plan = self._robust()
        return outgoing(role.multiply(), plan)

    @property
    def looks(self) -> int:
        """How often sketches are compared in a round: 0 in a plain one."""
        return 0 if self.robust is None else self.robust.check(self._opened()[1], masking=True).looks

    def tally(self) -> Outgoing:
        """Every member's signed hash."""
        role, plan = self._robust()
        return outgoing(role.tally(), plan)

    def reopen(self, data: Bytes) -> None:
        """Take sketches again, under the late seed."""
        role, plan = self._robust()
        role.reopen(expect(data, LateSeed, plan))

    def named(self, keys: str) -> tuple[str, ...]:
        """Organisations of public keys in hexadecimal, with commas between them. Raises `UnknownClient`."""
        return self._organisations([bytes.fromhex(key) for key in keys.split(",") if key])

    # --- the sum

    def receive(self, data: Bytes, who: str) -> None:
        """Check a contribution that came from `who`, and add it."""
        role, plan = self._opened()
        role.receive(self._require_own(expect(data, Contribution, plan), who))

    def missing(self) -> tuple[str, ...]:
        return self._opened()[0].missing()

    def close(self) -> Outgoing:
        """The encrypted sum."""
        role, plan = self._opened()
        return outgoing(role.close(), plan)

    def give_up(self) -> None:
        """Drop the round that is being collected, if there is one."""
        if self._role is not None and self._role.state is not AggregatorState.IDLE:
            self._role.abort()

    def average(self, data: Bytes, length: int) -> tuple[int, NDArray[np.float64], int]:
        """(step, average float64[length], contributors) of a release that the key holder signed."""
        plan = self.plan(length)
        release = expect(data, Release, plan)
        average = secagg.read_release(release, self.enrolment, plan)
        return release.header.step, average.values, average.contributors

    def abort_step(self, data: Bytes, length: int) -> int:
        """The step that an abort, of a round over updates of this length, says it ends; its bank verifies it."""
        return expect(data, Abort, self.plan(length)).header.step

    def contribution_bytes(self) -> int:
        """Length of one contribution on the wire."""
        return wire.message_bytes(Contribution, self._opened()[1])

    def error_bound(self) -> float:
        """Bound of |average - exact weighted mean of the clipped updates|."""
        return packing.error_bound(self._opened()[1])

    def _organisations(self, keys: Sequence[bytes]) -> tuple[str, ...]:
        return tuple(self.enrolment.client(key).organisation for key in keys)

    def _require_own(self, message: M, who: str) -> M:
        """The message, if `who` is its sender. Otherwise two banks could lose rounds for which nobody is blamed."""
        sender = self.enrolment.client(message.header.sender).organisation
        if sender != who:
            raise TransferError(f"{type(message).__name__.lower()}: expected {who}'s, got {sender}'s")
        return message

    def _robust(self) -> tuple[secagg.RobustAggregator, secagg.RoundPlan]:
        role, plan = self._opened()
        assert isinstance(role, secagg.RobustAggregator)  # `offered` made it by the same settings
        return role, plan

    def _opened(self) -> tuple[secagg.Aggregator, secagg.RoundPlan]:
        if self._role is None or self._plan is None:
            raise WrongState("no round was offered yet: ask the key holder to open one")
        return self._role, self._plan

"""The aggregator: signs its requests, checks and adds contributions, holds no secret of any update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.flower.parties.party import Party, expect, outgoing, plan_of
from fl.flower.parties.request import ControlRequest
from fl.flower.parties.statement import statement
from fl.flower.settings import PartySettings
from fl.flower.transport import Bytes, Call, Outgoing
from secagg import packing, wire
from secagg.errors import WrongState
from secagg.messages import Abort, Contribution, Offer, Release, Roster
from secagg.states import AggregatorState


@dataclass(frozen=True)
class Closed:
    """A closed roster. members: organisations."""

    step: int
    members: tuple[str, ...]
    roster: bytes


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

    def offered(self, data: Bytes, length: int) -> None:
        """Take the offer of a round."""
        plan = self.plan(length)
        self._offer = expect(data, Offer, plan)
        if self._role is None or self._plan != plan:
            self._role, self._plan = secagg.Aggregator(self.identity, self.enrolment, plan), plan

    def open(self, data: Bytes) -> Closed:
        """Start collecting for a roster."""
        role, plan = self._opened()
        assert self._offer is not None
        roster = expect(data, Roster, plan)
        if role.state is not AggregatorState.IDLE:
            role.abort()
        role.open(self._offer, roster)
        members = tuple(self.enrolment.client(entry.sender).organisation for entry in roster.entries)
        return Closed(roster.header.step, members, bytes(data))

    def receive(self, data: Bytes) -> None:
        """Check a contribution and add it."""
        role, plan = self._opened()
        role.receive(expect(data, Contribution, plan))

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

    def average(self, data: Bytes) -> tuple[int, NDArray[np.float64], int]:
        """(step, average float64[length], contributors) of a release that the key holder signed."""
        _, plan = self._opened()
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

    def _opened(self) -> tuple[secagg.Aggregator, secagg.RoundPlan]:
        if self._role is None or self._plan is None:
            raise WrongState("no round was offered yet: ask the key holder to open one")
        return self._role, self._plan

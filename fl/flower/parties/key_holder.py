"""The key holder behind a SuperNode of its own. It carries out only requests that the enrolled aggregator signed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import secagg
from fl.flower.errors import RequestRefused, RoundStateLost, TransferError
from fl.flower.fields import LONGEST_TEXT
from fl.flower.parties.party import Fields, Party, expect, outgoing, plan_of
from fl.flower.parties.request import ControlRequest
from fl.flower.settings import PartySettings
from fl.flower.transport import Call, Outgoing, numbered
from secagg import wire
from secagg.errors import PeerError
from secagg.ledger import Outcome
from secagg.messages import Abort, AbortReason, EncryptedSum, Join
from secagg.states import KeyHolderState

_MAX_ABORTS = 256  # in one answer; a run tries a round three times


class KeyHolderParty(Party):
    """The key holder behind a SuperNode of its own. Keeps ledger.db in its folder."""

    def __init__(self, settings: PartySettings) -> None:
        super().__init__(settings, "key_holder")
        self._ledger = secagg.Ledger(settings.folder / "ledger.db", self.identity)
        self._role: secagg.KeyHolder | None = None
        self._plan: secagg.RoundPlan | None = None
        self._step: int | None = None  # of the round that this process has open

    def answer(self, action: str, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """Fields and wires of the answer. Raises subclasses of `SecAggError` and `FlowerError`."""
        match action:
            case "status":
                return self.introduced(call, {"next_step": self._ledger.next_step}), {}
            case "open":
                return self._open(call)
            case "close":
                return self._close(call)
            case "release":
                return self._release(call)
            case "stored":
                return self._stored(call)
            case "abort":
                request = self._verified("abort", call)
                return {}, self._aborted(request.step, AbortReason.ABANDONED)
        raise TransferError(f"action: expected one of the key holder's, got {action!r}")

    def _open(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        request = self._verified("open", call)
        self._ledger.check_step(request.step)  # before the open round is given up for this one
        role = self._role_for(request.length)
        aborts = self._aborted(self._step, AbortReason.ABANDONED)
        offer = role.open(request.step, request.model)
        self._step = request.step
        assert self._plan is not None
        self.log("opened", step=request.step, length=request.length, model=request.model.hex()[:16])
        return {}, {"offer": outgoing(offer, self._plan), **aborts}

    def _close(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        role, plan = self._current("close", call)
        refused = []
        for data in call.numbered("join"):
            try:
                role.receive_join(expect(data, Join, plan))
            except PeerError as error:
                refused.append(f"{type(error).__name__}: {error}")
                self.log("join refused", step=self._step, error=type(error).__name__, message=str(error))
        roster = role.close_roster()
        self.log("roster", step=self._step, members=len(roster.entries), refused=len(refused))
        return {"refused": "; ".join(refused)[:LONGEST_TEXT]}, {"roster": outgoing(roster, plan)}

    def _release(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        if self._role is None or self._plan is None:
            raise RoundStateLost("no round is open: the key holder was restarted; ask for the stored release")
        encrypted_sum = expect(call.wire("sum"), EncryptedSum, self._plan)
        step = encrypted_sum.header.step
        if (stored := self._role.stored_release(step)) is not None:
            return {"stored": 1}, {"release": outgoing(stored, self._plan)}
        started = time.perf_counter()
        release = self._role.release(encrypted_sum)
        self._step = None
        seconds = round(time.perf_counter() - started, 3)
        self.log("released", step=step, contributors=release.contributors, seconds=seconds)
        return {"open_seconds": seconds}, {"release": outgoing(release, self._plan)}

    def _stored(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """The first release after a step that moves a model, as it was sent, and how the step after it ended.

        If the request names a model, aborts of rounds from it come too, for a bank that missed them. Changes nothing.
        """
        request = self._verified("stored", call)
        plan, model = plan_of(self.settings.plan, request.length), request.model if any(request.model) else None
        found = self._ledger.release_after(request.step, model)
        aborts: Sequence[Abort] = ()
        if model is not None:
            aborts = secagg.KeyHolder.aborts_after(self._ledger, self.identity, request.step, model, _MAX_ABORTS)
        if found is None:
            outcome = self._ledger.outcome(request.step + 1)
            return {"step": 0, "outcome": "none" if outcome is None else outcome.value}, _wires(aborts, plan)
        step, release = found
        return {"step": step, "outcome": Outcome.RELEASED.value}, {"release": Outgoing(release), **_wires(aborts, plan)}

    # --- inside

    def _role_for(self, length: int) -> secagg.KeyHolder:
        """The role for updates of this length. A round that is open under another plan is given up."""
        plan = plan_of(self.settings.plan, length)
        if self._role is None or self._plan != plan:
            if self._role is not None and self._role.state is not KeyHolderState.IDLE:
                gone = self._role.abort()
                self.log("aborted", step=gone.header.step, reason=gone.reason.name)
            self._step, self._plan = None, plan
            quorum = self.settings.quorum
            self._role = secagg.KeyHolder(self.identity, self.enrolment, plan, quorum, ledger=self._ledger)
        return self._role

    def _aborted(self, step: int | None, reason: AbortReason) -> dict[str, Outgoing]:
        """End the open round, and report those that an earlier process left open. Returns the signed aborts."""
        role, plan = self._role, self._plan
        if role is None or plan is None:
            return {}
        aborts = []
        if role.state is not KeyHolderState.IDLE:
            if step != self._step:
                raise RequestRefused(f"step: expected the open one, {self._step}, got {step}")
            aborts.append(role.abort(reason))
        aborts += role.report_abandoned()
        self._step = None
        for abort in aborts:
            self.log("aborted", step=abort.header.step, reason=abort.reason.name)
        return _wires(aborts, plan)

    def _current(self, action: str, call: Call) -> tuple[secagg.KeyHolder, secagg.RoundPlan]:
        request = self._verified(action, call)
        if self._role is None or self._plan is None or request.step != self._step:
            raise RoundStateLost(f"step {request.step} is not open: the key holder was restarted; open another")
        return self._role, self._plan

    def _verified(self, action: str, call: Call) -> ControlRequest:
        return ControlRequest.verified(bytes(call.wire("request")), action, self.enrolment)


def _wires(aborts: Sequence[Abort], plan: secagg.RoundPlan) -> dict[str, Outgoing]:
    """Aborts of this plan's rounds as wires of an answer."""
    encoded = [wire.encode(abort, plan) for abort in aborts if abort.header.plan == plan.fingerprint]
    return {name: Outgoing(data) for name, data in numbered("abort", encoded).items()}

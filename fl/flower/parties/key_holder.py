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
from secagg.errors import LateOutlier, PeerError, RuleRefused
from secagg.ledger import Outcome
from secagg.messages import Abort, AbortReason, EncryptedSum, Join, Products, Roster, Tally
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
        self._why = AbortReason.ABANDONED  # what its abort will say

    def answer(self, action: str, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """Fields and wires of the answer. Raises subclasses of `SecAggError` and `FlowerError`."""
        match action:
            case "status":
                return self.introduced(call, {"next_step": self._ledger.next_step}), {}
            case "open":
                return self._open(call)
            case "joins":
                return self._joins(call)
            case "close":
                return self._close(call)
            case "reveal":
                return self._reveal(call)
            case "compare":
                return self._compare(call)
            case "release":
                return self._release(call)
            case "stored":
                return self._stored(call)
            case "abort":
                request = self._verified("abort", call)
                return {}, self._aborted(request.step)
        raise TransferError(f"action: expected one of the key holder's, got {action!r}")

    def _open(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        request = self._verified("open", call)
        self._ledger.check_step(request.step)  # before the open round is given up for this one
        role = self._role_for(request.length)
        aborts = self._aborted(self._step)
        offer = role.open(request.step, request.model)
        self._step = request.step
        assert self._plan is not None
        self.log("opened", step=request.step, length=request.length, model=request.model.hex()[:16])
        return {}, {"offer": outgoing(offer, self._plan), **aborts}

    def _joins(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """Take the joins of a robust round; the answer says whose, because only theirs may be compared."""
        role, plan = self._current("joins", call)
        taken, refused = self._received(role, plan, call)
        return {"taken": ",".join(taken), "refused": _told(refused)}, {}

    def _close(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        role, plan = self._current("close", call)
        if isinstance(role, secagg.RobustKeyHolder):
            refused: list[str] = []
            roster: Roster = self._judged(role, plan, call)
        else:
            _, refused = self._received(role, plan, call)
            roster = role.close_roster()
        self.log("roster", step=self._step, members=len(roster.entries), refused=len(refused))
        return {"refused": _told(refused)}, {"roster": outgoing(roster, plan)}

    def _received(self, role: secagg.KeyHolder, plan: secagg.RoundPlan, call: Call) -> tuple[list[str], list[str]]:
        """(keys of the clients whose joins are good, why the others are not)."""
        taken, refused = [], []
        for data in call.numbered("join"):
            try:
                join = expect(data, Join, plan)
                role.receive_join(join)
                taken.append(join.header.sender.hex())
            except PeerError as error:
                refused.append(f"{type(error).__name__}: {error}")
                self.log("join refused", step=self._step, error=type(error).__name__, message=str(error))
        return taken, refused

    def _judged(self, role: secagg.RobustKeyHolder, plan: secagg.RoundPlan, call: Call) -> Roster:
        """The roster of those who pass. The names of those who do not are public; distances stay here."""
        try:
            roster = role.judge(expect(call.wire("products"), Products, plan))
        except RuleRefused as error:
            self._why = AbortReason.OUTLIER
            self.log("rule refused", step=self._step, message=str(error))
            raise
        left_out = [self.enrolment.client(key).organisation for key in roster.left_out]
        self.log("judged", step=self._step, left_out=left_out)
        return roster

    def _reveal(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """The late seed of a robust round, for contributions that the aggregator's signed tally names."""
        role, plan = self._robust()
        return {}, {"seed": outgoing(role.reveal(expect(call.wire("tally"), Tally, plan)), plan)}

    def _compare(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """The second look. Members that fall out cost the step; the answer names them."""
        role, plan = self._robust()
        try:
            role.judge_again(expect(call.wire("products"), Products, plan))
        except LateOutlier as error:
            self._why = AbortReason.OUTLIER
            self.log("found out", step=self._step, banks=list(error.organisations))
            keys = [each.key.hex() for each in self.enrolment.clients if each.organisation in error.organisations]
            return {"found_out": ",".join(keys)}, {}
        self.log("compared again", step=self._step)
        return {"found_out": ""}, {}

    def _release(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        if self._role is None or self._plan is None:
            raise RoundStateLost("no round is open: the key holder was restarted; ask for the stored release")
        encrypted_sum = expect(call.wire("sum"), EncryptedSum, self._plan)
        step = encrypted_sum.header.step
        if (stored := self._role.stored_release(step)) is not None:
            return {"stored": 1}, {"release": outgoing(stored, self._plan)}
        started = time.perf_counter()
        release = self._role.release(encrypted_sum)
        self._step, self._why = None, AbortReason.ABANDONED
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
            if self.robust is None:
                self._role = secagg.KeyHolder(self.identity, self.enrolment, plan, quorum, ledger=self._ledger)
            else:
                self._role = secagg.RobustKeyHolder(
                    self.identity, self.enrolment, plan, quorum, robust=self.robust, ledger=self._ledger
                )
        return self._role

    def _robust(self) -> tuple[secagg.RobustKeyHolder, secagg.RoundPlan]:
        """The role with its round, for calls that only robust rounds have and that carry a signed message."""
        if self.robust is None:
            raise TransferError("this key holder plays plain rounds: expected none of a robust round's calls")
        if not isinstance(self._role, secagg.RobustKeyHolder) or self._plan is None:
            raise RoundStateLost("no round is open: the key holder was restarted; open another")
        return self._role, self._plan

    def _aborted(self, step: int | None) -> dict[str, Outgoing]:
        """End the open round, and report those that an earlier process left open. Returns the signed aborts."""
        role, plan = self._role, self._plan
        if role is None or plan is None:
            return {}
        aborts = []
        if role.state is not KeyHolderState.IDLE:
            if step != self._step:
                raise RequestRefused(f"step: expected the open one, {self._step}, got {step}")
            aborts.append(role.abort(self._why))
        aborts += role.report_abandoned()
        self._step, self._why = None, AbortReason.ABANDONED
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


def _told(refused: Sequence[str]) -> str:
    return "; ".join(refused)[:LONGEST_TEXT]


def _wires(aborts: Sequence[Abort], plan: secagg.RoundPlan) -> dict[str, Outgoing]:
    """Aborts of this plan's rounds as wires of an answer."""
    encoded = [wire.encode(abort, plan) for abort in aborts if abort.header.plan == plan.fingerprint]
    return {name: Outgoing(data) for name, data in numbered("abort", encoded).items()}

"""The parties of a run: which are online, which model each bank holds, and how absent banks catch up.

`Membership` finds the key holder and the banks, sends them first models and stored releases, and goes on with the
banks that hold one model. `workflow.py` plays the rounds among them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord

from fl.flower.calls import NO_ANSWER, Answer, Calls
from fl.flower.errors import FlowerError, ModelMismatch, ModelsDiverged, PartiesMissing, TransferError
from fl.flower.limits import WaitLimits
from fl.flower.models import FlatModel
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.parties.party import Refusal, largest_message
from fl.flower.parties.statement import CHALLENGE_BYTES
from fl.flower.transport import Bytes, Call, Fields, Outgoing, numbered
from fl.text import printable
from secagg.journal import MAX_STEP_JUMP


@dataclass(frozen=True)
class State:
    """A bank's statement about its model. Banks with the same model state the same."""

    model: str
    length: int
    rounds: int
    step: int  # of the last release that moved it
    finished: bool = False  # no round follows it

    def __str__(self) -> str:
        said = f"model {self.model[:16]} of {self.length} values after {self.rounds} rounds, last step {self.step}"
        return f"{said}, and no round follows" if self.finished else said


@dataclass
class Bank:
    organisation: str
    node: int
    state: State
    next_step: int  # one above what it joined


class Membership:
    """The enrolled parties that are online, and the model that each bank states.

    initial: the first model, for banks whose app does not make it itself. `banks`: those that take part, by node.
    `reasons`: by organisation, why it has not taken part since the round began. `model`: the aggregator's copy, if any.
    """

    def __init__(self, calls: Calls, party: AggregatorParty, limits: WaitLimits, initial: ArrayRecord | None) -> None:
        self._calls = calls
        self._party = party
        self._limits = limits
        self._initial = None if initial is None else FlatModel.from_record(initial)
        self.model = self._initial
        self.banks: dict[int, Bank] = {}
        self.key_holder = 0
        self.next_step = 0
        self.reasons: dict[str, str] = {}
        self._strangers: set[int] = set()  # nodes of parties that are not enrolled
        self.largest = largest_message(party.settings)
        self._followed = 0  # step of the last release that moved the aggregator's copy of the model

    def find(self, wanted: int, without: Collection[str] = ()) -> None:
        """Wait for the key holder and enough banks, all with a model. without: organisations to leave out."""
        deadline = time.monotonic() + self._limits.ready_s
        while True:
            self._look_around(wanted, without)
            if self._enough(wanted) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        quorum = self._party.settings.quorum
        if not self.key_holder or len(self.banks) < quorum:
            missing = "" if self.key_holder else "the key holder and "
            needed = f"{missing}at least {quorum} enrolled banks within {self._limits.ready_s:g} s"
            raise PartiesMissing(f"expected {needed}, {self._who_came()}")
        self._start_models()
        self._catch_up()
        if len(self.banks) < quorum:
            raise PartiesMissing(f"expected at least {quorum} enrolled banks with one model, {self._who_came()}")

    def _who_came(self) -> str:
        """The banks that came, the reasons of the missing parties, and what to check about those that gave none."""
        here = {bank.organisation for bank in self.banks.values()}
        away = {member.organisation for member in self._party.enrolment.clients} - here
        if not self.key_holder:
            away.add(self._party.enrolment.key_holder.organisation)
        said = f"got {', '.join(sorted(here)) or 'no bank'}"
        said += "".join(f"; {who}: {self.reasons[who]}" for who in sorted(away & set(self.reasons)))
        silent = ", ".join(sorted(away - set(self.reasons)))
        if silent:
            said += f"; no answer from {silent}: check that their SuperNodes and residents run"
            said += " and that the enrolment list is the same everywhere"
        return said

    def why(self) -> str:
        """All reasons so far, to stand behind the sentence that a round was lost."""
        return "".join(f"; {who}: {reason}" for who, reason in sorted(self.reasons.items()))

    def hear_refused(self, said: Call, step: int) -> None:
        """Record which joins the key holder says that it refused."""
        if refused := printable(str(said.fields.get("refused", ""))):
            self.reasons[self._party.enrolment.key_holder.organisation] = f"joins refused: {refused}"
            self._party.log("joins refused", step=step, message=refused)

    def set_aside(self, bank: Bank, error: str, message: str) -> None:
        """Continue without a bank, and record the reason."""
        self._party.log("bank set aside", bank=bank.organisation, error=error, message=message)
        self.reasons[bank.organisation] = f"{error}: {message}"
        del self.banks[bank.node]

    def _enough(self, wanted: int) -> bool:
        return bool(self.key_holder) and len(self.banks) >= wanted

    def _look_around(self, wanted: int, without: Collection[str]) -> None:
        """Ask every node who it is, and believe those who can sign as one of the enrolled."""
        challenges = _challenges(self._calls.nodes())
        calls = {node: Call({"challenge": challenge}) for node, challenge in challenges.items()}
        self.banks, self.key_holder = {}, 0
        # A node that died a moment ago still counts as online: once enough answered, the others get one more chance.
        for answer in self._calls.each("status", calls, self._limits.call_s, enough=lambda: self._enough(wanted)):
            if not answer.error:
                self._take_status(answer, challenges[answer.node], without)
            elif answer.error != NO_ANSWER:
                self._party.log("node set aside", node=answer.node, error=answer.error, message=answer.message)

    def _take_status(self, answer: Answer, challenge: bytes, without: Collection[str]) -> None:
        call = answer.call
        try:
            member = self._party.signer_of(call, challenge)
            if member is None:
                self._strangers.add(answer.node)
                self._party.log(
                    "node set aside", node=answer.node, error="UnknownClient", message=call.text("key")[:16]
                )
                return
            is_key_holder = member.key == self._party.enrolment.key_holder.key
            banks = {bank.organisation for bank in self.banks.values()}
            if self.key_holder if is_key_holder else member.organisation in banks:
                raise TransferError(f"{member.organisation} is at another node already: stop one of the two nodes")
            if is_key_holder:
                self.key_holder, self.next_step = answer.node, call.number("next_step")
                return
            if member.organisation in without:
                return
            bank = Bank(member.organisation, answer.node, *_said_of_model(call))
            if bank.state.model:
                self._party.plan(bank.state.length)
            self.banks[answer.node] = bank
        except (FlowerError, Refusal) as error:
            self._party.log("node set aside", node=answer.node, error=type(error).__name__, message=str(error))

    def somebody_came_back(self) -> bool:
        """Whether an enrolled bank is missing and an online node could belong to it."""
        missing = len(self.banks) < len(self._party.enrolment.clients)
        return missing and bool(set(self._calls.nodes()) - set(self.banks) - {self.key_holder} - self._strangers)

    def _start_models(self) -> None:
        """Send the first model to banks that have none."""
        without = [bank for bank in self.banks.values() if not bank.state.model]
        if not without:
            return
        if self._initial is None:
            names = ", ".join(bank.organisation for bank in without)
            raise ModelMismatch(f"{names}: no first model; pass `initial` here or `initial_model` to the banks' mod")
        request = self._party.request("start", 0, self._initial.digest, self._initial.length)
        challenges = _challenges(bank.node for bank in without)
        fields: dict[int, Fields] = {node: {"challenge": each} for node, each in challenges.items()}
        record, call_s = self._initial.record(), self._limits.call_s
        for node, answer in self._calls.start(list(challenges), record, request, call_s, fields).items():
            self._set_aside_unless_good(node, answer, challenges[node])
        for bank in [bank for bank in self.banks.values() if not bank.state.model]:
            self.set_aside(bank, "ModelMismatch", "it got the first model and states that it has none")

    def _catch_up(self) -> None:
        """Bring banks that missed rounds up to date: send releases as the key holder stored them, one after the other.

        The key holder is also asked about banks that claim to be ahead: its ledger decides, not a bank.
        """
        last: dict[State, str] = {}  # states that no release follows, and why not
        while len(states := self.states()) > 1 and (open_ends := [each for each in states if each not in last]):
            state = min(open_ends, key=lambda each: each.rounds)
            together = states[state]
            answer = self.ask_stored(state.step, state.length, bytes.fromhex(state.model))
            if answer.error or not answer.call.number("step"):
                last[state] = f": {answer.error}: {answer.message}" if answer.error else ""
                continue
            step, names = answer.call.number("step"), [bank.organisation for bank in together]
            self._party.log("catching up", step=step, banks=names)
            wire = Outgoing(self._calls.wire(answer, "release", self.largest, self._limits.part_s))
            nodes = [bank.node for bank in together]
            aborts = self._send_aborts(nodes, state, answer)
            self.accept(nodes, wire, step, aborts)
        self.agree(last)
        if self.banks:
            self._follow()

    def _send_aborts(self, nodes: Sequence[int], state: State, answer: Answer) -> dict[str, Bytes]:
        """Send all but the last page of the aborts of rounds from a model; the last one goes with the release."""
        model, after = bytes.fromhex(state.model), state.step
        while aborts := answer.call.numbered("abort"):
            following = self._party.abort_step(aborts[-1], state.length)
            if following <= after:
                raise TransferError(f"expected aborts above step {after}, got one of step {following}")
            after, page = following, numbered("abort", aborts)
            answer = self.ask_stored(after, state.length, model)
            if answer.error or not answer.call.numbered("abort"):
                return page
            self._calls.ask("abort", dict.fromkeys(nodes, Call({}, page)), self._limits.call_s)
        return {}

    def states(self) -> dict[State, list[Bank]]:
        """The banks, grouped by their statements about their model."""
        states: dict[State, list[Bank]] = {}
        for bank in self.banks.values():
            states.setdefault(bank.state, []).append(bank)
        return states

    def agree(self, why: Mapping[State, str] | None = None) -> None:
        """Continue with the largest group of banks that state the same about their model; set the others aside.

        A bank's signed statement may be false, so the group must be a quorum. Raises `ModelsDiverged`.
        """
        states = self.states()
        if len(states) < 2:
            return
        first, second = sorted(states, key=lambda state: len(states[state]), reverse=True)[:2]
        if len(states[first]) < self._party.settings.quorum or len(states[first]) == len(states[second]):
            held = "; ".join(f"{', '.join(b.organisation for b in banks)}: {state}" for state, banks in states.items())
            raise ModelsDiverged(
                f"the banks hold different models: {held}; expected at least {self._party.settings.quorum} of them "
                "with one model, and more than with any other; give the others the common model"
            )
        for state, banks in states.items():
            for bank in banks if state != first else ():
                reason = f"no release follows the model that it holds{(why or {}).get(state, '')}"
                self.set_aside(
                    bank, "ModelMismatch", f"{reason}: it has {state}, and {len(states[first])} have {first}"
                )

    def _follow(self) -> None:
        """Move the aggregator's own copy of the model, if it has one, by stored releases."""
        while self.model is not None and self.model.digest.hex() != self.common().model:
            answer = self.ask_stored(self._followed, self.model.length, self.model.digest)
            if not answer.require("key holder", "stored").number("step"):
                raise ModelsDiverged("no release leads from the first model given here to the banks' model")
            self.move(Outgoing(self._calls.wire(answer, "release", self.largest, self._limits.part_s)))

    def ask_stored(self, after: int, length: int, model: bytes = bytes(32)) -> Answer:
        """The key holder's first stored release after a step that moves this model, or any."""
        call = Call({}, {"request": self._party.request("stored", after, model, length)})
        return self._calls.one("stored", self.key_holder, call, self._limits.call_s)

    def common(self) -> State:
        """The statement of all banks that take part. `_catch_up` and `agree` ensure that there is only one."""
        (state,) = self.states()
        return state

    def following_step(self) -> int:
        """The ledger's next step, or one above what banks have joined, if they joined an offer that is in no ledger.

        Half of `MAX_STEP_JUMP` above the last release is reserved for that. The other half is for attempts: their
        release is then within one jump of the last one, so that absent banks can catch up with it.
        """
        banks = self.banks.values()
        asked, highest = (
            max(bank.next_step for bank in banks),
            min(bank.state.step for bank in banks) + MAX_STEP_JUMP // 2,
        )
        return max(self.next_step, min(asked, highest))

    def accept(
        self, nodes: Sequence[int], release: Outgoing, step: int, beside: Mapping[str, Bytes] | None = None
    ) -> None:
        """Send a release to banks, and record the model that each then holds.

        beside: aborts that they may have missed, or the roster, by which a bank learns that a rule left it out.
        """
        call_s, part_s, challenges = self._limits.call_s, self._limits.part_s, _challenges(nodes)
        fields: dict[int, Fields] = {node: {"challenge": each} for node, each in challenges.items()}
        answers = self._calls.call_with("accept", nodes, "release", release, call_s, part_s, beside, fields)
        for node, answer in answers.items():
            self._set_aside_unless_good(node, answer, challenges[node])
        for bank in [self.banks[node] for node in nodes if node in self.banks]:
            if bank.state.step != step or not bank.state.model:
                self.set_aside(bank, "ModelMismatch", f"it got the release of step {step} and states: {bank.state}")

    def _set_aside_unless_good(self, node: int, answer: Answer, challenge: bytes) -> None:
        """Accept a bank's statement about its model if the bank signed it over the challenge that it was sent."""
        bank = self.banks[node]
        if answer.error:
            self.set_aside(bank, answer.error, answer.message)
            return
        try:
            member = self._party.signer_of(answer.call, challenge)
            if member is None or member.organisation != bank.organisation:
                raise TransferError(f"expected an answer signed by {bank.organisation}, got another party's")
            said = _said_of_model(answer.call)
        except (FlowerError, Refusal) as error:
            self.set_aside(bank, type(error).__name__, str(error))
            return
        bank.state, bank.next_step = said

    def move(self, release: Outgoing) -> None:
        if self.model is not None:
            self._followed, average, _ = self._party.average(release.whole(), self.model.length)
            self.model = self.model.moved_by(average)


def _challenges(nodes: Iterable[int]) -> dict[int, bytes]:
    """A random challenge for each node, which only this node may answer."""
    return {node: os.urandom(CHALLENGE_BYTES) for node in nodes}


def _said_of_model(call: Call) -> tuple[State, int]:
    """(state, next step) of a bank's answer. Raises `TransferError`."""
    length, rounds, step, following = (call.number(name) for name in ("length", "rounds", "step", "next_step"))
    finished = "finished" in call.fields and call.number("finished") == 1
    return State(call.text("model"), length, rounds, step, finished), following

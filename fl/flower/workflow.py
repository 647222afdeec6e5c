"""The aggregator's side of encrypted rounds over a Flower `Grid`: design section 5 as calls to nodes.

    status     which party is at each node, signed over a challenge for that node; which model each bank holds; banks
               that missed rounds catch up with stored releases
    open       key holder: abort what was open, offer a round for this model            (signed request)
    join       banks: verify the offer, train, join; a bank that is too slow is not on the roster
    close      key holder: close the roster over the joins that came                    (signed request)
    contribute banks on the roster: seal; the aggregator adds each one as it comes
    release    key holder: verify, consume the step, decrypt once, check, release
    accept     banks: verify, move the model; all must then hold the same one

Training comes before the roster is closed, because a bank that drops out before then costs nothing and a bank that
drops out afterwards costs the round. The key holder signs an abort of a lost round, which is played again with the
remaining banks, up to `WaitLimits.attempts` times. Every wait has a limit. A run ends with the exact average of the
banks that stayed, or with a named error.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fl import options
from fl.flower.calls import NO_ANSWER, Answer, Calls
from fl.flower.errors import (
    FlowerError,
    ModelMismatch,
    ModelsDiverged,
    PartiesMissing,
    PartyFailed,
    RoundFailed,
    SettingsError,
    TransferError,
)
from fl.flower.models import FlatModel
from fl.flower.parties.aggregator import AggregatorParty, Closed
from fl.flower.parties.party import Refusal, largest_message
from fl.flower.parties.statement import CHALLENGE_BYTES
from fl.flower.transport import PART_BYTES, Bytes, Call, Fields, Outgoing, numbered
from fl.text import printable
from secagg.journal import MAX_STEP_JUMP


@dataclass(frozen=True)
class WaitLimits:
    """Seconds to wait for each kind of answer, and how often a round is tried. A SuperNode looks for work every 3 s."""

    ready_s: Annotated[float, options.WAIT] = 60.0  # for key holder and banks to appear
    call_s: Annotated[float, options.WAIT] = 30.0  # a call without work behind it
    train_s: Annotated[float, options.WAIT] = 600.0  # join: training included
    contribute_s: Annotated[float, options.WAIT] = 120.0  # seal, answer; training anew after a changed roster included
    release_s: Annotated[float, options.WAIT] = 120.0  # verify, decrypt, check
    part_s: Annotated[float, options.WAIT] = 60.0  # one part of a large message
    # For a key holder that restarts in the middle of a release; Flower needs a minute.
    recover_s: Annotated[float, options.WAIT] = 180.0
    attempts: Annotated[int, options.ATTEMPTS] = 3

    def __post_init__(self) -> None:
        options.check(self, SettingsError, "run configuration: ")


@dataclass(frozen=True)
class RoundReport:
    """The result of one round. members: organisations. lost: earlier attempts, each with the reason why it ended."""

    number: int
    step: int
    members: tuple[str, ...]
    left_out: tuple[str, ...]
    lost: tuple[str, ...]
    model: str  # hash at every member after the round, hexadecimal
    seconds: float
    train_seconds: float  # of the slowest member
    seal_seconds: float  # of the slowest member
    sum_seconds: float  # the aggregator's checking and adding
    open_seconds: float  # the key holder's verifying, decrypting and checking
    close_seconds: float  # the key holder's joins and roster, transport included
    bytes_up: int  # one contribution
    resent: bool  # whether the release came from the key holder's ledger after a restart
    refused: tuple[str, ...] = ()  # reasons of parties that did not join, or whose joins were invalid


@dataclass(frozen=True)
class RoundsOutcome:
    """The result of a run. model: hash that all members hold. arrays: the model, if the aggregator has a copy."""

    model: str
    rounds: tuple[RoundReport, ...]
    reports: Mapping[str, Mapping[str, object]]  # by bank: what its app says about the final model
    largest_message: int  # bytes of wires in one Flower message
    peak_memory: int  # bytes, of this process
    contribution_bytes: int
    error_bound: float
    arrays: ArrayRecord | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, object]:
        """Everything but the model."""
        fields = {name: value for name, value in vars(self).items() if name not in ("arrays", "rounds")}
        return {**fields, "rounds": [asdict(each) for each in self.rounds]}


@dataclass(frozen=True)
class _State:
    """A bank's statement about its model. Banks with the same model state the same."""

    model: str
    length: int
    rounds: int
    step: int  # of the last release that moved it

    def __str__(self) -> str:
        return (
            f"model {self.model[:16]} of {self.length} values after {self.rounds} rounds, the last of step {self.step}"
        )


@dataclass
class _Bank:
    organisation: str
    node: int
    model: str
    length: int
    rounds: int
    step: int  # of the last release that moved its model
    next_step: int  # one above what it joined

    @property
    def state(self) -> _State:
        return _State(self.model, self.length, self.rounds, self.step)


class _RoundLost(Exception):
    """An attempt ended. Another may follow, without the members of its roster that did not contribute."""

    def __init__(self, message: str, blamed: Collection[str] = ()) -> None:
        super().__init__(message)
        self.blamed = frozenset(blamed)


class EncryptedRounds:
    """Runs rounds among the enrolled parties that are online.

    initial: the first model, for banks whose app does not make it itself. The aggregator then keeps a copy of the
    model, and the outcome has it. banks: number to wait for; all enrolled ones when None, but after `limits.ready_s`
    the quorum is enough. on_round: called with each report.
    """

    def __init__(
        self,
        grid: Grid,
        party: AggregatorParty,
        *,
        initial: ArrayRecord | None = None,
        banks: int | None = None,
        limits: WaitLimits | None = None,
        on_round: Callable[[RoundReport], None] | None = None,
    ) -> None:
        self._calls = Calls(grid)
        self._party = party
        self._limits = limits or WaitLimits()
        self._initial = None if initial is None else FlatModel.from_record(initial)
        self._model = self._initial
        self._wanted = len(party.enrolment.clients) if banks is None else banks
        self._on_round = on_round
        self._banks: dict[int, _Bank] = {}
        self._key_holder = 0
        self._strangers: set[int] = set()  # nodes of parties that are not enrolled
        self._next_step = 0
        self._largest = largest_message(party.settings.plan)
        self._said: dict[str, str] = {}  # by organisation: why it has not taken part since the round began
        self._followed = 0  # step of the last release that moved the aggregator's copy of the model

    def run(self, rounds: int, *, evaluate: bool = False) -> RoundsOutcome:
        """Play rounds until every bank has applied `rounds` of them. A federation that has applied some continues.

        A quorum of banks with one model states how many it has applied. Raises a subclass of `FlowerError`.
        """
        self._find_parties(self._wanted)
        reports = []
        for number in range(self._level() + 1, rounds + 1):
            report = self._round(number)
            reports.append(report)
            if self._on_round is not None:
                self._on_round(report)
        said = self._reports() if evaluate else {}
        plan = self._party.plan(self._length())
        return RoundsOutcome(
            self._common_model(),
            tuple(reports),
            said,
            self._calls.largest_message,
            peak_memory(),
            plan.residue_bytes,
            plan.max_error,
            None if self._model is None else self._model.record(),
        )

    # --- who is there

    def _find_parties(self, wanted: int, without: Collection[str] = ()) -> None:
        """Wait for the key holder and enough banks, all with a model. without: organisations to leave out."""
        deadline = time.monotonic() + self._limits.ready_s
        while True:
            self._look_around(wanted, without)
            if self._enough(wanted) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        quorum = self._party.settings.quorum
        if not self._key_holder or len(self._banks) < quorum:
            here = ", ".join(sorted(bank.organisation for bank in self._banks.values())) or "no bank"
            missing = "" if self._key_holder else "the key holder and "
            raise PartiesMissing(
                f"expected {missing}at least {quorum} enrolled banks within {self._limits.ready_s:g} s, got {here}"
                f"{self._why_missing()}"
            )
        self._start_models()
        self._catch_up()
        if len(self._banks) < quorum:
            here = ", ".join(sorted(bank.organisation for bank in self._banks.values())) or "no bank"
            raise PartiesMissing(
                f"expected at least {quorum} enrolled banks with one model, got {here}{self._why_missing()}"
            )

    def _why_missing(self) -> str:
        """The reasons of the missing parties, and what to check about those that gave none."""
        here = {bank.organisation for bank in self._banks.values()}
        away = {member.organisation for member in self._party.enrolment.clients} - here
        if not self._key_holder:
            away.add(self._party.enrolment.key_holder.organisation)
        said = "".join(f"; {who}: {self._said[who]}" for who in sorted(away & set(self._said)))
        silent = ", ".join(sorted(away - set(self._said)))
        if silent:
            said += f"; no answer from {silent}: check that their SuperNodes and residents run and that the enrolment "
            said += "list is the same everywhere"
        return said

    def _set_aside(self, bank: _Bank, error: str, message: str) -> None:
        """Continue without a bank, and record the reason."""
        self._party.log("bank set aside", bank=bank.organisation, error=error, message=message)
        self._said[bank.organisation] = f"{error}: {message}"
        del self._banks[bank.node]

    def _enough(self, wanted: int) -> bool:
        return bool(self._key_holder) and len(self._banks) >= wanted

    def _look_around(self, wanted: int, without: Collection[str]) -> None:
        """Ask every node who it is, and believe those who can sign as one of the enrolled."""
        challenges = _challenges(self._calls.nodes())
        calls = {node: Call({"challenge": challenge}) for node, challenge in challenges.items()}
        self._banks, self._key_holder = {}, 0
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
            banks = {bank.organisation for bank in self._banks.values()}
            if self._key_holder if is_key_holder else member.organisation in banks:
                raise TransferError(f"{member.organisation} is at another node already: stop one of the two nodes")
            if is_key_holder:
                self._key_holder, self._next_step = answer.node, call.number("next_step")
                return
            if member.organisation in without:
                return
            bank = _Bank(member.organisation, answer.node, *_said_of_model(call))
            if bank.model:
                self._party.plan(bank.length)
            self._banks[answer.node] = bank
        except (FlowerError, Refusal) as error:
            self._party.log("node set aside", node=answer.node, error=type(error).__name__, message=str(error))

    def _somebody_came_back(self) -> bool:
        """Whether an enrolled bank is missing and an online node could belong to it."""
        missing = len(self._banks) < len(self._party.enrolment.clients)
        return missing and bool(set(self._calls.nodes()) - set(self._banks) - {self._key_holder} - self._strangers)

    def _start_models(self) -> None:
        """Send the first model to banks that have none."""
        without = [bank for bank in self._banks.values() if not bank.model]
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
        for bank in [bank for bank in self._banks.values() if not bank.model]:
            self._set_aside(bank, "ModelMismatch", "it got the first model and states that it has none")

    def _catch_up(self) -> None:
        """Bring banks that missed rounds up to date: send releases as the key holder stored them, one after the other.

        The key holder is also asked about banks that claim to be ahead: its ledger decides, not a bank.
        """
        last: dict[_State, str] = {}  # states that no release follows, and why not
        while len(states := self._states()) > 1 and (open_ends := [each for each in states if each not in last]):
            state = min(open_ends, key=lambda each: each.rounds)
            together = states[state]
            answer = self._ask_stored(state.step, state.length, bytes.fromhex(state.model))
            if answer.error or not answer.call.number("step"):
                last[state] = f": {answer.error}: {answer.message}" if answer.error else ""
                continue
            step, names = answer.call.number("step"), [bank.organisation for bank in together]
            self._party.log("catching up", step=step, banks=names)
            wire = Outgoing(self._calls.wire(answer, "release", self._largest, self._limits.part_s))
            nodes = [bank.node for bank in together]
            aborts = self._send_aborts(nodes, state, answer)
            self._accept(nodes, wire, step, aborts)
        self._agree(last)
        if self._banks:
            self._follow()

    def _send_aborts(self, nodes: Sequence[int], state: _State, answer: Answer) -> dict[str, Bytes]:
        """Send all but the last page of the aborts of rounds from a model; the last one goes with the release."""
        model, after = bytes.fromhex(state.model), state.step
        while aborts := answer.call.numbered("abort"):
            following = self._party.abort_step(aborts[-1], state.length)
            if following <= after:
                raise TransferError(f"expected aborts above step {after}, got one of step {following}")
            after, page = following, numbered("abort", aborts)
            answer = self._ask_stored(after, state.length, model)
            if answer.error or not answer.call.numbered("abort"):
                return page
            self._calls.ask("abort", dict.fromkeys(nodes, Call({}, page)), self._limits.call_s)
        return {}

    def _states(self) -> dict[_State, list[_Bank]]:
        """The banks, grouped by their statements about their model."""
        states: dict[_State, list[_Bank]] = {}
        for bank in self._banks.values():
            states.setdefault(bank.state, []).append(bank)
        return states

    def _agree(self, why: Mapping[_State, str] | None = None) -> None:
        """Continue with the largest group of banks that state the same about their model; set the others aside.

        A bank's signed statement may be false, so the group must be a quorum. Raises `ModelsDiverged`.
        """
        states = self._states()
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
                self._set_aside(
                    bank, "ModelMismatch", f"{reason}: it has {state}, and {len(states[first])} have {first}"
                )

    def _follow(self) -> None:
        """Move the aggregator's own copy of the model, if it has one, by stored releases."""
        while self._model is not None and self._model.digest.hex() != self._common_model():
            answer = self._ask_stored(self._followed, self._model.length, self._model.digest)
            if not answer.require("key holder", "stored").number("step"):
                raise ModelsDiverged("no release leads from the first model given here to the banks' model")
            self._move(Outgoing(self._calls.wire(answer, "release", self._largest, self._limits.part_s)))

    def _ask_stored(self, after: int, length: int, model: bytes = bytes(32)) -> Answer:
        """The key holder's first stored release after a step that moves this model, or any."""
        call = Call({}, {"request": self._party.request("stored", after, model, length)})
        return self._calls.one("stored", self._key_holder, call, self._limits.call_s)

    def _level(self) -> int:
        return self._common().rounds

    def _length(self) -> int:
        return self._common().length

    def _common_model(self) -> str:
        return self._common().model

    def _common(self) -> _State:
        """The statement of all banks that take part. `_catch_up` and `_agree` ensure that there is only one."""
        (state,) = self._states()
        return state

    # --- one round

    def _following_step(self) -> int:
        """The ledger's next step, or one above what banks have joined, if they joined an offer that is in no ledger.

        Half of `MAX_STEP_JUMP` above the last release is reserved for that. The other half is for attempts: their
        release is then within one jump of the last one, so that absent banks can catch up with it.
        """
        banks = self._banks.values()
        asked, highest = max(bank.next_step for bank in banks), min(bank.step for bank in banks) + MAX_STEP_JUMP // 2
        return max(self._next_step, min(asked, highest))

    def _round(self, number: int) -> RoundReport:
        lost: list[str] = []
        started = time.monotonic()
        self._said.clear()
        if self._somebody_came_back():
            self._find_parties(len(self._banks))
        for _ in range(self._limits.attempts):
            try:
                return self._attempt(number, started, lost)
            except (_RoundLost, PartyFailed, TransferError, Refusal) as error:
                self._party.give_up()
                named = (
                    str(error) if isinstance(error, (_RoundLost, PartyFailed)) else f"{type(error).__name__}: {error}"
                )
                lost.append(named)
                self._party.log("round lost", step=self._calls.step, round=number, message=named)
                if len(lost) < self._limits.attempts:
                    self._go_on_without(error.blamed if isinstance(error, _RoundLost) else frozenset(), number, lost)
        self._abort(self._calls.step)
        raise RoundFailed(f"round {number}: {len(lost)} attempts failed: {'; '.join(lost)}")

    def _go_on_without(self, blamed: Collection[str], number: int, lost: Sequence[str]) -> None:
        """Prepare another attempt. When it is opened, the key holder signs an abort of the lost one for its members."""
        left = {node: bank for node, bank in self._banks.items() if bank.organisation not in blamed}
        if blamed and len(left) >= self._party.settings.quorum:
            self._banks = left
        else:
            try:
                self._find_parties(self._party.settings.quorum, blamed)
            except PartiesMissing as error:
                raise PartiesMissing(f"round {number} was lost: {'; '.join(lost)}; {error}") from error

    def _attempt(self, number: int, started: float, lost: Sequence[str]) -> RoundReport:
        limits, model, length = self._limits, self._common_model(), self._length()
        step = self._calls.step = self._following_step()
        self._next_step = step + 1
        self._party.log("round", step=step, round=number, banks=len(self._banks), model=model[:16])
        request = self._party.request("open", step, bytes.fromhex(model), length)
        opened = self._calls.one("open", self._key_holder, Call({}, {"request": request}), limits.call_s)
        offer = opened.require("key holder", "open")
        self._party.offered(offer.wire("offer"), length)

        joins = self._joins(offer)
        closing = time.monotonic()
        closed = self._close(step, joins)
        close_seconds = time.monotonic() - closing
        sealing, summing = self._collect(closed)
        release, opening, resent = self._release(step, length)
        # Banks that did not join are not waited for again in this round. They catch up when they are back.
        self._banks = {node: bank for node, bank in self._banks.items() if node in joins}
        self._move(release)
        self._accept(list(self._banks), release, step)
        self._settle(number)
        left_out = tuple(sorted({m.organisation for m in self._party.enrolment.clients} - set(closed.members)))
        slowest = max((answer.call.seconds("train_seconds") for answer in joins.values()), default=0.0)
        report = RoundReport(
            number,
            step,
            closed.members,
            left_out,
            tuple(lost),
            self._common_model(),
            round(time.monotonic() - started, 3),
            slowest,
            sealing,
            summing,
            opening,
            round(close_seconds, 3),
            self._party.contribution_bytes(),
            resent,
            tuple(f"{who}: {why}" for who, why in sorted(self._said.items())),
        )
        self._party.log("round done", step=step, round=number, members=list(closed.members), seconds=report.seconds)
        return report

    def _settle(self, number: int) -> None:
        """After a release: a quorum must state one model after `number` rounds; otherwise look for parties again."""
        for bank in [bank for bank in self._banks.values() if bank.rounds != number]:
            self._set_aside(bank, "ModelMismatch", f"it got the release of round {number} and states: {bank.state}")
        quorum, states = self._party.settings.quorum, self._states()
        if max(map(len, states.values()), default=0) < quorum:
            self._find_parties(quorum)
        else:
            self._agree()
        if self._level() != number:
            raise ModelsDiverged(f"round {number} ended, and {len(self._banks)} banks state: {self._common()}")

    def _joins(self, offer: Call) -> dict[int, Answer]:
        """Answers of the banks that joined; the others are left out of this round."""
        aborts = numbered("abort", offer.numbered("abort"))
        call = Call({}, {"offer": offer.wire("offer"), **aborts})
        joined = {}
        for answer in self._calls.each("join", dict.fromkeys(self._banks, call), self._limits.train_s):
            if not answer.error and "join" in answer.call.wires:
                joined[answer.node] = answer
            else:
                bank, error = self._banks[answer.node].organisation, answer.error or "TransferError"
                message = answer.message or "the answer holds no join"
                self._said[bank] = f"{error}: {message}"
                self._party.log("did not join", step=self._calls.step, bank=bank, error=error, message=message)
        return joined

    def _close(self, step: int, joins: Mapping[int, Answer]) -> Closed:
        wires: list[Bytes] = [answer.call.wires["join"] for answer in joins.values()]
        call = Call({}, {"request": self._party.request("close", step), **numbered("join", wires)})
        answer = self._calls.one("close", self._key_holder, call, self._limits.call_s)
        if answer.error == "QuorumNotMet":
            said = "".join(f"; {who}: {why}" for who, why in sorted(self._said.items()))
            raise _RoundLost(f"QuorumNotMet: {answer.message}{said}")
        closed = answer.require("key holder", "close")
        if refused := printable(str(closed.fields.get("refused", ""))):
            self._said[self._party.enrolment.key_holder.organisation] = f"joins refused: {refused}"
            self._party.log("joins refused", step=step, message=refused)
        return self._party.open(closed.wire("roster"))

    def _collect(self, closed: Closed) -> tuple[float, float]:
        """Ask the members for their contributions and add each; returns seconds of (slowest sealing, adding)."""
        members = {node: bank for node, bank in self._banks.items() if bank.organisation in closed.members}
        call = Call({}, {"roster": closed.roster})
        sealing = adding = 0.0
        failures: dict[str, str] = {}
        for answer in self._contributions(dict.fromkeys(members, call)):
            who = members[answer.node].organisation
            try:
                contribution = answer.require(who, "contribution")
                data = self._calls.wire(answer, "contribution", self._largest, self._limits.part_s)
                started = time.monotonic()
                self._party.receive(data)
                del data
                adding += time.monotonic() - started
                sealing = max(sealing, contribution.seconds("seal_seconds"))
                self._party.log("added", step=closed.step, bank=who)
            except (FlowerError, Refusal) as error:
                named = str(error) if isinstance(error, PartyFailed) else f"{who}: {type(error).__name__}: {error}"
                failures[who] = named
                self._said[who] = named.removeprefix(f"{who}: ")
        if failures:
            raise _RoundLost("; ".join(failures.values()), failures)
        return sealing, round(adding, 3)

    def _contributions(self, calls: Mapping[int, Call]) -> Iterator[Answer]:
        """Answers as they come. Those with a byte string to fetch in parts are last, when no other node's time runs."""
        in_parts = []
        for answer in self._calls.each("contribute", calls, self._limits.contribute_s):
            if answer.call.held:
                in_parts.append(answer)
            else:
                yield answer
        yield from in_parts

    def _release(self, step: int, length: int) -> tuple[Outgoing, float, bool]:
        """(release, the key holder's seconds, whether it came from its ledger)."""
        limits, node = self._limits, self._key_holder
        total = self._party.close()
        answer = self._calls.call_with("release", [node], "sum", total, limits.release_s, limits.part_s)[node]
        del total
        if not answer.error:
            data = Outgoing(self._calls.wire(answer, "release", self._largest, limits.part_s))
            return data, answer.call.seconds("open_seconds"), False
        if answer.error == "SumRefused":
            raise _RoundLost("key holder: SumRefused: the sum was refused and the step is consumed")
        self._party.log("release not received", step=step, error=answer.error, message=answer.message)
        return self._stored(step, length), 0.0, True

    def _stored(self, step: int, length: int) -> Outgoing:
        """Wait for a key holder that did not answer, and take the release that its ledger holds, if any."""
        deadline = time.monotonic() + self._limits.recover_s
        last = "nothing"
        while time.monotonic() < deadline:
            answer = self._ask_stored(step - 1, length)
            if not answer.error and answer.call.fields.get("step") == step:
                return Outgoing(self._calls.wire(answer, "release", self._largest, self._limits.part_s))
            if not answer.error:
                raise _RoundLost(f"key holder: the round ended {answer.call.text('outcome')} without a release")
            last = f"{answer.error}: {answer.message}"
            time.sleep(0.5)
        raise PartyFailed(f"key holder: no answer about step {step} within {self._limits.recover_s:g} s; last: {last}")

    def _abort(self, step: int) -> None:
        """Have the key holder sign an abort of the round. The same members may then use their updates again."""
        call = Call({}, {"request": self._party.request("abort", step)})
        answer = self._calls.one("abort", self._key_holder, call, self._limits.call_s)
        aborts = numbered("abort", answer.call.numbered("abort"))
        if answer.error or not aborts:
            self._party.log("abort not confirmed", step=step, error=answer.error, message=answer.message)
            return
        self._calls.ask("abort", dict.fromkeys(self._banks, Call({}, aborts)), self._limits.call_s)

    def _accept(
        self, nodes: Sequence[int], release: Outgoing, step: int, aborts: Mapping[str, Bytes] | None = None
    ) -> None:
        """Send a release to banks, with aborts that they may have missed, and record the model that each then holds."""
        call_s, part_s, challenges = self._limits.call_s, self._limits.part_s, _challenges(nodes)
        fields: dict[int, Fields] = {node: {"challenge": each} for node, each in challenges.items()}
        answers = self._calls.call_with("accept", nodes, "release", release, call_s, part_s, aborts, fields)
        for node, answer in answers.items():
            self._set_aside_unless_good(node, answer, challenges[node])
        for bank in [self._banks[node] for node in nodes if node in self._banks]:
            if bank.step != step or not bank.model:
                self._set_aside(bank, "ModelMismatch", f"it got the release of step {step} and states: {bank.state}")

    def _set_aside_unless_good(self, node: int, answer: Answer, challenge: bytes) -> None:
        """Accept a bank's statement about its model if the bank signed it over the challenge that it was sent."""
        bank = self._banks[node]
        if answer.error:
            self._set_aside(bank, answer.error, answer.message)
            return
        try:
            member = self._party.signer_of(answer.call, challenge)
            if member is None or member.organisation != bank.organisation:
                raise TransferError(f"expected an answer signed by {bank.organisation}, got another party's")
            said = _said_of_model(answer.call)
        except (FlowerError, Refusal) as error:
            self._set_aside(bank, type(error).__name__, str(error))
            return
        bank.model, bank.length, bank.rounds, bank.step, bank.next_step = said

    def _move(self, release: Outgoing) -> None:
        if self._model is not None:
            self._followed, average, _ = self._party.average(release.whole())
            self._model = self._model.moved_by(average)

    def _reports(self) -> dict[str, dict[str, object]]:
        """What each bank's app reports about the final model."""
        answers = self._calls.ask("evaluate", dict.fromkeys(self._banks, Call()), self._limits.train_s)
        return {
            self._banks[node].organisation: {
                printable(name): _shown(value) for name, value in answer.call.fields.items() if name != "action"
            }
            for node, answer in answers.items()
        }


def _challenges(nodes: Iterable[int]) -> dict[int, bytes]:
    """A random challenge for each node, which only this node may answer."""
    return {node: os.urandom(CHALLENGE_BYTES) for node in nodes}


def _said_of_model(call: Call) -> tuple[str, int, int, int, int]:
    """(model, length, rounds, step, next step) of a bank's answer. Raises `TransferError`."""
    length, rounds, step, following = (call.number(name) for name in ("length", "rounds", "step", "next_step"))
    return call.text("model"), length, rounds, step, following


def _shown(value: object) -> object:
    """A value of a bank's report for JSON, where NaN and infinities become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


__all__ = ["PART_BYTES", "EncryptedRounds", "RoundReport", "RoundsOutcome", "WaitLimits", "peak_memory"]

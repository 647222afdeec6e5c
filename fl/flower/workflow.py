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

Where the parties expect robust rounds, `join` also carries a sketch of the update, and a rule decides who contributes:
`verdicts.py`. `membership.py` carries out `status` and `accept`: it finds the parties and keeps the banks at one model.
"""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fl.errors import BudgetExhausted
from fl.flower.calls import Answer, Calls
from fl.flower.errors import (
    BudgetSpent,
    FlowerError,
    ModelsDiverged,
    PartiesMissing,
    PartyFailed,
    RoundFailed,
    RoundLost,
    TransferError,
)
from fl.flower.limits import WaitLimits
from fl.flower.membership import Membership
from fl.flower.parties.aggregator import AggregatorParty, Closed
from fl.flower.parties.party import Refusal
from fl.flower.transport import PART_BYTES, Bytes, Call, Outgoing, numbered
from fl.flower.verdicts import Verdicts
from fl.secure.rule_settings import RobustSettings
from fl.text import printable


@dataclass(frozen=True)
class RoundReport:
    """The result of one round. members: organisations. lost: earlier attempts, each with the reason why it ended.

    left_out: enrolled and not a member. rejected: those of them that joined a robust round: the rule left them out, or
    no sketch of theirs could be compared, and then `refused` says why.
    """

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
    rejected: tuple[str, ...] = ()
    look_seconds: float = 0.0  # of the second look of a robust round, transport included


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
    ended: str = ""  # why the run ended before its last round: nothing was left to do, or no budget to do it
    robust: RobustSettings | None = None  # the rule that every party expected

    @property
    def rejected(self) -> dict[str, int]:
        """In how many rounds the rule left each bank out; banks that it never left out are not in it."""
        return dict(sorted(Counter(bank for each in self.rounds for bank in each.rejected).items()))

    def as_json(self) -> dict[str, object]:
        """Everything but the model."""
        fields = {name: value for name, value in vars(self).items() if name not in ("arrays", "rounds", "robust")}
        robust = None if self.robust is None else {**asdict(self.robust), "rejected": self.rejected}
        return {**fields, "rounds": [asdict(each) for each in self.rounds], "robust": robust}


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
        self._members = Membership(self._calls, party, self._limits, initial)
        self._verdicts = None if party.robust is None else Verdicts(self._calls, party, self._members, self._limits)
        self._wanted = len(party.enrolment.clients) if banks is None else banks
        self._on_round = on_round

    def run(self, rounds: int, *, evaluate: bool = False) -> RoundsOutcome:
        """Play rounds until every bank has applied `rounds` of them, or the banks say that no round follows.

        A federation that has applied some continues.

        A quorum of banks with one model states how many it has applied. Raises a subclass of `FlowerError`.
        """
        self._members.find(self._wanted)
        reports, ended = [], ""
        for number in range(self._members.common().rounds + 1, rounds + 1):
            if self._members.common().finished:
                ended = f"no round follows round {number - 1}: what the banks compute is finished"
                break
            try:
                report = self._round(number)
            except BudgetSpent as error:
                if number == 1:
                    raise
                ended = str(error)
                break
            reports.append(report)
            if self._on_round is not None:
                self._on_round(report)
        said = self._reports() if evaluate else {}
        plan = self._party.plan(self._members.common().length)
        return RoundsOutcome(
            self._members.common().model,
            tuple(reports),
            said,
            self._calls.largest_message,
            peak_memory(),
            plan.residue_bytes,
            plan.max_error,
            None if self._members.model is None else self._members.model.record(),
            ended,
            self._party.settings.robust,
        )

    def _round(self, number: int) -> RoundReport:
        lost: list[str] = []
        started = time.monotonic()
        self._members.reasons.clear()
        if self._members.somebody_came_back():
            self._members.find(len(self._members.banks))
        for _ in range(self._limits.attempts):
            try:
                return self._attempt(number, started, lost)
            except (RoundLost, PartyFailed, TransferError, Refusal) as error:
                self._party.give_up()
                named = (
                    str(error) if isinstance(error, (RoundLost, PartyFailed)) else f"{type(error).__name__}: {error}"
                )
                self._require_budget(number, error)
                lost.append(named)
                self._party.log("round lost", step=self._calls.step, round=number, message=named)
                if len(lost) < self._limits.attempts:
                    self._go_on_without(error.blamed if isinstance(error, RoundLost) else frozenset(), number, lost)
        self._abort(self._calls.step)
        raise RoundFailed(f"round {number}: {len(lost)} attempts failed: {'; '.join(lost)}")

    def _require_budget(self, number: int, lost: Exception) -> None:
        """Raise `BudgetSpent` where a bank of a private run can pay for no other attempt."""
        reasons = self._members.reasons
        spent = sorted(who for who, why in reasons.items() if why.startswith(f"{BudgetExhausted.__name__}:"))
        if spent:
            self._abort(self._calls.step)
            raise BudgetSpent(
                f"round {number}: {', '.join(spent)} can pay for no more (lost rounds were paid for as well); the "
                f"model after round {number - 1} stands"
            ) from lost

    def _go_on_without(self, blamed: Collection[str], number: int, lost: Sequence[str]) -> None:
        """Prepare another attempt. When it is opened, the key holder signs an abort of the lost one for its members."""
        if len(self._party.enrolment.clients) - len(blamed) < self._party.settings.quorum:
            blamed = ()  # there is no round without them: wait for them
        left = {node: bank for node, bank in self._members.banks.items() if bank.organisation not in blamed}
        if blamed and len(left) >= self._party.settings.quorum:
            self._members.banks = left
        else:
            try:
                self._members.find(self._party.settings.quorum, blamed)
            except PartiesMissing as error:
                raise PartiesMissing(f"round {number} was lost: {'; '.join(lost)}; {error}") from error

    def _attempt(self, number: int, started: float, lost: Sequence[str]) -> RoundReport:
        limits, model, length = self._limits, self._members.common().model, self._members.common().length
        step = self._calls.step = self._members.following_step()
        self._members.next_step = step + 1
        self._party.log("round", step=step, round=number, banks=len(self._members.banks), model=model[:16])
        request = self._party.request("open", step, bytes.fromhex(model), length)
        opened = self._calls.one("open", self._members.key_holder, Call({}, {"request": request}), limits.call_s)
        offer = opened.require("key holder", "open")
        beside = self._party.offered(offer.wire("offer"), length)

        joins = self._joins(offer, beside)
        closing = time.monotonic()
        closed = self._close(step, joins)
        close_seconds = time.monotonic() - closing
        sealing, summing = self._collect(closed)
        looking = 0.0 if self._verdicts is None else self._verdicts.look_again(closed)
        release, opening, resent = self._release(step, length)
        # Banks that did not join are not waited for again in this round. They catch up when they are back.
        self._members.banks = {node: bank for node, bank in self._members.banks.items() if node in joins}
        self._members.move(release)
        heard = {"roster": closed.roster} if closed.rejected else {}
        self._members.accept(list(self._members.banks), release, step, heard)
        self._settle(number)
        left_out = tuple(sorted({m.organisation for m in self._party.enrolment.clients} - set(closed.members)))
        slowest = max((answer.call.seconds("train_seconds") for answer in joins.values()), default=0.0)
        report = RoundReport(
            number,
            step,
            closed.members,
            left_out,
            tuple(lost),
            self._members.common().model,
            round(time.monotonic() - started, 3),
            slowest,
            sealing,
            summing,
            opening,
            round(close_seconds, 3),
            self._party.contribution_bytes(),
            resent,
            tuple(f"{who}: {why}" for who, why in sorted(self._members.reasons.items())),
            tuple(sorted(closed.rejected)),
            looking,
        )
        self._party.log("round done", step=step, round=number, members=list(closed.members), seconds=report.seconds)
        return report

    def _settle(self, number: int) -> None:
        """After a release: a quorum must state one model after `number` rounds; otherwise look for parties again."""
        for bank in [bank for bank in self._members.banks.values() if bank.state.rounds != number]:
            said = f"it got the release of round {number} and states: {bank.state}"
            self._members.set_aside(bank, "ModelMismatch", said)
        quorum, states = self._party.settings.quorum, self._members.states()
        if max(map(len, states.values()), default=0) < quorum:
            self._members.find(quorum)
        else:
            self._members.agree()
        if self._members.common().rounds != number:
            raise ModelsDiverged(
                f"round {number} ended, and {len(self._members.banks)} banks state: {self._members.common()}"
                f"{self._members.why()}"
            )

    def _joins(self, offer: Call, beside: Mapping[str, Bytes]) -> dict[int, Answer]:
        """Answers of the banks that joined; the others are left out of this round. beside: what goes with the offer."""
        aborts = numbered("abort", offer.numbered("abort"))
        call = Call({}, {"offer": offer.wire("offer"), **beside, **aborts})
        joined = {}
        for answer in self._calls.each("join", dict.fromkeys(self._members.banks, call), self._limits.train_s):
            if not answer.error and "join" in answer.call.wires:
                joined[answer.node] = answer
            else:
                bank, error = self._members.banks[answer.node].organisation, answer.error or "TransferError"
                message = answer.message or "the answer holds no join"
                self._members.reasons[bank] = f"{error}: {message}"
                self._party.log("did not join", step=self._calls.step, bank=bank, error=error, message=message)
        return joined

    def _close(self, step: int, joins: Mapping[int, Answer]) -> Closed:
        if self._verdicts is not None:
            judged = self._verdicts.judged(step, joins)
            closed = self._party.open(judged.require("key holder", "close").wire("roster"))
            if closed.rejected:
                self._party.log("left out", step=step, banks=list(closed.rejected))
            return closed
        wires: list[Bytes] = [answer.call.wires["join"] for answer in joins.values()]
        call = Call({}, {"request": self._party.request("close", step), **numbered("join", wires)})
        answer = self._calls.one("close", self._members.key_holder, call, self._limits.call_s)
        if answer.error == "QuorumNotMet":
            raise RoundLost(f"QuorumNotMet: {answer.message}{self._members.why()}")
        said = answer.require("key holder", "close")
        self._members.hear_refused(said, step)
        return self._party.open(said.wire("roster"))

    def _collect(self, closed: Closed) -> tuple[float, float]:
        """Ask the members for their contributions and add each; returns seconds of (slowest sealing, adding)."""
        members = {node: bank for node, bank in self._members.banks.items() if bank.organisation in closed.members}
        call = Call({}, {"roster": closed.roster})
        sealing = adding = 0.0
        failures: dict[str, str] = {}
        for answer in self._contributions(dict.fromkeys(members, call)):
            who = members[answer.node].organisation
            try:
                contribution = answer.require(who, "contribution")
                data = self._calls.wire(answer, "contribution", self._members.largest, self._limits.part_s)
                started = time.monotonic()
                self._party.receive(data, who)
                del data
                adding += time.monotonic() - started
                sealing = max(sealing, contribution.seconds("seal_seconds"))
                self._party.log("added", step=closed.step, bank=who)
            except (FlowerError, Refusal) as error:
                named = str(error) if isinstance(error, PartyFailed) else f"{who}: {type(error).__name__}: {error}"
                failures[who] = named
                self._members.reasons[who] = named.removeprefix(f"{who}: ")
        if failures:
            raise RoundLost("; ".join(failures.values()), failures)
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
        limits, node = self._limits, self._members.key_holder
        total = self._party.close()
        answer = self._calls.call_with("release", [node], "sum", total, limits.release_s, limits.part_s)[node]
        del total
        if not answer.error:
            data = Outgoing(self._calls.wire(answer, "release", self._members.largest, limits.part_s))
            return data, answer.call.seconds("open_seconds"), False
        if answer.error == "SumRefused":
            raise RoundLost("key holder: SumRefused: the sum was refused and the step is consumed")
        self._party.log("release not received", step=step, error=answer.error, message=answer.message)
        return self._stored(step, length), 0.0, True

    def _stored(self, step: int, length: int) -> Outgoing:
        """Wait for a key holder that did not answer, and take the release that its ledger holds, if any."""
        deadline = time.monotonic() + self._limits.recover_s
        last = "nothing"
        while time.monotonic() < deadline:
            answer = self._members.ask_stored(step - 1, length)
            if not answer.error and answer.call.fields.get("step") == step:
                return Outgoing(self._calls.wire(answer, "release", self._members.largest, self._limits.part_s))
            if not answer.error:
                raise RoundLost(f"key holder: the round ended {answer.call.text('outcome')} without a release")
            last = f"{answer.error}: {answer.message}"
            time.sleep(0.5)
        raise PartyFailed(f"key holder: no answer about step {step} within {self._limits.recover_s:g} s; last: {last}")

    def _abort(self, step: int) -> None:
        """Have the key holder sign an abort of the round. The same members may then use their updates again."""
        call = Call({}, {"request": self._party.request("abort", step)})
        answer = self._calls.one("abort", self._members.key_holder, call, self._limits.call_s)
        aborts = numbered("abort", answer.call.numbered("abort"))
        if answer.error or not aborts:
            self._party.log("abort not confirmed", step=step, error=answer.error, message=answer.message)
            return
        self._calls.ask("abort", dict.fromkeys(self._members.banks, Call({}, aborts)), self._limits.call_s)

    def _reports(self) -> dict[str, dict[str, object]]:
        """What each bank's app reports about the final model."""
        answers = self._calls.ask("evaluate", dict.fromkeys(self._members.banks, Call()), self._limits.train_s)
        return {
            self._members.banks[node].organisation: {
                printable(name): _shown(value) for name, value in answer.call.fields.items() if name != "action"
            }
            for node, answer in answers.items()
        }


def _shown(value: object) -> object:
    """A value of a bank's report for JSON, where NaN and infinities become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return printable(value) if isinstance(value, str) else value


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


__all__ = ["PART_BYTES", "EncryptedRounds", "RoundReport", "RoundsOutcome", "WaitLimits", "peak_memory"]

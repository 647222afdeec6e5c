"""The roles of `secagg` behind byte strings: what a bank, the key holder and the aggregator do with each call.

The only module of the Flower app that imports `secagg`. Everything a role acts on is signed by an enrolled party and
checked by `secagg`; what comes unsigned (plain fields of a call) can delay a round or end it, and nothing else. Control
requests to the key holder are signed by the aggregator too, so that a SuperLink cannot burn its steps.

# Strategy: a bank holds its own copy of the model and moves it by releases that the key holder signed, one after the
# other. A bank that missed a round catches up with the stored release of that round, byte for byte the one the others
# had; nobody has to be believed about what the current model is.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.durable import replace_durably
from fl.flower.errors import ModelMismatch, RequestRefused, RoundStateLost, SettingsError, TransferError
from fl.flower.logs import RoleLog
from fl.flower.models import FlatModel
from fl.flower.settings import PartySettings, PlanSettings
from fl.flower.transport import Bytes, Call, Outgoing, numbered
from secagg import packing, wire
from secagg.client import ClientState
from secagg.errors import (
    BadSignature,
    PeerError,
    QuorumNotMet,
    SecAggError,
    StepNotIncreasing,
    UpdateReused,
    WrongModel,
    WrongRound,
    WrongState,
)
from secagg.ledger import Outcome
from secagg.messages import Abort, AbortReason, Contribution, EncryptedSum, Join, Message, Offer, Release, Roster
from secagg.verification import check_offer, check_signature

Refusal = SecAggError  # what answers of these roles may name, beside the app's own errors

M = TypeVar("M", Offer, Join, Roster, Contribution, EncryptedSum, Release, Abort)
Values = NDArray[np.float32] | NDArray[np.float64]

_REQUEST = struct.Struct("<32s16s16sQ32sQ")
_REQUEST_TAG = b"secagg flower v1 request"
_IDLE = "idle"  # of KeyHolderState and AggregatorState; importing secagg.keyholder would load tenseal at the aggregator
_LONGEST_FRAME = 2**20  # bytes of offers, rosters and joins: checked again, exactly, when they are decoded


@dataclass(frozen=True)
class Trained:
    """What local training gave. update: one value per model value.  weight: used when the plan weighs."""

    update: Values
    weight: int = 1


class BankApp(Protocol):
    """What a bank's role needs of the application it serves."""

    def initial(self) -> FlatModel | None:
        """The model before round 1, when the application can make it itself."""

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        """Train from `model` for round `number`; another `attempt` must give another update."""

    def evaluate(self, model: FlatModel) -> dict[str, float | int | str]:
        """What the application reports about `model`."""


def _expect(data: Bytes, kind: type[M], plan: secagg.RoundPlan) -> M:
    message: Message = wire.decode(data, plan)
    if not isinstance(message, kind):
        raise TransferError(f"expected a {kind.__name__}, got a {type(message).__name__}")
    return message


def _outgoing(message: Message, plan: secagg.RoundPlan) -> Outgoing:
    return Outgoing(*wire.encode_parts(message, plan))


def _plan(settings: PlanSettings, length: int) -> secagg.RoundPlan:
    if not 0 < length <= settings.max_length:
        raise SettingsError(
            f"length: this party takes part in 1..{settings.max_length} values (max_length), got {length}"
        )
    return secagg.plan_round(length, settings.max_clients, settings.clip, settings.value_bits, settings.max_weight)


def largest_message(settings: PlanSettings) -> int:
    """Bytes: no message that this party accepts is longer."""
    plan = _plan(settings, settings.max_length)
    members = plan.max_clients
    sizes = [wire.message_bytes(kind, plan, members) for kind in (Offer, Roster, Contribution, EncryptedSum, Release)]
    return max(*sizes, _LONGEST_FRAME)


class _Member:
    """What all parties have: settings, an enrolled identity, the list."""

    def __init__(self, settings: PartySettings, role: str) -> None:
        if settings.role != role:
            raise SettingsError(f"this process plays the {role}, and {settings.folder} is a {settings.role}'s")
        self.settings = settings
        self.enrolment = secagg.Enrolment.load(settings.enrolment)
        self.identity = secagg.Identity.load(settings.identity, passphrase=settings.passphrase)
        self.log = RoleLog(role, self.identity.member.organisation)

    @property
    def organisation(self) -> str:
        return self.identity.member.organisation

    def status_fields(self) -> dict[str, str | int]:
        return {"role": self.settings.role, "organisation": self.organisation, "key": self.identity.key.hex()}


# --- bank -----------------------------------------------------------------------------------------------------------


class BankParty(_Member):
    """A bank between Flower and its own training. Keeps model.npz and journal.db in its folder."""

    def __init__(self, settings: PartySettings) -> None:
        super().__init__(settings, "bank")
        self._journal = secagg.Journal(settings.folder / "journal.db", self.identity)
        self._model_file = settings.folder / "model.npz"
        self._model: FlatModel | None = None
        self._rounds, self._step = 0, 0
        if self._model_file.exists():
            self._model, self._rounds, self._step = FlatModel.from_bytes(self._model_file.read_bytes())
        self._client: secagg.Client | None = None
        self._plan: secagg.RoundPlan | None = None
        self._round: tuple[int, bytes] | None = None  # step and id of the round that this process is in
        self._trained: tuple[bytes, int, Trained] | None = None  # (model, attempt, update)
        self._sent: tuple[bytes, Outgoing] | None = None  # (roster, contribution): only these bytes are sent again

    def answer(self, action: str, call: Call, app: BankApp) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        """Fields and wires of the answer. Raises `SecAggError` and `FlowerError` leaves."""
        match action:
            case "status":
                return self._status(app), {}
            case "join":
                return self._join(call, app)
            case "contribute":
                return self._contribute(call, app)
            case "accept":
                return self._accept(call)
            case "abort":
                self._take_aborts(call)
                return self._status(app), {}
            case "evaluate":
                return dict(app.evaluate(self._held_model())), {}
        raise TransferError(f"a bank has no action {action!r}")

    def start(self, model: FlatModel) -> dict[str, str | int]:
        """Take the first model from the aggregator. Raises `ModelMismatch` when this bank holds another."""
        if self._model is not None and self._model.digest != model.digest:
            raise ModelMismatch(f"start: this bank holds {self._model.digest.hex()[:16]} after {self._rounds} rounds")
        if self._model is None:
            self._keep(model, rounds=0, step=0)
        return self._model_fields()

    # --- one action each

    def _status(self, app: BankApp) -> dict[str, str | int | float]:
        if self._model is None and (first := app.initial()) is not None:
            self._keep(first, rounds=0, step=0)
        return {**self.status_fields(), **self._model_fields()}

    def _join(self, call: Call, app: BankApp) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        self._take_aborts(call)
        client, plan, model = self._ready()
        offer = _expect(call.wire("offer"), Offer, plan)
        check_offer(offer, self.enrolment, plan, True, self.settings.quorum)
        if offer.header.model != model.digest:
            raise WrongModel(f"model: this bank holds {model.digest.hex()[:16]}, the offer is for another")
        if client.state is not ClientState.IDLE:
            client.abort()  # the key holder opened another round: it has given up the one this bank is in
        join = client.join(offer, model.digest)
        self._round, self._sent = (offer.header.step, offer.header.round_id), None
        started = time.perf_counter()
        self._prepare(model, app, attempt=0)
        seconds = round(time.perf_counter() - started, 3)
        self.log("joined", step=offer.header.step, round=self._rounds + 1, train_seconds=seconds)
        return {"train_seconds": seconds}, {"join": _outgoing(join, plan)}

    def _contribute(self, call: Call, app: BankApp) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        client, plan, model = self._ready()
        data = bytes(call.wire("roster"))
        if self._sent is not None and self._sent[0] == data:
            return {}, {"contribution": self._sent[1]}
        roster = _expect(data, Roster, plan)
        if self._round != (roster.header.step, roster.header.round_id) or client.state is not ClientState.JOINED:
            raise RoundStateLost(
                f"step {roster.header.step}: this process did not join that round; the secrets of a round live in one "
                "process: run the SuperNode with --isolation process beside `python -m fl.flower.resident`"
            )
        started = time.perf_counter()
        contribution = self._sealed(client, roster, model, app)
        outgoing = _outgoing(contribution, plan)
        self._sent = (data, outgoing)
        seconds = round(time.perf_counter() - started, 3)
        self.log("contributed", step=roster.header.step, seconds=seconds, bytes=len(outgoing), clipped=client.clipped)
        return {"seal_seconds": seconds}, {"contribution": outgoing}

    def _sealed(self, client: secagg.Client, roster: Roster, model: FlatModel, app: BankApp) -> Contribution:
        """The contribution; an update that other members have been rostered with is trained anew, never reused."""
        trained, reuse = self._prepare(model, app, attempt=0), self.settings.allow_reuse
        while True:
            try:
                return client.contribute(roster, trained.update, self._weight(trained), allow_reuse=reuse)
            except UpdateReused as error:
                assert self._trained is not None
                before, attempt = trained, self._trained[1] + 1
                trained = self._prepare(model, app, attempt)
                self.log("trained anew", step=roster.header.step, attempt=attempt)
                if np.array_equal(trained.update, before.update):
                    raise ModelMismatch(
                        "training gives the same update whatever config['attempt'] says: seed it with that number, or "
                        "set allow_reuse = true in the party file and accept that two sums can be differenced"
                    ) from error

    def _accept(self, call: Call) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        client, plan, model = self._ready()
        release = _expect(call.wire("release"), Release, plan)
        step = release.header.step
        if step <= self._step:
            return dict(self._model_fields()), {}  # came before; nothing is applied twice
        if release.header.model != model.digest:
            raise WrongModel(
                f"step {step}: the release moves {release.header.model.hex()[:16]}, this bank holds "
                f"{model.digest.hex()[:16]}: it needs the releases before this one"
            )
        if self._round == (step, release.header.round_id) and client.state is ClientState.CONTRIBUTED:
            average, how = client.accept(release).values, "member"
        elif self._journal_waits_for(step) and client.state is ClientState.IDLE:
            settled = client.settle(release)
            assert settled is not None
            average, how = settled.values, "settled"
        else:
            average, how = self._caught_up(release, plan), "caught up"
        self._keep(model.moved_by(average), self._rounds + 1, step)
        self._trained = self._sent = None
        self.log("accepted", step=step, how=how, round=self._rounds, model=self._held_model().digest.hex()[:16])
        return dict(self._model_fields()), {}

    def _caught_up(self, release: Release, plan: secagg.RoundPlan) -> NDArray[np.float64]:
        """The average of a round that this bank was no member of: signed by the key holder for this bank's model."""
        header = release.header
        if header.session != self.enrolment.session or not header.masked:
            raise WrongRound("the release is of another federation, or of a round without masks")
        check_signature(release, self.enrolment.key_holder.key)
        if release.contributors < self.settings.quorum:
            raise QuorumNotMet(f"the release has {release.contributors} contributors, this bank asks for more")
        sums = packing.IntegerSums(release.sums, release.total_weight)
        packing.check_sums(sums, plan, release.contributors)
        return packing.average(sums, plan)

    def _take_aborts(self, call: Call) -> None:
        """Signed aborts end the rounds they belong to; an update may then be used again among the same members."""
        if self._model is None:
            return
        client, plan, _ = self._ready()
        for data in call.numbered("abort"):
            try:
                abort = _expect(data, Abort, plan)
                header = abort.header
                if self._round == (header.step, header.round_id) and client.state is not ClientState.IDLE:
                    client.abort(abort)
                elif client.state is ClientState.IDLE and header.step in client.unfinished():
                    client.settle(abort)
                else:
                    continue
                self.log("aborted", step=header.step, reason=abort.reason.name)
            except PeerError as error:
                self.log("abort refused", error=type(error).__name__, message=str(error))

    # --- inside

    def _ready(self) -> tuple[secagg.Client, secagg.RoundPlan, FlatModel]:
        model = self._held_model()
        if self._client is None or self._plan is None or self._plan.length != model.length:
            self._plan = _plan(self.settings.plan, model.length)
            quorum = self.settings.quorum
            self._client = secagg.Client(self.identity, self.enrolment, self._plan, quorum, journal=self._journal)
        return self._client, self._plan, model

    def _held_model(self) -> FlatModel:
        if self._model is None:
            raise ModelMismatch("this bank has no model yet: send the first one with the action 'start'")
        return self._model

    def _prepare(self, model: FlatModel, app: BankApp, attempt: int) -> Trained:
        """Training for the next round; the result is kept until a release moves the model."""
        if self._trained is not None and self._trained[0] == model.digest and self._trained[1] >= attempt:
            return self._trained[2]
        trained = app.train(model, self._rounds + 1, attempt)
        self._trained = (model.digest, attempt, trained)
        return trained

    def _weight(self, trained: Trained) -> int:
        return trained.weight if self.settings.plan.max_weight > 1 else 1

    def _journal_waits_for(self, step: int) -> bool:
        known = self._journal.round_of(step)
        return known is not None and not known.finished and known.contribution is not None

    def _keep(self, model: FlatModel, rounds: int, step: int) -> None:
        """Durable before it is reported, so that a bank never tells of a model that a crash takes back."""
        replace_durably(self._model_file, model.to_bytes(rounds, step))
        self._model, self._rounds, self._step = model, rounds, step

    def _model_fields(self) -> dict[str, str | int]:
        digest = "" if self._model is None else self._model.digest.hex()
        length = 0 if self._model is None else self._model.length
        return {"model": digest, "length": length, "rounds": self._rounds, "step": self._step}


# --- key holder -----------------------------------------------------------------------------------------------------


class KeyHolderParty(_Member):
    """The key holder behind a SuperNode of its own. Keeps ledger.db in its folder."""

    def __init__(self, settings: PartySettings) -> None:
        super().__init__(settings, "key_holder")
        self._ledger = secagg.Ledger(settings.folder / "ledger.db", self.identity)
        self._role: secagg.KeyHolder | None = None
        self._plan: secagg.RoundPlan | None = None
        self._step: int | None = None  # of the round that this process has open

    def answer(self, action: str, call: Call) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        """Fields and wires of the answer. Raises `SecAggError` and `FlowerError` leaves."""
        match action:
            case "status":
                return {**self.status_fields(), "next_step": self._next_step()}, {}
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
        raise TransferError(f"the key holder has no action {action!r}")

    def _open(self, call: Call) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        request = self._verified("open", call)
        if request.step != self._next_step():
            raise StepNotIncreasing(f"step: the next one is {self._next_step()}, the request names {request.step}")
        role = self._role_for(request.length)
        aborts = self._aborted(self._step, AbortReason.ABANDONED)
        offer = role.open(request.step, request.model)
        self._step = request.step
        assert self._plan is not None
        self.log("opened", step=request.step, length=request.length, model=request.model.hex()[:16])
        return {}, {"offer": _outgoing(offer, self._plan), **aborts}

    def _close(self, call: Call) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        role, plan = self._current("close", call)
        refused = []
        for data in call.numbered("join"):
            try:
                role.receive_join(_expect(data, Join, plan))
            except PeerError as error:
                refused.append(f"{type(error).__name__}: {error}")
                self.log("join refused", step=self._step, error=type(error).__name__, message=str(error))
        roster = role.close_roster()
        self.log("roster", step=self._step, members=len(roster.entries), refused=len(refused))
        return {"refused": "; ".join(refused)}, {"roster": _outgoing(roster, plan)}

    def _release(self, call: Call) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        if self._role is None or self._plan is None:
            raise RoundStateLost("no round is open here: the key holder was restarted; ask for the stored release")
        encrypted_sum = _expect(call.wire("sum"), EncryptedSum, self._plan)
        step = encrypted_sum.header.step
        if (stored := self._role.stored_release(step)) is not None:
            return {"stored": 1}, {"release": _outgoing(stored, self._plan)}
        started = time.perf_counter()
        release = self._role.release(encrypted_sum)
        self._step = None
        seconds = round(time.perf_counter() - started, 3)
        self.log("released", step=step, contributors=release.contributors, seconds=seconds)
        return {"open_seconds": seconds}, {"release": _outgoing(release, self._plan)}

    def _stored(self, call: Call) -> tuple[dict[str, str | int | float], dict[str, Outgoing]]:
        """The first release after a step, as it was sent, and what became of the step after it.

        model: of the releases that move this model, the first; of all when empty.
        """
        role, plan = self._role_for(call.number("length")), self._plan
        assert plan is not None
        after, model = call.number("after"), call.text("model")
        outcome = role.outcome(after + 1)
        for step in range(after + 1, self._next_step()):
            release = role.stored_release(step) if role.outcome(step) is Outcome.RELEASED else None
            if release is not None and model in ("", release.header.model.hex()):
                return {"step": step, "outcome": Outcome.RELEASED.value}, {"release": _outgoing(release, plan)}
        return {"step": 0, "outcome": "none" if outcome is None else outcome.value}, {}

    # --- inside

    def _role_for(self, length: int) -> secagg.KeyHolder:
        """The role for updates of this length; a round that is open under another plan is given up."""
        plan = _plan(self.settings.plan, length)
        if self._role is None or self._plan != plan:
            if self._role is not None and self._role.state.value != _IDLE:
                self._role.abort()
            self._step, self._plan = None, plan
            quorum = self.settings.quorum
            self._role = secagg.KeyHolder(self.identity, self.enrolment, plan, quorum, ledger=self._ledger)
        return self._role

    def _aborted(self, step: int | None, reason: AbortReason) -> dict[str, Outgoing]:
        """End the round that is open, and report those that an earlier process left; the signed aborts."""
        role, plan = self._role, self._plan
        if role is None or plan is None:
            return {}
        aborts = []
        if role.state.value != _IDLE:
            if step != self._step:
                raise RequestRefused(f"step {step} is not open here; step {self._step} is")
            aborts.append(role.abort(reason))
        aborts += [abort for abort in role.report_abandoned() if abort.header.plan == plan.fingerprint]
        self._step = None
        for abort in aborts:
            self.log("aborted", step=abort.header.step, reason=abort.reason.name)
        return {
            name: Outgoing(data) for name, data in numbered("abort", [wire.encode(a, plan) for a in aborts]).items()
        }

    def _current(self, action: str, call: Call) -> tuple[secagg.KeyHolder, secagg.RoundPlan]:
        request = self._verified(action, call)
        if self._role is None or self._plan is None or request.step != self._step:
            raise RoundStateLost(f"step {request.step} is not open here: the key holder was restarted; open another")
        return self._role, self._plan

    def _next_step(self) -> int:
        """One above the last step of the ledger, found by asking it which steps it would open."""
        low, high = 0, 1
        while not self._opens(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._opens(middle) else (middle, high)
        return high

    def _opens(self, step: int) -> bool:
        try:
            self._ledger.check_step(step)
        except (StepNotIncreasing, PeerError):
            return False
        return True

    def _verified(self, action: str, call: Call) -> ControlRequest:
        """The control request in a call. Raises `RequestRefused` unless the enrolled aggregator signed it."""
        request = ControlRequest.parse(bytes(call.wire("request")))
        if request.action != action or request.session != self.enrolment.session:
            raise RequestRefused(f"the request is signed for {request.action!r} or for another federation")
        try:
            self.enrolment.aggregator.verify(request.signature, request.signed_bytes())
        except BadSignature as error:
            raise RequestRefused("the request is not signed by the enrolled aggregator") from error
        return request


@dataclass(frozen=True)
class ControlRequest:
    """What the aggregator asks of the key holder, signed. A replay names a step that is over."""

    action: str
    session: bytes
    step: int
    model: bytes
    length: int
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        tag, action = _REQUEST_TAG.ljust(32, b"\0"), self.action.encode().ljust(16, b"\0")
        return _REQUEST.pack(tag, action, self.session, self.step, self.model, self.length)

    def encode(self) -> bytes:
        return self.signed_bytes() + self.signature

    @classmethod
    def parse(cls, data: bytes) -> ControlRequest:
        """Raises `TransferError` for anything but the one encoding."""
        if len(data) != _REQUEST.size + 64:
            raise TransferError(f"request: expected {_REQUEST.size + 64} bytes, got {len(data)}")
        tag, action, session, step, model, length = _REQUEST.unpack(data[: _REQUEST.size])
        name = action.rstrip(b"\0").decode("ascii", errors="replace")
        request = cls(name, session, step, model, length, data[_REQUEST.size :])
        if tag.rstrip(b"\0") != _REQUEST_TAG or request.encode() != data:
            raise TransferError("request: not a control request of this version")
        return request


# --- aggregator -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closed:
    """A closed roster. members: organisations."""

    step: int
    members: tuple[str, ...]
    roster: bytes


class AggregatorParty(_Member):
    """The aggregator: signs its requests, checks and adds contributions, holds no secret of any update."""

    def __init__(self, settings: PartySettings) -> None:
        super().__init__(settings, "aggregator")
        self._role: secagg.Aggregator | None = None
        self._plan: secagg.RoundPlan | None = None
        self._offer: Offer | None = None

    def organisation_of(self, key: str) -> str | None:
        """The enrolled bank with this public key (hexadecimal), or None."""
        return next((m.organisation for m in self.enrolment.clients if m.key.hex() == key), None)

    def is_key_holder(self, key: str) -> bool:
        return self.enrolment.key_holder.key.hex() == key

    def request(self, action: str, step: int, model: bytes = bytes(32), length: int = 0) -> bytes:
        """A signed control request."""
        unsigned = ControlRequest(action, self.enrolment.session, step, model, length)
        return unsigned.encode() + self.identity.sign(unsigned.signed_bytes())

    def plan(self, length: int) -> secagg.RoundPlan:
        """The plan of rounds over updates of this length."""
        return _plan(self.settings.plan, length)

    def offered(self, data: Bytes, length: int) -> None:
        """Take the offer of a round."""
        plan = self.plan(length)
        self._offer = _expect(data, Offer, plan)
        if self._role is None or self._plan != plan:
            self._role, self._plan = secagg.Aggregator(self.identity, self.enrolment, plan), plan

    def joined_by(self, data: Bytes) -> str:
        """The organisation that a join names as its sender; the key holder verifies it."""
        assert self._plan is not None
        return self.enrolment.client(_expect(data, Join, self._plan).header.sender).organisation

    def open(self, data: Bytes) -> Closed:
        """Start collecting for a roster."""
        role, plan = self._opened()
        assert self._offer is not None
        roster = _expect(data, Roster, plan)
        if role.state.value != _IDLE:
            role.abort()
        role.open(self._offer, roster)
        members = tuple(self.enrolment.client(entry.sender).organisation for entry in roster.entries)
        return Closed(roster.header.step, members, bytes(data))

    def receive(self, data: Bytes) -> None:
        """Check a contribution and add it."""
        role, plan = self._opened()
        role.receive(_expect(data, Contribution, plan))

    def missing(self) -> tuple[str, ...]:
        return self._opened()[0].missing()

    def close(self) -> Outgoing:
        """The encrypted sum."""
        role, plan = self._opened()
        total = _outgoing(role.close(), plan)
        # A role keeps its accumulator, as large as the sum: not while the sum is on its way.
        self._role = secagg.Aggregator(self.identity, self.enrolment, plan)
        return total

    def give_up(self) -> None:
        """Drop the round that is being collected, if there is one."""
        if self._role is not None and self._role.state.value != _IDLE:
            self._role.abort()

    def average(self, data: Bytes) -> tuple[int, NDArray[np.float64], int]:
        """(step, average float64[length], contributors) of a release that the key holder signed."""
        _, plan = self._opened()
        release = _expect(data, Release, plan)
        check_signature(release, self.enrolment.key_holder.key)
        sums = packing.IntegerSums(release.sums, release.total_weight)
        packing.check_sums(sums, plan, release.contributors)
        return release.header.step, packing.average(sums, plan), release.contributors

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


# --- enrolment on one machine -----------------------------------------------------------------------------------------


def enrol_locally(
    folder: Path, key_holder: str, aggregator: str, banks: Sequence[str], outsiders: Sequence[str]
) -> None:
    """Identities and one enrolment list for parties that all live on this machine, each in folder/<organisation>.

    outsiders: get an identity and the list, and are not on it. In earnest every party makes its own (`demos enrol`).
    """
    members = {}
    for name in (key_holder, aggregator, *banks, *outsiders):
        identity = secagg.Identity.generate(name)
        identity.save(folder / name / "identity.json")
        members[name] = identity.member
    enrolment = secagg.Enrolment.of(members[key_holder], members[aggregator], [members[name] for name in banks])
    for name in members:
        enrolment.save(folder / name / "enrolment.json")

"""All parties of a federation in one process: who they are, what they remember, and messages as bytes between them.

`run_round` uses it, and so do programs that try, measure or attack the protocol without a network. Between machines
every process has one identity and one role. A process that has all of them protects nobody from the person who runs it.

Lifetimes: `Parties` is permanent. A `Session` stands for one run of every party's process, with the key holder's ledger
and the clients' journals. `Roles` serve the rounds of one plan.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from secagg import wire
from secagg.accumulator import InMemory, MakeAccumulator
from secagg.aggregator import Aggregator
from secagg.client import Client
from secagg.enrolment import Enrolment
from secagg.identity import Identity
from secagg.journal import Journal
from secagg.ledger import Ledger
from secagg.masks import MaskingDisabledWarning
from secagg.messages import (
    Abort,
    Contribution,
    EncryptedSum,
    Intake,
    Join,
    LateSeed,
    Message,
    Offer,
    Products,
    Release,
    RobustJoin,
    RobustOffer,
    RobustRoster,
    RobustSum,
    Roster,
    Sketch,
    Tally,
)
from secagg.plan import RoundPlan
from secagg.robust import Robust
from secagg.robust_aggregator import RobustAggregator
from secagg.robust_client import RobustClient
from secagg.secrecy import Secret
from secagg.stages import StageClock

if TYPE_CHECKING:
    from secagg.keyholder import KeyHolder

M = TypeVar("M", bound=Message)

_NAMES: dict[type, str] = {
    Offer: "offer",
    Join: "join",
    Roster: "roster",
    Contribution: "contribution",
    EncryptedSum: "sum",
    Release: "release",
    Abort: "abort",
    RobustOffer: "offer",
    Intake: "intake",
    RobustJoin: "join",
    Sketch: "sketch",
    Products: "products",
    RobustRoster: "roster",
    Tally: "tally",
    LateSeed: "late seed",
    RobustSum: "sum",
}


@dataclass(frozen=True)
class Parties(Secret):
    """Identities with their private keys, and the enrolment list that all of them hold."""

    key_holder: Identity
    aggregator: Identity
    clients: tuple[Identity, ...]
    enrolment: Enrolment

    @classmethod
    def generate(cls, organisations: Sequence[str]) -> Parties:
        """A new federation; `organisations`: distinct names of its clients. Raises `EnrolmentError`."""
        key_holder, aggregator = Identity.generate("key holder"), Identity.generate("aggregator")
        clients = tuple(Identity.generate(name) for name in organisations)
        enrolment = Enrolment.of(key_holder.member, aggregator.member, [each.member for each in clients])
        return cls(key_holder, aggregator, clients, enrolment)


@dataclass(frozen=True)
class Terms:
    """Arguments of the roles of a round: see `KeyHolder`, `Aggregator` and `Client`. robust: None for plain rounds."""

    plan: RoundPlan
    quorum: int = 3
    masking: bool = True
    model_repeats: int | None = 0
    engine: str = "auto"
    threads: int | None = None
    accumulator: MakeAccumulator = InMemory
    robust: Robust | None = None


class Observer:
    """Watches rounds from outside: seconds and bytes by stage, and the length of every message as encoded.

    message_bytes: of the last message of each kind. bytes_up: joins, sketches and contributions of all clients.
    bytes_down: offers, intakes, rosters, late seeds, releases and aborts, once for each client. What travels between
    the two servers (products, tally, sum) counts as neither. on_contribution: called with the number of contributions
    sent so far.
    """

    def __init__(self, on_contribution: Callable[[int], None] | None = None) -> None:
        self.clock = StageClock()
        self.message_bytes: dict[str, int] = {}
        self.bytes_up = self.bytes_down = 0
        self._contributions = 0
        self._on_contribution = on_contribution

    def sent(self, message: Message, size: int, clients: int) -> None:
        """Note a message of `size` bytes, in a round of so many clients."""
        self.message_bytes[_NAMES[type(message)]] = size
        if isinstance(message, Join | Contribution | Sketch):
            self.bytes_up += size
        elif not isinstance(message, EncryptedSum | Products | Tally):
            self.bytes_down += clients * size
        if isinstance(message, Contribution):
            self._contributions += 1
            if self._on_contribution is not None:
                self._on_contribution(self._contributions)


@dataclass(frozen=True)
class Roles(Secret):
    """The roles of a round, and the encoding of messages between them."""

    key_holder: KeyHolder
    aggregator: Aggregator
    clients: tuple[Client, ...]
    plan: RoundPlan = field(repr=False)
    observer: Observer = field(repr=False)

    def sent(self, message: M) -> M:
        """The message as its receivers have it: encoded, and decoded again. Raises `PeerError` as `decode` does."""
        with self.observer.clock.stage("serialize"):
            data = wire.encode(message, self.plan)
        self.observer.sent(message, len(data), len(self.clients))
        with self.observer.clock.stage("check"):
            received = wire.decode(data, self.plan)
        assert isinstance(received, type(message))  # the frame names its kind
        return received


class Session(Secret):
    """One run of all parties: the key holder's ledger and the clients' journals, and the roles that write into them.

    folder: where ledger.db, journal-0.db, journal-1.db ... are kept; in memory when None. Another session of the same
    parties is the same federation after a restart: it continues from the files in the folder.
    """

    def __init__(self, parties: Parties, folder: Path | None = None) -> None:
        self.parties = parties
        self._folder = folder
        self._journals: dict[int, Journal] = {}

    @cached_property
    def ledger(self) -> Ledger:
        """The key holder's ledger, opened when it is first needed."""
        owner = self.parties.key_holder
        return Ledger.in_memory(owner) if self._folder is None else Ledger(self._folder / "ledger.db", owner)

    def journal(self, index: int) -> Journal:
        """The journal of a client, opened when it is first needed."""
        if index not in self._journals:
            owner, folder = self.parties.clients[index], self._folder
            self._journals[index] = (
                Journal.in_memory(owner) if folder is None else Journal(folder / f"journal-{index}.db", owner)
            )
        return self._journals[index]

    def key_holder(self, terms: Terms, clock: StageClock | None = None) -> KeyHolder:
        """The role of the party that decrypts."""
        if terms.robust is not None:
            from secagg.robust_keyholder import RobustKeyHolder  # loads tenseal

            return RobustKeyHolder(
                self.parties.key_holder,
                self.parties.enrolment,
                terms.plan,
                terms.quorum,
                robust=_robust_of(terms),
                ledger=self.ledger,
                engine=terms.engine,
                threads=terms.threads,
                clock=clock,
            )
        from secagg.keyholder import KeyHolder  # loads tenseal

        return KeyHolder(
            self.parties.key_holder,
            self.parties.enrolment,
            terms.plan,
            terms.quorum,
            masking=terms.masking,
            ledger=self.ledger,
            engine=terms.engine,
            threads=terms.threads,
            clock=clock,
        )

    def aggregator(self, terms: Terms, clock: StageClock | None = None) -> Aggregator:
        """The role of the party that adds."""
        if terms.robust is not None:
            return RobustAggregator(
                self.parties.aggregator,
                self.parties.enrolment,
                terms.plan,
                robust=_robust_of(terms),
                accumulator=terms.accumulator,
                threads=terms.threads,
                clock=clock,
            )
        return Aggregator(
            self.parties.aggregator,
            self.parties.enrolment,
            terms.plan,
            masking=terms.masking,
            accumulator=terms.accumulator,
            clock=clock,
        )

    def client(self, index: int, terms: Terms, clock: StageClock | None = None) -> Client:
        """The role of a bank."""
        if terms.robust is not None:
            return RobustClient(
                self.parties.clients[index],
                self.parties.enrolment,
                terms.plan,
                terms.quorum,
                robust=_robust_of(terms),
                journal=self.journal(index),
                model_repeats=terms.model_repeats,
                engine=terms.engine,
                threads=terms.threads,
                clock=clock,
            )
        return Client(
            self.parties.clients[index],
            self.parties.enrolment,
            terms.plan,
            terms.quorum,
            masking=terms.masking,
            journal=self.journal(index),
            model_repeats=terms.model_repeats,
            engine=terms.engine,
            threads=terms.threads,
            clock=clock,
        )

    def roles(self, terms: Terms, members: Sequence[int] | None = None, observer: Observer | None = None) -> Roles:
        """Every role, for rounds under `terms`. members: positions of the clients that take part; all when None.

        Does not warn when masks are off: a program that plays all parties trusts the aggregator, and `run_round` warns.
        """
        observer = observer or Observer()
        clock = observer.clock
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MaskingDisabledWarning)
            return Roles(
                self.key_holder(terms, clock),
                self.aggregator(terms, clock),
                tuple(
                    self.client(index, terms, clock)
                    for index in (range(len(self.parties.clients)) if members is None else members)
                ),
                terms.plan,
                observer,
            )


def _robust_of(terms: Terms) -> Robust:
    """What a robust round is asked for. Raises `PlanError` for a plan that cannot have one, or without masking."""
    assert terms.robust is not None
    terms.robust.check(terms.plan, masking=terms.masking)
    return terms.robust

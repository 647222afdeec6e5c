"""In-memory peers: a whole federation in one process, and a network between its roles that an attacker owns.

The roles are the real ones; only the transport is simulated. Everything travels as bytes, so whatever the network does
to a message (drop, repeat, reorder, replay, corrupt) is done to what a socket would have carried.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import secagg
from secagg import wire
from secagg.blocks import payload_hash
from secagg.messages import Contribution, EncryptedSum, Join, Message, Offer, Release, Roster
from secagg.parameters import ParameterSet
from secagg.plan import RoundPlan
from secagg.session import Parties, Session, Terms

MODEL = hashlib.sha256(b"the model that all parties train").digest()


class Federation:
    """Enrolled parties that outlive their roles: a role made twice is a party that restarted.

    folder: where ledger and journals are kept; None keeps them in memory, and then every role is made once only.
    model_repeats: None, since all rounds here train from `MODEL`, whoever their members are.
    """

    def __init__(
        self,
        clients: int = 3,
        length: int = 40,
        *,
        quorum: int = 2,
        max_clients: int | None = None,
        max_weight: int = 1,
        masking: bool = True,
        params: ParameterSet | None = None,
        folder: Path | None = None,
        model_repeats: int | None = None,
    ) -> None:
        plan = secagg.plan_round(
            length=length, max_clients=max_clients or clients, max_weight=max_weight, params=params
        )
        self.quorum, self.folder = quorum, folder
        self.terms = Terms(plan, quorum, masking, model_repeats, threads=1)
        self.parties = Parties.generate([f"bank {i}" for i in range(clients)])
        self.authority, self.server, self.banks = self.parties.key_holder, self.parties.aggregator, self.parties.clients
        self.enrolment = self.parties.enrolment

    @property
    def plan(self) -> RoundPlan:
        """What roles are made with; roles that are made after it was set have the new one."""
        return self.terms.plan

    @plan.setter
    def plan(self, plan: RoundPlan) -> None:
        self.terms = replace(self.terms, plan=plan)

    @property
    def ledger_file(self) -> Path:
        assert self.folder is not None
        return self.folder / "ledger.db"

    def journal_file(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"journal-{index}.db"

    def session(self) -> Session:
        """All parties from here on, with the memory that the folder holds."""
        return Session(self.parties, self.folder)

    def key_holder(self) -> secagg.KeyHolder:
        return self.session().key_holder(self.terms)

    def aggregator(self) -> secagg.Aggregator:
        return self.session().aggregator(self.terms)

    def client(self, index: int) -> secagg.Client:
        return self.session().client(index, self.terms)

    def update(self, seed: int) -> NDArray[np.float64]:
        """An update that no other seed gives."""
        return np.random.default_rng(seed).uniform(-1.2, 1.2, self.plan.length)

    def quantised(self, update: NDArray[np.float64]) -> NDArray[np.int64]:
        """What the plan makes of an update, computed away from the package."""
        scaled = np.clip(update * (1.0 / self.plan.step), -self.plan.max_value, self.plan.max_value)
        return np.rint(scaled).astype(np.int64)


class Peers:
    """All roles of a federation, and rounds among them in which nothing goes wrong."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.plan = federation.plan
        roles = federation.session().roles(federation.terms)
        self.key_holder, self.aggregator, self.clients = roles.key_holder, roles.aggregator, list(roles.clients)
        self.sent = roles.sent

    def roster(self, step: int, members: Sequence[int] | None = None) -> tuple[Offer, Roster]:
        """Offer, joins and the closed roster of a step."""
        offer = self.sent(self.key_holder.open(step, MODEL))
        for index in range(len(self.clients)) if members is None else members:
            self.key_holder.receive_join(self.sent(self.clients[index].join(offer, MODEL)))
        roster = self.sent(self.key_holder.close_roster())
        return offer, roster

    def contributions(
        self, step: int, updates: Sequence[NDArray[np.float64]], weights: Sequence[int] | None = None
    ) -> tuple[Offer, Roster, list[Contribution]]:
        """Everything up to the contributions of all clients."""
        offer, roster = self.roster(step)
        made = [
            self.sent(client.contribute(roster, update, weight))
            for client, update, weight in zip(self.clients, updates, weights or [1] * len(updates), strict=True)
        ]
        return offer, roster, made

    def encrypted_sum(self, step: int, updates: Sequence[NDArray[np.float64]]) -> EncryptedSum:
        """The honest sum of a step, on its way to the key holder."""
        offer, roster, made = self.contributions(step, updates)
        self.aggregator.open(offer, roster)
        for contribution in made:
            self.aggregator.receive(contribution)
        return self.sent(self.aggregator.close())

    def round(self, step: int, updates: Sequence[NDArray[np.float64]]) -> Release:
        """A whole round; every client accepts its release."""
        release = self.sent(self.key_holder.release(self.encrypted_sum(step, updates)))
        for client in self.clients:
            client.accept(release)
        return release


class Network:
    """Every message ever sent, as bytes, in the hands of an attacker who chooses what arrives where and how often."""

    def __init__(self, federation: Federation) -> None:
        self.plan = federation.plan
        self.sent: list[bytes] = []

    def send(self, message: Message) -> int:
        """Put a message on the wire; returns its number."""
        self.sent.append(wire.encode(message, self.plan))
        return len(self.sent) - 1

    def arrive(self, number: int) -> Message:
        """Deliver a message, for the first time or again."""
        return wire.decode(self.sent[number], self.plan)

    def arrive_corrupted(self, number: int, position: int, bit: int, *, new_digest: bool) -> Message:
        """Deliver a message with one bit flipped, and on request with the digest that then belongs to it."""
        data = bytearray(self.sent[number])
        data[position % len(data)] ^= 1 << (bit % 8)
        return wire.decode(with_digest(bytes(data), self.plan) if new_digest else bytes(data), self.plan)

    def of_kind(self, kind: type) -> list[int]:
        """Numbers of all messages of a kind."""
        return [number for number, data in enumerate(self.sent) if isinstance(wire.decode(data, self.plan), kind)]


def with_digest(data: bytes, plan: secagg.RoundPlan) -> bytes:
    """`data` with its last 32 bytes replaced by the digest of the rest, which an attacker can compute as well.

    The payload's length follows from the kind of message (docs/protocol.md).
    """
    kinds = {number: kind for kind, number in wire._KINDS.items()}
    kind = kinds.get(int.from_bytes(data[6:8], "little"), Join)
    body = data[:-32]
    split = len(body) - wire._sizes(kind, plan, 1)[1]
    return body + hashlib.sha256(body[:split] + payload_hash(body[split:])).digest()


def shuffled(items: Sequence[int], seed: int) -> list[int]:
    """A permutation that the seed decides."""
    return random.Random(seed).sample(list(items), len(items))

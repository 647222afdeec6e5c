"""All roles of a robust federation, and rounds among them step by step, for tests that break one of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from simulator import MODEL, Federation

from secagg.messages import EncryptedSum, Intake, LateSeed, Offer, RobustRoster
from secagg.robust import Robust
from secagg.robust_aggregator import RobustAggregator
from secagg.robust_client import RobustClient
from secagg.robust_keyholder import RobustKeyHolder
from secagg.rules import Rule

COUNT = 9_000  # values: longer than any ring for an identity, so that sketches are count sketches
IDENTITY = 60

Update = NDArray[np.floating]


def robust_federation(
    clients: int = 5, length: int = IDENTITY, rule: Rule | None = None, folder: Path | None = None, quorum: int = 3
) -> Federation:
    """A federation whose rounds are robust."""
    federation = Federation(clients, length, quorum=quorum, folder=folder)
    federation.terms = replace(federation.terms, robust=Robust(rule or Rule()))
    return federation


def alike(federation: Federation, seed: int, clients: int | None = None) -> list[Update]:
    """Updates that no rule leaves out: one direction, and noise of half its length."""
    draw = np.random.default_rng(seed)
    base = draw.normal(0, 0.1, federation.plan.length)
    count = len(federation.banks) if clients is None else clients
    return [base + draw.normal(0, 0.05, federation.plan.length) for _ in range(count)]


@dataclass
class RobustPeers:
    """Roles, and the messages of the round so far."""

    federation: Federation
    key_holder: RobustKeyHolder
    aggregator: RobustAggregator
    clients: list[RobustClient]
    offer: Offer | None = None
    intake: Intake | None = None
    roster: RobustRoster | None = None
    late_seed: LateSeed | None = None

    @classmethod
    def of(cls, federation: Federation) -> RobustPeers:
        roles = federation.session().roles(federation.terms)
        peers = cls(federation, roles.key_holder, roles.aggregator, list(roles.clients))
        peers.sent = roles.sent
        return peers

    def joined(self, step: int, updates: Sequence[Update]) -> None:
        """Everybody has joined, and the aggregator has every sketch."""
        self.offer = self.sent(self.key_holder.open(step, MODEL))
        self.intake = self.sent(self.aggregator.prepare(self.offer))
        for client, update in zip(self.clients, updates, strict=True):
            join, sketch = client.join_with_sketch(self.offer, MODEL, update, self.intake)
            self.key_holder.receive_join(self.sent(join))
            self.aggregator.receive_sketch(self.sent(sketch))

    def judged(self, step: int, updates: Sequence[Update]) -> None:
        """The roster is closed, and everybody knows it."""
        self.joined(step, updates)
        self.roster = self.sent(self.key_holder.judge(self.sent(self.aggregator.multiply())))
        self.aggregator.open(self.offer, self.roster)

    def members(self) -> list[RobustClient]:
        """The clients on the roster."""
        assert self.roster is not None
        senders = {entry.sender for entry in self.roster.entries}
        return [client for client in self.clients if client._identity.key in senders]

    def contributed(self, step: int, updates: Sequence[Update]) -> None:
        """Every member has contributed."""
        self.judged(step, updates)
        for client in self.members():
            self.aggregator.receive(self.sent(client.contribute(self.roster)))

    def looked_again(self) -> None:
        """Every member has shown its second sketch, and the second look is over."""
        self.late_seed = self.sent(self.key_holder.reveal(self.sent(self.aggregator.tally())))
        self.aggregator.reopen(self.late_seed)
        for client in self.members():
            self.aggregator.receive_sketch(self.sent(client.sketch_again(self.late_seed)))
        self.key_holder.judge_again(self.sent(self.aggregator.multiply()))

    def summed(self, step: int, updates: Sequence[Update]) -> EncryptedSum:
        """The sum, on its way to the key holder."""
        self.contributed(step, updates)
        if self.key_holder.looks == 2:
            self.looked_again()
        return self.sent(self.aggregator.close())

    def reset(self) -> None:
        """Every role is idle again."""
        for role in (self.key_holder, self.aggregator, *self.clients):
            if role.state.value != "idle":
                role.abort()

    sent: Callable = lambda self, message: message

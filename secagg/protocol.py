"""One round, from offer to release, in one process: the protocol as a specification that runs.

`run_round` plays every role with messages that travel as bytes, in the order of docs/protocol.md. Between machines the
same calls happen in separate processes (examples/three_processes.py); nothing here knows how messages get there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg import counts, masks, packing, wire
from secagg.aggregator import Aggregator
from secagg.arrays import F64, I64
from secagg.client import Client
from secagg.enrolment import Enrolment
from secagg.errors import LocalError, PlanError, QuorumNotMet, WeightOutOfRange
from secagg.identity import Identity
from secagg.keyholder import KeyHolder
from secagg.messages import Contribution, EncryptedSum, Join, Message, Offer, Release, Roster
from secagg.plan import RoundPlan
from secagg.stages import Stage, StageClock

NO_MODEL = bytes(32)

M = TypeVar("M", Offer, Join, Roster, Contribution, EncryptedSum, Release)


@dataclass(frozen=True)
class RoundResult:
    """average: float64[length], sum(w*u)/sum(w) of the clipped updates; |average - exact| <= error_bound.

    sums: int64[length], the exact sums of w * quantised update.  contributors: number of clients.
    clipped: per client, how many values lay outside [-clip, clip].  stages: seconds and bytes over all clients.
    wire_bytes: length on the wire by kind of message; one client's for joins and contributions.
    parts: seconds of named parts of stages ("mask expansion", "seed masks", "checks of the sum", ...).
    """

    average: F64 = field(repr=False)
    sums: I64 = field(repr=False)
    error_bound: float
    total_weight: int
    contributors: int
    clipped: tuple[int, ...]
    stages: Mapping[str, Stage] = field(repr=False)
    wire_bytes: Mapping[str, int] = field(repr=False)
    parts: Mapping[str, Stage] = field(repr=False)


def run_round(
    updates: Sequence[NDArray[np.floating]],
    weights: Sequence[int] | None = None,
    *,
    plan: RoundPlan,
    quorum: int = 3,
    engine: str = "auto",
    masking: bool = True,
    model: bytes = NO_MODEL,
    threads: int | None = None,
    on_contribution: Callable[[int], None] | None = None,
) -> RoundResult:
    """Aggregate updates through the whole protocol, every role in this process with fresh identities.

    updates: float32 or float64, each of shape (plan.length,). weights: integers in 1..plan.max_weight, one per update;
    all 1 when None. quorum: fewest contributions that may be released. masking=False leaves CKKS alone (warned about).
    model: 32 bytes that name the model the updates refer to. on_contribution: called with the number of contributions
    taken so far. Raises `PlanError`, `QuorumNotMet`, `UpdateError`, `WeightOutOfRange` or `EngineUnavailable`.
    """
    quorum, threads = counts.quorum(quorum, plan.max_clients), counts.threads(threads)
    weights = _check_inputs(updates, weights, plan, quorum)
    if not masking:
        masks.warn_disabled()
    clock, sizes = StageClock(), _Wire(plan)
    identities = [Identity.generate(f"client {i}") for i in range(len(updates))]
    authority, server = Identity.generate("key holder"), Identity.generate("aggregator")
    enrolment = Enrolment.of(authority.member, server.member, tuple(i.member for i in identities))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", masks.MaskingDisabledWarning)  # said once, above, for all roles
        key_holder = KeyHolder(authority, enrolment, plan, quorum, masking=masking, threads=threads, clock=clock)
        aggregator = Aggregator(server, enrolment, plan, masking=masking, clock=clock)
        clients = [
            Client(i, enrolment, plan, quorum, masking=masking, engine=engine, threads=threads, clock=clock)
            for i in identities
        ]

    # 1. The key holder offers a round; 2. clients join it; 3. the key holder closes the roster.
    offer = sizes.send(key_holder.open(step=1, model=model), Offer, clock)
    for client in clients:
        key_holder.receive_join(sizes.send(client.join(offer, model), Join, clock))
    roster = sizes.send(key_holder.close_roster(), Roster, clock)

    # 4. Each client seals its update for exactly this roster; 5. the aggregator checks it and adds it.
    aggregator.open(offer, roster)
    for done, (client, update, weight) in enumerate(zip(clients, updates, weights, strict=True), start=1):
        contribution = client.contribute(roster, update, weight)
        aggregator.receive(sizes.send(contribution, Contribution, clock))
        if on_contribution is not None:
            on_contribution(done)
    encrypted_sum = sizes.send(aggregator.close(), EncryptedSum, clock)

    # 6. The key holder verifies, consumes the step, decrypts once, checks and releases; clients divide.
    release = sizes.send(key_holder.release(encrypted_sum), Release, clock)
    average = clients[0].accept(release)
    return RoundResult(
        average.values,
        release.sums,
        average.error_bound,
        average.total_weight,
        average.contributors,
        tuple(client.clipped for client in clients),
        dict(clock.stages),
        dict(sizes.bytes),
        dict(clock.parts),
    )


class _Wire:
    """Sends messages as bytes, as between machines, and notes how many they were."""

    def __init__(self, plan: RoundPlan) -> None:
        self._plan = plan
        self.bytes: dict[str, int] = {}

    def send(self, message: Message, kind: type[M], clock: StageClock) -> M:
        with clock.stage("serialize"):
            data = wire.encode(message, self._plan)
        self.bytes[_NAMES[kind]] = len(data)
        with clock.stage("check"):
            received = wire.decode(data, self._plan)
        if not isinstance(received, kind):
            raise LocalError(f"expected a {kind.__name__}, got a {type(received).__name__}")
        return received


_NAMES = {
    Offer: "offer",
    Join: "join",
    Roster: "roster",
    Contribution: "contribution",
    EncryptedSum: "sum",
    Release: "release",
}


def _check_inputs(
    updates: Sequence[NDArray[np.floating]], weights: Sequence[int] | None, plan: RoundPlan, quorum: int
) -> Sequence[int]:
    """Refuse everything that would fail later, before any key is made."""
    if len(updates) > plan.max_clients:
        raise PlanError(f"updates: the plan holds {plan.max_clients} clients, got {len(updates)}; plan for more")
    if len(updates) < quorum:
        raise QuorumNotMet(f"updates: expected at least {quorum} (the quorum), got {len(updates)}")
    if weights is None:
        weights = [1] * len(updates)
    if len(weights) != len(updates):
        raise WeightOutOfRange(f"weights: expected one for each of {len(updates)} updates, got {len(weights)}")
    for update, weight in zip(updates, weights, strict=True):
        packing.check_update(update, plan)
        packing.check_weight(weight, plan)
    return weights

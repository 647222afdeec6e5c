"""One round, from offer to release, in one process: the protocol as a specification that runs.

`run_round` plays every role with messages that travel as bytes, in the order of docs/protocol.md. Between machines the
same calls happen in separate processes (examples/three_processes.py); nothing here knows how messages get there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg import counts, masks, packing
from secagg.arrays import F64, I64
from secagg.errors import PlanError, QuorumNotMet, WeightOutOfRange
from secagg.messages import Release
from secagg.plan import RoundPlan
from secagg.release import Average
from secagg.robust import Robust
from secagg.session import Observer, Parties, Roles, Session, Terms
from secagg.stages import Stage

NO_MODEL = bytes(32)


@dataclass(frozen=True)
class RoundResult:
    """average: float64[length], sum(w*u)/sum(w) of the clipped updates; |average - exact| <= error_bound.

    sums: int64[length], the exact sums of w * quantised update.  contributors: number of clients.
    clipped: per client, how many values lay outside [-clip, clip].  stages: seconds and bytes over all clients.
    wire_bytes: length on the wire by kind of message; one client's for joins and contributions.
    parts: seconds of named parts of stages ("mask expansion", "seed masks", "checks of the sum", ...).
    bytes_up, bytes_down: messages from and to all clients, as encoded; what the two servers exchange is in neither.
    left_out: positions of the updates that a robust round left out; contributors does not count them.
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
    bytes_up: int
    bytes_down: int
    left_out: tuple[int, ...] = ()


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
    robust: Robust | None = None,
) -> RoundResult:
    """Aggregate updates through the whole protocol, every role in this process with fresh identities.

    updates: float32 or float64, each of shape (plan.length,). weights: integers in 1..plan.max_weight, one per update;
    all 1 when None. quorum: fewest contributions that may be released. masking=False switches the masks off and warns.
    model: 32 bytes that name the model the updates refer to. on_contribution: called with the number of contributions
    sent so far. robust: leave members out by a rule before they contribute (`robust_protocol.py`); weights are 1, and
    at least `quorum` members must stay. Raises `PlanError`, `QuorumNotMet`, `UpdateError`, `WeightOutOfRange` or
    `EngineUnavailable`; a robust round also `RuleRefused` or `LateOutlier`.
    """
    quorum, threads = counts.quorum(quorum, plan.max_clients), counts.threads(threads)
    weights = _check_inputs(updates, weights, plan, quorum)
    if not masking:
        masks.warn_disabled()
    parties = Parties.generate([f"client {i}" for i in range(len(updates))])
    terms = Terms(plan, quorum, masking, engine=engine, threads=threads, robust=robust)
    observer = Observer(on_contribution)
    roles = Session(parties).roles(terms, observer=observer)
    if robust is not None:
        from secagg.robust_protocol import play_once  # loads tenseal

        played = play_once(roles, model, updates)
        return _result(played.release, played.average, roles, observer, played.left_out)
    key_holder, aggregator, clients, sent = roles.key_holder, roles.aggregator, roles.clients, roles.sent

    # 1. The key holder offers a round; 2. clients join it; 3. the key holder closes the roster.
    offer = sent(key_holder.open(step=1, model=model))
    for client in clients:
        key_holder.receive_join(sent(client.join(offer, model)))
    roster = sent(key_holder.close_roster())

    # 4. Each client seals its update for exactly this roster; 5. the aggregator checks it and adds it.
    aggregator.open(offer, roster)
    for client, update, weight in zip(clients, updates, weights, strict=True):
        aggregator.receive(sent(client.contribute(roster, update, weight)))
    encrypted_sum = sent(aggregator.close())

    # 6. The key holder verifies, consumes the step, decrypts once, checks and releases; clients divide.
    release = sent(key_holder.release(encrypted_sum))
    average = clients[0].accept(release)

    return _result(release, average, roles, observer)


def _result(
    release: Release, average: Average, roles: Roles, observer: Observer, left_out: tuple[int, ...] = ()
) -> RoundResult:
    return RoundResult(
        average.values,
        release.sums,
        average.error_bound,
        average.total_weight,
        average.contributors,
        tuple(client.clipped for client in roles.clients),
        dict(observer.clock.stages),
        dict(observer.message_bytes),
        dict(observer.clock.parts),
        observer.bytes_up,
        observer.bytes_down,
        left_out,
    )


def _check_inputs(
    updates: Sequence[NDArray[np.floating]], weights: Sequence[int] | None, plan: RoundPlan, quorum: int
) -> Sequence[int]:
    """Refuse inputs that would fail later, before any key is made."""
    if len(updates) > plan.max_clients:
        raise PlanError(f"updates: expected at most {plan.max_clients} clients, got {len(updates)}; plan for more")
    if len(updates) < quorum:
        raise QuorumNotMet(f"updates: expected at least {quorum} (the quorum), got {len(updates)}; wait for more")
    if weights is None:
        weights = [1] * len(updates)
    if len(weights) != len(updates):
        raise WeightOutOfRange(f"weights: expected one for each of {len(updates)} updates, got {len(weights)}")
    for update, weight in zip(updates, weights, strict=True):
        packing.check_update(update, plan)
        packing.check_weight(weight, plan)
    return weights

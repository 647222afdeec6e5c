"""One robust round, from offer to release, in one process: `protocol.py` with a verdict before the contributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.errors import LateOutlier, LeftOut, RuleRefused
from secagg.messages import AbortReason, LateSeed, Offer, Release
from secagg.release import Average
from secagg.robust_aggregator import RobustAggregator
from secagg.robust_client import RobustClient
from secagg.robust_keyholder import RobustKeyHolder
from secagg.session import Roles


@dataclass(frozen=True)
class Played:
    """What a robust round came to. kept, left_out: positions in the updates, ascending."""

    release: Release
    average: Average
    kept: tuple[int, ...]
    left_out: tuple[int, ...]


def play(roles: Roles, step: int, model: bytes, updates: Sequence[NDArray[np.floating]]) -> Played:
    """A round of robust roles. updates: one for each of `roles.clients`, in their order.

    Raises `RuleRefused`, `LateOutlier`, `SumRefused` or another `SecAggError`. Every role is then idle again, and the
    updates that were shown cannot be shown again.
    """
    try:
        release, kept = _released(roles, step, model, updates)
        averages = [roles.clients[index].accept(release) for index in kept]
    except BaseException as error:
        _abandon(roles, error)
        raise
    return _played(release, averages[0], kept, len(updates))


def play_once(roles: Roles, model: bytes, updates: Sequence[NDArray[np.floating]]) -> Played:
    """As `play`, for roles that serve one round: one client divides, as in `protocol.run_round` of a plain round."""
    release, kept = _released(roles, 1, model, updates)
    return _played(release, roles.clients[kept[0]].accept(release), kept, len(updates))


def _played(release: Release, average: Average, kept: Sequence[int], count: int) -> Played:
    return Played(release, average, tuple(kept), tuple(index for index in range(count) if index not in kept))


def _released(
    roles: Roles, step: int, model: bytes, updates: Sequence[NDArray[np.floating]]
) -> tuple[Release, list[int]]:
    """The release, and the positions of those who contributed."""
    key_holder, aggregator, sent = roles.key_holder, roles.aggregator, roles.sent
    clients = [each for each in roles.clients if isinstance(each, RobustClient)]
    assert isinstance(key_holder, RobustKeyHolder) and isinstance(aggregator, RobustAggregator)
    assert len(clients) == len(roles.clients) == len(updates)

    # 1. The key holder offers a round with two keys; the aggregator says to which key sketches are sealed.
    offer: Offer = sent(key_holder.open(step, model))
    intake = sent(aggregator.prepare(offer))

    # 2. Each client joins with a sketch of its update.
    for client, update in zip(clients, updates, strict=True):
        join, sketch = client.join_with_sketch(offer, model, update, intake)
        key_holder.receive_join(sent(join))
        aggregator.receive_sketch(sent(sketch))

    # 3. The aggregator multiplies; the key holder applies the rule and closes the roster over those who pass.
    roster = sent(key_holder.judge(sent(aggregator.multiply())))
    aggregator.open(offer, roster)

    # 4. Only they contribute.
    kept = []
    for index, client in enumerate(clients):
        try:
            aggregator.receive(sent(client.contribute(roster)))
        except LeftOut:
            client.abort()
        else:
            kept.append(index)

    # 5. A second look under a seed that depends on every contribution, unless a sketch is the update itself.
    if key_holder.looks == 2:
        late_seed: LateSeed = sent(key_holder.reveal(sent(aggregator.tally())))
        aggregator.reopen(late_seed)
        for index in kept:
            aggregator.receive_sketch(sent(clients[index].sketch_again(late_seed)))
        key_holder.judge_again(sent(aggregator.multiply()))

    # 6. The sketch of the sum must be exactly the sum of the sketches.
    return sent(key_holder.release(sent(aggregator.close()))), kept


def _abandon(roles: Roles, error: BaseException) -> None:
    """Bring every role back to idle; clients get the key holder's signed abort where it can still give one."""
    outlier = isinstance(error, RuleRefused | LateOutlier)
    abort = None
    if roles.key_holder.state.value != "idle":
        abort = roles.key_holder.abort(AbortReason.OUTLIER if outlier else AbortReason.ABANDONED)
    if roles.aggregator.state.value != "idle":
        roles.aggregator.abort(abort)
    for client in roles.clients:
        if client.state.value != "idle":
            client.abort(abort)

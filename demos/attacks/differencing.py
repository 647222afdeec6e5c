"""Attack 3: two sums that differ by one client.

There are three ways. Under one key: decrypt S, then S without the victim. Under two keys: claim that the round failed,
collect the same updates again without the victim, and subtract. With new training: let the others train again from the
same model, which gives nearly the same updates. In each case every single decryption looks legitimate.

What stops it here: the key holder opens one sum per step, under any key, and its ledger keeps this across restarts. A
sum without the victim is uniformly random. A client's journal admits an update to one roster only, and a model to one
set of members, unless the client's operator consented to more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demos.attacks import federation, stock
from demos.attacks.federation import VICTIM, Collected, Federation
from demos.attacks.verdict import Attack, Control, Loot, Shipped, correlation, exposes, judge, largest_error
from secagg.arrays import F64
from secagg.messages import AbortReason


def one_key_control() -> Control:
    """S and S - v under the stock key holder's one key."""
    target = stock.StockAggregation()
    updates = stock.updates(federation.CLIENTS)
    vectors = [target.encrypt(update) for update in updates]
    total = stock.added(vectors)
    everyone = target.release(total, len(vectors)) * len(vectors)
    others = target.release(total - vectors[VICTIM], len(vectors) - 1) * (len(vectors) - 1)
    return _difference_control(largest_error(everyone - others, updates[VICTIM]))


def after_abort_control() -> Control:
    """The same updates under a second key, without the victim."""
    updates = stock.updates(federation.CLIENTS)
    others = [update for i, update in enumerate(updates) if i != VICTIM]
    sums = []
    for round_updates in (updates, others):
        target = stock.StockAggregation()  # a fresh key for each round changes nothing
        total = stock.added([target.encrypt(update) for update in round_updates])
        sums.append(target.release(total, 1))
    return _difference_control(largest_error(sums[0] - sums[1], updates[VICTIM]))


def _difference_control(error: float) -> Control:
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's update with max error {error:.1e}")


def one_key() -> Shipped:
    """S and S - v in both orders, and the same step opened a second time."""

    def second_sum() -> Loot:
        cast, collected = _collected()
        total = cast.honest_sum(collected)
        victim = cast.residues(collected.contributions[VICTIM])
        everyone = cast.key_holder.release(cast.signed_sum(collected, total))
        others = cast.key_holder.release(cast.signed_sum(collected, cast.subtracted(total, victim)))
        return Loot(cast.estimate(everyone.sums - others.sums), cast.victim)

    def without_victim_first() -> Loot:
        cast, collected = _collected()
        victim = cast.residues(collected.contributions[VICTIM])
        residues = cast.subtracted(cast.honest_sum(collected), victim)
        residues = cast.added(residues, cast.missing_weight(len(cast.clients) - 1))
        others = cast.key_holder.release(cast.signed_sum(collected, residues))
        return Loot(cast.estimate(others.sums), cast.victim)

    def same_step_again() -> Loot:
        cast, collected = _collected()
        everyone = cast.key_holder.release(cast.signed_sum(collected, cast.honest_sum(collected)))
        cast.key_holder.open(collected.offer.header.step, collected.offer.header.model)
        return Loot(cast.estimate(everyone.sums), cast.victim)

    return judge([second_sum, without_victim_first, same_step_again])


def after_abort() -> Shipped:
    """A lying key holder opens the sum, signs an abort, and asks the others for the same updates again."""

    def retry(signed: bool) -> Loot:
        cast = Federation()
        return _without_victim(cast, cast.updates, signed)

    return judge([lambda: retry(signed=True), lambda: retry(signed=False)])


def retrained_control() -> Control:
    """The same protocol at clients whose operators switched the rule about models off."""
    cast = Federation(model_repeats=None)
    loot = _without_victim(cast, _trained_again(cast), signed=True)
    hit = correlation(loot.estimate, loot.victim)
    return Control("clients that consented", exposes(loot.estimate, loot.victim), f"an estimate correlated {hit:.2f}")


def retrained() -> Shipped:
    """As `after_abort`, but the others train again, as they would in an honest retry without the victim."""

    def retry(signed: bool) -> Loot:
        cast = Federation(model_repeats=0)
        return _without_victim(cast, _trained_again(cast), signed)

    return judge([lambda: retry(signed=True), lambda: retry(signed=False)])


def _trained_again(cast: Federation) -> list[F64]:
    """Updates of a second training from the same model: each differs from the first by 5 % of its length."""
    noise = np.random.default_rng()
    return [update + noise.normal(0.0, 0.05 * float(update.std()), update.size) for update in cast.updates]


def _without_victim(cast: Federation, updates: Sequence[F64], signed: bool) -> Loot:
    """Open a round in secret, declare it failed, collect `updates` of all others again, and subtract."""
    collected = cast.collect()
    everyone = cast.opened_in_secret(collected, cast.honest_sum(collected))
    abort = cast.key_holder.abort(AbortReason.ABANDONED)
    for client in cast.clients:
        client.abort(abort if signed else None)
    offer = cast.key_holder.open(step=2, model=bytes(32))
    others = cast.clients[VICTIM + 1 :]
    for client in others:
        cast.key_holder.receive_join(client.join(offer, bytes(32)))
    roster = cast.key_holder.close_roster()
    sent = [client.contribute(roster, u) for client, u in zip(others, updates[VICTIM + 1 :], strict=True)]
    again = Collected(offer, roster, tuple(sent))
    release = cast.key_holder.release(cast.signed_sum(again, cast.honest_sum(again)))
    return Loot(cast.estimate(everyone - release.sums), cast.victim)


def _collected() -> tuple[Federation, Collected]:
    cast = Federation()
    return cast, cast.collect()


ATTACKS = (
    Attack("differencing-one-key", "decrypt the sum, then the sum without the victim", one_key_control, one_key),
    Attack(
        "differencing-after-abort",
        "call the round failed and collect the same updates again without the victim",
        after_abort_control,
        after_abort,
    ),
    Attack(
        "differencing-after-retraining",
        "call the round failed and let the others train again from the same model, without the victim",
        retrained_control,
        retrained,
    ),
)

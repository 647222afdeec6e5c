"""Attack 5, substitutions: a contribution from another round, under another key, for another model.

Each of these is a valid ciphertext, and a stock server has nothing to compare it with.

What stops it here: every signature covers session, round, step, plan, public key, model and roster. Each party compares
these with its own values before it uses anything else in the message.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from demos.attacks import federation, stock
from demos.attacks.federation import COLLUDER, VICTIM, Collected, Federation
from demos.attacks.verdict import Attack, Control, Loot, Shipped, judge, largest_error
from secagg.arrays import F64
from secagg.ckks import generate_keys
from secagg.messages import Offer
from secagg.transcript import public_key_hash, signed_bytes

OTHER_MODEL = b"\x01" * 32


def stale_control() -> Control:
    """One long-lived key: last round's sum with the victim's new ciphertext added, minus last round's average."""
    target = stock.StockAggregation()
    first = [target.encrypt(update) for update in stock.updates(federation.CLIENTS)]
    old_sum = stock.added(first)
    released = target.release(old_sum, len(first)) * len(first)
    fresh = stock.updates(1)[0]
    stale = target.release(old_sum + target.encrypt(fresh), len(first)) * len(first)
    error = largest_error(stale - released, fresh)
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's new update with max error {error:.1e}")


def stale() -> Shipped:
    """Last round's contribution; its sum plus the victim's new contribution; its header with this round's sum."""

    def contribution_of_last_round() -> Loot:
        cast, first, second = _two_rounds()
        cast.aggregator.open(second.offer, second.roster)
        cast.aggregator.receive(first.contributions[VICTIM])
        return _released(cast)

    def sum_of_last_round() -> Loot:
        cast, first, second = _two_rounds()
        victim = cast.residues(second.contributions[VICTIM])
        residues = cast.added(cast.honest_sum(first), victim)
        release = cast.key_holder.release(cast.signed_sum(second, residues))
        return Loot(cast.estimate(release.sums), cast.victim)

    def signed_sum_of_last_round() -> Loot:
        cast, first, second = _two_rounds()
        message = cast.signed_sum(first, cast.honest_sum(second))
        release = cast.key_holder.release(message)
        return Loot(cast.estimate(release.sums), cast.victim)

    return judge([contribution_of_last_round, sum_of_last_round, signed_sum_of_last_round])


def wrong_key_control() -> Control:
    """The server gives clients its own public key and calls it the federation's."""
    attacker = stock.StockAggregation()
    victim = stock.updates(1)[0]
    error = largest_error(attacker.release(attacker.load(attacker.encrypt(victim).serialize()), 1), victim)
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's update with max error {error:.1e}")


def wrong_key() -> Shipped:
    """An offer with the attacker's key: unchanged otherwise, with a matching header, and signed by the attacker."""
    attacker_key, secret_key = generate_keys(federation.SMALL)

    def given(rehashed: bool, signed: bool, through_bytes: bool) -> Loot:
        cast = Federation()
        offer = replace(cast.key_holder.open(1, bytes(32)), public_key=attacker_key)
        if rehashed:
            offer = replace(offer, header=replace(offer.header, key=public_key_hash(attacker_key)))
        if signed:
            offer = replace(offer, signature=cast.server.sign(signed_bytes(offer)))
        received = cast.sent(offer) if through_bytes else offer
        assert isinstance(received, Offer)
        cast.clients[VICTIM].join(received, bytes(32))
        return cast.taken()

    def contribution_under_the_other_key() -> Loot:
        cast = Federation()
        collected = cast.collect()
        header = replace(collected.contributions[COLLUDER].header, key=public_key_hash(attacker_key))
        return _renamed(cast, collected, header.key, header.model)

    del secret_key  # the attacker would decrypt contributions with it, but no client makes one
    return judge(
        [
            lambda: given(rehashed=False, signed=False, through_bytes=True),
            lambda: given(rehashed=False, signed=False, through_bytes=False),
            lambda: given(rehashed=True, signed=False, through_bytes=True),
            lambda: given(rehashed=True, signed=True, through_bytes=True),
            contribution_under_the_other_key,
        ]
    )


def wrong_model_control() -> Control:
    """One client still trains last week's model; its update goes into this week's average unnoticed."""
    target = stock.StockAggregation()
    updates = stock.updates(federation.CLIENTS)
    intended = np.mean(updates, axis=0)
    for_another_model = stock.updates(1)[0]
    mixed: list[F64] = [*updates[:COLLUDER], for_another_model]
    average = target.release(stock.added([target.encrypt(update) for update in mixed]), len(mixed))
    error = largest_error(average, intended)
    return Control(stock.NAME, error > 1e-3, f"released without an error; the average is off by up to {error:.3f}")


def wrong_model() -> Shipped:
    """A contribution that names another model, and a client that is offered one it does not have."""

    def named() -> Loot:
        cast = Federation()
        collected = cast.collect()
        return _renamed(cast, collected, collected.offer.header.key, OTHER_MODEL)

    def offered() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, OTHER_MODEL)
        cast.clients[VICTIM].join(offer, bytes(32))
        return cast.taken()

    return judge([named, offered])


def _two_rounds() -> tuple[Federation, Collected, Collected]:
    """An honest first round, released, and a second one that has been collected."""
    cast = Federation()
    first = cast.collect(step=1)
    release = cast.key_holder.release(cast.signed_sum(first, cast.honest_sum(first)))
    for client in cast.clients:
        client.accept(release)
    cast.updates = cast.fresh_updates()
    return cast, first, cast.collect(step=2)


def _renamed(cast: Federation, collected: Collected, key: bytes, model: bytes) -> Loot:
    """The colluder's contribution with another key or model in its header, signed by the colluder."""
    own = collected.contributions[COLLUDER]
    changed = replace(own, header=replace(own.header, key=key, model=model))
    message = cast.sent(replace(changed, signature=cast.identities[COLLUDER].sign(signed_bytes(changed))))
    cast.aggregator.open(collected.offer, collected.roster)
    cast.aggregator.receive(message)
    return _released(cast)


def _released(cast: Federation) -> Loot:
    release = cast.key_holder.release(cast.aggregator.close())
    return Loot(cast.estimate(release.sums), cast.victim)


ATTACKS = (
    Attack("stale-round", "send last round's sum again, with the victim's new ciphertext added", stale_control, stale),
    Attack("wrong-public-key", "give clients the attacker's public key", wrong_key_control, wrong_key),
    Attack("wrong-model", "mix in an update that was trained for another model", wrong_model_control, wrong_model),
)

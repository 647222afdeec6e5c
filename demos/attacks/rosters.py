"""Attack 5, rosters: fewer clients in the sum than the clients were told, or a different roster for each client.

In a sum of the victim and one colluder, the colluder subtracts its own update and has the victim's. A stock client
cannot tell who else is in the sum.

What stops it here: the key holder and every client each require a quorum of their own. The key holder signs the roster,
which contains every member's signed join. A client accepts one roster per offer and derives its masks from the hash of
that roster, so the masks of contributions to different rosters do not cancel.
"""

from __future__ import annotations

from dataclasses import replace

from demos.attacks import federation, stock
from demos.attacks.federation import COLLUDER, QUORUM, VICTIM, Collected, Federation
from demos.attacks.verdict import Attack, Control, Loot, Shipped, judge, largest_error
from secagg.arrays import F64
from secagg.masks import AgreementKey
from secagg.messages import Contribution, Join, Offer, Roster, RosterEntry, SignedHash
from secagg.transcript import message_hash, signed_bytes


def below_quorum_control() -> Control:
    """The victim and one colluder, announced as a round of five."""
    target = stock.StockAggregation()
    victim, colluder = stock.updates(2)
    total = target.encrypt(victim) + target.encrypt(colluder)
    error = largest_error(target.release(total, 1) - colluder, victim)
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's update with max error {error:.1e}")


def below_quorum() -> Shipped:
    """One signer too few in the sum, too few joins, a roster or a quorum too small, and a sum closed too early."""

    def signers_missing() -> Loot:
        cast, collected = _collected()
        crowd = (collected.contributions[VICTIM], collected.contributions[COLLUDER])
        residues = cast.added(*(cast.residues(contribution) for contribution in crowd))
        parts = [SignedHash(c.payload_hash, c.signature) for c in collected.in_roster_order()][: QUORUM - 1]
        release = cast.key_holder.release(cast.signed_sum(collected, residues, parts))
        return Loot(cast.estimate(release.sums) - cast.updates[COLLUDER], cast.victim)

    def too_few_joined() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        for client in cast.clients[: QUORUM - 1]:
            cast.key_holder.receive_join(client.join(offer, bytes(32)))
        cast.key_holder.close_roster()
        return cast.taken()

    def lying_roster() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        joins = cast.join_all(offer)
        cast.clients[VICTIM].contribute(signed_roster(cast, offer, [joins[VICTIM], joins[COLLUDER]]), cast.victim)
        return cast.taken()

    def lower_quorum_offered() -> Loot:
        cast = Federation()
        offer = replace(cast.key_holder.open(1, bytes(32)), quorum=2)
        offer = replace(offer, signature=cast.authority.sign(signed_bytes(offer)))
        cast.clients[VICTIM].join(offer, bytes(32))
        return cast.taken()

    def closed_early() -> Loot:
        cast, collected = _collected()
        cast.aggregator.open(collected.offer, collected.roster)
        for contribution in collected.contributions[: QUORUM - 1]:
            cast.aggregator.receive(contribution)
        cast.aggregator.close()
        return cast.taken()

    return judge([signers_missing, too_few_joined, lying_roster, lower_quorum_offered, closed_early])


def split_control() -> Control:
    """The victim was told of five clients, but the opened sum holds only the victim and a colluder."""
    target = stock.StockAggregation()
    updates = stock.updates(federation.CLIENTS)
    vectors = [target.encrypt(update) for update in updates]  # all five contribute, as all five were told
    opened = target.release(stock.added([vectors[VICTIM], vectors[COLLUDER]]), 1)
    error = largest_error(opened - updates[COLLUDER], updates[VICTIM])
    return Control(stock.NAME, error <= stock.DECODING_ERROR, f"the victim's update with max error {error:.1e}")


def split() -> Shipped:
    """A lying key holder: another roster for the victim, two for one client, or its own join in a client's name."""

    def different_rosters() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        joins = cast.join_all(offer)
        everyone = cast.key_holder.close_roster()
        # The same members and one less: every client finds its own join in what it is given.
        fewer = signed_roster(cast, offer, joins[:COLLUDER])
        sent = [
            client.contribute(fewer if i == VICTIM else everyone, update)
            for i, (client, update) in enumerate(zip(cast.clients, cast.updates, strict=True))
        ]
        collected = Collected(offer, everyone, tuple(sent))
        opened = cast.opened_in_secret(collected, cast.honest_sum(collected))
        return Loot(cast.estimate(opened), cast.victim, accepted=False)

    def victim_in_a_crowd_of_its_own() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        joins = cast.join_all(offer)
        crowd = signed_roster(cast, offer, [joins[VICTIM], *joins[2:]])
        collected = Collected(offer, crowd, (cast.clients[VICTIM].contribute(crowd, cast.victim),))
        opened = cast.opened_in_secret(collected, cast.honest_sum(collected))
        return Loot(cast.estimate(opened), cast.victim, accepted=False)

    def two_rosters_for_one_client() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        joins = cast.join_all(offer)
        victim = cast.clients[VICTIM]
        first = victim.contribute(signed_roster(cast, offer, joins), cast.victim)
        second = victim.contribute(signed_roster(cast, offer, joins[:COLLUDER]), cast.victim)
        # Without the refusal, the attacker would have two equations: c0 differs by the masks alone, and c1 is fresh.
        return Loot(_difference(cast, first, second), cast.victim)

    def join_replaced() -> Loot:
        cast = Federation()
        offer = cast.key_holder.open(1, bytes(32))
        joins = cast.join_all(offer)
        own = AgreementKey()  # with it, the lying key holder would know the victim's mask with client 1
        joins[1] = replace(joins[1], agreement_key=own.public)
        cast.clients[VICTIM].contribute(signed_roster(cast, offer, joins), cast.victim)
        return cast.taken()

    return judge(
        [different_rosters, victim_in_a_crowd_of_its_own, two_rosters_for_one_client, join_replaced],
        note="the lying key holder decrypts both sums without its checks and gets uniform residues",
    )


def signed_roster(cast: Federation, offer: Offer, joins: list[Join]) -> Roster:
    """A roster of any joins to the offer, signed by a lying key holder."""
    entries = tuple(
        RosterEntry(join.header.sender, join.agreement_key, join.sealed_seed, join.seen, join.signature)
        for join in sorted(joins, key=lambda join: join.header.sender)
    )
    header = offer.header.reply(cast.authority.key, previous=message_hash(offer))
    return Roster(header, entries, cast.authority.sign(signed_bytes(Roster(header, entries, b""))))


def _collected() -> tuple[Federation, Collected]:
    cast = Federation()
    return cast, cast.collect()


def _difference(cast: Federation, first: Contribution, second: Contribution) -> F64:
    residues = cast.subtracted(cast.residues(first), cast.residues(second))
    return cast.estimate(cast.opened(residues, cast.stolen_key()))


ATTACKS = (
    Attack("below-quorum", "open a sum of the victim and one colluder", below_quorum_control, below_quorum),
    Attack("split-rosters", "give different clients different rosters", split_control, split),
)

"""Attacks on robust rounds, each with the control in which it succeeds: on the first design, or with one thing known.

Clients that lie are real roles whose update was exchanged at the moment that the attack needs it.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from robust_peers import COUNT, IDENTITY, RobustPeers, alike, robust_federation
from simulator import MODEL

from secagg import gram, masks, robust_keyholder, sketches
from secagg.blocks import empty_block, payload_hash, read_block, write_block
from secagg.errors import BadSeal, BadSignature, LateOutlier, PeerError, SumRefused
from secagg.masks import expand_key
from secagg.ring import ring_of
from secagg.robust import check_total, plausible
from secagg.sketchkey import generate_sketch_keys
from secagg.sketchplan import plan_sketches
from secagg.transcript import hashes_hash, message_hash, signed_bytes

ATTACKER = 2


# --- a sketch that does not belong to its contribution ----------------------------------------------------------------


def exchange(client, update):
    """From now on the client contributes, and sketches, another update than the one that it has shown."""
    client._shown().update = update


def mismatched(federation, step, draw, peers):
    """A round in which one member contributes something else than it showed; how much else varies."""
    updates = alike(federation, step)
    evil = updates[ATTACKER].copy()
    if step % 2:
        evil = -4 * evil
    else:  # one value by one quantisation step: the smallest difference there is
        place = int(draw.integers(0, evil.shape[0]))
        evil[place] += (-1) ** int(draw.integers(0, 2)) * federation.plan.step
    peers.judged(step, updates)
    shown = updates[ATTACKER]
    for index, client in enumerate(peers.clients):
        if index == ATTACKER:
            exchange(client, evil)
        peers.aggregator.receive(peers.sent(client.contribute(peers.roster)))
    if peers.key_holder.looks == 2:
        exchange(peers.clients[ATTACKER], shown)  # it goes on showing the harmless one
        peers.looked_again()
    return peers.sent(peers.aggregator.close())


def refused(trials, length):
    federation = robust_federation(4, length)
    peers, draw = RobustPeers.of(federation), np.random.default_rng(length)
    found = 0
    for step in range(1, trials + 1):
        encrypted_sum = mismatched(federation, step, draw, peers)
        with pytest.raises(SumRefused, match=r"^refused$"):
            peers.key_holder.release(encrypted_sum)
        found += 1
        peers.reset()
    return found


@pytest.mark.parametrize(("length", "trials"), [(IDENTITY, 2), (COUNT, 2)], ids=["identity", "count"])
def test_a_sketch_that_does_not_belong_to_its_contribution_costs_the_round(length, trials):
    assert refused(trials, length) == trials


@pytest.mark.long
@pytest.mark.parametrize("length", [IDENTITY, COUNT], ids=["identity", "count"])
def test_200_sketches_that_do_not_belong_to_their_contribution_are_refused(length):
    assert refused(200, length) == 200


# --- hiding in the kernel of a sketch ---------------------------------------------------------------------------------


def kernel_vectors(sketch, seeds, length):
    """Integer vectors that every count sketch of `seeds` maps to zero: cycles in the graph of the sums they share.

    A value is an edge between its sums, and the two sketches are the two sides; with one seed, two values of one sum.
    """
    degree = sketch.params.degree

    placed = [sketches.places(sketch, seed) for seed in seeds]
    if len(seeds) == 1:
        ((place, sign),) = placed
        first, found = {}, []
        for i in range(length):
            j = first.setdefault(int(place[i]), i)
            if j != i and len(found) < 400:
                vector = np.zeros(length, dtype=np.int64)
                vector[i], vector[j] = sign[i], -sign[j]
                found.append(vector)
        return found
    return cycles(*placed, degree)


def cycles(left, right, degree):
    """A vector for each fundamental cycle, whose signs let every sum on the way cancel, but perhaps not the last."""
    (one, sign_one), (two, sign_two) = left, right
    edges = [(int(a), degree + int(b)) for a, b in zip(one, two, strict=True)]
    neighbours: dict[int, list[tuple[int, int]]] = {}
    for i, (a, b) in enumerate(edges):
        neighbours.setdefault(a, []).append((b, i))
        neighbours.setdefault(b, []).append((a, i))
    parent: dict[int, tuple[int, int]] = {}
    depth: dict[int, int] = {}
    tree: set[int] = set()
    for root in neighbours:
        if root in depth:
            continue
        depth[root], queue = 0, [root]
        for node in queue:
            for other, i in neighbours[node]:
                if other not in depth:
                    parent[other], depth[other] = (node, i), depth[node] + 1
                    tree.add(i)
                    queue.append(other)
    for i, (a, b) in enumerate(edges):
        if i in tree:
            continue
        down, up, x, y = [], [], a, b
        while x != y:
            if depth[x] >= depth[y]:
                x, edge = parent[x]
                down.append(edge)
            else:
                y, edge = parent[y]
                up.append(edge)
        vector, at = np.zeros(len(edges), dtype=np.int64), b
        vector[i] = 1
        for before, edge in pairwise([i, *up, *down[::-1]]):
            signs = sign_two if at >= degree else sign_one
            vector[edge] = -vector[before] * signs[before] * signs[edge]
            at = edges[edge][0] if at == edges[edge][1] else edges[edge][1]
        yield vector


def poison_in(sketch, seeds, plan):
    """An integer vector, five times as long as a harmless update, that the sketches of `seeds` do not see."""
    total = np.zeros(plan.length, dtype=np.int64)
    for vector in kernel_vectors(sketch, seeds, plan.length):
        if all(not sketches.sketch_of_sums(vector, sketch, seed).any() for seed in seeds):
            total += vector
        if np.abs(total).sum() > 200:
            break
    assert total.any()
    scale = int(0.9 * plan.max_value / np.abs(total).max())
    return total * scale


def late_poison_round(known, monkeypatch):
    """A round against the kernel of the first sketch, and, where the late seed is `known`, of the second as well."""
    federation = robust_federation(5, 16_000)
    plan, sketch = federation.plan, plan_sketches(federation.plan)
    fixed = b"what everybody knew".ljust(32)
    if known:
        monkeypatch.setattr(sketches, "late_seed", lambda *parts: fixed)
    peers = RobustPeers.of(federation)
    updates = alike(federation, 1)
    peers.offer = peers.sent(peers.key_holder.open(1, MODEL))
    early = sketches.early_seed(message_hash(peers.offer))
    poison = poison_in(sketch, [early, fixed] if known else [early], plan)
    updates[ATTACKER] = updates[ATTACKER] * 0.9 + poison * plan.step
    assert np.abs(updates[ATTACKER]).max() > 3 * np.abs(updates[0]).max() / 2
    peers.intake = peers.sent(peers.aggregator.prepare(peers.offer))
    for client, update in zip(peers.clients, updates, strict=True):
        join, shown = client.join_with_sketch(peers.offer, MODEL, update, peers.intake)
        peers.key_holder.receive_join(peers.sent(join))
        peers.aggregator.receive_sketch(peers.sent(shown))
    peers.roster = peers.sent(peers.key_holder.judge(peers.sent(peers.aggregator.multiply())))
    peers.aggregator.open(peers.offer, peers.roster)
    assert len(peers.roster.entries) == 5  # the first sketch sees nothing of it
    for client in peers.clients:
        peers.aggregator.receive(peers.sent(client.contribute(peers.roster)))
    return federation, peers, poison


def test_an_update_in_the_kernel_of_the_first_sketch_is_found_by_the_second_and_named(monkeypatch):
    federation, peers, _ = late_poison_round(False, monkeypatch)
    with pytest.raises(LateOutlier) as found:
        peers.looked_again()
    assert found.value.organisations == (federation.banks[ATTACKER].member.organisation,)


def test_a_seed_that_is_known_beforehand_lets_the_poison_through(monkeypatch):
    """The control: the attacker knew both seeds when it chose its update."""
    _, peers, poison = late_poison_round(True, monkeypatch)
    peers.looked_again()
    release = peers.key_holder.release(peers.sent(peers.aggregator.close()))
    assert release.contributors == 5
    assert float(np.dot(release.sums, poison)) > 0.5 * float(np.dot(poison, poison))


def test_grinding_contributions_without_k_finds_no_weaker_seed_than_chance():
    """64 tries of a contribution's hash, the best for a guess of k: for the true k it is one seed among others."""
    federation = robust_federation(5, COUNT)
    sketch = plan_sketches(federation.plan)
    draw = np.random.default_rng(20)
    vector = np.where(draw.random(COUNT) < 0.01, 1_000, 0)
    length = float(np.dot(vector, vector))

    def seen(secret, tries):
        hashes = hashes_hash((bytes(32), tries.to_bytes(32, "little")))
        shown = sketches.sketch_of_sums(vector, sketch, sketches.late_seed(secret, bytes(32), hashes))
        return float(np.dot(shown, shown)) / length

    guess, ground, chance = b"a guess of k".ljust(32), [], []
    for index in range(40):
        secret = index.to_bytes(32, "big")
        tries = range(1_000 * index, 1_000 * index + 64)
        best = min(tries, key=lambda each: seen(guess, each))
        assert seen(guess, best) < 0.98  # for the guess, grinding does help
        ground.append(seen(secret, best))
        chance.append(seen(secret, 0))
    spread = np.sqrt(2 / sketch.params.degree)
    assert abs(np.mean(ground) - 1) < 7 * spread / np.sqrt(40)
    assert abs(np.mean(chance) - 1) < 7 * spread / np.sqrt(40)


# --- a multiple of a victim's sketch ----------------------------------------------------------------------------------


def with_multiple(peers, encrypted_sum, block, factor):
    """The aggregator adds `factor` times a sketch to the sum of sketches, and signs."""
    sketch = plan_sketches(peers.federation.plan)
    total = empty_block(sketch.params)
    read_block(encrypted_sum.sketches, 0, sketch.params, total)
    ring = ring_of(sketch.params)
    for _ in range(abs(factor)):
        (ring.add if factor > 0 else ring.subtract)(total, block)
    payload = bytearray(sketch.bytes)
    write_block(total, 0, sketch.params, np.frombuffer(payload, dtype=np.uint8))
    changed = replace(encrypted_sum, sketches=payload, sketches_hash=payload_hash(payload))
    return replace(changed, signature=peers.federation.server.sign(signed_bytes(changed)))


@pytest.mark.parametrize("factor", [1, -1, 2])
def test_a_multiple_of_a_victims_sketch_in_the_sum_of_sketches_is_refused(factor):
    federation = robust_federation(4)
    peers = RobustPeers.of(federation)
    peers.contributed(1, alike(federation, 21))
    victim = peers.aggregator._sketches[federation.banks[0].key].block
    encrypted_sum = peers.sent(peers.aggregator.close())
    with pytest.raises(SumRefused):
        peers.key_holder.release(with_multiple(peers, encrypted_sum, victim, factor))


def test_under_one_key_the_multiple_fits_both_sums_and_the_release_shows_the_victim():
    """The control, on the first design: the key of the contributions is that of the sketches."""
    federation = robust_federation(3)
    sketch, ring = plan_sketches(federation.plan), ring_of(plan_sketches(federation.plan).params)
    key, secret = generate_sketch_keys(sketch.params)
    updates = [federation.quantised(each) for each in alike(federation, 22)]
    shown = []
    for each in updates:
        block = empty_block(sketch.params)
        read_block(gram.seal_sketch(each, key, sketch), 0, sketch.params, block)
        shown.append(block)
    total, sums = shown[0].copy(), None
    for block in shown[1:]:
        ring.add(total, block)
    ring.add(total, shown[0])  # the victim's sketch once more, in the sum of sketches and in the masked sum alike
    payload = bytearray(sketch.bytes)
    write_block(total, 0, sketch.params, np.frombuffer(payload, dtype=np.uint8))
    sums = gram.open_sum(payload, 3, secret, sketch)
    assert np.array_equal(sketches.sketch_of_sums(sums, sketch, bytes(32)), sums)  # so the exact check passes
    assert np.array_equal(sums - np.sum(updates, axis=0), updates[0])  # and the victim's update is in the release


# --- sketches on their way --------------------------------------------------------------------------------------------


def test_the_key_holder_cannot_open_a_sketch_that_it_picks_up_on_its_way():
    federation = robust_federation(3)
    peers = RobustPeers.of(federation)
    offer = peers.key_holder.open(1, MODEL)
    intake = peers.aggregator.prepare(offer)
    _, sketch = peers.clients[0].join_with_sketch(offer, MODEL, alike(federation, 23)[0], intake)
    state, offer_hash, sender = peers.key_holder._current(), message_hash(offer), federation.banks[0].key
    with pytest.raises(BadSeal):
        masks.open_sketch(sketch.sealed, state.agreement, sketch.agreement_key, offer_hash, sender, 1)
    # The control: whoever has the aggregator's key reads the residues, and the key holder would read the sketch.
    own = peers.aggregator._agreement
    payload = masks.open_sketch(sketch.sealed, own, sketch.agreement_key, offer_hash, sender, 1)
    plan = plan_sketches(federation.plan)
    shown = gram.open_sum(payload, 1, peers.key_holder._compared().secret, plan)
    assert np.array_equal(shown, federation.quantised(alike(federation, 23)[0]))


def test_a_victims_sealed_sketch_cannot_be_sent_as_ones_own():
    federation = robust_federation(3)
    peers = RobustPeers.of(federation)
    offer = peers.key_holder.open(1, MODEL)
    intake = peers.aggregator.prepare(offer)
    _, victim = peers.clients[0].join_with_sketch(offer, MODEL, alike(federation, 24)[0], intake)
    copied = replace(victim, header=replace(victim.header, sender=federation.banks[1].key))
    with pytest.raises(BadSignature):
        peers.aggregator.receive_sketch(copied)
    signed = replace(copied, signature=federation.banks[1].sign(signed_bytes(copied)))
    with pytest.raises(BadSeal):  # the seal names its sender
        peers.aggregator.receive_sketch(signed)
    peers.aggregator.receive_sketch(victim)


def test_a_client_whose_join_names_another_sketch_is_left_out_alone():
    federation = robust_federation(5)
    peers, updates = RobustPeers.of(federation), alike(federation, 25)
    peers.offer = peers.key_holder.open(1, MODEL)
    intake = peers.aggregator.prepare(peers.offer)
    for index, (client, update) in enumerate(zip(peers.clients, updates, strict=True)):
        join, sketch = client.join_with_sketch(peers.offer, MODEL, update, intake)
        if index == ATTACKER:
            join = replace(join, sketch_hash=bytes(32))
            join = replace(join, signature=federation.banks[index].sign(signed_bytes(join)))
        peers.key_holder.receive_join(join)
        peers.aggregator.receive_sketch(sketch)
    roster = peers.key_holder.judge(peers.aggregator.multiply())
    assert roster.left_out == (federation.banks[ATTACKER].key,)


def test_products_that_the_aggregator_did_not_sign_or_of_other_sketches_are_refused_before_they_are_opened(monkeypatch):
    federation = robust_federation(4)
    peers = RobustPeers.of(federation)
    peers.joined(1, alike(federation, 26))
    products = peers.aggregator.multiply()
    monkeypatch.setattr(robust_keyholder.gram, "open_products", lambda *_: pytest.fail("the key was used"))
    for changed in (
        replace(products, number=2),
        replace(products, parts=products.parts[::-1]),
        replace(products, parts=products.parts[:-1]),
        replace(products, payload_hash=bytes(32)),
        replace(products, payload=bytes(len(products.payload))),
        replace(products, header=replace(products.header, sender=federation.banks[0].key)),
    ):
        with pytest.raises(PeerError):
            peers.key_holder.judge(changed)


# --- what wraps -------------------------------------------------------------------------------------------------------


def test_figures_that_no_honest_sketch_has_are_left_out_before_the_rule_is_asked():
    sketch = plan_sketches(robust_federation(5).plan)
    draw = np.random.default_rng(27)
    vectors = draw.normal(0, 1_000, (5, sketch.width))
    honest = vectors @ vectors.T
    assert plausible(honest, sketch).tolist() == [0, 1, 2, 3, 4]
    for row, column, value in ((1, 1, sketch.norm_limit(5) * 1.01), (1, 1, -1e9), (1, 3, 1e12)):
        changed = honest.copy()
        changed[row, column] = changed[column, row] = value
        left = plausible(changed, sketch).tolist()
        assert 1 not in left and {0, 2, 4} <= set(left)


def test_two_colluders_whose_norms_wrap_gain_no_longer_sum_than_they_show():
    """Two sketches of length about sqrt(Q) / D, at right angles to every honest one, look short: their squares wrap.

    What the matrix says about their sum is true all the same, and a sum that is longer than shown is refused.
    """
    plan = robust_federation(5).plan
    sketch = plan_sketches(plan)
    modulus = sketch.params.modulus // sketch.scale**2
    draw = np.random.default_rng(28)
    honest = [
        np.concatenate([draw.integers(-900, 900, 40), np.zeros(20, dtype=np.int64)]).astype(object) for _ in range(3)
    ]
    root = int(modulus**0.5)
    one, other = np.zeros(60, dtype=object), np.zeros(60, dtype=object)
    one[:40], other[:40] = honest[0][:40], honest[1][:40]
    one[45], other[45] = root, 30_000 - root  # the sum has 30,000 there
    everyone = [*honest, one, other]

    def centred(value):
        return (int(value) + modulus // 2) % modulus - modulus // 2

    seen = np.array([[float(centred((a * b).sum())) for b in everyone] for a in everyone])
    assert seen[3, 3] < float((one * one).sum()) / 2**20  # it wrapped
    total = np.array([int(value) for value in np.sum(everyone, axis=0)], dtype=np.int64)
    sum_of_two = float(((one + other) ** 2).sum())
    assert seen[3:, 3:].sum() == pytest.approx(sum_of_two, rel=1e-6)
    assert check_total(seen, total, sketch)
    hidden = seen.copy()
    hidden[3, 3] = hidden[4, 4] = seen[0, 0]
    hidden[3, 4] = hidden[4, 3] = 0.0
    assert not check_total(hidden, total, sketch)


def test_expansion_keys_of_shifts_and_signs_differ():
    assert expand_key(bytes(32), b"secagg v2 sketch shifts") != expand_key(bytes(32), b"secagg v2 sketch signs")

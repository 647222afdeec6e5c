"""Robust rounds leave out whom the rule finds, average the others exactly, and follow their tables of moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from robust_peers import COUNT, IDENTITY, RobustPeers, alike, robust_federation
from simulator import MODEL, Federation, Peers

import secagg
from secagg import errors, states, wire
from secagg.errors import LeftOut, PlanError, RosterMismatch, RuleRefused, UpdateReused, WrongPlan, WrongState
from secagg.journal import audit_journal
from secagg.messages import (
    AbortReason,
    Intake,
    LateSeed,
    Products,
    RobustJoin,
    RobustOffer,
    RobustRoster,
    RobustSum,
    Sketch,
    Tally,
)
from secagg.robust import Robust
from secagg.robust_protocol import play
from secagg.rules import Rule

LENGTHS = pytest.mark.parametrize("length", [IDENTITY, COUNT], ids=["identity", "count"])


def poisoned(federation, seed, clients):
    """Updates of `clients` clients; client 1 turned its own round, four times as long."""
    updates = alike(federation, seed, clients)
    updates[1] = -4 * updates[1]
    return updates


@LENGTHS
def test_a_round_leaves_out_the_poisoner_and_averages_the_others_exactly(length):
    plan = secagg.plan_round(length=length, max_clients=6)
    updates = poisoned(robust_federation(6, length), 1, 6)
    result = secagg.run_round(updates, plan=plan, robust=Robust())
    assert result.left_out == (1,) and result.contributors == 5 == result.total_weight
    honest = [np.rint(np.clip(update, -1, 1) * (1 / plan.step)) for i, update in enumerate(updates) if i != 1]
    assert np.array_equal(result.sums, np.sum(honest, axis=0).astype(np.int64))
    exact = np.mean([np.clip(update, -1, 1) for i, update in enumerate(updates) if i != 1], axis=0)
    assert np.abs(result.average - exact).max() <= result.error_bound


@pytest.mark.long
@LENGTHS
def test_a_round_of_128_clients_leaves_out_its_five_poisoners(length):
    plan = secagg.plan_round(length=length, max_clients=128)
    updates = alike(robust_federation(4, length), 7, 128)
    attackers = (3, 50, 51, 100, 127)
    for attacker in attackers:
        updates[attacker] = -4 * updates[attacker]
    result = secagg.run_round(updates, plan=plan, robust=Robust())
    assert result.left_out == attackers and result.contributors == 123


@LENGTHS
@pytest.mark.parametrize(
    "rule", [Rule("nnm", 1), Rule("multikrum", 1), Rule("krum", 1), Rule("norm")], ids=lambda rule: rule.name
)
def test_every_rule_runs_on_hidden_products(length, rule):
    plan = secagg.plan_round(length=length, max_clients=6)
    updates = poisoned(robust_federation(6, length), 2, 6)
    if rule.name == "krum":  # keeps one member, and a roster of one would be its update
        with pytest.raises(RuleRefused, match="1 members stay, fewer than the quorum"):
            secagg.run_round(updates, plan=plan, quorum=2, robust=Robust(rule))
        return
    assert 1 in secagg.run_round(updates, plan=plan, quorum=2, robust=Robust(rule)).left_out


@LENGTHS
def test_when_nobody_stands_out_nobody_is_left_out_and_the_sum_is_that_of_a_plain_round(length):
    plan = secagg.plan_round(length=length, max_clients=5)
    updates = alike(robust_federation(5, length), 3, 5)
    robust, plain = (secagg.run_round(updates, plan=plan, robust=each) for each in (Robust(), None))
    assert robust.left_out == () and np.array_equal(robust.sums, plain.sums)
    assert plain.left_out == ()


def test_the_verdict_is_that_of_the_rule_on_plain_sketches():
    """Five sets of five clients, of which 0 to 2 do something else; the selection is compared with exact integers."""
    from secagg.robust import first_look
    from secagg.sketches import integer_sketch
    from secagg.sketchplan import plan_sketches

    federation = robust_federation(5)
    plan, draw = federation.plan, np.random.default_rng(4)
    sketch = plan_sketches(plan)
    for index in range(5):
        updates = alike(federation, 100 + index, 5)
        for attacker in range(int(draw.integers(0, 3))):
            updates[attacker] *= float(draw.choice([-4, 3, 0.01, 10]))
        exact = [integer_sketch(update, plan, sketch, bytes(32)).astype(float) for update in updates]
        matrix = np.array([[float(a @ b) for b in exact] for a in exact])
        try:
            expected = first_look(matrix, sketch, Rule())
        except RuleRefused:
            with pytest.raises(RuleRefused):
                secagg.run_round(updates, plan=plan, robust=Robust())
            continue
        result = secagg.run_round(updates, plan=plan, quorum=2, robust=Robust())
        assert tuple(i for i in range(5) if i not in result.left_out) == expected


@LENGTHS
def test_a_session_goes_on_for_several_steps(length, tmp_path):
    federation = robust_federation(5, length, folder=tmp_path)
    session = federation.session()
    roles = session.roles(federation.terms)
    for step in (1, 2, 3):
        played = play(roles, step, MODEL, poisoned(federation, step, 5))
        assert played.left_out == (1,) and played.kept == (0, 2, 3, 4)
        assert played.average.contributors == 4
    session.ledger.close()
    for index in range(5):
        session.journal(index).close()
        rounds = audit_journal(federation.journal_file(index)).rounds
        assert [each.release is not None for each in rounds] == [index != 1] * 3


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_round_that_leaves_too_few_is_refused_and_every_role_is_idle_again():
    federation = robust_federation(4, quorum=4)
    roles = federation.session().roles(federation.terms)
    with pytest.raises(RuleRefused):
        play(roles, 1, MODEL, poisoned(federation, 5, 4))
    assert {role.state.value for role in (roles.key_holder, roles.aggregator, *roles.clients)} == {"idle"}
    assert roles.key_holder.outcome(1).value == "aborted"
    assert play(roles, 2, MODEL, alike(federation, 6)).left_out == ()


def test_an_update_that_was_shown_is_not_shown_again_not_even_after_an_abort(tmp_path):
    federation = robust_federation(4, quorum=4, folder=tmp_path)
    roles = federation.session().roles(federation.terms)
    updates = poisoned(federation, 7, 4)
    with pytest.raises(RuleRefused):
        play(roles, 1, MODEL, updates)
    with pytest.raises(UpdateReused, match="entered step 1"):
        play(roles, 2, MODEL, [updates[0], *alike(federation, 8, 3)])


def test_an_update_that_was_shown_enters_no_plain_round_either(tmp_path):
    federation = robust_federation(3, folder=tmp_path)
    session = federation.session()
    updates = alike(federation, 9)
    roles = session.roles(federation.terms)
    offer = roles.key_holder.open(1, MODEL)
    intake = roles.aggregator.prepare(offer)
    roles.clients[0].join_with_sketch(offer, MODEL, updates[0], intake)
    roles.clients[0].abort(roles.key_holder.abort())
    plain = session.client(0, replace(federation.terms, robust=None))
    with pytest.raises(UpdateReused):
        plain.check_update(updates[0])


def test_only_the_update_that_was_shown_can_be_contributed():
    federation = robust_federation(4)
    peers, updates = RobustPeers.of(federation), alike(federation, 10)
    peers.judged(1, updates)
    with pytest.raises(errors.LocalError, match="expected the update that was shown"):
        peers.clients[0].contribute(peers.roster, updates[1])
    with pytest.raises(errors.LocalError, match="weights of 1"):
        peers.clients[0].contribute(peers.roster, updates[0], 2)
    peers.clients[0].contribute(peers.roster, updates[0])


def test_whoever_is_left_out_is_told_by_name_and_contributes_nothing():
    federation = robust_federation(5)
    peers = RobustPeers.of(federation)
    peers.judged(1, poisoned(federation, 11, 5))
    assert peers.roster.left_out == (federation.banks[1].key,)
    with pytest.raises(LeftOut):
        peers.clients[1].contribute(peers.roster)
    with pytest.raises(LeftOut):
        peers.clients[1].check_roster(peers.roster)
    forged = replace(peers.roster, left_out=(federation.banks[0].key,))
    with pytest.raises(errors.BadSignature):
        peers.clients[0].contribute(forged)


def both_kinds():
    """The same parties with roles for robust rounds and with roles for plain ones."""
    robust, plain = robust_federation(3), Federation(3, IDENTITY)
    plain.parties, plain.enrolment = robust.parties, robust.enrolment
    return RobustPeers.of(robust), Peers(plain)


def test_roles_that_expect_a_robust_round_refuse_a_plain_offer():
    robust, plain = both_kinds()
    offer = plain.key_holder.open(1, MODEL)
    intake = Intake(offer.header, bytes(32), bytes(64))
    with pytest.raises(WrongPlan, match="expected a robust round, got a plain one"):
        robust.clients[0].join_with_sketch(offer, MODEL, alike(robust.federation, 1)[0], intake)
    with pytest.raises(WrongPlan, match="expected a robust round, got a plain one"):
        robust.aggregator.prepare(offer)


def test_roles_that_expect_a_plain_round_refuse_a_robust_offer():
    robust, plain = both_kinds()
    robust.judged(1, alike(robust.federation, 1))
    with pytest.raises(WrongPlan, match="expected a plain round, got a robust one"):
        plain.clients[0].join(robust.offer, MODEL)
    with pytest.raises(WrongPlan, match="expected a plain round, got a robust one"):
        plain.aggregator.open(robust.offer, robust.roster)


def test_an_offer_of_another_rule_is_refused():
    federation = robust_federation(5)
    peers = RobustPeers.of(federation)
    offer = peers.key_holder.open(1, MODEL)
    intake = peers.aggregator.prepare(offer)
    other = federation.session().client(0, replace(federation.terms, robust=Robust(Rule("nnm", 1))))
    with pytest.raises(WrongPlan, match="another rule"):
        other.join_with_sketch(offer, MODEL, alike(federation, 12)[0], intake)


def test_what_no_robust_round_can_have_is_refused_before_any_key_is_made():
    plan = secagg.plan_round(length=10, max_clients=3)
    updates = [np.ones(10) * i for i in (0.1, 0.2, 0.3)]
    with pytest.raises(PlanError, match="need masking"), pytest.warns(UserWarning):
        secagg.run_round(updates, plan=plan, masking=False, robust=Robust())
    weighted = secagg.plan_round(length=10, max_clients=3, max_weight=2)
    with pytest.raises(PlanError, match="max_weight=1"):
        secagg.run_round(updates, plan=weighted, robust=Robust())
    with pytest.raises(PlanError, match="members of a round, got 3"):
        secagg.run_round(updates, plan=plan, robust=Robust(Rule("nnm", 2)))


# --- the late seed ----------------------------------------------------------------------------------------------------


def test_a_late_seed_that_is_not_what_was_committed_to_or_leaves_this_client_out_is_refused():
    federation = robust_federation(4, COUNT)
    peers = RobustPeers.of(federation)
    peers.contributed(1, alike(federation, 13))
    late_seed = peers.key_holder.reveal(peers.aggregator.tally())
    client = peers.clients[0]
    own = client._shown().contribution

    def signed(**changes):
        from secagg.transcript import signed_bytes

        changed = replace(late_seed, **changes)
        return replace(changed, signature=federation.authority.sign(signed_bytes(changed)))

    with pytest.raises(RosterMismatch, match="committed"):
        client.sketch_again(signed(secret=b"another number".ljust(32)))
    with pytest.raises(RosterMismatch, match="without this client's contribution"):
        client.sketch_again(signed(hashes=tuple(bytes(32) if each == own else each for each in late_seed.hashes)))
    with pytest.raises(errors.BadSignature):
        client.sketch_again(replace(late_seed, secret=b"another number".ljust(32)))
    with pytest.raises(RosterMismatch, match="another roster"):
        client.sketch_again(signed(hashes=late_seed.hashes[:-1]))
    client.sketch_again(late_seed)


def test_k_is_revealed_only_for_contributions_that_every_member_signed():
    federation = robust_federation(4, COUNT)
    peers = RobustPeers.of(federation)
    peers.contributed(1, alike(federation, 14))
    tally = peers.aggregator.tally()

    def signed(parts):
        from secagg.transcript import parts_hash, signed_bytes

        changed = replace(tally, header=replace(tally.header, previous=parts_hash(parts)), parts=parts)
        return replace(changed, signature=federation.server.sign(signed_bytes(changed)))

    with pytest.raises(errors.BadSignature):
        peers.key_holder.reveal(signed((replace(tally.parts[0], payload_hash=bytes(32)), *tally.parts[1:])))
    with pytest.raises(RosterMismatch):
        peers.key_holder.reveal(signed(tally.parts[1:]))
    with pytest.raises(RosterMismatch):
        peers.key_holder.reveal(replace(tally, parts=tally.parts[::-1]))
    assert peers.key_holder.reveal(tally).hashes == tuple(part.payload_hash for part in tally.parts)


# --- wire -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def messages():
    federation = robust_federation(4, COUNT)
    peers = RobustPeers.of(federation)
    updates, found = alike(federation, 15), []
    sent = peers.sent
    peers.sent = lambda message: found.append(message) or sent(message)
    peers.summed(1, [updates[0], -3 * updates[1], *updates[2:]])
    return federation.plan, {type(message): message for message in found}


ROBUST_KINDS = [RobustOffer, Intake, RobustJoin, Sketch, Products, RobustRoster, Tally, LateSeed, RobustSum]


@pytest.mark.parametrize("kind", ROBUST_KINDS)
def test_a_robust_message_survives_the_wire_and_has_the_length_it_must_have(messages, kind):
    plan, found = messages
    message = found[kind]
    data = wire.encode(message, plan)
    again = wire.decode(data, plan)
    assert type(again) is kind and wire.encode(again, plan) == data
    members = {RobustRoster: 3, RobustSum: 3, Tally: 3, LateSeed: 3, Products: len(getattr(message, "parts", ()))}
    left_out = 1 if kind is RobustRoster else 0
    assert len(data) == wire.message_bytes(kind, plan, members.get(kind, 0), left_out)


@pytest.mark.parametrize("kind", ROBUST_KINDS)
def test_truncations_and_mutations_of_a_robust_message_raise_peer_errors_and_nothing_else(messages, kind):
    plan, found = messages
    data, draw = wire.encode(found[kind], plan), np.random.default_rng(16)
    lengths = sorted({0, 1, 15, 16, 200, 250, 254, 258, len(data) - 1, *draw.integers(0, len(data), 20).tolist()})
    assert all(a < b for a, b in pairwise(lengths))
    for length in lengths:
        with pytest.raises(errors.PeerError):
            wire.decode(data[:length], plan)
    for place in draw.integers(0, min(len(data), 3_000), 60):
        changed = bytearray(data)
        changed[place] ^= 1 << int(draw.integers(0, 8))
        try:
            wire.decode(bytes(changed), plan)
        except errors.PeerError:
            continue
        assert kind in (Products, RobustSum)  # their digest does not cover the payload (`wire.py`)


def test_a_robust_message_under_a_plan_without_robust_rounds_is_refused(messages):
    plan, found = messages
    weighted = secagg.plan_round(length=plan.length, max_clients=4, max_weight=3)
    with pytest.raises(errors.MalformedMessage, match="no robust round is possible"):
        wire.decode(wire.encode(found[Intake], plan), weighted)


# --- states -----------------------------------------------------------------------------------------------------------


def test_what_is_no_move_of_a_robust_round_raises_and_names_those_that_are():
    federation = robust_federation(4, COUNT)
    peers = RobustPeers.of(federation)
    with pytest.raises(WrongState, match="possible now: join_with_sketch, settle"):
        peers.clients[0].join(None, MODEL)
    with pytest.raises(WrongState, match="possible now: open, report_abandoned"):
        peers.key_holder.judge(None)
    with pytest.raises(WrongState, match="possible now: prepare"):
        peers.aggregator.multiply()
    peers.joined(1, alike(federation, 17))
    with pytest.raises(WrongState, match="possible now: abort, judge, receive_join"):
        peers.key_holder.close_roster()
    products = peers.aggregator.multiply()
    peers.key_holder.judge(products)
    with pytest.raises(WrongState, match="possible now: abort, reveal"):
        peers.key_holder.judge(products)


def test_products_are_opened_once_even_if_the_rule_refuses_them():
    federation = robust_federation(4, quorum=4)
    peers = RobustPeers.of(federation)
    peers.joined(1, poisoned(federation, 18, 4))
    products = peers.aggregator.multiply()
    with pytest.raises(RuleRefused):
        peers.key_holder.judge(products)
    assert peers.key_holder.state is states.KeyHolderState.SPENT
    with pytest.raises(WrongState, match="possible now: abort"):
        peers.key_holder.judge(products)
    assert peers.key_holder.abort(AbortReason.OUTLIER).reason is AbortReason.OUTLIER


@pytest.mark.parametrize("looks", [1, 2])
def test_every_state_of_a_robust_role_leads_back_to_idle(looks):
    for tables in (states.ROBUST_KEY_HOLDER_MOVES, states.ROBUST_CLIENT_MOVES, states.ROBUST_AGGREGATOR_MOVES):
        table = tables[looks]
        for state in {before for before, _ in table} | set(table.values()):
            assert state.value == "idle" or table[state, "abort"].value == "idle"

"""The three roles as state machines: every call outside the tables raises WrongState and changes nothing at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from forked import in_a_child
from simulator import MODEL, Federation, Peers
from snapshot import snapshot

from secagg import aggregator, client, keyholder, states
from secagg.engines import available_engines
from secagg.errors import (
    BadSignature,
    DuplicateClient,
    LedgerError,
    PlanError,
    QuorumNotMet,
    RoundAlreadyReleased,
    SumRefused,
    WrongState,
)
from secagg.ledger import Outcome
from secagg.messages import AbortReason
from secagg.parameters import ALLOWED
from secagg.states import Machine
from secagg.transcript import message_hash


@dataclass
class Stage:
    """Real messages of one whole round, and of the next one up to its roster, to be used at the wrong time."""

    federation: Federation
    peers: Peers
    messages: dict[str, object]


@pytest.fixture(scope="module")
def played() -> Stage:
    federation = Federation(clients=2)
    peers = Peers(federation)
    updates = [federation.update(1), federation.update(2)]
    offer = peers.key_holder.open(1, MODEL)
    joins = [each.join(offer, MODEL) for each in peers.clients]
    for join in joins:
        peers.key_holder.receive_join(join)
    roster = peers.key_holder.close_roster()
    peers.aggregator.open(offer, roster)
    contributions = [each.contribute(roster, u) for each, u in zip(peers.clients, updates, strict=True)]
    for contribution in contributions:
        peers.aggregator.receive(contribution)
    encrypted_sum = peers.aggregator.close()
    release = peers.key_holder.release(encrypted_sum)
    for each in peers.clients:
        each.accept(release)
    peers.key_holder.open(2, MODEL)
    abort = peers.key_holder.abort()
    messages = {
        "offer": offer,
        "join": joins[0],
        "roster": roster,
        "contribution": contributions[0],
        "sum": encrypted_sum,
        "release": release,
        "abort": abort,
    }
    return Stage(federation, peers, messages)


def reach(peers: Peers, role: str, state: object) -> object:
    """The role, brought into a state by a real round that has step 10."""
    match role, state:
        case _, states.KeyHolderState.IDLE | states.ClientState.IDLE | states.AggregatorState.IDLE:
            pass
        case "key holder", states.KeyHolderState.OFFERED:
            peers.key_holder.open(10, MODEL)
        case "key holder", states.KeyHolderState.CLOSED:
            peers.roster(10)
        case "client", states.ClientState.JOINED:
            peers.clients[0].join(peers.key_holder.open(10, MODEL), MODEL)
        case "client", states.ClientState.CONTRIBUTED:
            _, roster = peers.roster(10)
            peers.clients[0].contribute(roster, peers.federation.update(10))
        case "aggregator", states.AggregatorState.COLLECTING:
            peers.aggregator.open(*peers.roster(10))
    return {"key holder": peers.key_holder, "client": peers.clients[0], "aggregator": peers.aggregator}[role]


def moves(role, messages, federation) -> dict[str, Callable[[], object]]:
    """Every move of a role, as a call with a well-formed message."""
    if isinstance(role, keyholder.KeyHolder):
        return {
            "open": lambda: role.open(99, MODEL),
            "receive_join": lambda: role.receive_join(messages["join"]),
            "close_roster": role.close_roster,
            "release": lambda: role.release(messages["sum"]),
            "abort": role.abort,
            "report_abandoned": role.report_abandoned,
        }
    if isinstance(role, client.Client):
        return {
            "join": lambda: role.join(messages["offer"], MODEL),
            "contribute": lambda: role.contribute(messages["roster"], federation.update(3)),
            "accept": lambda: role.accept(messages["release"]),
            "abort": role.abort,
            "settle": lambda: role.settle(messages["release"]),
        }
    return {
        "open": lambda: role.open(messages["offer"], messages["roster"]),
        "receive": lambda: role.receive(messages["contribution"]),
        "close": role.close,
        "abort": role.abort,
    }


ROLES = {
    "key holder": (states.KEY_HOLDER_MOVES, states.KeyHolderState),
    "client": (states.CLIENT_MOVES, states.ClientState),
    "aggregator": (states.AGGREGATOR_MOVES, states.AggregatorState),
}
ROBUST = {
    "key holder": states.ROBUST_KEY_HOLDER_MOVES,
    "client": states.ROBUST_CLIENT_MOVES,
    "aggregator": states.ROBUST_AGGREGATOR_MOVES,
}
ILLEGAL = [
    (role, state, move)
    for role, (table, kinds) in ROLES.items()
    for state in kinds
    if state in {before for before, _ in table}  # the others are of robust rounds
    for move in sorted({name for _, name in table})
    if (state, move) not in table
]


def test_the_tables_name_every_move_that_the_tests_make(played):
    for role, (table, kinds) in ROLES.items():
        owner = {"key holder": played.peers.key_holder, "client": played.peers.clients[0]}.get(
            role, played.peers.aggregator
        )
        assert {name for _, name in table} == set(moves(owner, played.messages, played.federation))
        robust = {
            state for each in ROBUST[role].values() for legal, after in each.items() for state in (legal[0], after)
        }
        assert set(table.values()) | {state for state, _ in table} | robust == set(kinds)


@pytest.mark.parametrize(("name", "state", "move"), ILLEGAL, ids=lambda part: getattr(part, "name", part))
def test_a_move_outside_the_table_raises_and_changes_nothing(played, name, state, move):
    peers = Peers(played.federation)
    role = reach(peers, name, state)
    assert role.state is state
    before = snapshot(role)
    with pytest.raises(WrongState, match=f"while {state.value}; possible now: "):
        moves(role, played.messages, played.federation)[move]()
    assert snapshot(role) == before


LEGAL = [(role, *legal) for role, (table, _) in ROLES.items() for legal in table]


@pytest.mark.parametrize(("name", "state", "move"), LEGAL, ids=lambda part: getattr(part, "name", part))
def test_no_move_of_a_table_is_possible_in_a_forked_child(played, name, state, move):
    peers = Peers(played.federation)
    role = reach(peers, name, state)
    before = snapshot(role)
    answer = in_a_child(moves(role, played.messages, played.federation)[move])
    assert answer.startswith("WrongState: ") and f"belongs to process {os.getpid()}" in answer
    assert snapshot(role) == before


def test_an_error_of_a_machine_says_what_is_possible():
    table = {(Outcome.OPEN, "b"): Outcome.RELEASED, (Outcome.OPEN, "a"): Outcome.OPEN}
    machine = Machine(table, Outcome.OPEN, "a role")
    with pytest.raises(WrongState, match="c: not possible while open; possible now: a, b"):
        machine.require("c")


def test_a_snapshot_sees_every_change_a_round_makes(played):
    """If it saw nothing, the tests that compare snapshots could not fail."""
    peers = Peers(played.federation)
    seen = [snapshot(peers.key_holder)]
    offer = peers.key_holder.open(1, MODEL)
    seen.append(snapshot(peers.key_holder))
    for each in peers.clients:
        peers.key_holder.receive_join(each.join(offer, MODEL))
        seen.append(snapshot(peers.key_holder))
    roster = peers.key_holder.close_roster()
    seen.append(snapshot(peers.key_holder))
    assert len(set(seen)) == len(seen)
    own = [snapshot(peers.clients[0])]
    peers.clients[0].contribute(roster, played.federation.update(1))
    own.append(snapshot(peers.clients[0]))
    sums = [snapshot(peers.aggregator)]
    peers.aggregator.open(offer, roster)
    sums.append(snapshot(peers.aggregator))
    peers.aggregator.receive(peers.clients[1].contribute(roster, played.federation.update(2)))
    sums.append(snapshot(peers.aggregator))
    assert len(set(own)) == 2 and len(set(sums)) == 3


# --- calls that are possible and fail -------------------------------------------------------------------------------


def test_too_few_joins_leave_the_round_open_for_more(played):
    peers = Peers(played.federation)
    offer = peers.key_holder.open(1, MODEL)
    peers.key_holder.receive_join(peers.clients[0].join(offer, MODEL))
    before = snapshot(peers.key_holder)
    with pytest.raises(QuorumNotMet, match="joins: expected 2 or more, got 1"):
        peers.key_holder.close_roster()
    assert snapshot(peers.key_holder) == before
    peers.key_holder.receive_join(peers.clients[1].join(offer, MODEL))
    assert len(peers.key_holder.close_roster().entries) == 2


def test_a_join_or_contribution_that_comes_twice_is_refused_and_counted_once(played):
    peers = Peers(played.federation)
    offer = peers.key_holder.open(1, MODEL)
    joins = [each.join(offer, MODEL) for each in peers.clients]
    for join in joins:
        peers.key_holder.receive_join(join)
        before = snapshot(peers.key_holder)
        with pytest.raises(DuplicateClient):
            peers.key_holder.receive_join(join)
        assert snapshot(peers.key_holder) == before
    roster = peers.key_holder.close_roster()
    peers.aggregator.open(offer, roster)
    contribution = peers.clients[0].contribute(roster, played.federation.update(1))
    peers.aggregator.receive(contribution)
    before = snapshot(peers.aggregator)
    with pytest.raises(DuplicateClient):
        peers.aggregator.receive(contribution)
    with pytest.raises(QuorumNotMet, match=r"bank 1"):
        peers.aggregator.close()
    assert snapshot(peers.aggregator) == before
    assert peers.aggregator.missing() == ("bank 1",)


def test_a_contribution_refused_halfway_is_taken_out_of_the_sum_again(played, monkeypatch):
    federation = Federation(clients=2, length=9_000, params=ALLOWED[0])
    peers = Peers(federation)
    offer, roster, made = peers.contributions(1, [federation.update(1), federation.update(2)])
    peers.aggregator.open(offer, roster)
    before = snapshot(peers.aggregator)
    honest, calls = aggregator.read_block, []

    def breaks_at_the_last_block(payload, index, params, out):
        calls.append(index)
        if len(calls) == federation.plan.blocks:
            raise KeyboardInterrupt
        honest(payload, index, params, out)

    assert federation.plan.blocks >= 2
    monkeypatch.setattr(aggregator, "read_block", breaks_at_the_last_block)
    with pytest.raises(KeyboardInterrupt):
        peers.aggregator.receive(made[0])
    monkeypatch.undo()
    assert without_scratch(snapshot(peers.aggregator)) == without_scratch(before)
    for contribution in made:
        peers.aggregator.receive(contribution)
    assert peers.key_holder.release(peers.aggregator.close()).contributors == 2


def without_scratch(seen):
    """The block that is being unpacked is no state: it is overwritten before it is read."""
    return tuple(pair for pair in seen[1] if pair[0] != "_scratch")


def test_a_refused_sum_burns_the_step_and_forgets_its_keys(played):
    peers = Peers(played.federation)
    offer, roster, made = peers.contributions(1, [played.federation.update(1), played.federation.update(2)])
    peers.aggregator.open(offer, roster)
    for contribution in made:
        peers.aggregator.receive(contribution)
    running = peers.aggregator._total.block(0)
    running[0, 0, 0] = (int(running[0, 0, 0]) + 1) % 2**29
    with pytest.raises(SumRefused, match=r"^refused$") as caught:
        peers.key_holder.release(peers.aggregator.close())
    assert caught.value.__suppress_context__
    assert peers.key_holder.outcome(1) is Outcome.REFUSED
    assert peers.key_holder._round is None
    assert peers.key_holder.state is states.KeyHolderState.IDLE
    with pytest.raises(RoundAlreadyReleased):
        peers.key_holder.release(played.messages["sum"])


@pytest.mark.parametrize("engine", available_engines())
def test_the_step_is_consumed_before_the_key_touches_the_sum_and_stored_before_it_is_sent(played, monkeypatch, engine):
    peers = Peers(played.federation)
    peers.key_holder._engine = engine
    encrypted_sum = peers.encrypted_sum(1, [played.federation.update(1), played.federation.update(2)])
    ledger, seen = peers.key_holder._ledger, []
    kind = type(peers.key_holder._current().secret_key)
    name = {"seal": "begin_decrypt", "fast": "decrypt_rows"}[engine]
    honest = getattr(kind, name)

    def watched(self, *arguments):
        seen.append([event.kind for event in ledger._log.events(1)])
        return honest(self, *arguments)

    monkeypatch.setattr(kind, name, watched)
    peers.key_holder.release(encrypted_sum)
    assert seen == [["opened", "roster", "consumed"]] * played.federation.plan.blocks
    assert ledger._log.events(1)[-1].kind == "released"


def test_the_roster_is_journalled_before_anything_is_encrypted_and_the_hash_before_it_is_sent(played, monkeypatch):
    peers = Peers(played.federation)
    _, roster = peers.roster(1)
    bank, seen = peers.clients[0], []
    honest = bank._seal

    def watched(*arguments):
        seen.append(bank._journal.round_of(1))
        return honest(*arguments)

    monkeypatch.setattr(bank, "_seal", watched)
    contribution = bank.contribute(roster, played.federation.update(1))
    assert [(each.roster, each.contribution) for each in seen] == [(message_hash(roster), None)]
    known = bank._journal.round_of(1)
    assert known is not None and known.contribution == contribution.payload_hash


@pytest.mark.parametrize("failing", ["_open", "_signed_release"])
def test_whatever_fails_after_the_consumption_the_keys_are_gone_and_the_step_is_abandoned(played, monkeypatch, failing):
    peers = Peers(played.federation)
    encrypted_sum = peers.encrypted_sum(1, [played.federation.update(1), played.federation.update(2)])

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(peers.key_holder, failing, broken)
    with pytest.raises(MemoryError):
        peers.key_holder.release(encrypted_sum)
    monkeypatch.undo()
    assert peers.key_holder._round is None
    name = (1, MODEL, encrypted_sum.header.round_id)
    with pytest.raises(RoundAlreadyReleased):
        peers.key_holder._ledger.consumed(*name, bytes(32))
    assert peers.key_holder.abandoned_steps() == (1,)
    (abort,) = peers.key_holder.report_abandoned()
    assert abort.reason is AbortReason.ABANDONED
    for each in peers.clients:
        each.abort(abort)


@pytest.mark.parametrize(
    ("event", "call"),
    [
        ("opened", lambda p, _: p.key_holder.open(1, MODEL)),
        ("roster", lambda p, _: p.key_holder.close_roster()),
        ("consumed", lambda p, s: p.key_holder.release(s)),
        ("aborted", lambda p, _: p.key_holder.abort()),
    ],
)
def test_a_ledger_that_cannot_be_written_stops_the_key_holder_where_it_stands(played, monkeypatch, event, call):
    peers = Peers(played.federation)
    encrypted_sum = None
    if event == "roster":
        offer = peers.key_holder.open(1, MODEL)
        for each in peers.clients:
            peers.key_holder.receive_join(each.join(offer, MODEL))
    elif event in ("consumed", "aborted"):
        encrypted_sum = peers.encrypted_sum(1, [played.federation.update(1), played.federation.update(2)])
    log = peers.key_holder._ledger._log
    honest = type(log).append

    def disk_full(self, kind, *arguments):
        if self is log and kind == event:
            raise LedgerError("disk full")
        return honest(self, kind, *arguments)

    monkeypatch.setattr(type(log), "append", disk_full)
    before = snapshot(peers.key_holder)
    with pytest.raises(LedgerError, match="disk full"):
        call(peers, encrypted_sum)
    assert snapshot(peers.key_holder) == before
    monkeypatch.undo()
    call(peers, encrypted_sum)


def test_a_release_that_cannot_be_stored_is_not_sent_and_the_step_is_abandoned(played, monkeypatch):
    peers = Peers(played.federation)
    encrypted_sum = peers.encrypted_sum(1, [played.federation.update(1), played.federation.update(2)])

    def disk_full(*_):
        raise LedgerError("disk full")

    monkeypatch.setattr(peers.key_holder._ledger, "released", disk_full)
    with pytest.raises(LedgerError, match="disk full"):
        peers.key_holder.release(encrypted_sum)
    assert peers.key_holder._round is None
    assert peers.key_holder.outcome(1) is Outcome.ABANDONED


@pytest.mark.parametrize("event", ["joined", "contributing", "finished"])
def test_a_journal_that_cannot_be_written_stops_the_client_where_it_stands(played, monkeypatch, event):
    peers = Peers(played.federation)
    offer = peers.key_holder.open(1, MODEL)
    one, two = peers.clients
    peers.key_holder.receive_join(two.join(offer, MODEL))
    if event != "joined":
        peers.key_holder.receive_join(one.join(offer, MODEL))
        roster = peers.key_holder.close_roster()
    if event == "finished":
        peers.aggregator.open(offer, roster)
        for index, each in enumerate(peers.clients):
            peers.aggregator.receive(each.contribute(roster, played.federation.update(index)))
        release = peers.key_holder.release(peers.aggregator.close())
    call = {
        "joined": lambda: one.join(offer, MODEL),
        "contributing": lambda: one.contribute(roster, played.federation.update(0)),
        "finished": lambda: one.accept(release),
    }[event]

    def disk_full(*_):
        raise LedgerError("disk full")

    monkeypatch.setattr(one._journal._log, "append", disk_full)
    before = snapshot(one)
    with pytest.raises(LedgerError, match="disk full"):
        call()
    monkeypatch.undo()
    assert snapshot(one) == before
    call()


def test_a_forged_abort_ends_nothing(played):
    from dataclasses import replace

    peers = Peers(played.federation)
    offer, roster = peers.roster(1)
    peers.aggregator.open(offer, roster)
    abort = peers.key_holder.abort()
    for role in (peers.clients[0], peers.aggregator):
        before = snapshot(role)
        with pytest.raises(BadSignature):
            role.abort(replace(abort, reason=AbortReason.REFUSED))
        assert snapshot(role) == before
        role.abort(abort)


def test_a_quorum_of_one_is_refused_by_every_role_that_has_one(played):
    federation = played.federation
    import secagg

    for quorum in (0, 1, federation.plan.max_clients + 1):
        with pytest.raises(PlanError, match="quorum: expected an integer in 2"):
            secagg.KeyHolder(federation.authority, federation.enrolment, federation.plan, quorum)
        with pytest.raises(PlanError, match="quorum: expected an integer in 2"):
            secagg.Client(federation.banks[0], federation.enrolment, federation.plan, quorum)

"""Three roles on a network that an attacker owns: the exact average of the closed roster, or a named error.

Hypothesis plays rounds in which messages are dropped (never delivered), delivered twice, late, out of order, to several
parties, replayed from earlier rounds, and corrupted with and without a digest that fits; parties restart with nothing
but their ledger or journal; the aggregator signs sums it made up. After every failed call the role is as it was before,
down to its private state; a sum that is refused burns its step and says one word.

An aggregator that adds a chosen vector to an honest sum is not among these attacks: that sum is well formed, and is
released (tests/secagg/test_wrong_sums.py, docs/threat-model.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from simulator import MODEL, Federation, Network, Peers
from snapshot import snapshot

import secagg
from secagg import blocks
from secagg.errors import SecAggError, SumRefused
from secagg.ledger import Outcome
from secagg.messages import Abort, Contribution, EncryptedSum, Join, Message, Offer, Release, Roster
from secagg.states import AggregatorState, ClientState, KeyHolderState
from secagg.transcript import message_hash, signed_bytes

FEDERATION = Federation(clients=3, length=20, quorum=2)
CLIENTS = st.integers(0, 2)
CHANGES = st.none() | st.tuples(st.integers(0, 2**20), st.integers(0, 7), st.booleans())


class Rounds(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.peers = Peers(FEDERATION)
        self.network = Network(FEDERATION)
        self.steps = 0
        self.seeds = 0
        self.updates: dict[bytes, dict[bytes, np.ndarray]] = {}  # by roster hash and sender: what was contributed
        self.releases: dict[int, set[bytes]] = {}
        self.members: dict[bytes, set[bytes]] = {}

    # --- one call, and what must hold if it fails ---

    def attempt(self, role: object, call: Callable[[], Message | None]) -> Message | None:
        """Make a call. Its message goes onto the network; a named error leaves the role as it was."""
        before = snapshot(role)
        try:
            message = call()
        except SumRefused as error:
            assert str(error) == "refused"
            assert self.peers.key_holder.state is KeyHolderState.IDLE
            return None
        except SecAggError:
            assert snapshot(role) == before
            return None
        if message is not None:
            self.network.send(message)
        return message

    def deliver(self, message: Message, client: int) -> None:
        """Hand a message to whoever could take it; `client` says to which bank, where it is for banks."""
        bank = self.peers.clients[client]
        match message:
            case Offer():
                self.attempt(bank, lambda: bank.join(message, MODEL))
            case Join():
                self.attempt(self.peers.key_holder, lambda: self.peers.key_holder.receive_join(message))
            case Roster():
                self.contribute(client, message)
            case Contribution():
                self.attempt(self.peers.aggregator, lambda: self.peers.aggregator.receive(message))
            case EncryptedSum():
                self.release(message)
            case Release():
                self.accept(bank, message)
            case Abort():
                end = bank.settle if bank.state is ClientState.IDLE else bank.abort
                self.attempt(bank, lambda: end(message))

    def contribute(self, client: int, roster: Roster) -> None:
        bank = self.peers.clients[client]
        self.seeds += 1
        update = FEDERATION.update(self.seeds)
        if self.attempt(bank, lambda: bank.contribute(roster, update)) is not None:
            quantised = self.updates.setdefault(message_hash(roster), {})
            assert FEDERATION.banks[client].key not in quantised, "sealed twice for one roster"
            quantised[FEDERATION.banks[client].key] = FEDERATION.quantised(update)

    def release(self, encrypted_sum: EncryptedSum) -> None:
        release = self.attempt(self.peers.key_holder, lambda: self.peers.key_holder.release(encrypted_sum))
        if release is not None:
            assert isinstance(release, Release)
            self.check(release)

    def check(self, release: Release) -> None:
        """A release is the exact sum of what the members of its roster contributed to that roster."""
        contributed = self.updates[release.header.roster]
        assert set(contributed) == self.members[release.header.roster]
        assert (release.sums == sum(contributed.values())).all()
        assert (release.contributors, release.total_weight) == (len(contributed), len(contributed))
        self.releases.setdefault(release.header.step, set()).add(message_hash(release))

    def accept(self, bank: secagg.Client, release: Release) -> None:
        take = bank.settle if bank.state is ClientState.IDLE else bank.accept
        taken: list[secagg.Average | None] = []
        self.attempt(bank, lambda: taken.append(take(release)))
        if taken:
            average = taken[0]
            assert average is not None
            assert message_hash(release) in self.releases[release.header.step]
            exact = sum(self.updates[release.header.roster].values()) / release.contributors * FEDERATION.plan.step
            assert np.abs(average.values - exact).max() < 1e-12

    # --- what honest parties do next ---

    @initialize()
    def a_round_begins(self) -> None:
        self.open(1)

    @rule(ahead=st.integers(0, 2))
    def open(self, ahead: int) -> None:
        key_holder = self.peers.key_holder
        opened = self.attempt(key_holder, lambda: key_holder.open(self.steps + ahead, MODEL))
        if opened is not None:
            self.steps += ahead

    @rule()
    def close_roster(self) -> None:
        roster = self.attempt(self.peers.key_holder, self.peers.key_holder.close_roster)
        if roster is not None:
            assert isinstance(roster, Roster)
            self.members[message_hash(roster)] = {entry.sender for entry in roster.entries}

    @rule()
    def close_sum(self) -> None:
        self.attempt(self.peers.aggregator, self.peers.aggregator.close)

    @precondition(lambda self: self.peers.key_holder.state is not KeyHolderState.IDLE)
    @rule(times=st.integers(1, 12))
    def go_on(self, times: int) -> None:
        """The next honest moves of this round: without them, chance alone would seldom finish one."""
        for _ in range(times):
            self.next_move()

    def next_move(self, hold_sum: bool = False) -> None:
        peers, key_holder = self.peers, self.peers.key_holder
        if key_holder.state is KeyHolderState.OFFERED:
            offer = self.latest(Offer)
            for client, bank in enumerate(peers.clients):
                if FEDERATION.banks[client].key in key_holder._round.joins:
                    continue
                if bank.state is not ClientState.IDLE:
                    self.attempt(bank, bank.abort)  # it gives up an earlier round
                join = self.attempt(bank, lambda bank=bank: bank.join(offer, MODEL))
                if join is not None:
                    self.deliver(join, client)
                    return
            self.close_roster()
        elif key_holder.state is KeyHolderState.CLOSED:
            offer, roster = self.latest(Offer), self.latest(Roster)
            if peers.aggregator.state is AggregatorState.IDLE:
                self.attempt(peers.aggregator, lambda: peers.aggregator.open(offer, roster))
            for client, bank in enumerate(peers.clients):
                if bank.state is ClientState.JOINED:
                    sent = len(self.network.sent)
                    self.contribute(client, roster)
                    if len(self.network.sent) > sent:
                        self.deliver(self.network.arrive(sent), client)
                        return
                    self.attempt(bank, bank.abort)
            encrypted_sum = self.attempt(peers.aggregator, peers.aggregator.close)
            if encrypted_sum is not None and not hold_sum:
                self.deliver(self.network.arrive(len(self.network.sent) - 1), 0)

    def latest(self, kind: type) -> Message:
        """The newest message of a kind; the network has one."""
        return self.network.arrive(self.network.of_kind(kind)[-1])

    # --- what the network and the parties' machines do to them ---

    @precondition(lambda self: self.network.sent)
    @rule(back=st.integers(0, 40), client=CLIENTS, change=CHANGES)
    def arrive(self, back: int, client: int, change: tuple[int, int, bool] | None) -> None:
        """Any message ever sent arrives: on time, again, late, at somebody else's, or changed."""
        number = len(self.network.sent) - 1 - back % len(self.network.sent)
        try:
            if change is None:
                message = self.network.arrive(number)
            else:
                position, bit, new_digest = change
                message = self.network.arrive_corrupted(number, position, bit, new_digest=new_digest)
        except SecAggError:
            return  # refused as bytes, before any role saw it
        self.deliver(message, client)

    @precondition(lambda self: self.network.of_kind(Roster))
    @rule(offer=st.integers(0, 5), roster=st.integers(0, 5))
    def aggregator_opens(self, offer: int, roster: int) -> None:
        """The aggregator is told any offer and any roster, of this round or not."""
        offers, rosters = self.network.of_kind(Offer), self.network.of_kind(Roster)
        told = [
            self.network.arrive(many[-1 - which % len(many)]) for many, which in ((offers, offer), (rosters, roster))
        ]
        self.attempt(self.peers.aggregator, lambda: self.peers.aggregator.open(*told))

    @rule(
        which=st.sampled_from([0, 0, 0, 1, 2]),
        lie=st.sampled_from(["twice", "one residue", "another round's", "nothing"]),
    )
    def the_aggregator_lies(self, which: int, lie: str) -> None:
        """A sum with every signature right and residues that are not the roster's, of this round if one can be had."""
        for _ in range(10):
            if self.peers.key_holder.state is not KeyHolderState.IDLE:
                self.next_move(hold_sum=True)
        if not self.network.of_kind(EncryptedSum):
            return
        sums = [self.network.arrive(number) for number in self.network.of_kind(EncryptedSum)]
        told = sums[-1 - which % len(sums)]
        assert isinstance(told, EncryptedSum)
        payload = self.another_payload(told, sums, lie)
        if payload is not None:
            unsigned = replace(told, payload=payload, payload_hash=blocks.payload_hash(payload))
            released = len(self.releases.get(told.header.step, ()))
            self.release(replace(unsigned, signature=FEDERATION.server.sign(signed_bytes(unsigned))))
            assert len(self.releases.get(told.header.step, ())) == released, f"released a sum that was {lie}"

    def another_payload(self, told: EncryptedSum, sums: list, lie: str) -> bytearray | None:
        plan = FEDERATION.plan
        if lie == "another round's":
            return next((bytearray(each.payload) for each in sums if each.payload_hash != told.payload_hash), None)
        block, packed = blocks.empty_block(plan.params), bytearray(told.payload)
        blocks.read_block(told.payload, 0, plan.params, block)
        primes = np.array(plan.params.primes, dtype=np.uint64)[:, None]
        if lie == "twice":
            block[...] = block.astype(np.uint64) * 2 % primes
        elif lie == "one residue":
            block[0, 0, 0] = (int(block[0, 0, 0]) + 1) % plan.params.primes[0]
        else:
            block[...] = 1
        blocks.write_block(block, 0, plan.params, np.frombuffer(packed, dtype=np.uint8))
        return packed

    @rule(client=CLIENTS)
    def a_client_restarts(self, client: int) -> None:
        """Only the journal is left."""
        journal = self.peers.clients[client]._journal
        self.peers.clients[client] = secagg.Client(
            FEDERATION.banks[client],
            FEDERATION.enrolment,
            FEDERATION.plan,
            FEDERATION.quorum,
            journal=journal,
            threads=1,
        )

    @precondition(lambda self: self.peers.key_holder.state is not KeyHolderState.IDLE)
    @rule(reports=st.booleans())
    def the_key_holder_restarts(self, reports: bool) -> None:
        """Only the ledger is left; it reports the lost round, or leaves its clients waiting."""
        ledger, abandoned = self.peers.key_holder._ledger, self.steps
        ledger.let_go()
        self.peers.key_holder = secagg.KeyHolder(
            FEDERATION.authority, FEDERATION.enrolment, FEDERATION.plan, FEDERATION.quorum, ledger=ledger, threads=1
        )
        assert abandoned in self.peers.key_holder.abandoned_steps()
        if reports:
            for abort in self.peers.key_holder.report_abandoned():
                self.network.send(abort)
            assert self.peers.key_holder.abandoned_steps() == ()

    @rule(who=st.sampled_from(["key holder", "aggregator", "client"]), client=CLIENTS)
    def somebody_gives_up(self, who: str, client: int) -> None:
        role = {"key holder": self.peers.key_holder, "aggregator": self.peers.aggregator}.get(who)
        role = role or self.peers.clients[client]
        self.attempt(role, role.abort)

    # --- what holds at any moment ---

    @invariant()
    def no_step_has_two_releases(self) -> None:
        assert all(len(releases) == 1 for releases in self.releases.values())

    @invariant()
    def the_ledger_has_one_consumption_for_each_release_and_keeps_its_bytes(self) -> None:
        ledger = self.peers.key_holder._ledger
        for step, (only,) in self.releases.items():
            assert ledger.outcome(step) is Outcome.RELEASED
            stored = self.peers.key_holder.stored_release(step)
            assert stored is not None and message_hash(stored) == only


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_rounds_on_a_hostile_network_give_the_exact_average_or_a_named_error():
    run_state_machine_as_test(Rounds, settings=settings(max_examples=25, stateful_step_count=30, **QUIET))


@pytest.mark.long
def test_many_rounds_on_a_hostile_network_give_the_exact_average_or_a_named_error():
    run_state_machine_as_test(Rounds, settings=settings(max_examples=400, stateful_step_count=80, **QUIET))


def test_the_machine_reaches_releases_and_refusals_so_its_checks_are_not_vacuous():
    rounds = Rounds()
    rounds.a_round_begins()
    rounds.go_on(12)
    assert len(rounds.releases) == 1
    rounds.open(1)
    for _ in range(8):
        rounds.next_move()
    assert rounds.peers.key_holder.state is KeyHolderState.IDLE
    rounds.open(1)
    for _ in range(7):
        rounds.next_move()
    assert rounds.peers.key_holder.state is KeyHolderState.CLOSED
    rounds.the_aggregator_lies(0, "one residue")
    assert rounds.peers.key_holder.outcome(3) is Outcome.REFUSED
    assert set(rounds.releases) == {1, 2}

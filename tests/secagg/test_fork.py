"""A fork copies keys, seeds and open files: what is of one process refuses to work in another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from forked import in_a_child
from simulator import MODEL, Federation, Peers

from secagg import ownership
from secagg.audit import audit
from secagg.blocks import empty_block
from secagg.ckks import generate_keys
from secagg.engines import available_engines
from secagg.engines import encryptor as encryptor_of
from secagg.errors import WrongState
from secagg.eventlog import EventLog
from secagg.identity import Identity
from secagg.journal import Journal
from secagg.ledger import Ledger
from secagg.masks import AgreementKey
from secagg.ownership import Owner
from secagg.parameters import ALLOWED
from secagg.stages import StageClock

ROUND = b"r" * 16
HASH = b"h" * 32

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.mark.parametrize("on_disk", [False, True])
def test_of_parent_and_child_only_the_parent_seals_adds_and_releases(tmp_path, on_disk):
    federation = Federation(clients=2, folder=tmp_path if on_disk else None)
    peers = Peers(federation)
    offer, roster = peers.roster(1)
    updates = [federation.update(1), federation.update(2)]
    client, other = peers.clients
    assert in_a_child(lambda: client.contribute(roster, updates[1])).startswith("WrongState: a client: belongs to")
    contributions = [client.contribute(roster, updates[0]), other.contribute(roster, updates[1])]
    peers.aggregator.open(offer, roster)
    for contribution in contributions:
        in_child = in_a_child(lambda part=contribution: peers.aggregator.receive(part))
        assert in_child.startswith("WrongState: an aggregator: belongs to")
        peers.aggregator.receive(contribution)
    assert in_a_child(peers.aggregator.close).startswith("WrongState: an aggregator")
    encrypted_sum = peers.aggregator.close()
    assert in_a_child(lambda: peers.key_holder.release(encrypted_sum)).startswith("WrongState: ")
    release = peers.key_holder.release(encrypted_sum)
    assert in_a_child(lambda: client.accept(release)).startswith("WrongState: a client")
    assert client.accept(release).contributors == 2
    np.testing.assert_array_equal(release.sums, sum(federation.quantised(update) for update in updates))


class ForkingClock(StageClock):
    """Forks once, when a named stage begins."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at: str | None = at
        self.is_child = False

    def stage(self, name, *part):
        if name == self.at:
            self.at = None
            self.is_child = os.fork() == 0
        return super().stage(name, *part)


@pytest.mark.parametrize(("stage", "role"), [("encrypt", "client"), ("check", "client"), ("decrypt", "key holder")])
def test_a_call_in_whose_middle_the_process_forks_ends_in_the_parent_alone(tmp_path, stage, role):
    federation = Federation(clients=2)
    peers = Peers(federation)
    clock = ForkingClock(stage)
    told = tmp_path / "child"
    try:
        if role == "client":
            _, roster = peers.roster(1)
            peers.clients[0]._clock = clock
            peers.clients[0].contribute(roster, federation.update(1))
        else:
            encrypted_sum = peers.encrypted_sum(1, [federation.update(1), federation.update(2)])
            peers.key_holder._clock = clock
            peers.key_holder.release(encrypted_sum)
        ended = "it returned"
    except BaseException as error:
        ended = type(error).__name__
    finally:
        if clock.is_child:
            told.write_text(ended)
            os._exit(0)
    os.wait()
    assert (told.read_text(), ended) == ("WrongState", "it returned")


def test_no_call_of_a_log_works_in_a_forked_child(tmp_path):
    owner = Identity.generate("owner")
    log = EventLog(tmp_path / "log.db", owner, "test log")
    ledger, journal = Ledger(tmp_path / "ledger.db", owner), Journal.in_memory(owner)
    ledger.opened(1, MODEL, ROUND, HASH, b"header")
    calls = {
        "head": lambda: log.head,
        "length": lambda: len(log),
        "append": lambda: log.append("a", 1, MODEL, ROUND),
        "events": log.events,
        "holding": lambda: log.holding(("a",), ((0, b""),)),
        "last": lambda: log.last("a"),
        "close": log.close,
        "ledger head": lambda: ledger.head,
        "ledger check": lambda: ledger.check_step(2),
        "ledger consumed": lambda: ledger.consumed(1, MODEL, ROUND, HASH),
        "ledger release": lambda: ledger.stored_release(1),
        "ledger outcome": lambda: ledger.outcome(1),
        "ledger abandoned": ledger.abandoned,
        "ledger close": ledger.close,
        "journal head": lambda: journal.head,
        "journal joined": lambda: journal.joined(1, MODEL, ROUND, HASH, HASH, HASH),
        "journal round": lambda: journal.round_of(1),
        "journal unfinished": journal.unfinished,
        "journal close": journal.close,
    }
    answers = {name: in_a_child(call) for name, call in calls.items()}
    assert {name for name, answer in answers.items() if not answer.startswith("WrongState: this ")} == set()
    ledger.roster_closed(1, MODEL, ROUND, HASH, HASH)  # and the parent goes on
    ledger.close()
    assert len(audit(tmp_path / "ledger.db").entries) == 2


CHILD_THAT_ENDS = """
import gc, os, signal, sys
from secagg.eventlog import EventLog
from secagg.identity import Identity
log = EventLog(sys.argv[1], Identity.load(sys.argv[2]), "test log")
log.append("a", 1, b"m" * 32, b"r" * 16)
if os.fork() == 0:
    del log
    gc.collect()
    sys.exit(0)  # as a program ends: the interpreter takes everything apart
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
log.append("a", 2, b"m" * 32, b"r" * 16)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_ends_takes_nothing_out_of_its_parents_log(tmp_path):
    """SQLite would write the log of its parent into the file, and delete it under the parent's hands."""
    Identity.generate("owner").save(tmp_path / "key")
    script = [sys.executable, "-c", CHILD_THAT_ENDS, str(tmp_path / "log.db"), str(tmp_path / "key")]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert [entry.step for entry in audit(tmp_path / "log.db").entries] == [1, 2]


def test_a_child_is_refused_even_where_a_thread_of_its_parent_was_appending(tmp_path):
    log = EventLog(tmp_path / "log.db", Identity.generate("owner"), "test log")
    with log._appending:  # the child's copy of this lock is never released
        assert in_a_child(lambda: log.append("a", 1, MODEL, ROUND)).startswith("WrongState")
    log.append("a", 1, MODEL, ROUND)
    log.close()


def test_the_keys_of_a_round_stay_in_their_process():
    agreement, other = AgreementKey(), AgreementKey()
    public, secret = generate_keys(ALLOWED[0])
    block = public.residues[:, :-1].astype(np.uint32)
    assert in_a_child(lambda: agreement.shared_with(other.public)).startswith("WrongState: an agreement key")
    assert in_a_child(lambda: secret.decrypt(block)).startswith("WrongState: a secret key")
    assert agreement.shared_with(other.public) == other.shared_with(agreement.public)
    assert secret.decrypt(block).shape == block[0].shape


def test_an_identity_signs_in_a_child_as_it_does_in_its_parent():
    # Ed25519 is deterministic: the same key used twice gives nothing away.
    identity = Identity.generate("Bank")
    assert in_a_child(lambda: identity.sign(b"message").hex()) == repr(identity.sign(b"message").hex())


def test_a_process_identifier_that_comes_back_means_nothing(monkeypatch):
    owner = Owner("this")
    process = os.getpid()
    monkeypatch.setattr(ownership.os, "getpid", lambda: process)  # the child is told its parent's number
    assert in_a_child(owner.require).startswith("WrongState: this: belongs to")
    assert in_a_child(lambda: Owner("a new one").is_here) == "True"
    assert in_a_child(lambda: in_a_child(owner.require)).startswith("'WrongState: this")


def test_a_fork_that_ran_no_hook_is_seen_by_the_process_identifier(monkeypatch):
    owner = Owner("this")
    monkeypatch.setattr(ownership.os, "getpid", lambda: -1)
    with pytest.raises(WrongState, match="was called in -1: make a new one in this process"):
        owner.require()


def test_threads_of_one_process_share_what_is_its_own():
    owner = Owner("this")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: owner.is_here).result()


@pytest.mark.parametrize("engine", available_engines())
def test_an_encryptor_draws_afresh_in_a_child_so_it_may_be_used_on_both_sides(engine):
    public, _ = generate_keys(ALLOWED[0])
    block = empty_block(ALLOWED[0])
    encryptor = encryptor_of(engine, public)
    zero = np.zeros_like(block[0])

    def drawn() -> str:
        encryptor.encrypt_coefficients(zero.copy(), block)
        return block[1, 0, :8].tobytes().hex()

    first = drawn()
    answers = [first, drawn(), *(in_a_child(drawn).strip("'") for _ in range(2))]
    assert len(set(answers)) == 4 and {len(answer) for answer in answers} == {64}

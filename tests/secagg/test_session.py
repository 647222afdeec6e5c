"""A session in one process: what lasts how long, who takes part, and what an observer sees."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

import secagg
from secagg.errors import RoundAlreadyReleased, UpdateReused
from secagg.session import Observer, Parties, Roles, Session, Terms

PLAN = secagg.plan_round(length=6, max_clients=4)
TERMS = Terms(PLAN, model_repeats=None, threads=1)
UPDATES = [np.full(6, 0.1 * (i + 1)) for i in range(4)]


@pytest.fixture(scope="module")
def parties() -> Parties:
    return Parties.generate([f"bank {i}" for i in range(4)])


def play(roles: Roles, step: int) -> float:
    """A round in which client i of the roles contributes UPDATES[i]; the average of the first value."""
    sent, model = roles.sent, bytes(32)
    offer = sent(roles.key_holder.open(step, model))
    for client in roles.clients:
        roles.key_holder.receive_join(sent(client.join(offer, model)))
    roster = sent(roles.key_holder.close_roster())
    roles.aggregator.open(offer, roster)
    for client, update in zip(roles.clients, UPDATES, strict=False):
        roles.aggregator.receive(sent(client.contribute(roster, update)))
    release = sent(roles.key_holder.release(sent(roles.aggregator.close())))
    averages = [client.accept(release) for client in roles.clients]
    return float(averages[0].values[0])


def test_ledger_and_journals_outlast_the_roles_of_a_round(parties):
    session = Session(parties)
    play(session.roles(TERMS), 1)
    again = session.roles(TERMS)
    with pytest.raises(RoundAlreadyReleased):
        again.key_holder.open(1, bytes(32))
    with pytest.raises(UpdateReused):
        play(again, session.ledger.next_step)


def test_a_session_with_the_folder_of_another_remembers_what_that_one_did(parties, tmp_path):
    before = Session(parties, tmp_path)
    play(before.roles(TERMS), 1)
    before.ledger.close()
    for index in range(4):
        before.journal(index).close()
    after = Session(parties, tmp_path)
    assert after.ledger.next_step == 2
    with pytest.raises(UpdateReused):
        after.client(0, TERMS).check_update(UPDATES[0])


def test_sessions_without_a_folder_share_no_memory(parties):
    play(Session(parties).roles(TERMS), 1)
    assert Session(parties).ledger.next_step == 1


def test_only_the_members_take_part(parties):
    roles = Session(parties).roles(TERMS, members=[3, 0, 1])
    assert play(roles, 1) == pytest.approx(0.2, abs=PLAN.max_error)
    assert [repr(client) for client in roles.clients] == [f"Client('bank {i}', idle)" for i in (3, 0, 1)]


def test_an_aborted_round_is_counted_with_the_bytes_that_were_sent(parties):
    observer = Observer()
    roles = Session(parties).roles(TERMS, observer=observer)
    offer = roles.sent(roles.key_holder.open(1, bytes(32)))
    roles.sent(roles.clients[0].join(offer, bytes(32)))
    roles.sent(roles.key_holder.abort())
    size = observer.message_bytes
    assert list(size) == ["offer", "join", "abort"]
    assert (observer.bytes_up, observer.bytes_down) == (size["join"], 4 * (size["offer"] + size["abort"]))


def test_roles_without_masks_are_made_without_a_warning_for_each(parties):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(Session(parties).roles(Terms(PLAN, masking=False, threads=1)), 1)


def test_parties_and_sessions_show_no_key_and_are_never_pickled(parties):
    shown = repr(parties) + repr(Session(parties)) + repr(Session(parties).roles(TERMS))
    for identity in (parties.key_holder, parties.aggregator, *parties.clients):
        secret = identity._private_key.private_bytes_raw()
        assert secret.hex() not in shown and repr(secret) not in shown
    for each in (parties, Session(parties)):
        with pytest.raises(TypeError):
            pickle.dumps(each)

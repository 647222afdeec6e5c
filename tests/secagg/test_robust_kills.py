"""A robust round killed at random moments: one release a step at most, and no update is shown or sent a second time.

All roles run in this process with their logs on disk. A kill is an exception that ends every role at once, before or
after an event is on disk, or between two messages; then everybody starts anew from the files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from robust_peers import COUNT, IDENTITY, alike, robust_federation
from simulator import MODEL

from secagg.audit import audit
from secagg.errors import SecAggError, UpdateReused
from secagg.eventlog import EventLog
from secagg.journal import audit_journal
from secagg.ledger import Outcome, audit_ledger, compare_journal
from secagg.messages import Abort, Contribution, Release
from secagg.robust_protocol import play
from secagg.session import Roles

CLIENTS = 4


class Killed(BaseException):
    """The power is off."""


@dataclass
class Kill:
    """Counts the moments at which a kill can fall, and kills at one of them."""

    at: int
    moment: int = 0
    sent: list[object] = field(default_factory=list)

    def __call__(self) -> None:
        self.moment += 1
        if self.moment == self.at:
            raise Killed


def moments_of_a_round(length, tmp_path, monkeypatch):
    kill = Kill(at=-1)
    run(robust_federation(CLIENTS, length, folder=tmp_path), 1, kill, monkeypatch)
    return kill.moment


def run(federation, step, kill, monkeypatch, updates=None):
    """A round, or as much of it as comes before the kill; everything is closed afterwards."""
    append, encoded = EventLog.append, Roles.sent

    def mortal_append(self, *arguments, **named):
        kill()
        event = append(self, *arguments, **named)
        kill()
        return event

    def mortal_sent(self, message):
        kill()
        received = encoded(self, message)
        kill.sent.append(received)
        kill()
        return received

    session = federation.session()
    roles = session.roles(federation.terms)
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append", mortal_append)
        patch.setattr(Roles, "sent", mortal_sent)
        # A killed process aborts nothing.
        patch.setattr("secagg.robust_protocol._abandon", lambda roles, error: None)
        try:
            return play(roles, step, MODEL, alike(federation, step) if updates is None else updates)
        except Killed:
            return None
        finally:
            session.ledger.close()
            for index in range(CLIENTS):
                session.journal(index).close()


def verified(federation, sent):
    """All logs keep their rules; nothing was released or contributed twice."""
    report = audit_ledger(federation.ledger_file)
    ledger = audit(federation.ledger_file)
    for step, _, _ in report.steps:
        kinds = [entry.kind for entry in ledger.entries if entry.step == step]
        assert kinds.count("consumed") <= 1 and kinds.count("released") <= 1
    for index in range(CLIENTS):
        compare_journal(federation.ledger_file, federation.journal_file(index))
        kinds = [(entry.step, entry.kind) for entry in audit(federation.journal_file(index)).entries]
        assert len(kinds) == len(set(kinds))
    contributions = [each for each in sent if isinstance(each, Contribution)]
    assert len({(each.header.sender, each.header.step) for each in contributions}) == len(contributions)
    releases = [each for each in sent if isinstance(each, Release)]
    assert len({each.header.step for each in releases}) == len(releases)


def killed_rounds(count, length, folder, monkeypatch):
    """`count` rounds, each killed at a random moment; returns how their steps ended."""
    moments = moments_of_a_round(length, folder / "once", monkeypatch)
    draw, outcomes, sent = random.Random(length), [], []
    federation = robust_federation(CLIENTS, length, folder=folder)
    for step in range(1, count + 1):
        kill = Kill(at=draw.randint(1, moments))
        played = run(federation, step, kill, monkeypatch)
        sent += kill.sent
        restarted(federation, step, played, sent)
        ended = {each[0]: each[2] for each in audit_ledger(federation.ledger_file).steps}
        outcomes.append(ended.get(step))
    verified(federation, sent)
    return outcomes


def restarted(federation, step, played, sent):
    """Everybody starts anew: what was shown cannot be shown again, aborts are reported, a release is the stored one."""
    session = federation.session()
    roles = session.roles(federation.terms)
    outcome = roles.key_holder.outcome(step)
    stored = roles.key_holder.stored_release(step)
    assert (stored is not None) == (outcome is Outcome.RELEASED)
    released = [each for each in sent if isinstance(each, Release) and each.header.step == step]
    if released:
        assert np.array_equal(released[0].sums, stored.sums) and released[0].signature == stored.signature
    aborts = roles.key_holder.report_abandoned()
    for index, client in enumerate(roles.clients):
        for open_step in client.unfinished():
            ended: list[Release | Abort] = [each for each in aborts if each.header.step == open_step]
            if open_step == step and stored is not None:
                ended = [stored]
            for message in ended:
                try:
                    client.settle(message)
                except SecAggError:
                    assert index in (played.left_out if played else ())
        shown = {
            entry.step for entry in audit_entries(session.journal(index)) if entry.kind in ("shown", "contributing")
        }
        if step in shown:
            name = session.journal(index).name(alike(federation, step)[index], federation.plan)
            with pytest.raises(UpdateReused):
                session.journal(index).check_shown(name)
    session.ledger.close()
    for index in range(CLIENTS):
        session.journal(index).close()


def audit_entries(journal):
    return journal._log.events()


@pytest.mark.parametrize(("length", "count"), [(IDENTITY, 3), (COUNT, 2)], ids=["identity", "count"])
def test_killed_at_random_moments_nothing_is_released_shown_or_sent_twice(length, count, tmp_path, monkeypatch):
    (tmp_path / "once").mkdir()
    assert len(killed_rounds(count, length, tmp_path, monkeypatch)) == count


@pytest.mark.long
@pytest.mark.parametrize("length", [IDENTITY, COUNT], ids=["identity", "count"])
def test_killed_200_times_nothing_is_released_shown_or_sent_twice(length, tmp_path, monkeypatch):
    (tmp_path / "once").mkdir()
    outcomes = killed_rounds(200, length, tmp_path, monkeypatch)
    assert outcomes.count(Outcome.RELEASED) > 0


def test_a_journal_of_a_robust_round_reads_as_one_of_a_plain_round_does(tmp_path, monkeypatch):
    federation = robust_federation(CLIENTS, folder=tmp_path)
    assert run(federation, 1, Kill(at=-1), monkeypatch) is not None
    (seen,) = audit_journal(federation.journal_file(0)).rounds
    assert seen.release is not None and not seen.aborted and seen.members == CLIENTS
    kinds = [entry.kind for entry in audit(federation.journal_file(0)).entries]
    assert kinds == ["joined", "shown", "contributing", "sealed", "finished"]

"""Kill -9, at every named step and at random moments: one decryption a step, one release a step, and no second roster.

A key holder with its ledger and a client with its journal run in processes of their own; two more clients and the
aggregator live in the test. After each kill the files are verified offline, the victim is restarted, and the round ends
in the same release bytes or in a reported abandonment.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Client as connect
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from crash_role import MODEL, Setting

import secagg
from secagg import wire
from secagg.errors import LedgerError
from secagg.journal import audit_journal
from secagg.ledger import Outcome, audit_ledger, compare_journal
from secagg.messages import Release

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 9_000  # two blocks, so that a kill can fall between two decryptions

KEY_HOLDER_STEPS = [
    *(
        f"{name}.{when}"
        for name in ("open", "join", "roster", "consume", "decrypt", "store")
        for when in ("before", "after")
    ),
    "decrypt block.before",
    "decrypt block.after",
    *(f"send {name}.{when}" for name in ("open", "join", "roster", "release") for when in ("before", "after")),
]
CLIENT_STEPS = [
    *(f"{name}.{when}" for name in ("join", "contribution", "seal", "hash", "accept") for when in ("before", "after")),
    *(f"send {name}.{when}" for name in ("join", "contribution", "accept") for when in ("before", "after")),
]


class Killed(Exception):
    """The process at the other end is gone."""


class Role:
    """A role in a process of its own."""

    def __init__(self, address: str, setting: Setting) -> None:
        self._connection: Connection = connect(address, "AF_UNIX")
        self._connection.send(setting)
        self.pid: int = self._connection.recv()

    def call(self, method: str, *arguments: object):
        """The answer, or `Killed`. An error of the package comes back as (name, text)."""
        try:
            self._connection.send((method, *arguments))
            name, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise Killed from error
        if name != "ok":
            raise getattr(secagg.errors, name)(answer)
        return answer

    def kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def end(self) -> None:
        """Kill what is left."""
        self.kill()
        self._connection.close()
        self.wait()

    def wait(self) -> None:
        """Wait until the process, and with it its locks, is gone."""
        for _ in range(5_000):
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.001)
        raise AssertionError(f"process {self.pid} does not die")


@dataclass
class Crashes:
    """A federation whose key holder and first client are killed again and again."""

    address: str
    folder: Path
    identities: dict[str, secagg.Identity]
    enrolment: secagg.Enrolment
    plan: secagg.RoundPlan
    step: int = 0
    releases: dict[int, set[bytes]] = field(default_factory=dict)
    round_s: float = 60.0  # shortest round so far, without restarts and audits

    def role(self, name: str, kill_at: str | None = None) -> Role:
        return Role(self.address, Setting(name, str(self.folder), LENGTH, 3, 3, kill_at))

    def update(self, index: int) -> np.ndarray:
        return np.random.default_rng([self.step, index]).uniform(-1, 1, LENGTH)

    def exact(self) -> np.ndarray:
        scaled = [np.rint(self.update(index) * (1.0 / self.plan.step)) for index in range(3)]
        return np.sum(scaled, axis=0).astype(np.int64)


@pytest.fixture(scope="module")
def crashes(tmp_path_factory) -> Iterator[Crashes]:
    folder = tmp_path_factory.mktemp("crash")
    names = ("key holder", "aggregator", "bank 0", "bank 1", "bank 2")
    identities = {name: secagg.Identity.generate(name) for name in names}
    for name, identity in identities.items():
        identity.save(folder / f"{name}.key")
    members = [identity.member for identity in identities.values()]
    enrolment = secagg.Enrolment.of(members[0], members[1], tuple(members[2:]))
    enrolment.save(folder / "enrolment.json")
    address = str(folder / "socket")
    plan = Setting("", str(folder), LENGTH, 3, 3, None).plan()
    assert plan.blocks == 2
    environment = {**os.environ, "SECAGG_KERNELS": "numpy", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    nursery = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_role.py")), address],
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert nursery.stdout is not None and nursery.stdout.readline() == b"ready\n"
        yield Crashes(address, folder, identities, enrolment, plan)
    finally:
        nursery.kill()
        nursery.wait()
        assert nursery.stdout is not None
        nursery.stdout.close()


# --- one trial ------------------------------------------------------------------------------------------------------


@dataclass
class Flight:
    """How far the round of a trial got outside the two processes: what had left them when the kill came."""

    offer: bytes | None = None
    contribution: bytes | None = None
    encrypted_sum: bytes | None = None
    release: bytes | None = None
    average: bytes | None = None


def play(crashes: Crashes, key_holder: Role, client: Role, flight: Flight) -> None:
    """The round of `crashes.step`, up to wherever a kill ends it."""
    plan = crashes.plan
    start = time.perf_counter()
    local = [secagg.Client(crashes.identities[f"bank {i}"], crashes.enrolment, plan, 3, threads=1) for i in (1, 2)]
    flight.offer = key_holder.call("open", crashes.step)
    offer = wire.decode(flight.offer, plan)
    key_holder.call("join", client.call("join", flight.offer))
    for each in local:
        key_holder.call("join", wire.encode(each.join(offer, MODEL), plan))
    roster = key_holder.call("roster")
    aggregator = secagg.Aggregator(crashes.identities["aggregator"], crashes.enrolment, plan)
    aggregator.open(offer, wire.decode(roster, plan))
    flight.contribution = client.call("contribution", roster, crashes.update(0).tobytes())
    aggregator.receive(wire.decode(flight.contribution, plan))
    for index, each in enumerate(local, start=1):
        aggregator.receive(each.contribute(wire.decode(roster, plan), crashes.update(index)))
    flight.encrypted_sum = wire.encode(aggregator.close(), plan)
    flight.release = key_holder.call("release", flight.encrypted_sum)
    crashes.releases.setdefault(crashes.step, set()).add(flight.release)
    flight.average = client.call("accept", flight.release)
    crashes.round_s = min(crashes.round_s, time.perf_counter() - start)


def trial(crashes: Crashes, victim: str, kill_at: str | None, after_s: float | None = None, ready: bool = True) -> str:
    """Kill `victim` at a named step or after some seconds, verify, restart, finish or abandon, verify again.

    The seconds count from when both have read their files, or with `ready` false from when they begin to. Returns how
    the step ended.
    """
    crashes.step += 1
    flight = Flight()
    roles = {name: crashes.role(name, kill_at if name == victim else None) for name in ("key holder", "client")}
    timer = threading.Timer(after_s or 0, roles[victim].kill)
    try:
        if ready:
            for role in roles.values():
                role.call("ready")
        if after_s is not None:
            timer.start()
        with suppress(Killed):
            play(crashes, roles["key holder"], roles["client"], flight)
        if kill_at is not None:
            roles[victim].wait()  # it dies by its own hand, or this fails: the step was never reached
        timer.join() if after_s is not None else None
        roles[victim].end()
        verify_file(crashes, victim)
        roles[victim] = crashes.role(victim)
        after_crash = after_the_key_holders_crash if victim == "key holder" else after_the_clients_crash
        end = after_crash(crashes, roles["key holder"], roles["client"], flight)
    finally:
        timer.cancel()
        for role in roles.values():
            role.end()
    verify_all(crashes)
    return end


def verify_file(crashes: Crashes, victim: str) -> None:
    """A killed process's file verifies as it lies there. Only before its first event may there be nothing in it."""
    name, audit = {"key holder": ("ledger.db", audit_ledger), "client": ("journal.db", audit_journal)}[victim]
    try:
        audit(crashes.folder / name)
    except LedgerError as error:
        assert crashes.step == 1 and ("got an empty database" in str(error) or "no such file" in str(error)), error


def after_the_key_holders_crash(crashes: Crashes, key_holder: Role, client: Role, flight: Flight) -> str:
    """The same release bytes, or a reported abandonment, and never another decryption."""
    step, outcome = crashes.step, key_holder.call("outcome", crashes.step)
    stored = key_holder.call("stored", step)
    if stored is not None:
        assert outcome == Outcome.RELEASED.value
        assert key_holder.call("abandoned") == ()
        assert flight.release in (None, stored)
        with pytest.raises(secagg.errors.RoundAlreadyReleased):
            key_holder.call("open", step)
        crashes.releases.setdefault(step, set()).add(stored)
        check_release(crashes, stored)
        if flight.average is None:
            assert client.call("accept", stored) is not None
        return "key holder: the same release, again"
    assert flight.release is None, "a release left the process and was not stored"
    if outcome is None:
        assert flight.offer is None  # killed before the step was opened: it may still be
        return "key holder: never opened"
    assert outcome == Outcome.ABANDONED.value
    assert key_holder.call("abandoned") == (step,)
    with pytest.raises(secagg.errors.WrongState):
        key_holder.call("release", flight.encrypted_sum) if flight.encrypted_sum else key_holder.call("roster")
    with pytest.raises(secagg.errors.StepNotIncreasing):
        key_holder.call("open", step)
    (abort,) = key_holder.call("report")
    if step in client.call("joined"):
        client.call("abort", abort)
    assert (key_holder.call("abandoned"), key_holder.call("outcome", step)) == ((), Outcome.ABORTED.value)
    return "key holder: abandoned, reported"


def after_the_clients_crash(crashes: Crashes, key_holder: Role, client: Role, flight: Flight) -> str:
    """What had left is used, what had not is never made again."""
    step = crashes.step
    joined = step in client.call("joined")
    if joined:
        with pytest.raises(secagg.errors.StepNotIncreasing):
            client.call("join", flight.offer)
    if flight.contribution is None:
        if flight.offer is not None:
            abort = key_holder.call("abort")
            if joined:
                assert client.call("settle", abort) is None
        end = "client: nothing sent, abandoned"
    elif step in client.call("unfinished"):
        assert flight.release is not None
        assert client.call("settle", flight.release) is not None
        check_release(crashes, flight.release)
        end = "client: sent, release accepted late"
    else:
        end = "client: finished before"
    assert step not in client.call("unfinished")
    return end


def check_release(crashes: Crashes, data: bytes) -> None:
    release = wire.decode(data, crashes.plan)
    assert isinstance(release, Release)
    assert (release.sums == crashes.exact()).all()


def verify_all(crashes: Crashes) -> None:
    """What must hold after every trial."""
    assert all(len(different) == 1 for different in crashes.releases.values())
    for name in ("decrypted.txt", "sealed.txt"):
        noted = Counter((crashes.folder / name).read_text().split()) if (crashes.folder / name).exists() else Counter()
        assert all(count == 1 for count in noted.values()), f"{name}: {noted.most_common(3)}"
    if (crashes.folder / "ledger.db").exists():
        steps = {step: outcome for step, _, outcome in audit_ledger(crashes.folder / "ledger.db").steps}
        assert {step for step, outcome in steps.items() if outcome is Outcome.RELEASED} == set(crashes.releases)
        if (crashes.folder / "journal.db").exists():
            compare_journal(crashes.folder / "ledger.db", crashes.folder / "journal.db")


# --- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill_at", KEY_HOLDER_STEPS)
def test_a_key_holder_killed_at_a_named_step_decrypts_once_and_sends_the_same_or_nothing(crashes, kill_at):
    end = trial(crashes, "key holder", kill_at)
    sent = kill_at.startswith(("store.after", "send release"))
    expected = (
        "the same release, again" if sent else "never opened" if kill_at == "open.before" else "abandoned, reported"
    )
    assert end == f"key holder: {expected}"


@pytest.mark.parametrize("kill_at", CLIENT_STEPS)
def test_a_client_killed_at_a_named_step_never_seals_twice(crashes, kill_at):
    end = trial(crashes, "client", kill_at)
    if kill_at in ("accept.after", "send accept.before", "send accept.after"):
        assert end == "client: finished before"
    elif kill_at in ("accept.before", "send contribution.after"):
        assert end == "client: sent, release accepted late"
    else:
        assert end == "client: nothing sent, abandoned"


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.long)])
def test_killed_at_random_moments_no_step_is_decrypted_or_released_twice(crashes, count):
    moments = random.Random(20260801)  # only the moments of death are seeded
    start = time.perf_counter()
    trial(crashes, "client", None)
    ends = Counter(
        trial(
            crashes,
            ("key holder", "client")[number % 2],
            None,
            after_s=moments.uniform(0.0, crashes.round_s),
            ready=number % 8 < 6,
        )
        for number in range(count)
    )
    print(f"{count} kills, {(time.perf_counter() - start) / (count + 1):.2f} s each: {dict(ends)}")
    assert ends.total() == count

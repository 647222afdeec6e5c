"""One role in a process that can be killed at a named step or at any moment. Started by test_crash.py.

    python crash_role.py SOCKET

The process imports everything once and then forks a child for each connection, so that a restart costs milliseconds.
A child loads its identity from its file, opens its ledger or journal, and answers (method, arguments) with bytes.
Before it decrypts or seals it notes so in a file: that is how the test counts decryptions.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from secagg import errors, wire
from secagg.ckks import SecretKey, generate_keys
from secagg.parameters import ALLOWED
from secagg.ring import ring_of

MODEL = b"crash test model".ljust(32, b"\0")


@dataclass(frozen=True)
class Setting:
    """What a child needs to be a role. kill_at: a named step, or None. notes: where it notes decryptions and seals."""

    role: str
    folder: str
    length: int
    max_clients: int
    quorum: int
    kill_at: str | None

    def plan(self) -> secagg.RoundPlan:
        return secagg.plan_round(length=self.length, max_clients=self.max_clients, params=ALLOWED[0])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mortal(owner: Any, method: str, name: str, kill_at: str | None, before: Callable[..., None] | None = None) -> None:
    """Make a method a place to die: just before it (`name.before`) or just after it (`name.after`)."""
    original = getattr(owner, method)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if kill_at == f"{name}.before":
            die()
        if before is not None:
            before(*arguments)
        result = original(*arguments, **named)
        if kill_at == f"{name}.after":
            die()
        return result

    setattr(owner, method, wrapped)


def note(file: Path, line: str) -> None:
    """Append a line in one write: what was noted before a kill stays noted."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def key_holder(setting: Setting) -> dict[str, Callable[..., Any]]:
    folder, plan, kill_at = Path(setting.folder), setting.plan(), setting.kill_at
    for owner, method, name in (
        (secagg.Ledger, "opened", "open"),
        (secagg.KeyHolder, "receive_join", "join"),
        (secagg.Ledger, "roster_closed", "roster"),
        (secagg.Ledger, "consumed", "consume"),
        (secagg.Ledger, "released", "store"),
    ):
        mortal(owner, method, name, kill_at)
    decrypted = folder / "decrypted.txt"

    def noted(self: secagg.KeyHolder, encrypted_sum: Any, state: Any) -> None:
        note(decrypted, str(encrypted_sum.header.step))
        # From here on the next block decrypted is one of the sum, not of the key's self-test.
        mortal(SecretKey, "begin_decrypt", "decrypt block", kill_at)

    mortal(secagg.KeyHolder, "_open", "decrypt", kill_at, noted)
    identity = secagg.Identity.load(folder / "key holder.key")
    enrolment = secagg.Enrolment.load(folder / "enrolment.json")
    ledger = secagg.Ledger(folder / "ledger.db", identity)
    role = secagg.KeyHolder(identity, enrolment, plan, setting.quorum, ledger=ledger, threads=1)

    def stored(step: int) -> bytes | None:
        release = role.stored_release(step)
        return None if release is None else wire.encode(release, plan)

    return {
        "open": lambda step: wire.encode(role.open(step, MODEL), plan),
        "join": lambda data: role.receive_join(wire.decode(data, plan)),
        "roster": lambda: wire.encode(role.close_roster(), plan),
        "release": lambda data: wire.encode(role.release(wire.decode(data, plan)), plan),
        "stored": stored,
        "outcome": lambda step: getattr(role.outcome(step), "value", None),
        "ready": lambda: None,
        "abandoned": role.abandoned_steps,
        "report": lambda: [wire.encode(abort, plan) for abort in role.report_abandoned()],
        "abort": lambda: wire.encode(role.abort(), plan),
    }


def client(setting: Setting) -> dict[str, Callable[..., Any]]:
    folder, plan, kill_at = Path(setting.folder), setting.plan(), setting.kill_at
    for method, name in (
        ("joined", "join"),
        ("contributing", "contribution"),
        ("sealed", "hash"),
        ("finished", "accept"),
    ):
        mortal(secagg.Journal, method, name, kill_at)
    sealed = folder / "sealed.txt"
    mortal(
        secagg.Client,
        "_seal",
        "seal",
        kill_at,
        lambda self, encoder, terms, state: note(sealed, str(state.offer.header.step)),
    )
    identity = secagg.Identity.load(folder / "bank 0.key")
    enrolment = secagg.Enrolment.load(folder / "enrolment.json")
    journal = secagg.Journal(folder / "journal.db", identity)
    role = secagg.Client(identity, enrolment, plan, setting.quorum, journal=journal, threads=1)

    def average(data: bytes, take: Callable[[Any], Any]) -> bytes | None:
        taken = take(wire.decode(data, plan))
        return None if taken is None else taken.values.tobytes()

    return {
        "join": lambda data: wire.encode(role.join(wire.decode(data, plan), MODEL), plan),
        "contribution": lambda data, update: wire.encode(
            role.contribute(wire.decode(data, plan), np.frombuffer(update)), plan
        ),
        "accept": lambda data: average(data, role.accept),
        "abort": lambda data: role.abort(wire.decode(data, plan)),
        "settle": lambda data: average(data, role.settle),
        "ready": lambda: None,
        "unfinished": role.unfinished,
        "joined": journal.unfinished,
    }


def serve(connection: Connection) -> None:
    """Answer calls until the other side hangs up. Only this package's errors are answered; all others end the child."""
    setting: Setting = connection.recv()
    connection.send(os.getpid())
    calls = (key_holder if setting.role == "key holder" else client)(setting)
    while True:
        try:
            method, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = ("ok", calls[method](*arguments))
        except errors.SecAggError as error:
            answer = (type(error).__name__, str(error))
        if setting.kill_at == f"send {method}.before":
            die()
        connection.send(answer)
        if setting.kill_at == f"send {method}.after":
            die()


def main(address: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system
    sys.modules["crash_role"] = sys.modules["__main__"]  # a `Setting` from the test is this module's
    generate_keys(ALLOWED[0])  # SEAL's tables, the ring's tables: made once, inherited by every child
    ring_of(ALLOWED[0])
    with Listener(address, "AF_UNIX") as listener:
        print("ready", flush=True)
        while True:
            connection = listener.accept()
            if os.fork() == 0:
                try:
                    listener._listener._socket.close()  # type: ignore[attr-defined]  # the child accepts nobody
                    serve(connection)
                finally:
                    os._exit(0)
            connection.close()


if __name__ == "__main__":
    main(sys.argv[1])

"""The event log: durable, in one process at a time, and anything edited, cut in the middle or foreign is refused."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from secagg import database
from secagg.audit import audit
from secagg.errors import LedgerError, LedgerLocked
from secagg.eventlog import EventLog
from secagg.events import NO_HEAD
from secagg.identity import Identity, verify

MODEL, ROUND = b"m" * 32, b"r" * 16


@pytest.fixture(scope="module")
def owner() -> Identity:
    return Identity.generate("owner")


@pytest.fixture
def file(tmp_path, owner):
    """A closed log of four events."""
    log = EventLog(tmp_path / "log.db", owner, "test log")
    for step, kind in ((1, "a"), (1, "b"), (2, "a"), (3, "a")):
        log.append(kind, step, MODEL, ROUND, f"{kind}{step}".encode())
    log.close()
    return tmp_path / "log.db"


def forged(file, *statements: str) -> None:
    """Edit a log behind its back, as somebody with the file and without the key would; the schema stays as it was."""
    connection = sqlite3.connect(file)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    edits = [f"DROP TRIGGER {name}" for name, _ in triggers] + list(statements)
    if "DROP TABLE events" not in statements:
        edits += [sql for _, sql in triggers]
    connection.executescript(";".join(edits))
    connection.commit()
    connection.close()


def test_the_chain_is_pinned(owner, file):
    head = NO_HEAD
    for event in EventLog(file, owner, "test log").events():
        digest = hashlib.sha256(b"secagg v1 event of a test log\0" + head)
        digest.update(struct.pack("<QQQQQQ", event.sequence, event.step, len(event.kind), 32, 16, len(event.body)))
        digest.update(event.kind.encode() + MODEL + ROUND + event.body)
        assert event.hash == digest.digest()
        verify(owner.key, event.signature, event.hash)
        head = event.hash


def test_what_was_appended_is_there_after_reopening(owner, file):
    log = EventLog(file, owner, "test log")
    assert len(log) == 4
    assert [(e.sequence, e.kind, e.step, e.body) for e in log.events()] == [
        (1, "a", 1, b"a1"),
        (2, "b", 1, b"b1"),
        (3, "a", 2, b"a2"),
        (4, "a", 3, b"a3"),
    ]
    assert [e.sequence for e in log.events(step=1)] == [1, 2]
    assert [e.sequence for e in log.events(kind="a")] == [1, 3, 4]
    assert [e.sequence for e in log.events(step=1, kind="a")] == [1]
    last = log.last("a")
    assert last is not None and last.sequence == 4
    assert log.last("c") is None
    assert log.head == last.hash
    log.close()


def test_a_log_and_its_companions_are_readable_by_their_user_only(owner, tmp_path):
    log = EventLog(tmp_path / "log.db", owner, "test log")
    log.append("a", 1, MODEL, ROUND)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    log.close()
    assert set(modes) >= {"log.db", "log.db-wal"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o400, 0o700])
def test_a_log_or_companion_of_another_mode_is_refused_with_the_command_to_fix_it(owner, file, end, mode):
    name = file.with_name(file.name + end)
    name.touch()
    name.chmod(mode)
    before = file.read_bytes()
    with pytest.raises(LedgerError, match=f"mode {mode:o}.; expected 600: chmod 600 {name}"):
        EventLog(file, owner, "test log")
    assert file.read_bytes() == before
    if name != file:
        name.unlink()
    file.chmod(0o600)
    EventLog(file, owner, "test log").close()


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("link", ["symbolic", "dangling", "hard", "pipe"])
def test_a_log_or_companion_that_is_a_link_is_followed_by_nobody(owner, file, tmp_path, end, link):
    name = file.with_name(file.name + end)
    other = tmp_path / "other"
    if link == "dangling":
        (name if end == "" else other).unlink(missing_ok=True)
    elif end == "":
        name.rename(other)
    else:
        other.touch(mode=0o600)
    {"symbolic": name.symlink_to, "dangling": name.symlink_to, "hard": name.hardlink_to}.get(link, lambda _: None)(
        other
    )
    if link == "pipe":
        os.mkfifo(name, 0o600)
    before = other.read_bytes() if other.exists() else None
    said = {"hard": "has 2 names", "pipe": "is not a regular file"}.get(
        link, "is a symbolic link; name the file itself"
    )
    with pytest.raises(LedgerError, match=said):
        EventLog(file, owner, "test log")
    if link != "hard":  # an auditor's copies may have several names: nothing is written to them
        with pytest.raises(LedgerError, match=said):
            audit(file)
    assert (other.read_bytes() if other.exists() else None) == before


def test_a_companion_that_waits_for_a_new_log_is_not_followed(owner, tmp_path):
    (tmp_path / "log.db-wal").symlink_to(tmp_path / "other")
    with pytest.raises(LedgerError, match=r"log\.db-wal: is a symbolic link"):
        EventLog(tmp_path / "log.db", owner, "test log")
    assert not (tmp_path / "other").exists()


def test_a_log_that_is_exchanged_while_it_is_opened_is_refused(owner, file, tmp_path, monkeypatch):
    EventLog(tmp_path / "other.db", owner, "test log").close()
    looked = database._distrust

    def exchange(connection, path):
        looked(connection, path)
        (tmp_path / "other.db").rename(file)

    monkeypatch.setattr(database, "_distrust", exchange)
    with pytest.raises(LedgerError, match="was replaced while it was opened"):
        EventLog(file, owner, "test log")


def test_a_copy_of_any_mode_is_audited(file):
    file.chmod(0o644)
    assert len(audit(file).entries) == 4


def test_every_append_is_written_through_to_the_disk(owner, tmp_path):
    log = EventLog(tmp_path / "log.db", owner, "test log")
    settings = [log._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    log.close()
    assert settings == ["wal", 2]  # 2 is FULL


def test_a_second_process_is_refused_and_comes_in_when_the_first_is_killed(owner, tmp_path):
    owner.save(tmp_path / "key")
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from secagg.eventlog import EventLog; from secagg.identity import Identity\n"
            "log = EventLog(sys.argv[1], Identity.load(sys.argv[2]), 'test log')\n"
            "log.append('a', 1, b'm' * 32, b'r' * 16); print('open', flush=True); time.sleep(60)",
            str(tmp_path / "log.db"),
            str(tmp_path / "key"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"open\n"
        with pytest.raises(LedgerLocked, match="open in another process"):
            EventLog(tmp_path / "log.db", owner, "test log")
        with pytest.raises(LedgerLocked):
            audit(tmp_path / "log.db")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert len(audit(tmp_path / "log.db").entries) == 1  # from the write-ahead log of a killed process
    log = EventLog(tmp_path / "log.db", owner, "test log")
    assert len(log) == 1
    log.close()


def test_the_same_process_cannot_open_it_twice_either(owner, file):
    log = EventLog(file, owner, "test log")
    with pytest.raises(LedgerLocked):
        EventLog(file, owner, "test log")
    log.close()


def test_an_audit_needs_no_private_key_and_leaves_the_log_as_it_was(owner, file):
    before = file.read_bytes()
    found = audit(file)
    assert (found.purpose, found.owner, len(found.entries)) == ("test log", owner.key, 4)
    assert [e.start for e in found.entries] == [b"a1", b"b1", b"a2", b"a3"]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET kind = 'b' WHERE sequence = 4",
        "UPDATE events SET step = 4 WHERE sequence = 4",
        "UPDATE events SET model = zeroblob(32) WHERE sequence = 1",
        "UPDATE events SET round_id = zeroblob(16) WHERE sequence = 1",
        "UPDATE events SET body = 'a1' || x'00' WHERE sequence = 1",
        "UPDATE events SET body = zeroblob(2) WHERE sequence = 2",
        "UPDATE events SET hash = zeroblob(32) WHERE sequence = 4",
        "UPDATE events SET signature = zeroblob(64) WHERE sequence = 4",
        "UPDATE events SET signature = (SELECT signature FROM events WHERE sequence = 3) WHERE sequence = 4",
        "DELETE FROM events WHERE sequence = 1",
        "DELETE FROM events WHERE sequence = 2",
        "UPDATE events SET sequence = 9 WHERE sequence = 4",
        "UPDATE events SET kind = x'00' WHERE sequence = 4",
        "UPDATE events SET kind = CAST(x'ff' AS TEXT) WHERE sequence = 4",
        "UPDATE events SET step = 'x' WHERE sequence = 4",
        "UPDATE events SET step = -1 WHERE sequence = 4",
        "UPDATE events SET body = 7 WHERE sequence = 4",
        "UPDATE owner SET key = zeroblob(32)",
        "UPDATE owner SET key = 'x'",
        "UPDATE owner SET purpose = 'another log'",
        "DELETE FROM owner",
        "DROP TABLE owner",
        "DROP TABLE events",
        "PRAGMA user_version = 2",
        "PRAGMA application_id = 0",
    ],
)
def test_an_edited_log_verifies_neither_offline_nor_when_opened(owner, file, statement):
    forged(file, statement)
    for read in (audit, lambda path: EventLog(path, owner, "test log")):
        with pytest.raises(LedgerError):
            read(file)


def test_a_log_whose_end_was_cut_verifies_and_only_its_head_tells(file):
    # The stated limit: this is what comparing heads is for (tests/secagg/test_ledger.py).
    head = audit(file).head
    forged(file, "DELETE FROM events WHERE sequence = 4")
    assert audit(file).head != head


def test_another_owner_or_purpose_is_refused(owner, file):
    with pytest.raises(LedgerError, match="expected a test log of"):
        EventLog(file, Identity.generate("other"), "test log")
    with pytest.raises(LedgerError, match="got a test log of"):
        EventLog(file, owner, "another log")


def test_a_database_of_something_else_is_refused_and_left_alone(owner, tmp_path):
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()
    foreign.chmod(0o600)
    before = foreign.read_bytes()
    for read in (audit, lambda path: EventLog(path, owner, "test log")):
        with pytest.raises(LedgerError, match="expected a log of version 1"):
            read(foreign)
    assert foreign.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a database, and long enough to be looked at as one" * 40, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_database_is_refused(owner, tmp_path, content):
    (tmp_path / "log.db").write_bytes(content)
    (tmp_path / "log.db").chmod(0o600)
    for read in (audit, lambda path: EventLog(path, owner, "test log")):
        with pytest.raises(LedgerError):
            read(tmp_path / "log.db")


def test_a_missing_file_an_empty_one_and_a_missing_folder_are_named(owner, tmp_path):
    with pytest.raises(LedgerError, match="no such file"):
        audit(tmp_path / "log.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(LedgerError, match="expected a log, got an empty database"):
        audit(tmp_path / "empty.db")
    with pytest.raises(LedgerError, match="cannot be created"):
        EventLog(tmp_path / "missing" / "log.db", owner, "test log")


def test_the_database_itself_refuses_a_second_event_of_a_kind_in_a_step(owner, file):
    log = EventLog(file, owner, "test log")
    head, length = log.head, len(log)
    with pytest.raises(LedgerError, match="UNIQUE"):
        log.append("a", 1, MODEL, ROUND)
    assert (log.head, len(log)) == (head, length)
    log.append("c", 1, MODEL, ROUND)  # and goes on
    log.close()
    assert len(audit(file).entries) == 5


def test_events_are_final_even_for_the_connection_that_wrote_them(owner, file):
    log = EventLog(file, owner, "test log")
    for statement in ("DELETE FROM events", "UPDATE events SET step = 9"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            log._connection.execute(statement)
    log.close()


def test_two_threads_cannot_both_append_the_same_event(owner, tmp_path):
    log = EventLog(tmp_path / "log.db", owner, "test log")

    def append(step: int) -> bool:
        try:
            log.append("consumed", step // 4, MODEL, ROUND)
        except LedgerError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(append, range(200)))
    log.close()
    assert sum(taken) == 50
    assert len(audit(tmp_path / "log.db").entries) == 50


def test_a_path_with_characters_of_a_uri_is_a_plain_path(owner, tmp_path):
    path = tmp_path / "50% ?mode=memory#x.db"
    log = EventLog(path, owner, "test log")
    log.append("a", 1, MODEL, ROUND)
    log.close()
    assert len(audit(path).entries) == 1


# --- what a log remembers of itself -----------------------------------------------------------------------------------


class Model:
    """The events that a log must hold, as a list."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str, int, bytes]] = []
        self.models: list[bytes] = []  # of each of them

    def about(self, kind: str, model: bytes) -> list[tuple[int, str, int, bytes]]:
        return [each for each, of in zip(self.events, self.models, strict=True) if (each[1], of) == (kind, model)]

    def highest(self, kinds: str) -> list[int]:
        return sorted((each[2] for each in self.events if each[1] in kinds), reverse=True)

    def of(self, step: int, kind: str | None = None) -> list[tuple[int, str, int, bytes]]:
        return [each for each in self.events if each[2] == step and kind in (None, each[1])]

    def last(self, kind: str) -> tuple[int, str, int, bytes] | None:
        return next((each for each in reversed(self.events) if each[1] == kind), None)


def plain(event):
    return (event.sequence, event.kind, event.step, event.body)


MODELS = [bytes([number]) * 32 for number in range(4)]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_remembered_is_what_the_file_holds(owner, tmp_path, seed):
    """Appends, reads and reopenings in any order, more steps than are remembered, short bodies and long ones."""
    rng = random.Random(seed)
    path, model = tmp_path / "log.db", Model()
    log = EventLog(path, owner, "test log")
    for _ in range(400):
        step, kind, about = rng.randrange(14), rng.choice("abcd"), rng.choice(MODELS)
        match rng.randrange(10):
            case 0 | 1 | 2:
                if model.of(step, kind):
                    with pytest.raises(LedgerError):
                        log.append(kind, step, MODEL, ROUND)
                else:
                    body = rng.randbytes(rng.choice([0, 40, 4096, 4097, 9000]))
                    log.append(kind, step, about, ROUND, body)
                    model.events.append((len(model.events) + 1, kind, step, body))
                    model.models.append(about)
            case 3 | 4:
                assert [plain(event) for event in log.events(step)] == model.of(step)
            case 5:
                assert [plain(event) for event in log.events(step, kind)] == model.of(step, kind)
            case 6:
                last, expected = log.last(kind), model.last(kind)
                assert (None if last is None else plain(last)) == expected
                starts = [(event.sequence, event.body) for event in log.starts(step, 10)]
                assert starts == [(each[0], each[3][:10]) for each in model.of(step)]
            case 7:
                assert [plain(event) for event in log.events(kind=kind, model=about)] == model.about(kind, about)
            case 8:
                kinds = "ab" if rng.random() < 0.5 else kind
                wanted = rng.choice([1, 20])  # most readers look at the first one alone
                found = [event.step for event in islice(log.latest_first(*kinds), wanted)]
                assert found == model.highest(kinds)[:wanted]
            case _:
                if rng.random() < 0.2:
                    log.close()
                    log = EventLog(path, owner, "test log")
    log.close()


def test_a_read_beside_an_append_never_hides_the_new_event(owner, tmp_path):
    log = EventLog(tmp_path / "log.db", owner, "test log")
    kinds = [f"kind {number}" for number in range(60)]

    def write() -> None:
        for kind in kinds:
            log.append(kind, 1, MODEL, ROUND)

    def read() -> None:
        for _ in range(300):
            found = [event.kind for event in log.events(1)]
            assert found == kinds[: len(found)]
            log.last(kinds[-1])

    with ThreadPoolExecutor(3) as pool:
        for job in [pool.submit(write), pool.submit(read), pool.submit(read)]:
            job.result()
    assert [event.kind for event in log.events(1)] == kinds
    last = log.last(kinds[-1])
    assert last is not None and last.sequence == len(kinds)


def test_events_in_memory_are_chained_and_not_signed_and_those_in_a_file_are_signed(owner, tmp_path):
    memory, file = EventLog(":memory:", owner, "test log"), EventLog(tmp_path / "log.db", owner, "test log")
    events = [log.append("a", 1, MODEL, ROUND, b"body") for log in (memory, file)]
    assert events[0].hash == events[1].hash == memory.head
    assert events[0].signature == b""
    verify(owner.key, events[1].signature, events[1].hash)


def test_parts_are_found_in_bodies_of_several_kinds_at_several_places(owner, tmp_path):
    log = EventLog(tmp_path / "log.db", owner, "test log")
    for step, (kind, body) in enumerate((("a", b"12xy"), ("b", b"xy12"), ("c", b"12xy"), ("a", b"xxxx"))):
        log.append(kind, step, MODEL, ROUND, body)
    assert [e.sequence for e in log.holding(("a", "b"), ((0, b"12"), (2, b"12")))] == [1, 2]
    assert [e.sequence for e in log.holding(("a",), ((1, b"xx"),))] == [4]
    assert log.holding(("d",), ((0, b"12"),)) == []

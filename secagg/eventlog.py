"""An append-only log on disk that survives kill -9: hash-chained, signed, and open in one process at a time.

SQLite in WAL mode with synchronous=FULL: when `append` returns, the event is on disk. Each event's hash covers the
hash before it, and the owner's Ed25519 signature covers the event's hash, so a log that was cut in the middle, edited
or spliced does not verify. What it cannot show by itself is that its *end* was cut off, or the whole file rolled back:
for that, heads are compared with those that others saw (`secagg.ledger.compare`).

`ledger.py` and `journal.py` give the events their meaning.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from secagg.errors import BadSignature, LedgerError, LedgerLocked
from secagg.identity import Identity, verify

IN_MEMORY = ":memory:"
NO_HEAD = bytes(32)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS owner (only INTEGER PRIMARY KEY CHECK (only = 1), purpose TEXT NOT NULL, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, step INTEGER NOT NULL, model BLOB NOT NULL,
    round_id BLOB NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL, signature BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_step ON events (step, kind);
CREATE TRIGGER IF NOT EXISTS events_are_final BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True)
class Event:
    """sequence: from 1, without gaps.  step: [0, 2**63).  body: what the kind says.  hash: of this and all before."""

    sequence: int
    kind: str
    step: int
    model: bytes
    round_id: bytes
    body: bytes = field(repr=False)
    hash: bytes
    signature: bytes = field(repr=False)


class EventLog:
    """One owner's log. purpose: what kind of log this file is, checked when it is opened again."""

    def __init__(self, path: str | Path, owner: Identity, purpose: str) -> None:
        self._owner = owner
        self.path = str(path)
        self._connection = _connect(self.path)
        try:
            self._claim(purpose)
            self._length, self._head = _verified_head(self._connection, purpose, owner.key)
        except BaseException:
            self._connection.close()
            raise

    def _claim(self, purpose: str) -> None:
        with _translated(self.path):
            self._connection.executescript(_SCHEMA)
            self._connection.execute("INSERT OR IGNORE INTO owner VALUES (1, ?, ?)", (purpose, self._owner.key))
            found = self._connection.execute("SELECT purpose, key FROM owner").fetchone()
        if found != (purpose, self._owner.key):
            raise LedgerError(
                f"{self.path} is a {found[0]} of {found[1].hex()[:16]}; expected a {purpose} of this identity"
            )

    @property
    def head(self) -> bytes:
        """Hash of the last event, zero for an empty log: 32 bytes."""
        return self._head

    def __len__(self) -> int:
        return self._length

    def append(self, kind: str, step: int, model: bytes, round_id: bytes, body: bytes = b"") -> Event:
        """Write an event durably; it is on disk when this returns."""
        sequence = self._length + 1
        digest = _event_hash(self._head, sequence, kind, step, model, round_id, body)
        signature = self._owner.sign(digest)
        with _translated(self.path):
            self._connection.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (sequence, kind, step, model, round_id, body, digest, signature),
            )
        self._length, self._head = sequence, digest
        return Event(sequence, kind, step, model, round_id, body, digest, signature)

    def events(self, step: int | None = None, kind: str | None = None) -> list[Event]:
        """Events in order, narrowed to a step or a kind."""
        return _select(self._connection, step, kind)

    def last(self, kind: str | None = None) -> Event | None:
        """The latest event (of a kind), or None."""
        where, values = ("WHERE kind = ?", (kind,)) if kind else ("", ())
        row = self._connection.execute(
            f"SELECT * FROM events {where} ORDER BY sequence DESC LIMIT 1", values
        ).fetchone()
        return Event(*row) if row else None

    def close(self) -> None:
        """Release the lock."""
        self._connection.close()


@dataclass(frozen=True)
class Audit:
    """What an offline reading of a log found: all chained and signed. heads: hash after each event, from the first."""

    path: str
    purpose: str
    owner: bytes
    events: tuple[Event, ...] = field(repr=False)

    @property
    def head(self) -> bytes:
        return self.events[-1].hash if self.events else NO_HEAD


def audit(path: str | Path) -> Audit:
    """Verify a log offline, without its owner's private key and without writing to it. Raises `LedgerError`."""
    if not Path(path).is_file():
        raise LedgerError(f"{path}: no such file")
    with _translated(str(path)):
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        try:
            row = connection.execute("SELECT purpose, key FROM owner").fetchone()
            if row is None:
                raise LedgerError(f"{path}: names no owner")
            purpose, owner = row
            _verified_head(connection, purpose, owner)
            return Audit(str(path), purpose, owner, tuple(_select(connection, None, None)))
        finally:
            connection.close()


def _connect(path: str) -> sqlite3.Connection:
    with _translated(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=0.5, check_same_thread=False)
        try:
            # EXCLUSIVE before the first access in WAL mode: a second process is refused for as long as this one lives.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
    return connection


class _translated:
    """Turns sqlite3's errors into this package's."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise LedgerLocked(f"{self._path} is open in another process: stop that one first") from error
        if isinstance(error, sqlite3.Error):
            raise LedgerError(f"{self._path}: {error}") from error


def _select(connection: sqlite3.Connection, step: int | None, kind: str | None) -> list[Event]:
    clauses, values = [], []
    for column, value in (("step", step), ("kind", kind)):
        if value is not None:
            clauses.append(f"{column} = ?")
            values.append(value)
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    rows = connection.execute(f"SELECT * FROM events {where} ORDER BY sequence", values)
    return [Event(*row) for row in rows]


def _event_hash(
    previous: bytes, sequence: int, kind: str, step: int, model: bytes, round_id: bytes, body: bytes
) -> bytes:
    name = kind.encode()
    digest = hashlib.sha256(b"secagg v1 event" + previous)
    digest.update(struct.pack("<QQHHHQ", sequence, step, len(name), len(model), len(round_id), len(body)))
    for part in (name, model, round_id, body):
        digest.update(part)
    return digest.digest()


def _verified_head(connection: sqlite3.Connection, purpose: str, owner: bytes) -> tuple[int, bytes]:
    """(length, head) after checking the chain and every signature."""
    head, length = NO_HEAD, 0
    for event in _iterate(connection):
        length += 1
        digest = _event_hash(head, event.sequence, event.kind, event.step, event.model, event.round_id, event.body)
        if event.sequence != length or event.hash != digest:
            raise LedgerError(f"the {purpose} is damaged or edited at event {length}: keep the file and investigate")
        try:
            verify(owner, event.signature, digest)
        except BadSignature as error:
            raise LedgerError(f"event {length} of the {purpose} is not signed by its owner") from error
        head = digest
    return length, head


def _iterate(connection: sqlite3.Connection) -> Iterator[Event]:
    for row in connection.execute("SELECT * FROM events ORDER BY sequence"):
        yield Event(*row)

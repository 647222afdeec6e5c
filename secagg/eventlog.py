"""An append-only log on disk that survives kill -9: hash-chained, signed, and open in one process at a time.

SQLite in WAL mode with synchronous=FULL: when `append` returns, the event is on disk. Each event's hash covers the hash
before it, and the owner's Ed25519 signature covers the event's hash, so a log that was cut in the middle, edited or
spliced does not verify. It cannot show by itself that its *end* was cut off, or that the whole file was rolled back.
For that, its head is compared with the heads that others saw (`ledger.compare`, `ledger.compare_journal`).

`ledger.py` and `journal.py` give the events their meaning; `database.py` opens the file and decides what in it is
trusted. Source: Schneier and Kelsey, "Secure audit logs", ACM TISSEC 1999 (hash chains).
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from secagg import database
from secagg.database import IN_MEMORY as IN_MEMORY
from secagg.errors import BadSignature, LedgerError
from secagg.identity import Identity, verify
from secagg.ownership import Owner

NO_HEAD = bytes(32)

_COLUMNS = "sequence, kind, step, model, round_id, body, hash, signature"
_SHORT = 4096  # bytes of a body that is kept in memory: all but releases, and rosters of more than 125 members
_STEPS_KEPT = 8
_TYPES = (int, str, int, bytes, bytes, bytes, bytes, bytes)


@dataclass(frozen=True)
class Event:
    """sequence: from 1, without gaps.  step: [0, 2**63).  body: depends on kind.  hash: of this and all before it."""

    sequence: int
    kind: str
    step: int
    model: bytes
    round_id: bytes
    body: bytes = field(repr=False)
    hash: bytes
    signature: bytes = field(repr=False)


class _Recent:
    """Steps that were read whole, and the latest event of each kind: what a round asks its log about again and again.

    Only this process can write to the file, and nothing in it ever changes. So what was read or written stays true
    until this process appends. Events with long bodies (stored releases) are not kept: their steps are read anew.
    """

    def __init__(self) -> None:
        self._steps: dict[int, tuple[Event, ...]] = {}
        self._last: dict[str, Event | None] = {}

    def keep_last(self, kind: str, event: Event | None) -> None:
        """The latest event of a kind, None for none; under the same conditions as `keep`."""
        if event is None or len(event.body) <= _SHORT:
            self._last[kind] = event

    def keep(self, step: int, events: tuple[Event, ...]) -> None:
        """All events of a step. Call it under the lock of appending, and only if none was appended since the read."""
        if all(len(event.body) <= _SHORT for event in events):
            self._steps[step] = events
            if len(self._steps) > _STEPS_KEPT:
                self._steps.pop(next(iter(self._steps)))

    def note(self, event: Event) -> None:
        """A new event. Call it under the lock of appending, once the event is on disk."""
        if len(event.body) <= _SHORT:
            self._last[event.kind] = event
            if event.step in self._steps:
                self._steps[event.step] = (*self._steps[event.step], event)
        else:
            self._last.pop(event.kind, None)
            self._steps.pop(event.step, None)

    def of_step(self, step: int) -> tuple[Event, ...] | None:
        """All events of a step, or None: look in the file."""
        return self._steps.get(step)

    def knows_last(self, kind: str) -> bool:
        """Whether `last` is known; otherwise look in the file."""
        return kind in self._last

    def last(self, kind: str) -> Event | None:
        """The latest event of a kind, None for none."""
        return self._last.get(kind)


class EventLog:
    """One owner's log. purpose: what kind of log this file is, checked when it is opened again.

    A new file is readable by this user only; an old one that is not, or is a link, is refused. Opening verifies the
    whole log. Raises `LedgerError`: damaged, edited, of another owner or purpose, not private, or not a log at all;
    `LedgerLocked`: open in another process. In a forked child every call raises `WrongState` (`ownership.py`).
    """

    def __init__(self, path: str | Path, owner: Identity, purpose: str) -> None:
        self._owner = owner
        self._purpose = purpose
        self._process = Owner(f"this {purpose}")
        self._appending = threading.Lock()
        self._recent = _Recent()
        self.path = str(path)
        self._open_connection = database.open_exclusively(self.path)
        try:
            with database.translated(self.path):
                self._claim(purpose)
                self._length, self._head = _verified_head(self._connection, self.path, purpose, owner.key)
                database.trust(self._connection, self.path)
        except BaseException:
            self._connection.close()
            raise

    @property
    def _connection(self) -> sqlite3.Connection:
        self._process.require()
        return self._open_connection

    def _claim(self, purpose: str) -> None:
        """Record this owner in a new file, in one transaction, or check that an old file names this owner."""
        if database.is_empty(self._connection, self.path):
            database.begin(self._connection, purpose, self._owner.key)
        found, key = _owner(self._connection, self.path)
        if (found, key) != (purpose, self._owner.key):
            raise LedgerError(
                f"{self.path}: expected a {purpose} of {self._owner.key.hex()[:16]}, got a {found} of {key.hex()[:16]}"
            )

    @property
    def head(self) -> bytes:
        """Hash of the last event, zero for an empty log: 32 bytes."""
        self._process.require()
        return self._head

    def __len__(self) -> int:
        self._process.require()
        return self._length

    def append(self, kind: str, step: int, model: bytes, round_id: bytes, body: bytes = b"") -> Event:
        """Write an event durably; it is on disk when this returns.

        Raises `LedgerError` for a second event of this kind in this step and for a failed write; the log is unchanged.
        """
        self._process.require()  # before the lock, which a thread of the parent may have held when it forked
        with self._appending:
            sequence = self._length + 1
            digest = _event_hash(self._purpose, self._head, sequence, kind, step, model, round_id, body)
            # A log in memory ends with its process, and no file of it is ever audited: nobody could ask who signed it.
            signature = b"" if self.path == IN_MEMORY else self._owner.sign(digest)
            event = Event(sequence, kind, step, model, round_id, body, digest, signature)
            with database.translated(self.path):
                self._connection.execute(
                    f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (sequence, kind, step, model, round_id, body, digest, event.signature),
                )
            self._length, self._head = sequence, digest
            self._recent.note(event)
        return event

    def events(self, step: int | None = None, kind: str | None = None, model: bytes | None = None) -> list[Event]:
        """Events in order, narrowed to a step, a kind or a model."""
        if step is not None and model is None:
            return [event for event in self._of_step(step) if kind in (None, event.kind)]
        clauses, values = [], []
        for column, value in (("step", step), ("kind", kind), ("model", model)):
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        with database.translated(self.path):
            return list(_select(self._connection, self.path, f"{where} ORDER BY sequence", tuple(values)))

    def _of_step(self, step: int) -> tuple[Event, ...]:
        self._process.require()
        if (recent := self._recent.of_step(step)) is not None:
            return recent
        length = self._length
        with database.translated(self.path):
            found = tuple(_select(self._connection, self.path, "WHERE step = ? ORDER BY sequence", (step,)))
        with self._appending:
            if length == self._length:  # otherwise another thread appended while this one read
                self._recent.keep(step, found)
        return found

    def latest_first(self, *kinds: str) -> Iterator[Event]:
        """Events of some kinds, from the highest step down."""
        with database.translated(self.path):
            found = f"WHERE kind IN ({', '.join('?' * len(kinds))}) ORDER BY step DESC"
            yield from _select(self._connection, self.path, found, kinds)

    def starts(self, step: int, length: int) -> list[Event]:
        """Events of a step in order, each with only the first `length` bytes of its body (a stored release is long)."""
        if (recent := self._recent.of_step(step)) is not None:
            self._process.require()
            return [replace(event, body=event.body[:length]) for event in recent]
        start = f"CASE WHEN length(body) > {length:d} THEN substr(body, 1, {length:d}) ELSE body END"
        columns = _COLUMNS.replace("body", start)
        with database.translated(self.path):
            return list(_select(self._connection, self.path, "WHERE step = ? ORDER BY sequence", (step,), columns))

    def holding(self, kinds: Sequence[str], parts: Sequence[tuple[int, bytes]]) -> list[Event]:
        """Events of these kinds whose body has one of `parts`, each (offset, bytes), in order."""
        either = " OR ".join(["substr(body, ?, ?) = ?"] * len(parts))
        found = f"WHERE kind IN ({', '.join('?' * len(kinds))}) AND ({either}) ORDER BY sequence"
        values = [value for offset, part in parts for value in (offset + 1, len(part), part)]
        with database.translated(self.path):
            return list(_select(self._connection, self.path, found, (*kinds, *values)))

    def beyond(self, kind: str, step: int, model: bytes | None = None, limit: int = 1) -> list[Event]:
        """Events of a kind in steps above `step`, lowest step first, at most `limit`. model: None for any."""
        found = "WHERE kind = ? AND step > ? AND (? IS NULL OR model = ?) ORDER BY step LIMIT ?"
        with database.translated(self.path):
            return list(_select(self._connection, self.path, found, (kind, step, model, model, limit)))

    def last(self, kind: str) -> Event | None:
        """The latest event of a kind, or None."""
        self._process.require()
        if self._recent.knows_last(kind):
            return self._recent.last(kind)
        length = self._length
        with database.translated(self.path):
            latest = "WHERE kind = ? ORDER BY sequence DESC LIMIT 1"
            found = next(_select(self._connection, self.path, latest, (kind,)), None)
        with self._appending:
            if length == self._length:  # otherwise another thread appended while this one read
                self._recent.keep_last(kind, found)
        return found

    def close(self) -> None:
        """Release the lock."""
        self._connection.close()


# --- offline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An event as an audit keeps it. start: the first 128 bytes of the body, which hold its hashes in every kind."""

    sequence: int
    kind: str
    step: int
    model: bytes
    round_id: bytes
    start: bytes = field(repr=False)
    body_length: int  # bytes
    hash: bytes


_START_BYTES = 128


@dataclass(frozen=True)
class Audit:
    """What an audit of a log found. All of it is chained and signed by `owner`, a public key of 32 bytes."""

    path: str
    purpose: str
    owner: bytes
    entries: tuple[Entry, ...] = field(repr=False)

    @property
    def head(self) -> bytes:
        """Hash of the last event, zero for an empty log: 32 bytes."""
        return self.entries[-1].hash if self.entries else NO_HEAD


def audit(path: str | Path) -> Audit:
    """Verify a log offline, without its owner's private key and without writing to it.

    The last events may still be in the file beside it that ends in `-wal`: copy both. Raises `LedgerError`: damaged,
    edited, or not a log; `LedgerLocked`: still open in a process.
    """
    with database.translated(str(path)):
        connection = database.open_to_read(str(path))
        try:
            purpose, owner = _owner(connection, str(path))
            entries = tuple(
                Entry(e.sequence, e.kind, e.step, e.model, e.round_id, e.body[:_START_BYTES], len(e.body), e.hash)
                for e in _verified(connection, str(path), purpose, owner)
            )
            return Audit(str(path), purpose, owner, entries)
        finally:
            connection.close()


# --- rows -----------------------------------------------------------------------------------------------------------


def _owner(connection: sqlite3.Connection, path: str) -> tuple[str, bytes]:
    row = connection.execute("SELECT purpose, key FROM owner").fetchone()
    if row is None or not isinstance(row[0], str) or not isinstance(row[1], bytes):
        raise LedgerError(f"{path}: no owner is recorded: keep the file and investigate")
    return row[0], row[1]


def _select(
    connection: sqlite3.Connection, path: str, rest: str, values: tuple[object, ...] = (), columns: str = _COLUMNS
) -> Iterator[Event]:
    for row in connection.execute(f"SELECT {columns} FROM events {rest}", values):
        # SQLite stores a value of any type. An edited file must raise `LedgerError` and not `TypeError`.
        if any(type(value) is not kind for value, kind in zip(row, _TYPES, strict=True)) or row[2] < 0:
            raise LedgerError(f"{path}: an event has fields of the wrong type: keep the file and investigate")
        yield Event(*row)


def _event_hash(
    purpose: str, previous: bytes, sequence: int, kind: str, step: int, model: bytes, round_id: bytes, body: bytes
) -> bytes:
    name = kind.encode()
    digest = hashlib.sha256(b"secagg v1 event of a " + purpose.encode() + b"\0" + previous)
    digest.update(struct.pack("<QQQQQQ", sequence, step, len(name), len(model), len(round_id), len(body)))
    for part in (name, model, round_id, body):
        digest.update(part)
    return digest.digest()


def _verified_head(connection: sqlite3.Connection, path: str, purpose: str, owner: bytes) -> tuple[int, bytes]:
    """(length, head) after checking the chain and every signature."""
    head, length = NO_HEAD, 0
    for event in _verified(connection, path, purpose, owner):
        head, length = event.hash, event.sequence
    return length, head


def _verified(connection: sqlite3.Connection, path: str, purpose: str, owner: bytes) -> Iterator[Event]:
    """All events, each checked against the chain and its signature before it is handed out."""
    head = NO_HEAD
    for number, event in enumerate(_select(connection, path, "ORDER BY sequence"), start=1):
        digest = _event_hash(purpose, head, number, event.kind, event.step, event.model, event.round_id, event.body)
        if event.sequence != number or event.hash != digest:
            raise LedgerError(f"{path}: damaged or edited at event {number}: keep the file and investigate")
        try:
            verify(owner, event.signature, digest)
        except BadSignature as error:
            raise LedgerError(f"{path}: event {number} is not signed by its owner: do not use this log") from error
        yield event
        head = digest

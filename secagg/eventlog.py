"""An append-only log on disk that survives kill -9: hash-chained, signed, and open in one process at a time.

SQLite in WAL mode with synchronous=FULL: when `append` returns, the event is on disk. Each event's hash covers the hash
before it, and the owner's Ed25519 signature covers the event's hash, so a log that was cut in the middle, edited or
spliced does not verify. An event may have a *content*: bytes that stand in a table of their own, and whose hash
(`hashing.py`) the event's hash covers. Contents can be dropped to save space. The chain still verifies, and an event
that the owner signed says that they were dropped, so a content that somebody else took away is a damage. The log cannot
show by itself that its *end* was cut off, or that the whole file was rolled back. For that, its head is compared with
the heads that others saw (`ledger.compare`, `ledger.compare_journal`).

`ledger.py` and `journal.py` give the events their meaning; `database.py` opens the file and decides what in it is
trusted. Source: Schneier and Kelsey, "Secure audit logs", ACM TISSEC 1999 (hash chains).
"""

from __future__ import annotations

import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from secagg import database
from secagg.audit import verified_head
from secagg.database import IN_MEMORY as IN_MEMORY
from secagg.errors import LedgerError
from secagg.events import COLUMNS, PRUNED, Event, content_of, event_hash, owner_of, select
from secagg.identity import Identity
from secagg.ownership import Owner

Order = Literal["sequence", "step"]  # in which events are the latest, or have the highest step

_SHORT = 4096  # bytes of a body that is kept in memory: all but releases, and rosters of more than 125 members
_STEPS_KEPT = 8


@dataclass(frozen=True, eq=False)
class Content:
    """Bytes to keep beside an event. hash: theirs (`hashing.py`), 32 bytes, which the writer has computed already."""

    data: bytes | bytearray | memoryview = field(repr=False)
    hash: bytes


class _Recent:
    """Steps that were read whole, and the latest event of each kind: what a round asks its log about again and again.

    Only this process can write to the file, and nothing in it ever changes. So what was read or written stays true
    until this process appends. Events with long bodies (stored releases) are not kept: their steps are read anew.
    """

    def __init__(self) -> None:
        self._steps: dict[int, tuple[Event, ...]] = {}
        self._top: dict[tuple[Order, str], Event | None] = {}

    def keep_top_by(self, order: Order, kind: str, event: Event | None) -> None:
        """The last event of a kind by `order`, None for none; under the same conditions as `keep`."""
        if event is None or len(event.body) <= _SHORT:
            self._top[order, kind] = event

    def keep(self, step: int, events: tuple[Event, ...]) -> None:
        """All events of a step. Call it under the lock of appending, and only if none was appended since the read."""
        if all(len(event.body) <= _SHORT for event in events):
            self._steps[step] = events
            if len(self._steps) > _STEPS_KEPT:
                self._steps.pop(next(iter(self._steps)))

    def note(self, event: Event) -> None:
        """A new event. Call it under the lock of appending, once the event is on disk."""
        highest = self._top.get(("step", event.kind))
        is_highest = highest is None or event.step > highest.step  # there is one of a kind in a step
        if len(event.body) <= _SHORT:
            self._top["sequence", event.kind] = event
            if is_highest and ("step", event.kind) in self._top:
                self._top["step", event.kind] = event
            if event.step in self._steps:
                self._steps[event.step] = (*self._steps[event.step], event)
        else:
            self._top.pop(("sequence", event.kind), None)
            if is_highest:
                self._top.pop(("step", event.kind), None)
            self._steps.pop(event.step, None)

    def of_step(self, step: int) -> tuple[Event, ...] | None:
        """All events of a step, or None: look in the file."""
        return self._steps.get(step)

    def knows(self, order: Order, kind: str) -> bool:
        """Whether `top_by` is known; otherwise look in the file."""
        return (order, kind) in self._top

    def top_by(self, order: Order, kind: str) -> Event | None:
        """The last event of a kind by `order`, None for none."""
        return self._top.get((order, kind))


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
        self._models: dict[str, set[bytes]] = {}  # by kind of event, of the kinds that `events` was asked for
        self.path = str(path)
        self._open_connection = database.open_exclusively(self.path)
        try:
            with database.translated(self.path):
                self._claim(purpose)
                self._length, self._head = verified_head(self._connection, self.path, purpose, owner.key)
                database.trust(self._connection, self.path)
                (self._highest,) = self._connection.execute("SELECT coalesce(max(step), -1) FROM events").fetchone()
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
        found, key = owner_of(self._connection, self.path)
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

    def append(
        self, kind: str, step: int, model: bytes, round_id: bytes, body: bytes = b"", content: Content | None = None
    ) -> Event:
        """Write an event, and its content, durably; both are on disk when this returns, or neither.

        Raises `LedgerError` for a second event of this kind in this step and for a failed write; the log is unchanged.
        """
        self._process.require()  # before the lock, which a thread of the parent may have held when it forked
        with self._appending:
            event = self._next(kind, step, model, round_id, body, None if content is None else content.hash)
            if content is None:  # one statement is a transaction of its own (sqlite.org/lang_transaction.html)
                with database.translated(self.path):
                    self._insert(event)
                self._note(event)
                return event
            with self._writing(event):
                if not database.has_contents(self._connection):
                    database.add_contents(self._connection)
                row = (event.sequence, content.hash, content.data)
                self._connection.execute("INSERT INTO contents VALUES (?, ?, ?)", row)
        return event

    def content(self, event: Event) -> bytes | None:
        """The content of an event of this log; None where it has none, or where it was dropped."""
        if event.content_hash is None:
            return None
        with database.translated(self.path):
            return content_of(self._connection, self.path, event)

    def drop_contents(self, step: int, model: bytes, round_id: bytes) -> int:
        """Drop the contents of all events up to `step`, and record it in an event of that step, or do neither.

        Returns how many were dropped; without any, nothing is recorded. The file keeps its size until `compact`.
        """
        self._process.require()
        with self._appending:
            held = "contents JOIN events USING (sequence) WHERE step <= ? AND content IS NOT NULL"
            with database.translated(self.path):
                if not database.has_contents(self._connection):
                    return 0
                (count,) = self._connection.execute(f"SELECT count(*) FROM {held}", (step,)).fetchone()
            if not count:
                return 0
            event = self._next(PRUNED, step, model, round_id, struct.pack("<Q", count), None)
            with self._writing(event):
                self._connection.execute(
                    f"UPDATE contents SET content = NULL WHERE sequence IN (SELECT sequence FROM {held})", (step,)
                )
        return int(count)

    def compact(self) -> None:
        """Give the space of what was dropped back to the file system. It needs as much space again while it works."""
        self._process.require()  # before the lock, as in `append`
        with self._appending, database.translated(self.path):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _next(
        self, kind: str, step: int, model: bytes, round_id: bytes, body: bytes, content_hash: bytes | None
    ) -> Event:
        """The next event, signed and not yet written."""
        sequence = self._length + 1
        unsigned = Event(sequence, kind, step, model, round_id, body, b"", b"", content_hash)
        digest = event_hash(self._purpose, self._head, unsigned)
        # A log in memory ends with its process, and no file of it is ever audited: nobody could ask who signed it.
        signature = b"" if self.path == IN_MEMORY else self._owner.sign(digest)
        return Event(sequence, kind, step, model, round_id, body, digest, signature, content_hash)

    @contextmanager
    def _writing(self, event: Event) -> Iterator[None]:
        """Write the next event, and what the caller writes inside, in one transaction; under the lock of appending."""
        with database.translated(self.path), database.transaction(self._connection):
            self._insert(event)
            yield
        self._note(event)

    def _insert(self, event: Event) -> None:
        row = (event.sequence, event.kind, event.step, event.model, event.round_id, event.body, event.hash)
        self._connection.execute(
            f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, event.signature)
        )

    def _note(self, event: Event) -> None:
        """The event is on disk."""
        self._length, self._head = event.sequence, event.hash
        self._highest = max(self._highest, event.step)
        if event.kind in self._models:
            self._models[event.kind].add(event.model)
        self._recent.note(event)

    def events(self, step: int | None = None, kind: str | None = None, model: bytes | None = None) -> list[Event]:
        """Events in order, narrowed to a step, a kind or a model."""
        if step is not None and model is None:
            return [event for event in self._of_step(step) if kind in (None, event.kind)]
        if kind is not None and model is not None and model not in self._models_of(kind):
            return []
        clauses, values = [], []
        for column, value in (("step", step), ("kind", kind), ("model", model)):
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        with database.translated(self.path):
            return list(select(self._connection, self.path, f"{where} ORDER BY sequence", tuple(values)))

    def _models_of(self, kind: str) -> set[bytes]:
        """The models of all events of a kind. Most rounds have a new one, and no event need be searched for it."""
        self._process.require()
        if kind not in self._models:
            with self._appending, database.translated(self.path):
                found = self._connection.execute("SELECT DISTINCT model FROM events WHERE kind = ?", (kind,))
                self._models[kind] = {model for (model,) in found}
        return self._models[kind]

    def _of_step(self, step: int) -> tuple[Event, ...]:
        self._process.require()
        if (recent := self._recent.of_step(step)) is not None:
            return recent
        length, found = self._length, tuple[Event, ...]()
        if step <= self._highest:
            with database.translated(self.path):
                found = tuple(select(self._connection, self.path, "WHERE step = ? ORDER BY sequence", (step,)))
        with self._appending:
            if length == self._length:  # otherwise another thread appended while this one read
                self._recent.keep(step, found)
        return found

    def latest_first(self, *kinds: str) -> Iterator[Event]:
        """Events of some kinds, from the highest step down."""
        highest = [event for kind in kinds if (event := self._highest_of(kind)) is not None]
        if not highest:
            return
        first = max(highest, key=lambda event: event.step)
        yield first
        with database.translated(self.path):
            found = f"WHERE kind IN ({', '.join('?' * len(kinds))}) AND sequence != ? ORDER BY step DESC"
            yield from select(self._connection, self.path, found, (*kinds, first.sequence))

    def steps_of(self, kind: str, limit: int) -> list[int]:
        """The highest steps with an event of a kind, from the highest down, at most `limit`. Reads no body."""
        found = "SELECT step FROM events WHERE kind = ? ORDER BY step DESC LIMIT ?"
        with database.translated(self.path):
            return [step for (step,) in self._connection.execute(found, (kind, limit))]

    def starts(self, step: int, length: int, kind: str | None = None) -> list[Event]:
        """Events of a step in order, each with only the first `length` bytes of its body (a stored release is long).

        kind: None for all.
        """
        if (recent := self._recent.of_step(step)) is not None:
            self._process.require()
            return [replace(event, body=event.body[:length]) for event in recent if kind in (None, event.kind)]
        start = f"CASE WHEN length(body) > {length:d} THEN substr(body, 1, {length:d}) ELSE body END"
        columns = COLUMNS.replace("body", start)
        with database.translated(self.path):
            found = "WHERE step = ? AND (? IS NULL OR kind = ?) ORDER BY sequence"
            return list(select(self._connection, self.path, found, (step, kind, kind), columns))

    def holding(self, kinds: Sequence[str], parts: Sequence[tuple[int, bytes]]) -> list[Event]:
        """Events of these kinds whose body has one of `parts`, each (offset, bytes), in order."""
        either = " OR ".join(["substr(body, ?, ?) = ?"] * len(parts))
        found = f"WHERE kind IN ({', '.join('?' * len(kinds))}) AND ({either}) ORDER BY sequence"
        values = [value for offset, part in parts for value in (offset + 1, len(part), part)]
        with database.translated(self.path):
            return list(select(self._connection, self.path, found, (*kinds, *values)))

    def beyond(self, kind: str, step: int, model: bytes | None = None, limit: int = 1) -> list[Event]:
        """Events of a kind in steps above `step`, lowest step first, at most `limit`. model: None for any."""
        found = "WHERE kind = ? AND step > ? AND (? IS NULL OR model = ?) ORDER BY step LIMIT ?"
        with database.translated(self.path):
            return list(select(self._connection, self.path, found, (kind, step, model, model, limit)))

    def last(self, kind: str) -> Event | None:
        """The latest event of a kind, or None."""
        return self._top_by("sequence", kind)

    def _highest_of(self, kind: str) -> Event | None:
        """The event of a kind with the highest step, or None."""
        return self._top_by("step", kind)

    def _top_by(self, order: Order, kind: str) -> Event | None:
        """The event of a kind that is the last one by `order`, from memory where it is known."""
        self._process.require()
        if self._recent.knows(order, kind):
            return self._recent.top_by(order, kind)
        length = self._length
        with database.translated(self.path):
            latest = f"WHERE kind = ? ORDER BY {order} DESC LIMIT 1"
            found = next(select(self._connection, self.path, latest, (kind,)), None)
        with self._appending:
            if length == self._length:  # otherwise another thread appended while this one read
                self._recent.keep_top_by(order, kind, found)
        return found

    def close(self) -> None:
        """Release the lock."""
        self._connection.close()

"""One event of a log: its fields, the hash that chains it to the one before, and its row in the database.

`eventlog.py` appends events and asks for them; `audit.py` verifies all of a log.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from secagg import database
from secagg.errors import LedgerError

NO_HEAD = bytes(32)
PRUNED = "pruned"
"""Kind of the event that drops the contents of all events before it in its own and in lower steps."""

COLUMNS = "sequence, kind, step, model, round_id, body, hash, signature"
_TYPES = (int, str, int, bytes, bytes, bytes, bytes, bytes)


@dataclass(frozen=True)
class Event:
    """sequence: from 1, without gaps.  step: [0, 2**63).  body: depends on kind.  hash: of this and all before it.

    content_hash: that of its content (`hashing.py`), 32 bytes, or None for an event without one.
    """

    sequence: int
    kind: str
    step: int
    model: bytes
    round_id: bytes
    body: bytes = field(repr=False)
    hash: bytes
    signature: bytes = field(repr=False)
    content_hash: bytes | None = None


def event_hash(purpose: str, previous: bytes, event: Event) -> bytes:
    """The hash that an event must have behind one with the hash `previous`: 32 bytes.

    purpose: of the log. The event's own hash and signature are not looked at.
    """
    name, content = event.kind.encode(), event.content_hash
    label = b"secagg v1 event of a " if content is None else b"secagg v2 event with content of a "
    digest = hashlib.sha256(label + purpose.encode() + b"\0" + previous)
    lengths = (len(name), len(event.model), len(event.round_id), len(event.body))
    digest.update(struct.pack("<QQQQQQ", event.sequence, event.step, *lengths))
    for part in (name, event.model, event.round_id, event.body, content or b""):
        digest.update(part)
    return digest.digest()


def owner_of(connection: sqlite3.Connection, path: str) -> tuple[str, bytes]:
    """(purpose, public key) that a log names. Raises `LedgerError`."""
    row = connection.execute("SELECT purpose, key FROM owner").fetchone()
    if row is None or not isinstance(row[0], str) or not isinstance(row[1], bytes):
        raise LedgerError(f"{path}: no owner is recorded: keep the file and investigate")
    return row[0], row[1]


def select(
    connection: sqlite3.Connection, path: str, rest: str, values: tuple[object, ...] = (), columns: str = COLUMNS
) -> Iterator[Event]:
    """Events by the end of an SQL statement. columns: what to read in place of `COLUMNS`. Raises `LedgerError`."""
    held = "NULL"
    if database.has_contents(connection):
        held = "(SELECT contents.hash FROM contents WHERE contents.sequence = events.sequence)"
    for *row, content_hash in connection.execute(f"SELECT {columns}, {held} FROM events {rest}", values):
        # SQLite stores a value of any type. An edited file must raise `LedgerError` and not `TypeError`.
        right = all(type(value) is kind for value, kind in zip(row, _TYPES, strict=True)) and row[2] >= 0
        if not right or not isinstance(content_hash, bytes | None):
            raise LedgerError(f"{path}: an event has fields of the wrong type: keep the file and investigate")
        sequence, name, step, model, round_id, body, digest, signature = row
        yield Event(sequence, name, step, model, round_id, body, digest, signature, content_hash)


def content_of(connection: sqlite3.Connection, path: str, event: Event) -> bytes | None:
    """The content of an event that has one, None where it was dropped. Raises `LedgerError`."""
    row = connection.execute("SELECT content FROM contents WHERE sequence = ?", (event.sequence,)).fetchone()
    if row is None or not isinstance(row[0], bytes | None):
        raise LedgerError(f"{path}: the content of event {event.sequence} has the wrong type: keep the file")
    return row[0]

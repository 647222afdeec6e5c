"""Verification of a whole log: its chain of hashes, its owner's signatures, and the contents beside its events.

`EventLog` does it when it opens a log. `audit` does it offline, for anyone who has the file. `eventlog.py` says what a
log cannot show by itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from secagg import database
from secagg.errors import BadSignature, LedgerError
from secagg.events import NO_HEAD, PRUNED, Event, content_of, event_hash, owner_of, select
from secagg.hashing import large_hash
from secagg.identity import verify

_START_BYTES = 128


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
    has_content: bool = False


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
            purpose, owner = owner_of(connection, str(path))
            entries = tuple(
                Entry(
                    e.sequence,
                    e.kind,
                    e.step,
                    e.model,
                    e.round_id,
                    e.body[:_START_BYTES],
                    len(e.body),
                    e.hash,
                    e.content_hash is not None,
                )
                for e in _verified(connection, str(path), purpose, owner)
            )
            return Audit(str(path), purpose, owner, entries)
        finally:
            connection.close()


def verified_head(connection: sqlite3.Connection, path: str, purpose: str, owner: bytes) -> tuple[int, bytes]:
    """(length, head) after checking the chain and every signature."""
    head, length = NO_HEAD, 0
    for event in _verified(connection, path, purpose, owner):
        head, length = event.hash, event.sequence
    return length, head


def _verified(connection: sqlite3.Connection, path: str, purpose: str, owner: bytes) -> Iterator[Event]:
    """All events, each checked against the chain and its signature, with its content, before it is handed out.

    Whether every content that is missing was dropped by the owner is known, and checked, at the end.
    """
    head, contents, missing, pruned = NO_HEAD, 0, list[tuple[int, int]](), list[tuple[int, int]]()
    for number, event in enumerate(select(connection, path, "ORDER BY sequence"), start=1):
        if event.sequence != number or event.hash != event_hash(purpose, head, event):
            raise LedgerError(f"{path}: damaged or edited at event {number}: keep the file and investigate")
        try:
            verify(owner, event.signature, event.hash)
        except BadSignature as error:
            raise LedgerError(f"{path}: event {number} is not signed by its owner: do not use this log") from error
        if event.content_hash is not None:
            contents += 1
            content = content_of(connection, path, event)
            if content is None:
                missing.append((number, event.step))
            elif large_hash(content) != event.content_hash:
                raise LedgerError(f"{path}: the content of event {number} was edited: keep the file and investigate")
        elif event.kind == PRUNED:
            pruned.append((number, event.step))
        yield event
        head = event.hash
    lost = _never_dropped(missing, pruned)
    if lost is not None:
        raise LedgerError(
            f"{path}: the content of event {lost} is missing, and its owner recorded no pruning of it: "
            "keep the file and investigate"
        )
    if database.has_contents(connection):
        (found,) = connection.execute("SELECT count(*) FROM contents").fetchone()
        if found != contents:
            raise LedgerError(f"{path}: expected {contents} contents, got {found}: keep the file and investigate")


def _never_dropped(missing: list[tuple[int, int]], pruned: list[tuple[int, int]]) -> int | None:
    """The first event whose content is missing though no later pruning covers its step, or None.

    Both: (sequence, step) in order of sequences. One pass over each, however many prunings a stranger's log has.
    """
    found, highest, left = None, -1, list(pruned)
    for sequence, step in reversed(missing):
        while left and left[-1][0] > sequence:
            highest = max(highest, left.pop()[1])
        if step > highest:
            found = sequence
    return found

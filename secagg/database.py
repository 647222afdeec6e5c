"""The SQLite file under an event log: opened by one process, private, and checked before it is trusted.

Somebody who can write to the file can make a query on it endless (a recursive view in place of a table, pages that
refer to themselves), or make its index hide a row. So these checks come before anything is read out of it: the file is
not a link and only its user can access it (`private_files.py`), and the schema is exactly the one below. No value may
be larger than the file. A query that takes more steps than a file of its size can need is interrupted. Sources:
sqlite.org/security.html (untrusted database files), wal.html and pragma.html (durability, exclusive locking).

# Strategy: the lock is SQLite's own. locking_mode=EXCLUSIVE set before the first access keeps the file locked for as
# long as the connection lives and the kernel drops the lock with the process, so kill -9 leaves no stale lock behind.
# Never open the file by other means in the same process: closing any descriptor of it would drop that lock. That is why
# files are checked by name here, and again once SQLite has opened them.
# A forked child holds a copy of the connection, which treats the parent's lock as its own. Closing it would write the
# write-ahead log into the file and delete the log while the parent still uses it (sqlite.org/howtocorrupt.html, 2.6).
# Python closes a connection when it frees it. So the child never frees it, and every call there raises.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from weakref import WeakSet

from secagg.errors import LedgerError, LedgerLocked
from secagg.private_files import MODE, refusal

IN_MEMORY = ":memory:"

_APPLICATION_ID = 0x53414747  # "SAGG", in the header of the SQLite file
_VERSIONS = (1, 2)  # 2: with the table of contents, which a log gets together with its first content
_SCHEMA = (
    "CREATE TABLE owner (only INTEGER PRIMARY KEY CHECK (only = 1), purpose TEXT NOT NULL, key BLOB NOT NULL)",
    "CREATE TABLE events (sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, step INTEGER NOT NULL,"
    " model BLOB NOT NULL, round_id BLOB NOT NULL, body BLOB NOT NULL, hash BLOB NOT NULL, signature BLOB NOT NULL)",
    # The database itself refuses a second consumption of a step, whatever the code around it does.
    "CREATE UNIQUE INDEX one_of_a_kind ON events (step, kind)",
    "CREATE TRIGGER events_are_final BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    "PRAGMA user_version = 1",
)
_CONTENTS = (
    "CREATE TABLE contents (sequence INTEGER PRIMARY KEY, hash BLOB NOT NULL, content BLOB)",
    # A content may be dropped, and nothing else may change.
    "CREATE TRIGGER contents_are_final BEFORE UPDATE ON contents WHEN NEW.content IS NOT NULL"
    " OR NEW.sequence IS NOT OLD.sequence OR NEW.hash IS NOT OLD.hash BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "CREATE TRIGGER contents_stay BEFORE DELETE ON contents BEGIN SELECT RAISE(ABORT, 'append-only'); END",
    "PRAGMA user_version = 2",
)
_COMPANIONS = ("-wal", "-shm", "-journal")  # SQLite's own files beside the database; it gives them the database's mode
_LOCK_PATIENCE_S = 0.5
_STEPS_AT_ONCE = 100_000  # steps of SQLite's virtual machine between two checks of their number
_STEPS = 10_000_000  # allowed for any file (0.3 s), plus one per byte of it; a row of 300 bytes takes fewer than 50
_SMALLEST_LIMIT = 1 << 16  # bytes of a value, or of a statement


class _Connection(sqlite3.Connection):
    """A connection that can be found again after a fork."""

    __slots__ = ("__weakref__",)


_connections: WeakSet[_Connection] = WeakSet()


def _keep_open_for_ever() -> None:
    """In a forked child: keep an extra reference to each connection, so that none is ever closed."""
    for connection in _connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_open_for_ever)


def open_exclusively(path: str) -> sqlite3.Connection:
    """Open the log at `path`, or create it, lock it, and check its schema. Limits on its cost apply until `trust`.

    Raises `LedgerError` and `LedgerLocked`.
    """
    found = _looked_at(path) if path != IN_MEMORY and not _created(path) else None
    with translated(path):
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=_LOCK_PATIENCE_S, check_same_thread=False, factory=_Connection
        )
        _connections.add(connection)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            _distrust(connection, path)
            is_empty(connection, path)  # takes the lock, and refuses what is not a log before anything is changed
            if found is not None and not os.path.samestat(found, _looked_at(path)):
                raise LedgerError(f"{path}: was replaced while it was opened: find out who replaced it")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
    return connection


def open_to_read(path: str) -> sqlite3.Connection:
    """Open the log at `path`, or a copy with any mode, for reading. Raises `LedgerError` and `LedgerLocked`."""
    _looked_at(path, any_mode=True)
    with translated(path):
        address = f"{Path(path).absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, timeout=_LOCK_PATIENCE_S, factory=_Connection
        )
        _connections.add(connection)
        try:
            _distrust(connection, path)
            if is_empty(connection, path):
                raise LedgerError(f"{path}: expected a log, got an empty database: name another file")
        except BaseException:
            connection.close()
            raise
    return connection


def begin(connection: sqlite3.Connection, purpose: str, key: bytes) -> None:
    """Turn an empty database into the log of an owner, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO owner VALUES (1, ?, ?)", (purpose, key))
    connection.execute("COMMIT")


def has_contents(connection: sqlite3.Connection) -> bool:
    """Whether the log has the table of contents."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version == 2)


def add_contents(connection: sqlite3.Connection) -> None:
    """Give a log the table of contents, in the caller's transaction. Earlier versions of the package refuse it then."""
    for statement in _CONTENTS:
        connection.execute(statement)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of what happens inside, durably, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_empty(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the database is still empty. Raises `LedgerError` for a database that is not a log of this version."""
    schema = _schema(connection)
    if not schema:
        return True
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID or version not in _VERSIONS:
        raise LedgerError(
            f"{path}: expected a log of version 1 or 2, got a database with application id {application:#x} and "
            f"version {version}: choose another file"
        )
    if schema != _expected_schema(version):
        raise LedgerError(f"{path}: its tables and triggers are not those of a log: keep the file and investigate")
    return False


def trust(connection: sqlite3.Connection, path: str) -> None:
    """After every row was checked: check that the indexes agree with the tables, and lift the limits."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise LedgerError(f"{path}: damaged, SQLite reports {found!r}: keep the file and investigate")
    connection.set_progress_handler(None, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**31 - 1)  # to what this build of SQLite holds


class translated:
    """Turns errors of sqlite3 into errors of this package."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case sqlite3.OperationalError() if "locked" in str(error):
                raise LedgerLocked(f"{self._path} is open in another process: stop that one first") from error
            case sqlite3.OperationalError() if str(error) == "interrupted":
                raise LedgerError(
                    f"{self._path}: reading it takes more steps than a log of its size can need: keep the file and "
                    "investigate"
                ) from error
            case sqlite3.Error() | MemoryError() | OverflowError():
                raise LedgerError(f"{self._path}: {error}: keep the file and investigate") from error
            case UnicodeDecodeError():  # of SQLite's own message, which quotes the file
                raise LedgerError(f"{self._path}: damaged, a name is not UTF-8: keep it and investigate") from error


# --- inside ---------------------------------------------------------------------------------------------------------


def _created(path: str) -> bool:
    """Create the file with mode 0600 if there is none; SQLite gives its companions the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, MODE))  # does not follow a link either
    except FileExistsError:
        return False  # not opened: closing a second descriptor would drop another connection's lock
    except (OSError, ValueError) as error:
        raise LedgerError(f"{path}: cannot be created: {getattr(error, 'strerror', error)}") from error
    _looked_at(path)  # somebody may have put a companion there beforehand
    return True


def _looked_at(path: str, *, any_mode: bool = False) -> os.stat_result:
    """Check kind and mode of the file and its companions; returns its `lstat`. Raises `LedgerError`."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError) as error:
        raise LedgerError(f"{path}: no such file, or it cannot be reached ({error}): check the path") from error
    found = [(path, status)]
    for name in (path + end for end in _COMPANIONS):
        try:
            found.append((name, os.lstat(name)))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise LedgerError(f"{name}: {error.strerror}") from error
    for name, each in found:
        reason = refusal(name, each, any_mode=any_mode)
        if reason is not None:
            raise LedgerError(reason)
    return status


def _distrust(connection: sqlite3.Connection, path: str) -> None:
    """Limit the cost of reading the file. Nothing in it is read yet."""
    files = () if path == IN_MEMORY else (path, f"{path}-wal")
    size = sum(os.path.getsize(each) for each in files if os.path.exists(each))
    left = [(_STEPS + size) // _STEPS_AT_ONCE]

    def took_too_many() -> bool:
        left[0] -= 1
        return left[0] < 0

    connection.set_progress_handler(took_too_many, _STEPS_AT_ONCE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, _SMALLEST_LIMIT))
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def _schema(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """The schema of the database: type, name, table and statement of at most 9 parts; a log has 5, with contents 8."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 9").fetchall()
    return sorted(rows, key=repr)


@lru_cache(maxsize=2)
def _expected_schema(version: int) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(IN_MEMORY)
    try:
        begin(connection, "", b"")
        if version == 2:
            add_contents(connection)
        return _schema(connection)
    finally:
        connection.close()

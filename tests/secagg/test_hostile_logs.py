"""Files that were made to be read: a log's file from a stranger ends in a right answer or a `LedgerError`, and soon."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forked import in_a_child

from secagg import database
from secagg.audit import audit
from secagg.errors import LedgerError
from secagg.eventlog import Content, EventLog
from secagg.hashing import large_hash
from secagg.identity import Identity

MODEL, ROUND = b"m" * 32, b"r" * 16
OWNER = Identity("owner", Ed25519PrivateKey.from_private_bytes(b"k" * 32))  # the same file in every run
PAGE = 4096


def written(path: Path, events: int, body: int = 40, contents: bool = False) -> None:
    log = EventLog(path, OWNER, "test log")
    for step in range(events):
        data = bytes([step, 1]) * body
        content = Content(data, large_hash(data)) if contents and step % 3 == 2 else None
        log.append("ab"[step % 2], step // 2, MODEL, ROUND, bytes([step]) * body, content)
    if contents:
        assert log.drop_contents(2, MODEL, ROUND) == 2
    log.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "log.db"
    written(path, 6)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """One whose events are more than a page holds, so that the table is a tree."""
    path = tmp_path_factory.mktemp("large") / "log.db"
    written(path, 40, 600)
    return path


@pytest.fixture(scope="module")
def partly_dropped(tmp_path_factory) -> Path:
    """One with contents, two of which were dropped."""
    path = tmp_path_factory.mktemp("partly_dropped") / "log.db"
    written(path, 12, 150, contents=True)
    return path


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    """One whose events are still in the file that ends in -wal, as after kill -9."""
    path = tmp_path_factory.mktemp("unfinished") / "log.db"

    def begin() -> None:
        log = EventLog(path, OWNER, "test log")
        for step in range(4):
            log.append("a", step, MODEL, ROUND, b"body")
        log.path = ""  # the child ends without closing it

    keep: list[object] = []
    assert in_a_child(lambda: keep.append(begin())) == "None"
    return path


def copied(source: Path, folder: Path) -> Path:
    for name in source.parent.glob("log.db*"):
        (folder / name.name).write_bytes(name.read_bytes())
        (folder / name.name).chmod(0o600)
    return folder / "log.db"


def mutated(data: bytes, random_: random.Random) -> bytes:
    """One to three changes of the kinds that disks and attackers make."""
    out = bytearray(data)
    used = [place for place, byte in enumerate(data) if byte]
    for _ in range(random_.randint(1, 3)):
        place = random_.choice(used) if random_.random() < 0.8 else random_.randrange(len(out))
        place = min(place, len(out) - 1)
        match random_.randrange(6):
            case 0:
                out[place] ^= 1 << random_.randrange(8)
            case 1:
                out[place] = random_.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                out[place : place + 4] = random_.randbytes(4)
            case 3:
                out[place : place + 1] = b""
            case 4:
                one, other = (PAGE * random_.randrange(max(1, len(out) // PAGE)) for _ in range(2))
                out[one : one + PAGE] = out[other : other + PAGE]
            case _:
                header = random_.randrange(100)
                out[header] = random_.randrange(256)
    return bytes(out)


def reads(path: Path) -> dict[str, object]:
    """What both ways of reading say: hashes of the events, or "refused". Nothing else may come out of them."""
    said: dict[str, object] = {}
    try:
        said["audit"] = [entry.hash for entry in audit(path).entries]
    except LedgerError:
        said["audit"] = "refused"
    try:
        log = EventLog(path, OWNER, "test log")
    except LedgerError:
        said["open"] = "refused"
    else:
        said["open"] = [event.hash for event in log.events()]
        log.close()
    return said


@pytest.mark.parametrize(
    ("which", "end", "count"),
    [("small", "", 400), ("large", "", 60), ("partly_dropped", "", 150), ("unfinished", "-wal", 40)],
)
def test_a_damaged_log_gives_its_own_events_or_a_ledger_error(request, tmp_path, which, end, count):
    source = request.getfixturevalue(which)
    whole = reads(copied(source, tmp_path))["audit"]
    assert isinstance(whole, list) and len(whole) in (4, 6, 13, 40)
    random_ = random.Random(f"hostile {which}")
    data = Path(f"{source}{end}").read_bytes()
    refused = 0
    for number in range(count):
        path = copied(source, tmp_path)
        Path(f"{path}{end}").write_bytes(mutated(data, random_))
        said = reads(path)
        for answer in said.values():
            # Of a damaged -wal the events before the damage are left: that an end was cut off, only heads tell.
            right = answer == whole or (end and answer == whole[: len(answer)])
            assert answer == "refused" or right, f"mutation {number}: {said}"
        refused += "refused" in said.values()
        for each in tmp_path.iterdir():
            each.unlink()
    assert count / 20 < refused < count  # the mutations reach what is read, and not only the header


def made(path: Path, *statements: str) -> Path:
    """A database that calls itself a log."""
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA application_id = {database._APPLICATION_ID}; PRAGMA user_version = 1;" + ";".join(statements)
    )
    connection.close()
    path.chmod(0o600)
    return path


OWNERS, EVENTS, INDEX, *TRIGGERS = database._SCHEMA[:5]
FOR_EVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c WHERE x < 0"
COLUMNS = "x AS sequence, '' AS kind, x AS step, x AS model, x AS round_id, x AS body, x AS hash, x AS signature"
FILLED = "INSERT INTO owner VALUES (1, 'test log', zeroblob(32))"


@pytest.mark.parametrize(
    "statements",
    [
        (OWNERS, FILLED, f"CREATE VIEW events AS {FOR_EVER.format(COLUMNS)}"),
        (EVENTS, f"CREATE VIEW owner AS {FOR_EVER.format('x AS purpose, x AS key')}"),
        (OWNERS, FILLED, EVENTS, INDEX, *TRIGGERS, f"CREATE VIEW other AS {FOR_EVER.format('x')}"),
        (OWNERS, FILLED, EVENTS, INDEX, *TRIGGERS, "CREATE TABLE other (x)"),
        (OWNERS, FILLED, EVENTS, INDEX, *TRIGGERS, "CREATE INDEX another ON events (abs(step))"),
        (
            OWNERS,
            FILLED,
            EVENTS,
            INDEX,
            *TRIGGERS,
            "CREATE TRIGGER again AFTER INSERT ON events BEGIN DELETE FROM owner; END",
        ),
        (
            OWNERS,
            FILLED,
            EVENTS.replace("body BLOB NOT NULL", "body AS (zeroblob(1000000000)) STORED"),
            INDEX,
            *TRIGGERS,
        ),
        (OWNERS, FILLED, EVENTS, INDEX.replace("UNIQUE ", ""), *TRIGGERS),
        (OWNERS, FILLED, EVENTS, INDEX, TRIGGERS[0]),
        (OWNERS, FILLED, EVENTS),
    ],
)
def test_a_schema_that_is_not_a_logs_is_refused_before_anything_is_asked_of_it(tmp_path, statements):
    path = made(tmp_path / "log.db", *statements)
    for read in (audit, lambda path: EventLog(path, OWNER, "test log")):
        with pytest.raises(LedgerError, match="not those of a log"):
            read(path)


def test_a_reading_that_does_not_end_is_interrupted():
    connection = database.open_exclusively(database.IN_MEMORY)
    with pytest.raises(LedgerError, match="takes more steps than a log of its size"), database.translated("log.db"):
        connection.execute(FOR_EVER.format("x")).fetchone()
    connection.close()


def test_nothing_in_a_file_is_larger_than_the_file(small):
    connection = database.open_to_read(str(small))
    with pytest.raises(LedgerError, match="too big"), database.translated("log.db"):
        connection.execute("SELECT zeroblob(100000000)").fetchone()
    connection.close()


@pytest.mark.parametrize(
    ("place", "to"),
    [
        pytest.param(lambda data: 28, b"\xff\xff\xff\xff", id="page count"),
        pytest.param(lambda data: 16, b"\xff\xff", id="page size"),
        pytest.param(lambda data: 56, b"\x00\x00\x00\x07", id="text encoding"),
        pytest.param(lambda data: data.index(b"CREATE TABLE events") + 13, b"\xff\xfe", id="name that is no text"),
        pytest.param(lambda data: data.index(b"eventsevents"), b"\xff", id="table that is no text"),
        pytest.param(lambda data: data.index(MODEL) - 1, b"\xff", id="kind that is no text"),
        pytest.param(lambda data: data.index(b"sequence INTEGER"), b"\x00", id="statement with an end in it"),
    ],
)
def test_damage_in_a_named_place_is_refused(small, tmp_path, place, to):
    path = copied(small, tmp_path)
    data = bytearray(path.read_bytes())
    data[place(data) : place(data) + len(to)] = to
    path.write_bytes(data)
    assert reads(path) == {"audit": "refused", "open": "refused"}


def test_pages_that_lead_back_to_themselves_are_refused(large, tmp_path):
    path = copied(large, tmp_path)
    data = bytearray(path.read_bytes())
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    connection.close()
    start = (root - 1) * PAGE
    assert data[start] == 5  # an inner page of a table
    for cell in range(int.from_bytes(data[start + 3 : start + 5], "big")):
        pointer = start + int.from_bytes(data[start + 12 + 2 * cell : start + 14 + 2 * cell], "big")
        data[pointer : pointer + 4] = root.to_bytes(4, "big")
    data[start + 8 : start + 12] = root.to_bytes(4, "big")
    path.write_bytes(data)
    assert reads(path) == {"audit": "refused", "open": "refused"}


def test_an_index_that_hides_an_event_is_refused_before_it_is_asked(small, tmp_path):
    """Else the second consumption of a step would find no first one, neither by a query nor by the unique index."""
    path = copied(small, tmp_path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    row = connection.execute("SELECT * FROM events WHERE sequence = 6").fetchone()
    schema = connection.execute("SELECT * FROM sqlite_master WHERE name LIKE 'one_%' OR type = 'trigger'").fetchall()
    connection.execute("DROP TRIGGER events_stay")
    connection.execute("DELETE FROM events WHERE sequence = 6")  # out of table and index
    connection.execute("DELETE FROM sqlite_master WHERE name LIKE 'one_%' OR type = 'trigger'")
    connection.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)  # into the table alone
    connection.execute("PRAGMA writable_schema = ON")
    for part in schema:
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", part)
    connection.close()
    assert len(audit(path).entries) == 6  # the chain is whole, and an audit reads the table
    with pytest.raises(LedgerError, match="missing from index one_of_a_kind"):
        EventLog(path, OWNER, "test log")

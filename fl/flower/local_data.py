"""A file of one's own, made ready for a federation on this machine: its banks, its periods, and what each bank reads.

Every bank of such a federation reads the same file and takes its own rows, since one person runs all of them. In a
deployment each bank has a file of its own on its own machine (fl/flower/deploy).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fl import options
from fl.counts.settings import DIRECTORY_LIMIT, WITH_REGISTER
from fl.data.federation import Agreed, PartitionedTable, read_partitioned, resolve_schema
from fl.data.schema import DAY_US, FractionSplit, Schema
from fl.data.schema_file import parse_schema
from fl.data.split import Period
from fl.durable import replace_durably
from fl.errors import PartitionError, SplitError
from fl.flower.app_table import require_constants
from fl.flower.errors import SettingsError
from fl.toml import literal, parsed

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,58}[A-Za-z0-9])?")  # of a bank: it names a folder and a process
RANDOM = "BANK"  # column of the file that says which random bank a customer has
LEAST_WAIT_S, ROWS_PER_SECOND = 120.0, 2000  # of a bank that reads the file while all others read it as well
Entries = Mapping[str, str | int | float]


@dataclass(frozen=True)
class LocalData:
    """The rows, and by bank the entries of its [app] table that lead to them."""

    source: PartitionedTable = field(repr=False)
    tables: Mapping[str, Entries]

    @property
    def banks(self) -> tuple[str, ...]:
        return tuple(self.tables)

    @property
    def common(self) -> Entries:
        """What all tables have in common."""
        return {name: value for name, value in next(iter(self.tables.values())).items() if name != "bank"}

    @property
    def waits(self) -> dict[str, float]:
        """How long to wait for a bank, in seconds (`fl.flower.limits`): it reads its rows when it is first asked."""
        patience = LEAST_WAIT_S + len(self.source.table) / ROWS_PER_SECOND
        return {"ready_s": patience, "call_s": patience}


def prepare(
    folder: Path,
    data: Path,
    schema: str | None = None,
    partition: str | None = None,
    clients: int | None = None,
    seed: int = 0,
    *,
    calendar: bool = False,
) -> LocalData:
    """Read the file, and write what banks need beside it into `folder`: the schema, and who has which random bank.

    `schema`, `partition`, `clients`: as in `fl.data.federation.load_federation`, but three random banks where nothing
    names any. `calendar`: for banks that do not show each other their rows. The schema that is written then names days
    instead of fractions, and the terminals of the file stand in for their public register. Raises what
    `read_partitioned` does, and `SettingsError` for banks that cannot be played here, or constants that are not known.
    """
    meaning = resolve_schema(data, schema)
    require_constants(meaning, f"schema {meaning.name!r}")
    partition = _from_here(partition)
    if partition is None and clients is None and meaning.partition is None:
        clients = options.NETWORK_BANKS.low
    source = read_partitioned(data, meaning, partition, clients, seed)
    if calendar and isinstance(meaning.split, FractionSplit) and source.periods.train is not None:
        meaning = with_days(meaning, source)
        source = read_partitioned(data, meaning, partition, clients, seed)
    if calendar:
        _require_covered(source)
        source = replace(source, agreed=_agreed(source))
    _require_playable([name for name, _, _ in source.banks], str(data))
    folder.mkdir(parents=True, exist_ok=True)
    replace_durably(folder / "schema.toml", meaning.source.encode())
    rule = partition or meaning.partition
    if source.partition.clients is not None:
        rule = f"{_written(folder / 'banks.csv', source)}:{RANDOM}"
    assert rule is not None
    entries: dict[str, str | int | float] = {
        "data": str(data.absolute()),
        "schema": str((folder / "schema.toml").absolute()),
        "partition": rule,
        "seed": seed,
    }
    return LocalData(source, {name: {**entries, "bank": name} for name, _, _ in source.banks})


def _agreed(source: PartitionedTable) -> Agreed:
    """The first day of the file, and its terminals, as far as a register of one a line can hold them."""
    table, registers = source.table, {}
    for kind in set(WITH_REGISTER) & set(table.schema.parties.shared):
        party = table.party(kind)
        assert party is not None
        names = sorted(str(name) for name in party.ids if "\n" not in name)
        if len(names) <= DIRECTORY_LIMIT:  # with more of them all are hashed
            registers[kind] = tuple(names)
    return Agreed(int(table.day[0]), registers)


def with_days(schema: Schema, source: PartitionedTable) -> Schema:
    """`schema` with the days that its fractions come to in these rows: whole days, and the label delay between.

    The first and the last day are days that every bank's rows reach to, as each bank checks for itself.

    Raises `SplitError` where the rows cover too few days for that.
    """
    train, tests = source.periods.train, source.periods.test
    assert train is not None
    delay = schema.label.delay_days if schema.has_windows else 0
    covered = _covered(source)
    learned = (max(_day(train.start), max(first for first, _ in covered.values())), _day(train.end) - 1)
    windows = [(_first_whole(test), _day(test.end - 1)) for test in tests]
    windows[-1] = (windows[-1][0], min(windows[-1][1], min(last for _, last in covered.values())))
    windows = [(max(first, learned[1] + 1 + delay), last) for first, last in windows]
    if learned[0] > learned[1] or any(first > last for first, last in windows):
        raise SplitError(
            f"{source.table.source}: expected training and test to cover whole days, as a private run needs, got "
            f"{source.periods.described} of days {schema.day_name(int(source.table.day[0]))} to "
            f"{schema.day_name(int(source.table.day[-1]))}; name days in [split] of the schema"
        )
    calendar = schema.time is not None and schema.time.has_calendar
    shown = [[schema.day_name(day) if calendar else day for day in pair] for pair in [learned, *windows]]
    lines = [
        f"train = {_pair(shown[0])}",
        f"test = [{', '.join(map(_pair, shown[1:]))}]",
        f"validation_share = {schema.validation_share}",
    ]
    return _with_split(schema, "\n".join(lines))


def _covered(source: PartitionedTable) -> dict[str, tuple[int, int]]:
    """First and last day of every bank's rows."""
    day = source.table.day
    return {name: (int(day[rows].min()), int(day[rows].max())) for name, rows, _ in source.banks}


def _require_covered(source: PartitionedTable) -> None:
    """Raise `SplitError` for a bank whose rows do not reach from the first training day to the last test day."""
    periods, schema = source.periods, source.table.schema
    if periods.train is None:
        return
    first, last = _day(periods.train.start), _day(periods.test[-1].end - 1)
    for name, (begin, end) in _covered(source).items():
        if begin > first or end < last:
            raise SplitError(
                f"{source.table.source}: bank {name!r}: expected rows from {schema.day_name(first)} to "
                f"{schema.day_name(last)}, the days of training and test, got {schema.day_name(begin)} to "
                f"{schema.day_name(end)}; change [split] in the schema, or merge the bank with another"
            )


def _with_split(schema: Schema, split: str) -> Schema:
    """The schema whose file has this table [split] and is otherwise the same."""
    kept, inside = [], False
    for line in schema.source.splitlines():
        if re.match(r"\s*\[", line):
            inside = re.match(r"\s*\[\s*split\s*\]", line) is not None
        if not inside:
            kept.append(line)
    text = "\n".join(kept).rstrip() + f"\n\n[split]\n{split}\n"
    if _without_split(text) != _without_split(schema.source):
        raise SplitError(f"schema {schema.name!r}: write [split] as a table of its own, and name days in it")
    return parse_schema(text, schema.name)


def _without_split(text: str) -> dict[str, Any]:
    return {name: value for name, value in parsed(text, "the schema", SplitError).items() if name != "split"}


def _pair(days: list[Any]) -> str:
    return f"[{days[0]}, {days[1]}]"


def _day(time: int) -> int:
    return time // DAY_US


def _first_whole(period: Period) -> int:
    """The first day that begins in the period."""
    return -(-period.start // DAY_US)


def _from_here(partition: str | None) -> str | None:
    """`partition` with the whole path of its file: a bank's process may work in another folder."""
    file, colon, column = (partition or "").rpartition(":")
    return f"{Path(file).absolute()}:{column}" if colon else partition


def _written(path: Path, source: PartitionedTable) -> Path:
    """A file of all customers with the random bank of each. Raises `PartitionError` where rows name no customer."""
    table = source.table
    key = table.schema.parties.customer
    if key is None or table.customer is None:
        raise PartitionError(
            f"{table.source}: random banks hold whole customers, and schema {table.schema.name!r} names no customer "
            "column: name a column of banks with --partition COLUMN"
        )
    parts = []
    for name, rows, _ in source.banks:
        customers = table.customer.ids[sorted(set(table.customer.code[rows].tolist()))]
        parts.append(pd.DataFrame({key: customers, RANDOM: name}))
    content = pd.concat(parts).to_csv(index=False)
    replace_durably(path, content.encode())
    return path.absolute()


def _require_playable(banks: list[str], data: str) -> None:
    low, high = options.NETWORK_BANKS.low, options.NETWORK_BANKS.high
    if not low <= len(banks) <= high:
        raise SettingsError(
            f"{data}: expected {low} to {high} banks, each with processes of its own on this machine, got "
            f"{len(banks)}; choose another column with --partition, or random banks with --banks N"
        )
    if strange := next((name for name in banks if NAME.fullmatch(name) is None), None):
        raise SettingsError(
            f"{data}: bank {literal(strange)}: expected a name of letters and digits, with blanks, dots, hyphens and "
            "underscores between them, because it names a folder and processes; rename it, or use --banks N"
        )

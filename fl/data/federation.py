"""Load the data of a federation: one frozen table of features per bank and period.

`load_federation` reads, partitions and splits transactions and computes features, each bank from its own rows.
`pooled_global` is the baseline of a federation: features over all banks' rows, same split. It needs the transactions
of all banks in one place, which a federation avoids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fl import options
from fl.data.constants import Constant
from fl.data.features import features, scaled_features
from fl.data.partition import Partition, partition_for
from fl.data.reading import Transactions, load_transactions, read_header, transactions_from_frame
from fl.data.scaling import at_bank, exact_constants, own_constants
from fl.data.schema import Schema
from fl.data.schema_file import load_schema, schema_for_header
from fl.data.simulate import Simulation, simulate
from fl.data.split import Periods, Split, calendar_of, own_history, periods_for, split
from fl.errors import DataError, FeatureError, PartitionError, SplitError

NOWHERE = np.empty(0, np.int64)  # positions of no rows
SIMULATED = "simulated"  # in place of a path: the embedded data


@dataclass(frozen=True)
class Rows:
    """`n` transactions of one period as a model sees them. The repr shows sizes, never rows.

    `x`: float32[n, d], publicly scaled, within +-`schema.bound`; `y`: float32[n], 0 or 1; `day`: int32[n],
    days since 1970-01-01 (since 0 where the schema's time has no date, all 0 where it has no time);
    `customer`: int64[n], a code per customer, the same in all banks and periods of one load (the row's own
    index where the schema names no customer); `index`: int64[n], 0-based position of the transaction in its
    source, header not counted. A bank's rows are in time order.
    """

    x: NDArray[np.float32] = field(repr=False)
    y: NDArray[np.float32] = field(repr=False)
    day: NDArray[np.int32] = field(repr=False)
    customer: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Rows(rows={len(self)}, features={self.x.shape[1]})"


@dataclass(frozen=True)
class BankData:
    """What one bank holds: `train`, `validation` (other customers, same days) and one `test` table per test window."""

    name: str
    train: Rows
    validation: Rows
    test: tuple[Rows, ...]


@dataclass(frozen=True)
class Federation:
    """All banks of one experiment. `description`: counts and dates for the run's manifest, no rows."""

    banks: tuple[BankData, ...]
    feature_names: tuple[str, ...]
    schema: Schema
    description: dict[str, Any]

    def only(self, names: Sequence[str]) -> Federation:
        """With these columns alone, in this order. Raises `FeatureError` for one that is not there."""
        if tuple(names) == self.feature_names:
            return self
        if missing := [name for name in names if name not in self.feature_names]:
            raise FeatureError(f"no column {', '.join(missing)}: the rows have {', '.join(self.feature_names)}")
        places = [self.feature_names.index(name) for name in names]

        def narrowed(rows: Rows) -> Rows:
            return replace(rows, x=rows.x[:, places])

        banks = tuple(
            BankData(bank.name, narrowed(bank.train), narrowed(bank.validation), tuple(map(narrowed, bank.test)))
            for bank in self.banks
        )
        return replace(self, banks=banks, feature_names=tuple(names))


@dataclass(frozen=True)
class Agreed:
    """Public facts that banks agree on beforehand where none sees all rows: what one process reads in the table.

    `first_day`: of the data, days since 1970-01-01. `registers`: public lists of parties by kind, as of terminals.
    """

    first_day: Annotated[int, options.DAY]
    registers: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        options.check(self, DataError, "agreed ")


@dataclass(frozen=True)
class PartitionedTable:
    """Transactions of all banks, with the bank of each row and each bank's split. Both baselines are made from it."""

    table: Transactions
    partition: Partition
    periods: Periods
    banks: tuple[tuple[str, NDArray[np.int64], Split], ...] = field(
        repr=False
    )  # positions in the table; split of those
    seed: int
    agreed: Agreed | None = None  # what banks agreed on that do not show each other their rows; None: read in `table`

    def with_shared_constants(self, constants: Iterable[Constant]) -> PartitionedTable:
        """With a schema that holds the constants that the banks computed together."""
        return replace(self, table=replace(self.table, schema=self.table.schema.with_constants(constants)))

    def with_exact_constants(self) -> PartitionedTable:
        """With shared constants computed exactly from all banks' training rows, as one process may that sees them all.

        A run computes them in a secure round instead (`fl.runs.constants`). Raises `StatisticsError` for a column
        without values.
        """
        return self.with_shared_constants(exact_constants(dict(self.training_rows())))

    def training_rows(self) -> Iterator[tuple[str, Transactions]]:
        """(bank, the rows that constants are computed from), in the order of banks.

        These are its training rows, and the frauds among them whose label came too late: no label decides which.
        """
        for name, rows, held in self.banks:
            yield name, self.table.take(rows[held.drawn_train])

    def constants_at_banks(self) -> dict[str, tuple[Constant, ...]]:
        """By bank: the constants that it computes from its own training rows. Each stays at its bank.

        Raises `StatisticsError` for a bank without a value in such a column.
        """
        if not self.table.schema.lacking("bank"):
            return {}
        return {name: own_constants(table) for name, table in self.training_rows()}

    @property
    def first_day(self) -> int:
        """The first day whose transactions may be counted."""
        return int(self.table.day[0]) if self.agreed is None else self.agreed.first_day


def load_federation(
    data: str | Path,
    schema: str | Path | Schema | None = None,
    partition: str | None = None,
    clients: int | None = None,
    seed: int = 0,
    *,
    test_windows: int | None = None,
    validation_share: float | None = None,
    simulation: Simulation | None = None,
) -> Federation:
    """Banks with features and labels, from a file or from the embedded generator (`data="simulated"`).

    `schema`: a shipped name, a TOML path, a `Schema`, or None to recognise a shipped one by the file's
    header. `partition`: `FILE.csv:COLUMN`, `COLUMN`, or None for the schema's column or `clients` random
    banks. Shared constants that the schema lacks are computed exactly from all rows. `seed` chooses random
    banks, validation customers and (where `simulation` is None) the simulated data. `test_windows`:
    consecutive test windows; None for those the schema lists. Raises `SchemaError`, `DataError`,
    `PartitionError`, `SplitError`, `StatisticsError`.
    """
    source = read_partitioned(
        data,
        schema,
        partition,
        clients,
        seed,
        test_windows=test_windows,
        validation_share=validation_share,
        simulation=simulation,
    )
    return federation_of(source.with_exact_constants())


def read_partitioned(
    data: str | Path,
    schema: str | Path | Schema | None = None,
    partition: str | None = None,
    clients: int | None = None,
    seed: int = 0,
    *,
    test_windows: int | None = None,
    validation_share: float | None = None,
    simulation: Simulation | None = None,
) -> PartitionedTable:
    """Read, partition and split as `load_federation` does. One result gives a federation and `pooled_global`."""
    meaning = resolve_schema(data, schema)
    rule = partition_for(meaning, partition, clients, seed)
    table = _read(data, meaning, rule, simulation or Simulation(seed=seed))
    periods = periods_for(meaning, table, test_windows)
    banks = []
    for name, rows in rule.assign(table):
        held = split(table.take(rows), periods, seed, validation_share)
        if len(held.train) == 0:
            raise PartitionError(
                f"{table.source}: bank {name!r} ({rule.spec}) has {len(rows)} rows and none in the training period; "
                "merge it with another bank or widen the training period"
            )
        banks.append((name, rows, held))
    if len(banks) < 2:
        raise PartitionError(f"{table.source}: expected at least two banks, got {len(banks)} from {rule.spec}")
    return PartitionedTable(table, rule, periods, tuple(banks), seed)


def read_member(
    data: str | Path,
    schema: Schema,
    partition: str | None,
    bank: str,
    members: Sequence[str],
    seed: int,
    agreed: Agreed,
    *,
    test_windows: int | None = None,
    simulation: Simulation | None = None,
) -> PartitionedTable:
    """The rows of one of several banks, at that bank: the other `members` are there by name and have no rows.

    `partition`: the column or file that names the bank of a row; None: every row in `data` is this bank's. Raises what
    `read_partitioned` does.
    """
    rule = Partition(f"rows of {bank}") if partition is None else partition_for(schema, partition, None, seed)
    table = _read(data, schema, rule, simulation or Simulation(seed=seed))
    if partition is not None:
        found = dict(rule.assign(table))
        if bank not in found:
            raise PartitionError(f"{table.source}: no rows of bank {bank!r} ({rule.spec}), got {', '.join(found)}")
        table = table.take(found[bank])
    periods = periods_for(schema, table, test_windows)
    held = split(table, periods, seed)
    if len(held.train) == 0:
        raise PartitionError(f"{table.source}: bank {bank!r} has no rows to train on; widen the training period")
    rows = np.arange(len(table))
    banks = tuple((name, rows, held) if name == bank else (name, NOWHERE, _empty(periods)) for name in members)
    return PartitionedTable(table, rule, periods, banks, seed, agreed=agreed)


def without_rows(
    schema: Schema, members: Sequence[str], seed: int, agreed: Agreed, *, test_windows: int | None = None
) -> PartitionedTable:
    """What is public before anybody looks at a row: schema, calendar and names of banks. Raises `SplitError`."""
    nothing = Transactions(
        schema, "no rows", NOWHERE, NOWHERE, np.empty(0, np.uint8), None, None, None, None, {}, {}, {}
    )
    periods = calendar_of(schema, test_windows)
    banks = tuple((name, NOWHERE, _empty(periods)) for name in members)
    return PartitionedTable(nothing, Partition("by member"), periods, banks, seed, agreed=agreed)


def _empty(periods: Periods) -> Split:
    return Split(NOWHERE, NOWHERE, (NOWHERE,) * periods.windows)


def resolve_schema(data: str | Path, schema: str | Path | Schema | None) -> Schema:
    """The requested schema, or the shipped one that fits the data."""
    if isinstance(schema, Schema):
        return schema
    if schema is not None:
        return load_schema(schema)
    if str(data) == SIMULATED:
        return load_schema(SIMULATED)
    return schema_for_header(read_header(data), str(data))


def federation_of(source: PartitionedTable) -> Federation:
    """Every bank with features from its own rows only."""
    schema, own = source.table.schema, source.constants_at_banks()
    banks = tuple(
        _bank(name, at_bank(source.table.take(rows), own.get(name, ())), held) for name, rows, held in source.banks
    )
    for i, window in enumerate(source.periods.test or (None,)):
        if all(len(bank.test[i]) == 0 for bank in banks):
            raise SplitError(f"{source.table.source}: test window {i + 1} ({window}) holds no rows at any bank")
    names = tuple(feature.name for feature in features(schema))
    return Federation(banks, names, schema, description_of(source))


def bank_of(source: PartitionedTable, name: str) -> BankData:
    """One bank with features from its own rows, without the work for the others. `name`: one of `source.banks`."""
    ((rows, held),) = ((rows, held) for each, rows, held in source.banks if each == name)
    own = source.constants_at_banks().get(name, ())
    return _bank(name, at_bank(source.table.take(rows), own), held)


def own_histories(source: PartitionedTable, days: int) -> dict[str, Rows]:
    """By bank: the rows of its last `days` days of training and before, for a model that never leaves the bank.

    With the bank's own features, without validation customers; in a federation's order of banks.
    """
    histories, own = {}, source.constants_at_banks()
    for name, rows, held in source.banks:
        table = at_bank(source.table.take(rows), own.get(name, ()))
        positions = own_history(table, held, source.periods, days)
        histories[name] = _rows_at(table, scaled_features(table, positions), positions)
    return histories


def pooled_global(source: PartitionedTable) -> BankData:
    """The same rows in the same periods, pooled as `pooled`, with features computed over all banks' transactions."""
    if own := source.constants_at_banks():
        return _pooled_by_bank(source, own)
    banks = source.banks
    everyone = Split(
        train=_merged([rows[held.train] for _, rows, held in banks]),
        validation=_merged([rows[held.validation] for _, rows, held in banks]),
        test=tuple(_merged([rows[held.test[i]] for _, rows, held in banks]) for i in range(source.periods.windows)),
    )
    return _bank("pooled", source.table, everyone)


def _pooled_by_bank(source: PartitionedTable, own: Mapping[str, tuple[Constant, ...]]) -> BankData:
    """As `pooled_global`, where each bank scales its rows by constants of its own; bank after bank."""
    parts = []
    for name, rows, held in source.banks:
        placed = Split(rows[held.train], rows[held.validation], tuple(rows[test] for test in held.test))
        parts.append(_bank(name, at_bank(source.table, own[name]), placed))
    return _joined(parts)


def pooled_local(federation: Federation) -> BankData:
    """All banks' rows as `pooled`, bank after bank, each row with the features its own bank computed."""
    return _joined(federation.banks)


def _joined(banks: Sequence[BankData]) -> BankData:
    return BankData(
        "pooled",
        _concatenate([bank.train for bank in banks]),
        _concatenate([bank.validation for bank in banks]),
        tuple(_concatenate([bank.test[i] for bank in banks]) for i in range(len(banks[0].test))),
    )


def _read(data: str | Path, schema: Schema, rule: Partition, simulation: Simulation) -> Transactions:
    if str(data) == SIMULATED:
        frame = simulate(simulation)
        _check_bank_column(rule, list(frame.columns), SIMULATED)
        return transactions_from_frame(frame, schema, SIMULATED, bank_column=rule.column)
    if rule.column is not None:
        _check_bank_column(rule, read_header(data, schema.delimiter, schema.encoding), str(data))
    return load_transactions(data, schema, bank_column=rule.column)


def _check_bank_column(rule: Partition, header: Sequence[str], source: str) -> None:
    if rule.column is not None and rule.column not in header:
        raise PartitionError(
            f"{source}: expected a column {rule.column!r} to partition by, got {list(header)}; "
            "name one of these or FILE.csv:COLUMN, or set a number of random banks with --clients"
        )


def _bank(name: str, table: Transactions, held: Split) -> BankData:
    """The bank's rows of each period, with features that are computed once from the whole table."""
    needed = np.unique(np.concatenate([held.train, held.validation, *held.test]))
    x = scaled_features(table, needed)

    def rows_at(positions: NDArray[np.int64]) -> Rows:
        return _rows_at(table, x[np.searchsorted(needed, positions)], positions)

    return BankData(name, rows_at(held.train), rows_at(held.validation), tuple(rows_at(p) for p in held.test))


def _rows_at(table: Transactions, x: NDArray[np.float32], positions: NDArray[np.int64]) -> Rows:
    assert table.label is not None
    customer = table.index if table.customer is None else table.customer.code
    return Rows(
        x=x,
        y=table.label[positions].astype(np.float32),
        day=table.day[positions],
        customer=customer[positions],
        index=table.index[positions],
    )


def _merged(positions: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.sort(np.concatenate(positions))


def _concatenate(parts: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.day for part in parts]),
        np.concatenate([part.customer for part in parts]),
        np.concatenate([part.index for part in parts]),
    )


def description_of(source: PartitionedTable) -> dict[str, Any]:
    """Counts and dates of an experiment, for its manifest. A deployment would not publish counts per bank."""
    schema, table = source.table.schema, source.table
    label = table.label
    assert label is not None

    def counted(rows: NDArray[np.int64], positions: NDArray[np.int64]) -> dict[str, int]:
        return {"rows": len(positions), "frauds": int(label[rows[positions]].sum())}

    return {
        "source": Path(table.source).name,
        "schema": schema.name,
        "schema_sha256": schema.sha256,
        "partition": source.partition.spec,
        "seed": source.seed,
        "rows": len(table),
        "frauds": int(label.sum()),
        "first_day": schema.day_name(int(table.day[0])),
        "last_day": schema.day_name(int(table.day[-1])),
        "periods": source.periods.described,
        "label_delay_days": schema.label.delay_days,
        "banks": {
            name: {
                "train": counted(rows, held.train),
                "validation": counted(rows, held.validation),
                "test": [counted(rows, test) for test in held.test],
            }
            for name, rows, held in source.banks
        },
    }

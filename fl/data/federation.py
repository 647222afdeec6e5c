"""Load the data of a federation: one frozen table of features per bank and period.

`load_federation` reads, partitions and splits transactions and computes features, each bank from its own rows.
`pooled_global` is the baseline of a federation: features over all banks' rows, same split. It needs the transactions
of all banks in one place, which a federation avoids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.data.features import features, scaled_features
from fl.data.partition import Partition, partition_for
from fl.data.reading import Transactions, load_transactions, read_header, transactions_from_frame
from fl.data.schema import Schema
from fl.data.schema_file import load_schema, schema_for_header
from fl.data.simulate import Simulation, simulate
from fl.data.split import Periods, Split, periods_for, split
from fl.errors import PartitionError, SplitError

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
    banks. `seed` chooses random banks, validation customers and (where `simulation` is None) the simulated
    data. `test_windows`: consecutive test windows; None for those the schema lists. Raises `SchemaError`,
    `DataError`, `PartitionError`, `SplitError`.
    """
    return federation_of(
        read_partitioned(
            data,
            schema,
            partition,
            clients,
            seed,
            test_windows=test_windows,
            validation_share=validation_share,
            simulation=simulation,
        )
    )


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
    schema = source.table.schema
    banks = tuple(_bank(name, source.table.take(rows), held) for name, rows, held in source.banks)
    for i, window in enumerate(source.periods.test or (None,)):
        if all(len(bank.test[i]) == 0 for bank in banks):
            raise SplitError(f"{source.table.source}: test window {i + 1} ({window}) holds no rows at any bank")
    names = tuple(feature.name for feature in features(schema))
    return Federation(banks, names, schema, _description(source, banks))


def pooled_global(source: PartitionedTable) -> BankData:
    """The same rows in the same periods, pooled as `pooled`, with features computed over all banks' transactions."""
    banks = source.banks
    everyone = Split(
        train=_merged([rows[held.train] for _, rows, held in banks]),
        validation=_merged([rows[held.validation] for _, rows, held in banks]),
        test=tuple(_merged([rows[held.test[i]] for _, rows, held in banks]) for i in range(source.periods.windows)),
    )
    return _bank("pooled", source.table, everyone)


def pooled_local(federation: Federation) -> BankData:
    """All banks' rows as `pooled`, bank after bank, each row with the features its own bank computed."""
    banks = federation.banks
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
        _check_bank_column(rule, read_header(data, schema.delimiter), str(data))
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
        assert table.label is not None
        customer = table.index if table.customer is None else table.customer.code
        return Rows(
            x=x[np.searchsorted(needed, positions)],
            y=table.label[positions].astype(np.float32),
            day=table.day[positions],
            customer=customer[positions],
            index=table.index[positions],
        )

    return BankData(name, rows_at(held.train), rows_at(held.validation), tuple(rows_at(p) for p in held.test))


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


def _counts(rows: Rows) -> dict[str, int]:
    return {"rows": len(rows), "frauds": int(rows.y.sum())}


def _description(source: PartitionedTable, banks: Sequence[BankData]) -> dict[str, Any]:
    """Counts and dates of an experiment. A deployment would not publish counts per bank."""
    schema, table = source.table.schema, source.table
    assert table.label is not None
    return {
        "source": Path(table.source).name,
        "schema": schema.name,
        "schema_sha256": schema.sha256,
        "partition": source.partition.spec,
        "seed": source.seed,
        "rows": len(table),
        "frauds": int(table.label.sum()),
        "first_day": schema.day_name(int(table.day[0])),
        "last_day": schema.day_name(int(table.day[-1])),
        "periods": source.periods.described,
        "label_delay_days": schema.label.delay_days,
        "banks": {
            bank.name: {
                "train": _counts(bank.train),
                "validation": _counts(bank.validation),
                "test": [_counts(test) for test in bank.test],
            }
            for bank in banks
        },
    }

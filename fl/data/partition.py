"""Assign transactions to banks: by a column of the data, a file of customers, or a keyed hash of the customer.

A spec is `FILE.csv:COLUMN` (a row per customer, with the schema's customer column and the bank in COLUMN) or
`COLUMN` (every transaction names its bank). Without a spec, a keyed hash assigns customers to `clients`
banks: a customer is always at the same bank, whichever other customers there are, and so are new
transactions. Banks are about equal in size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fl.data.formats import UNREADABLE, is_parquet, opened
from fl.data.reading import Transactions, read_header
from fl.data.schema import Schema
from fl.errors import DataError, PartitionError

MIN_BANKS = 2


def keyed_hash(values: NDArray[np.object_], purpose: str, seed: int) -> NDArray[np.uint64]:
    """uint64[n]: SipHash-2-4 of each text under a key made of `purpose` and `seed`; equal texts hash alike.

    It splits data reproducibly and evenly. It does not hide the texts: the key is public.
    """
    key = hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=8).hexdigest()  # pandas takes 16 characters
    hashes: NDArray[np.uint64] = pd.util.hash_array(values, hash_key=key, categorize=False)
    return hashes


@dataclass(frozen=True)
class Partition:
    """A rule that names a bank for every transaction. Make one with `partition_for`."""

    spec: str  # as a person writes it; for manifests
    column: str | None = None  # column of the data that names the bank
    customers: dict[str, str] | None = field(default=None, repr=False)  # customer -> bank
    clients: int | None = None  # number of banks by keyed hash
    seed: int = 0
    owner: str | None = None  # bank of all rows of a table without `column`

    def of_owner(self, bank: str) -> Partition:
        """The same rule for `bank` by itself: where a table lacks the column that names the bank, all rows are its."""
        return replace(self, owner=bank)

    def column_of(self, header: Sequence[str]) -> str | None:
        """The column that names the bank, to be read from a table with these columns; None where there is none."""
        if self.owner is not None and self.column is not None and self.column not in header:
            return None
        return self.column

    def assign(self, table: Transactions) -> list[tuple[str, NDArray[np.int64]]]:
        """(bank, positions of its rows in the table, ascending) for every bank with rows, banks in natural order.

        Raises `PartitionError` naming the row that has no bank.
        """
        code, names = self._codes(table)
        order = np.argsort(code, kind="stable")
        sizes = np.bincount(code, minlength=len(names))
        parts = np.split(order, np.cumsum(sizes)[:-1])
        banks = [(name, np.asarray(rows, np.int64)) for name, rows in zip(names, parts, strict=True) if len(rows)]
        return sorted(banks, key=lambda bank: _natural(bank[0]))

    def without_bank(self, table: Transactions) -> NDArray[np.bool_]:
        """bool[n]: rows whose customer has no bank."""
        if self.customers is None or table.customer is None:
            return np.zeros(len(table), bool)
        unknown = np.array([str(customer) not in self.customers for customer in table.customer.ids], bool)
        return unknown[table.customer.code]

    def _codes(self, table: Transactions) -> tuple[NDArray[np.int64], Sequence[str]]:
        """A bank code per row and the banks' names."""
        if self.owner is not None and self.column is not None and table.bank is None:
            return np.zeros(len(table), np.int64), [self.owner]
        if self.column is not None:
            assert table.bank is not None, "the table was loaded without its bank column"
            return table.bank.code, [str(name) for name in table.bank.ids]
        if self.customers is not None:
            return self._by_customer(table, self.customers)
        assert self.clients is not None
        names = [f"bank-{i}" for i in range(self.clients)]
        if table.customer is None:
            rows = np.array([str(i) for i in table.index], object)
            return (keyed_hash(rows, "bank", self.seed) % self.clients).astype(np.int64), names
        of_customer = (keyed_hash(table.customer.ids, "bank", self.seed) % self.clients).astype(np.int64)
        return of_customer[table.customer.code], names

    def _by_customer(self, table: Transactions, customers: dict[str, str]) -> tuple[NDArray[np.int64], Sequence[str]]:
        assert table.customer is not None
        names = sorted(set(customers.values()), key=_natural)
        code_of = {name: code for code, name in enumerate(names)}
        codes = [code_of[customers[c]] if c in customers else -1 for c in table.customer.ids]
        per_row = np.array(codes, np.int64)[table.customer.code]
        if (per_row < 0).any():
            at = int(np.argmax(per_row < 0))
            missing = len(np.unique(table.customer.code[per_row < 0]))
            customer = table.customer.ids[table.customer.code[at]]
            raise PartitionError(
                f"{table.row_name(at)}: customer {customer!r} has no bank in {self.spec} "
                f"({missing} such customers); add them to the file, or leave out the partition to get random banks"
            )
        return per_row, names


def partition_for(schema: Schema, spec: str | None, clients: int | None, seed: int) -> Partition:
    """The requested partition: `spec`, else the schema's column, else `clients` random banks (8 by default).

    `clients` replaces the schema's column by that number of random banks. Raises `PartitionError` for `clients`
    together with `spec`, for fewer than two banks and for an unreadable file.
    """
    if clients is not None and clients < MIN_BANKS:
        raise PartitionError(f"expected at least {MIN_BANKS} banks, got clients = {clients}")
    if spec is not None and clients is not None:
        raise PartitionError(f"partition {spec!r} and clients = {clients} both fix the banks: give one of them")
    if spec is None and (schema.partition is None or clients is not None):
        number = 8 if clients is None else clients
        return Partition(f"{number} random banks", clients=number, seed=seed)
    spec = schema.partition if spec is None else spec
    assert spec is not None
    file, colon, column = spec.rpartition(":")
    if not colon and spec.endswith((".csv", ".gz")):
        raise PartitionError(f"partition {spec!r}: expected FILE.csv:COLUMN, got a file without a column")
    if not colon:
        return Partition(spec, column=spec)
    return Partition(spec, customers=_customers(Path(file), column, schema))


def _customers(path: Path, column: str, schema: Schema) -> dict[str, str]:
    """customer -> bank from a partition file; every customer once."""
    key = schema.parties.customer
    if key is None:
        raise PartitionError(
            f"{path}: a partition file names the bank of each customer, and schema {schema.name!r} has no customer "
            "column; partition by a column of the data instead"
        )
    try:
        header = read_header(path)
        absent = [name for name in (key, column) if name not in header]
        if absent:
            raise PartitionError(f"{path}: expected columns {absent}, got {header}")
        text = dict.fromkeys((key, column), pa.string())
        options = pa.csv.ConvertOptions(include_columns=list(text), column_types=text, strings_can_be_null=False)
        if is_parquet(path):
            table = pa.parquet.read_table(path, columns=list(text)).cast(pa.schema(text))
        else:
            with opened(path) as source:
                table = pa.csv.read_csv(source, convert_options=options)
    except (DataError, *UNREADABLE) as error:
        raise PartitionError(f"partition file {path}: {error}") from error
    customers, banks = table[key].to_pylist(), table[column].to_pylist()
    assigned: dict[str, str] = {}
    for row, (customer, bank) in enumerate(zip(customers, banks, strict=True), 2):
        if not bank:
            raise PartitionError(f"{path}: row {row}: expected a bank of {customer!r} in {column}, got an empty cell")
        if assigned.setdefault(customer, bank) != bank:
            raise PartitionError(
                f"{path}: row {row}: expected one bank of {customer!r}, got {bank!r} here and "
                f"{assigned[customer]!r} in a row above; keep one"
            )
    return assigned


def _natural(name: str) -> tuple[str, int]:
    """Sort key: 2 before 10, and bank-2 before bank-10."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, -1)

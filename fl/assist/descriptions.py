"""Read transactions with their descriptions, bank by bank.

Descriptions are the text columns of a schema, whether or not the model uses them.

A schema may read its text column without making features of it (`use = false`). Here the column is always
read, the features stay those of the unchanged schema, and each bank learns from its own training period which of
its words are common enough to be sent (`redact`).

Leaves to others: everything that is done with the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl.assist.errors import ScenarioError
from fl.assist.redact import MIN_CUSTOMERS, Redactor
from fl.data.federation import PartitionedTable, read_partitioned, resolve_schema
from fl.data.reading import Transactions
from fl.data.schema import Schema
from fl.data.simulate import Simulation
from fl.data.split import Split


@dataclass(frozen=True)
class Described:
    """All banks' transactions.

    `source`: with the unchanged schema. `with_text`: the same rows under a schema that reads every text column.
    """

    source: PartitionedTable
    with_text: Transactions = field(repr=False)

    @property
    def schema(self) -> Schema:
        return self.source.table.schema

    def positions(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the table of rows by their position in the source (`Rows.index`)."""
        order = np.argsort(self.with_text.index, kind="stable")
        return order[np.searchsorted(self.with_text.index, index, sorter=order)]


def read_described(
    data: str | Path,
    schema: str | Path | Schema | None = None,
    partition: str | None = None,
    clients: int | None = None,
    seed: int = 0,
    *,
    test_windows: int | None = None,
    simulation: Simulation | None = None,
) -> Described:
    """Read, partition and split as `fl.data.federation.read_partitioned` does, and raise what it raises."""
    meaning = resolve_schema(data, schema)
    source = read_partitioned(
        data,
        reads_text(meaning),
        partition,
        clients,
        seed,
        test_windows=test_windows,
        simulation=simulation,
    ).with_exact_constants()
    scaled = meaning.with_constants(source.table.schema.constants[len(meaning.constants) :])
    plain = replace(source, table=replace(source.table, schema=scaled))
    return Described(plain, source.table)


def reads_text(schema: Schema) -> Schema:
    """The schema with every text column in use."""
    return replace(schema, text=tuple(replace(text, use=True) for text in schema.text))


def text_column(schema: Schema, name: str | None = None) -> str:
    """The text column called `name`, or the only one. Raises `ScenarioError` when that is not one column."""
    names = [text.column for text in schema.text]
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        raise ScenarioError(
            f"schema {schema.name!r}: expected one text column, got {names or 'none'}; "
            "name one with --column, or add a [[text]] column to the schema"
        )
    return name


def bank_redactor(
    described: Described,
    rows: NDArray[np.int64],
    held: Split,
    customer_list: Sequence[str] | None,
    min_customers: int = MIN_CUSTOMERS,
) -> Redactor:
    """The redactor of the bank with `rows` (positions in the table), split as `held`.

    It knows the identifiers of the bank's customers and terminals, its `customer_list`, and the words of its training
    period.
    """
    table = described.with_text
    past = rows[np.sort(np.concatenate([held.train, held.validation]))]
    customer = table.index if table.customer is None else table.customer.code
    identifiers: set[str] = set()
    for party in (table.customer, table.terminal, *table.entities.values()):
        if party is not None:
            identifiers.update(str(name) for name in party.ids[np.unique(party.code[rows])])
    columns = list(table.text.values())
    texts = [str(text) for column in columns for text in column[past]]
    return Redactor.of_bank(
        texts,
        np.tile(customer[past], len(columns)),
        names=customer_list,
        identifiers=identifiers,
        min_customers=min_customers,
    )

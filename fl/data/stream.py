"""Compute features of new transactions chunk by chunk from a rolling history, as scoring a file needs.

A bank's `FeatureStream` keeps the transactions that a later feature can still look back on (the longest
window and the label delay) and computes each chunk's features from these and the chunk, by the same code
that made the training table. Of what a customer paid before that it keeps three numbers. The result is the
same as for the whole table at once, up to the rounding of sums that begin elsewhere (1e-9 relative).

Labels of the history, and of new rows that have labels, are used once the label delay has passed, never earlier. New
rows without labels count as no fraud once their delay has passed. Features are more accurate if such rows are given as
history with labels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl.data.amount_history import AmountMoments
from fl.data.constants import Constant
from fl.data.conversion import Identifiers
from fl.data.features import scaled_features
from fl.data.partition import Partition
from fl.data.reading import Transactions, load_transactions, read_header, stream_transactions
from fl.data.scaling import at_bank
from fl.data.schema import DAY_US, Schema
from fl.errors import OrderError, PartitionError


@dataclass(frozen=True)
class StreamedRows:
    """Features of one chunk, in the chunk's order. `x`: float32[n, d]; `bank`: object[n]; `table`: the chunk itself."""

    x: NDArray[np.float32] = field(repr=False)
    bank: NDArray[np.object_] = field(repr=False)
    table: Transactions


def feature_stream(
    schema: Schema,
    partition: Partition,
    history: Transactions | None,
    new_rows: Iterable[Transactions],
    at_banks: Mapping[str, Sequence[Constant]] | None = None,
) -> Iterator[StreamedRows]:
    """Features of `new_rows`, chunk by chunk, each row from the rows of its own bank up to its own time.

    `at_banks`: by bank, scaling constants of its own, where the schema leaves some to the banks.
    `history`: past transactions of all banks, labelled or not; None starts every bank without a past. Memory
    holds one chunk, `schema.history_days` days and three numbers a customer. Raises `OrderError` naming the row when
    transactions come earlier than what was seen, and `PartitionError` for a row without a bank.
    """
    live = LiveFeatures(schema, partition, history, at_banks)
    for chunk in new_rows:
        yield live.push(chunk)


class LiveFeatures:
    """Features of all banks' rows as they come: a rolling history for each bank. A chunk that is refused changes none.

    `history` and `at_banks`: as in `feature_stream`.
    """

    def __init__(
        self,
        schema: Schema,
        partition: Partition,
        history: Transactions | None = None,
        at_banks: Mapping[str, Sequence[Constant]] | None = None,
    ) -> None:
        self._schema, self._partition, self._at_banks = schema, partition, at_banks
        self._banks: dict[str, FeatureStream] = {}
        self._latest: int | None = None
        if history is not None:
            for name, rows in partition.assign(history):
                self._banks[name] = FeatureStream(schema, history.take(rows), _own(schema, at_banks, name))
            if history.time is not None and len(history):
                self._latest = int(history.time[-1])

    @property
    def latest(self) -> int | None:
        """The last time seen, in the unit of `Transactions.time`; None before there is one."""
        return self._latest

    def push(self, chunk: Transactions) -> StreamedRows:
        """Features of the chunk, which is remembered. Raises as `feature_stream` does."""
        latest = _refuse_disorder(chunk, self._latest)
        x = np.empty((len(chunk), 0), np.float32)
        bank = np.empty(len(chunk), object)
        moved: dict[str, FeatureStream] = {}
        for name, rows in self._partition.assign(chunk):
            begun = self._banks.get(name)
            if begun is None:
                begun = FeatureStream(self._schema, constants=_own(self._schema, self._at_banks, name))
            # A copy, whose attributes are replaced and never changed: it takes the place of the bank's own at the end.
            moved[name] = copy.copy(begun)
            part = moved[name].push(chunk.take(rows))
            if x.shape[1] == 0:
                x = np.empty((len(chunk), part.shape[1]), np.float32)
            x[rows] = part
            bank[rows] = name
        self._banks |= moved
        self._latest = latest
        return StreamedRows(x, bank, chunk)


def stream_file(
    path: str | Path,
    schema: Schema,
    partition: Partition,
    history: str | Path | None = None,
    *,
    labelled: bool = False,
    rows: int = 50_000,
    at_banks: Mapping[str, Sequence[Constant]] | None = None,
) -> Iterator[StreamedRows]:
    """`feature_stream` over a file in chunks of at most `rows`, with a labelled file of past transactions as `history`.

    With `labelled` the new rows carry labels too. Raises what `feature_stream` raises, and `DataError`.
    """
    past = None
    if history is not None:
        column = partition.column_of(read_header(history, schema.delimiter, schema.encoding))
        past = load_transactions(history, schema, bank_column=column, needs_fraud=False)
    column = partition.column_of(read_header(path, schema.delimiter, schema.encoding))
    chunks = stream_transactions(path, schema, labelled=labelled, bank_column=column, rows=rows)
    yield from feature_stream(schema, partition, past, chunks, at_banks)


def _own(schema: Schema, at_banks: Mapping[str, Sequence[Constant]] | None, bank: str) -> Sequence[Constant]:
    """A bank's own scaling constants. Raises `PartitionError` where it needs some and has none."""
    lacking, held = schema.lacking("bank"), () if at_banks is None else at_banks.get(bank, ())
    if missing := [column for column in lacking if column not in {constant.column for constant in held}]:
        raise PartitionError(
            f"bank {bank!r} has no scaling constants of its own for {', '.join(missing)}: only banks that trained have "
            f"({', '.join(at_banks or ()) or 'none here'}); score its rows after a run in which it takes part"
        )
    return held


class FeatureStream:
    """One bank's rolling history. `push` returns the features of a chunk and remembers it."""

    def __init__(self, schema: Schema, history: Transactions | None = None, constants: Sequence[Constant] = ()) -> None:
        self._reach = schema.history_days * DAY_US
        self._constants = constants
        self._history: Transactions | None = None
        self._forgotten = AmountMoments()  # of the rows that are no longer kept
        if history is not None and schema.has_windows:
            self._remember(history)

    def push(self, chunk: Transactions) -> NDArray[np.float32]:
        """float32[len(chunk), d], scaled. `chunk` is in time order and not earlier than anything pushed before."""
        chunk = at_bank(chunk, self._constants)
        if not chunk.schema.has_windows:
            return scaled_features(chunk)
        known = 0 if self._history is None else len(self._history)
        table = chunk if self._history is None else joined(self._history, chunk)
        x = scaled_features(table, np.arange(known, len(table), dtype=np.int64), self._forgotten)
        self._remember(table)
        return x

    def _remember(self, table: Transactions) -> None:
        """Keep the rows that later features can use: windows exclude their left end."""
        if len(table) == 0:
            return
        assert table.time is not None
        reached = table.time > table.time[-1] - self._reach
        kept = table.take(reached)
        if table.customer is not None and table.amount is not None:
            self._forgotten = self._forgotten.with_rows(table.take(~reached))
        self._history = replace(
            kept,
            customer=None if kept.customer is None else _compacted(kept.customer),
            terminal=None if kept.terminal is None else _compacted(kept.terminal),
        )


def joined(earlier: Transactions, later: Transactions) -> Transactions:
    """Both tables as one; `later` begins no earlier than `earlier` ends. Missing labels become 0.

    Columns that no window uses (numbers, derived ones, categories, text) keep the shape but not the content of
    `earlier`.
    """
    assert earlier.time is not None and later.time is not None
    n = len(earlier)
    return replace(
        later,
        index=np.concatenate([earlier.index, later.index]),
        time=np.concatenate([earlier.time, later.time]),
        label=np.concatenate([_labels(earlier), _labels(later)]),
        amount=_both(earlier.amount, later.amount),
        customer=_joined_identifiers(earlier.customer, later.customer),
        terminal=_joined_identifiers(earlier.terminal, later.terminal),
        bank=None,
        part=None,
        numeric={name: np.concatenate([np.zeros(n), values]) for name, values in later.numeric.items()},
        categorical={
            name: Identifiers(np.concatenate([np.zeros(n, np.int64), party.code]), party.ids)
            for name, party in later.categorical.items()
        },
        entities={
            kind: Identifiers(np.concatenate([np.zeros(n, np.int64), party.code]), party.ids)
            for kind, party in later.entities.items()
        },
        known_day=None,
        derived={name: np.concatenate([np.zeros(n), values]) for name, values in later.derived.items()},
        text={name: np.concatenate([np.full(n, "", object), values]) for name, values in later.text.items()},
    )


def _refuse_disorder(chunk: Transactions, latest: int | None) -> int | None:
    """The chunk's last time. A late row is refused: it belongs into features that were already returned."""
    if chunk.time is None or len(chunk) == 0 or not chunk.schema.has_windows:
        return latest
    # Sorting by time has changed the order of rows, so the file was not in time order.
    moved = np.diff(chunk.index) < 0
    if moved.any() or (latest is not None and chunk.time[0] < latest):
        at = int(np.argmax(moved)) if moved.any() else 0
        raise OrderError(
            f"{chunk.row_name(at)}: expected a transaction no earlier than the history and the rows above, "
            "got an earlier one; sort the file by time, and end the history before it"
        )
    return int(chunk.time[-1])


def _labels(table: Transactions) -> NDArray[np.uint8]:
    return np.zeros(len(table), np.uint8) if table.label is None else table.label


def _both(earlier: NDArray[np.float64] | None, later: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    return None if earlier is None or later is None else np.concatenate([earlier, later])


def _joined_identifiers(earlier: Identifiers | None, later: Identifiers | None) -> Identifiers | None:
    """Codes of both in one list of identifiers."""
    if earlier is None or later is None:
        return None
    code_of = {name: code for code, name in enumerate(earlier.ids)}
    recoded = np.array([code_of.setdefault(name, len(code_of)) for name in later.ids], np.int64)
    return Identifiers(np.concatenate([earlier.code, recoded[later.code]]), np.array(list(code_of), object))


def _compacted(party: Identifiers) -> Identifiers:
    """Without identifiers that no row has any more, so that memory does not grow with the stream."""
    used, code = np.unique(party.code, return_inverse=True)
    return Identifiers(code.astype(np.int64), party.ids[used])

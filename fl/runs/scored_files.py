"""Score a file of any length: find the history by itself, carry columns along, and go on after rows that are wrong.

What it does: `history_of` takes the transactions that the run was trained on as the past of new ones, where they are
still as they were. `score_rows` scores the sound rows of a file chunk by chunk, and names all others.

What it leaves to others: which rows are sound (`fl.data.salvage`), scores (`fl.runs.scoring`), and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl.data.federation import SIMULATED
from fl.data.reading import Transactions, load_transactions, read_header
from fl.data.salvage import OpenCsv, RejectedRow, SoundRows, header_of, sound_rows
from fl.data.schema import Schema
from fl.data.stream import feature_stream
from fl.errors import FederationError
from fl.runs.folder import read_config, read_object, source_digest
from fl.runs.plan import read_source
from fl.runs.scoring import ScoredRows, TrainedModel, no_rows, scored

NAMES_A_ROW = re.compile(r"(?:^|[^A-Za-z])(?:id|uuid|guid)$|[a-z](?:Id|ID)$|^(?:ID|Id)$", re.IGNORECASE)


@dataclass(frozen=True)
class Past:
    """The transactions before those that are scored. `table`: None where there are none; `words`: where from, or why.

    `whole`: every row counts, and new rows follow the last one. Otherwise only rows before the first new one count.
    """

    table: Transactions | None = field(repr=False)
    words: str
    whole: bool = True


@dataclass(frozen=True)
class ScoredChunk:
    """One chunk of a file. `scores`: of its sound rows, in order; `kept`: by column, object[n], of the same rows."""

    scores: ScoredRows
    kept: Mapping[str, NDArray[np.object_]] = field(repr=False)
    rejected: tuple[RejectedRow, ...]
    dropped: Mapping[str, int]
    of_other_banks: int  # rows left out because one bank scores its own customers


def history_of(run: Path, model: TrainedModel, given: Path | None, *, wanted: bool = True) -> Past:
    """The past of new transactions: the file `given`, or else what the run in folder `run` was trained on.

    `wanted` False: none. Raises what reading `given` raises; where the run's own data are gone, changed or cannot be
    read, the words say so.
    """
    schema = model.schema
    if given is not None:
        column = model.partition.column_of(read_header(given, schema.delimiter, schema.encoding))
        table = load_transactions(given, schema, bank_column=column, needs_fraud=False)
        return Past(table, f"history: {len(table):,} transactions in {given}")
    if not schema.has_windows:
        return Past(None, "history: none is needed, since no feature looks back")
    nothing = "every count of past transactions begins at zero"
    if not wanted:
        return Past(None, f"history: left out (--no-history), so that {nothing}")
    ask = f"no history: {nothing}; give earlier labelled transactions with --history FILE"
    data, seed = read_config(run).data, read_config(run).seed
    if data.source == SIMULATED:
        table = read_source(data, seed).table
        return Past(table, f"history: the run's own {len(table):,} embedded transactions", whole=False)
    path = Path(data.source)
    if not path.is_file():
        return Past(None, f"{ask} (the run's own data, {path}, are not there)")
    if source_digest(data.source) != read_object(run / "manifest.json").get("source_sha256"):
        return Past(None, f"{ask} (the run's own data, {path}, have changed since)")
    try:
        column = model.partition.column_of(read_header(path, schema.delimiter, schema.encoding))
        table = load_transactions(path, schema, bank_column=column, needs_fraud=False)
    except FederationError as fault:
        return Past(None, f"{ask} (the run's own data cannot be read: {fault})")
    return Past(table, f"history: the run's own {len(table):,} transactions in {path}", whole=False)


def columns_that_name_rows(source: Path | OpenCsv, schema: Schema) -> list[str]:
    """Columns of a file that identify its rows: those without a role in the schema whose name ends in "id"."""
    read = set(schema.roles())
    return [name for name in header_of(source, schema) if name not in read and NAMES_A_ROW.search(name)]


def score_rows(
    model: TrainedModel, source: Path | OpenCsv, past: Past, keep: Sequence[str] = (), *, rows: int = 50_000
) -> Iterator[ScoredChunk]:
    """Scores of the sound rows of a file, chunk by chunk, with the rows that were rejected or dropped.

    Memory holds two chunks and the history that features look back on. Raises `DataError` for a file that cannot be
    read at all or lacks a column.
    """
    schema, table = model.schema, past.table
    after = None if table is None or table.time is None or not len(table) else int(table.time[-1 if past.whole else 0])
    chunks = sound_rows(source, schema, model.partition, after=after, keep=keep, rows=rows)
    first = next(chunks, None)
    if first is None:
        return
    if table is not None and not past.whole:
        table = _before(table, first.table)
    fed: list[Transactions] = []
    streamed = feature_stream(schema, model.partition, table, _fed(fed), model.at_banks)
    for chunk in chain([first], chunks):
        if not len(chunk.table):
            yield ScoredChunk(no_rows(model), _empty(chunk), chunk.rejected, chunk.dropped, 0)
            continue
        fed.append(chunk.table)
        scores = scored(model, next(streamed))
        place = np.isin(chunk.table.index, scores.index)  # all rows, but for those of other banks
        kept = {name: text[place] for name, text in chunk.kept.items()}
        yield ScoredChunk(scores, kept, chunk.rejected, chunk.dropped, len(chunk.table) - len(scores.index))


def _fed(waiting: list[Transactions]) -> Iterator[Transactions]:
    """What stands in `waiting`, one after the other, for as long as there is something when it is asked for."""
    while waiting:
        yield waiting.pop()


def _before(table: Transactions, new: Transactions) -> Transactions | None:
    """The rows of the past before the first new one; of a file that repeats some of the past, none counts twice."""
    if table.time is None or new.time is None or not len(new):
        return table
    earlier = table.time < new.time[0]
    return table.take(earlier) if earlier.any() else None


def _empty(chunk: SoundRows) -> dict[str, NDArray[np.object_]]:
    return {name: np.empty(0, object) for name in chunk.kept}

"""The files that `demos score` writes: scores as csv or parquet, and rejected rows as csv."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from fl.data.salvage import RejectedRow
    from fl.runs.scored_files import ScoredChunk

PARQUET = (".parquet", ".pq")


class Scores(Protocol):
    """Takes scores chunk by chunk."""

    def write(self, chunk: ScoredChunk) -> None: ...


@contextmanager
def scores_to(target: Path | None, keep: Sequence[str], *, calibrated: bool, at_home: bool) -> Iterator[Scores]:
    """Where scores go: parquet for a name that says so, else csv; None: csv on stdout.

    A file gets its name only when it is complete.
    """
    names = ["index", *keep, "bank", "score"]
    names += ["calibrated"] * calibrated + ["flagged"] + ["at_home"] * at_home
    if target is not None and target.suffix in PARQUET:
        from fl.durable import replacing

        with replacing(target) as file:
            table = _Parquet(file, names)
            try:
                yield table
            finally:
                table.close()
        return
    with text_sink(target) as sink:
        yield _Csv(sink, names)


@contextmanager
def text_sink(target: Path | None) -> Iterator[TextIO]:
    """stdout, or a file that gets its name only when it is complete."""
    if target is None:
        yield sys.stdout
        return
    from fl.durable import replacing

    with replacing(target) as file:
        sink = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        try:
            yield sink
        finally:
            sink.detach()  # closing the file is left to `replacing`


class Rejects:
    """The rejected rows, as csv: line, column, reason. Without a sink they end the command."""

    def __init__(self, sink: TextIO | None, file: str) -> None:
        from fl.spreadsheet import SafeWriter

        self._file = file
        self._writer = None if sink is None else SafeWriter(sink)
        if self._writer is not None:
            self._writer.row(("line", "column", "reason"))

    def write(self, rows: Sequence[RejectedRow]) -> None:
        """Raises `DataError` for a row where there is no file for it."""
        if self._writer is not None:
            self._writer.rows((each.row, each.column, each.reason) for each in rows)
        elif rows:
            from fl.errors import DataError

            one = rows[0]
            raise DataError(
                f"{self._file}: row {one.row}{f', column {one.column!r}' if one.column else ''}: {one.reason}; correct "
                "the file, or give --rejects FILE for such rows and score all others"
            )


class _Csv:
    def __init__(self, sink: TextIO, names: Sequence[str]) -> None:
        from fl.spreadsheet import SafeWriter

        self._sink, self._names, self._writer = sink, names, SafeWriter(sink)
        self._writer.row(names)

    def write(self, chunk: ScoredChunk) -> None:
        columns = _columns(chunk)
        for name in ("score", "calibrated", "at_home"):
            if name in columns:
                columns[name] = [f"{value:.6g}" for value in columns[name]]
        columns["flagged"] = [int(flag) for flag in columns["flagged"]]
        self._writer.rows(zip(*(columns[name] for name in self._names), strict=True))
        self._sink.flush()


class _Parquet:
    def __init__(self, file: Any, names: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"index": pa.int64(), "flagged": pa.bool_()}
        numbers = dict.fromkeys(("score", "calibrated", "at_home"), pa.float64())
        self._schema = pa.schema([(name, (kinds | numbers).get(name, pa.string())) for name in names])
        self._writer = pq.ParquetWriter(file, self._schema)

    def write(self, chunk: ScoredChunk) -> None:
        import pyarrow as pa

        columns = _columns(chunk)
        self._writer.write_table(pa.table([columns[name] for name in self._schema.names], schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _columns(chunk: ScoredChunk) -> dict[str, Any]:
    """By name, one list per column of the output."""
    scores = chunk.scores
    columns = {name: text.tolist() for name, text in chunk.kept.items()}
    columns |= {"index": scores.index.tolist(), "bank": scores.bank.tolist()}
    columns |= {"score": scores.score.tolist(), "flagged": scores.flagged.tolist()}
    if scores.calibrated is not None:
        columns["calibrated"] = scores.calibrated.tolist()
    if scores.at_home is not None:
        columns["at_home"] = scores.at_home.tolist()
    return columns

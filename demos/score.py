"""`demos score`: scores of new transactions from a finished run's model."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from demos.console import err, print_json
from demos.options import FilePath, Range
from fl import options


@click.command("score")
@click.argument("run", type=FilePath())
@click.argument("file", type=FilePath())
@click.option(
    "--history",
    type=FilePath(),
    help="Labelled transactions from before FILE, as csv or parquet.",
)
@click.option(
    "--as",
    "bank",
    type=Range(options.Text("the name of a bank")),
    metavar="BANK",
    help="Score BANK's own customers, with its labels in --history as further evidence. Such scores have no epsilon.",
)
@click.option("--out", "target", type=FilePath(), help="File for the scores. Default: stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout. Needs --out.")
def score(run: Path, file: Path, history: Path | None, bank: str | None, target: Path | None, as_json: bool) -> None:
    """Score the transactions in FILE with the model in folder RUN.

    FILE is read in pieces, so memory does not grow with its length.

    The output is a csv: index (0-based row of FILE), bank, score (probability of fraud), flagged (score at
    or above the threshold chosen on the run's validation rows). An apostrophe is put before a bank's name that a
    spreadsheet would run as a formula.

    \b
    python -m demos score runs/NAME new.csv --history past.csv --out scores.csv
    python -m demos score runs/NAME new.csv | head
    python -m demos score runs/NAME new.csv --as BANK --history past.csv

    With --as, a fifth column at_home has the scores of a model of BANK's own, fitted to eight weeks of its history, and
    rows of other banks are left out. Where FILE or the history has no column that names the bank, all its rows are
    BANK's. Whoever sees these scores, or what is done about them, may learn single labels of
    BANK.
    """
    if as_json and target is None:
        raise click.UsageError("--json prints a summary on stdout, so it needs --out FILE.csv for the scores")
    from fl.runs.api import load
    from fl.spreadsheet import SafeWriter

    if bank is not None and history is None:
        raise click.UsageError("--as scores with BANK's own labels, so it needs --history FILE")
    trained = load(run)
    if bank is not None:
        assert history is not None
        trained = trained.as_bank(bank, history)
    rows = flagged = 0
    with _sink(target) as sink:
        writer = SafeWriter(sink)
        writer.row(("index", "bank", "score", "flagged", *(("at_home",) if bank is not None else ())))
        for chunk in trained.score_file(file, history):
            columns = (
                chunk.index.tolist(),
                chunk.bank.tolist(),
                chunk.score.tolist(),
                chunk.flagged.tolist(),
            )
            lines = ((i, name, f"{s:.6g}", int(flag)) for i, name, s, flag in zip(*columns, strict=True))
            if chunk.at_home is None:
                writer.rows(lines)
            else:
                own = (f"{s:.6g}" for s in chunk.at_home)
                writer.rows((*line, s) for line, s in zip(lines, own, strict=True))
            sink.flush()
            rows, flagged = rows + len(chunk.index), flagged + int(chunk.flagged.sum())
            err.print(f"scored {rows:,} transactions, flagged {flagged:,}")
    if as_json:
        print_json({"rows": rows, "flagged": flagged, "threshold": trained.threshold, "out": str(target)})


@contextmanager
def _sink(target: Path | None) -> Iterator[TextIO]:
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

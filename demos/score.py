"""`demos score`: scores of new transactions from a finished run's model."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from demos.console import err, print_json
from demos.options import FilePath, Range, ranged
from demos.score_files import PARQUET, Rejects, scores_to, text_sink
from fl import options
from fl.plural import plural

if TYPE_CHECKING:
    from fl.data.salvage import OpenCsv
    from fl.runs.api import Run

STDIN = "-"
FILE_ROWS, PIPED_ROWS = 50_000, 1_000  # of a chunk: whoever writes into a pipe waits for scores
OWN_COLUMNS = ("index", "bank", "score", "calibrated", "flagged", "at_home")


@click.command("score")
@click.argument("run", type=FilePath())
@click.argument("file", type=FilePath())
@click.option(
    "--history",
    type=FilePath(),
    help="Labelled transactions from before FILE, as csv or parquet. Default: what the run was trained on.",
)
@click.option("--no-history", is_flag=True, help="Begin every count of past transactions at zero.")
@click.option(
    "--as",
    "bank",
    type=Range(options.Text("the name of a bank")),
    metavar="BANK",
    help="Score BANK's own customers, with its labels in --history as further evidence. Such scores have no epsilon.",
)
@ranged(
    "--keep",
    options.COLUMN,
    "Column of FILE to write beside the scores. Can be repeated. Default: columns without a role in the schema whose "
    "name ends in id.",
    name="keep",
    multiple=True,
    metavar="COLUMN",
)
@click.option("--out", "target", type=FilePath(), help="File for the scores, csv or .parquet. Default: csv on stdout.")
@click.option(
    "--rejects",
    type=FilePath(),
    help="File for the rows that cannot be scored, each with its line and the reason. Default: with --out, its name "
    "and .rejects.csv; without, the first such row ends the command.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout. Needs --out.")
def score(
    run: Path,
    file: Path,
    history: Path | None,
    no_history: bool,
    bank: str | None,
    keep: tuple[str, ...],
    target: Path | None,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Score the transactions in FILE, or in a csv on standard input ("-"), with the model in folder RUN.

    FILE is read in pieces, so memory does not grow with its length. It needs no labels; if it has labels, they are
    ignored.

    The output has one row per transaction: index (0-based row of FILE), the columns of --keep, bank, score, calibrated
    and flagged. A score ranks transactions and is no probability. calibrated is the probability of fraud, fitted to
    labelled rows that the model was not trained on. flagged is 1 at or above the threshold of the run, which `demos
    threshold` can change. An apostrophe is put before text that a spreadsheet would run as a formula.

    \b
    python -m demos score runs/NAME new.csv --out scores.csv
    python -m demos score runs/NAME new.parquet --history past.csv --out scores.parquet
    payments | python -m demos score runs/NAME - --rejects bad.csv | alerts
    python -m demos score runs/NAME new.csv --as BANK --history past.csv

    A row that is not as the schema says is rejected, and all others are scored. Rows that the schema drops are counted.

    With --as, a column at_home has the scores of a model of BANK's own, fitted to eight weeks of its history, and
    rows of other banks are left out. Where FILE or the history has no column that names the bank, all its rows are
    BANK's. Nothing was calibrated for such scores. Whoever sees them, or what is done about them, may learn single
    labels of BANK.
    """
    if as_json and target is None:
        raise click.UsageError("--json prints a summary on stdout, so it needs --out FILE for the scores")
    if history is not None and no_history:
        raise click.UsageError("--history and --no-history exclude each other: give one of them")
    from fl.runs import scored_files
    from fl.runs.api import load

    if bank is not None and history is None:
        raise click.UsageError("--as scores with BANK's own labels, so it needs --history FILE")
    trained = load(run)
    if bank is not None:
        assert history is not None
        trained = trained.as_bank(bank, history)
    source: Path | OpenCsv = file
    if str(file) == STDIN:
        from fl.data.salvage import open_csv

        source = open_csv(click.get_binary_stream("stdin"), "standard input", trained.model.schema)
    kept = list(dict.fromkeys(keep)) or scored_files.columns_that_name_rows(source, trained.model.schema)
    if clash := [name for name in kept if name in OWN_COLUMNS]:
        if keep:
            raise click.UsageError(f"--keep {clash[0]}: the output has a column of that name; rename it in FILE")
        kept = [name for name in kept if name not in clash]
    if rejects is None and target is not None:
        rejects = target.with_name(f"{target.name}.rejects.csv")
    _score(trained, source, history, no_history, kept, target, rejects, as_json)


def _score(
    trained: Run,
    source: Path | OpenCsv,
    history: Path | None,
    no_history: bool,
    keep: list[str],
    target: Path | None,
    rejects: Path | None,
    as_json: bool,
) -> None:
    past = trained.history(history, wanted=not no_history)
    err.print(past.words, soft_wrap=True)
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    calibrated, at_home = trained.model.calibration is not None, trained.model.home is not None
    with ExitStack() as files:
        sink = files.enter_context(scores_to(target, keep, calibrated=calibrated, at_home=at_home))
        bad = Rejects(None if rejects is None else files.enter_context(text_sink(rejects)), str(source))
        for chunk in trained.score_rows(source, past, keep, rows=FILE_ROWS if isinstance(source, Path) else PIPED_ROWS):
            bad.write(chunk.rejected)
            sink.write(chunk)
            counts["rows"] += len(chunk.scores.index)
            counts["flagged"] += int(chunk.scores.flagged.sum())
            counts["rejected"] += len(chunk.rejected)
            counts["other banks"] += chunk.of_other_banks
            dropped.update(chunk.dropped)
            err.print(f"scored {plural(counts['rows'], 'transaction')}, flagged {counts['flagged']:,}")
    summary = {
        "rows": counts["rows"],
        "flagged": counts["flagged"],
        "threshold": trained.threshold,
        "thresholds": dict(trained.model.thresholds),
        "rule": dict(trained.model.rule),
        "rejected": counts["rejected"],
        "rejects": None if rejects is None else str(rejects),
        "dropped": dict(dropped),
        "of_other_banks": counts["other banks"],
        "history": past.words,
        "kept": keep,
        "calibrated": calibrated,
        "format": "parquet" if target is not None and target.suffix in PARQUET else "csv",
        "out": str(target),
    }
    _tell(summary, at_home)
    if as_json:
        print_json(summary)


def _tell(summary: dict[str, Any], at_home: bool) -> None:
    """What a person has to know beside the scores."""
    if summary["rejected"]:
        rows = plural(summary["rejected"], "row")
        err.print(f"rejected {rows}, each with its reason: {summary['rejects']}", soft_wrap=True)
        if summary["rejected"] > summary["rows"]:
            err.print(
                "More rows were rejected than scored: look at the reasons first (is the file sorted by time?)",
                soft_wrap=True,
            )
    if summary["dropped"]:
        named = ", ".join(f"{rule}: {rows:,}" for rule, rows in sorted(summary["dropped"].items()))
        err.print(f"left out, as the schema says: {named}", soft_wrap=True)
    if summary["of_other_banks"]:
        err.print(f"left out: {plural(summary['of_other_banks'], 'row')} of other banks")
    if not summary["calibrated"] and not at_home:
        err.print("no column calibrated: an earlier version trained this run, and left no calibration", soft_wrap=True)

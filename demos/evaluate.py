"""`demos evaluate RUN`: examine a finished run, for those who are responsible for its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
from rich.text import Text

from demos.console import out, print_json, progress, table, visible
from demos.options import FilePath, ranged
from fl import options
from fl.plural import plural

SKIPPED_SHOWN = 5  # columns that were not compared by group, with their reasons
MARKS = {"good": ("+", "green"), "note": ("-", "dim"), "concern": ("!", "bold yellow")}


@click.command("evaluate")
@click.argument("run", type=FilePath())
@ranged(
    "--by",
    options.Text("a column, or FILE.csv:COLUMN"),
    "Compare the groups of this column. Can be repeated.",
    name="columns",
    multiple=True,
    metavar="COLUMN|FILE.csv:COLUMN",
)
@ranged("--alerts", options.REVIEWED, "Transactions that a team can review: what it finds among the highest scores.")
@ranged(
    "--alerts-per",
    options.Choice(("day", "bank", "all")),
    "With --alerts: a day at all banks together, a day at each bank, or in all. Default: day, or all without days.",
    name="alerts_per",
)
@click.option("--html", "page", type=FilePath(), metavar="FILE", help="Also write the report as one HTML file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON on stdout and nothing else.")
def evaluate(
    run: Path,
    columns: tuple[str, ...],
    alerts: int | None,
    alerts_per: Literal["day", "bank", "all"] | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Examine the finished run in folder RUN: its figures and baselines, calibration, days to the first alert, drift,
    groups and features. Writes RUN/report.json.

    The data are read again from where the run found them, outside every privacy budget. Use this only if you may see
    all rows. The report contains figures of groups, days and banks, never a transaction.

    \b
    python -m demos evaluate runs/NAME --html report.html
    python -m demos evaluate runs/NAME --by bank --by TX_AMOUNT
    python -m demos evaluate runs/NAME --alerts 50 --alerts-per day
    """
    from fl.durable import replace_json
    from fl.reports.examination.report import PARTS, examine
    from fl.reports.examination.review import Team

    if alerts_per is not None and alerts is None:
        raise click.UsageError("--alerts-per says of what --alerts are the number: give --alerts K, too")
    team = None if alerts is None else Team(alerts, alerts_per)
    with progress("examining", 1 + len(PARTS)) as advance:
        report = examine(run, columns=columns, team=team, progress=advance)
    replace_json(run / "report.json", report)
    if page is not None:
        from fl.reports.examination.page import write_page

        write_page(report, page)
    if as_json:
        print_json(report)
    else:
        _show(report)
        written = [str(run / "report.json"), *([str(page)] if page is not None else [])]
        out.print(f"written: {', '.join(written)}", soft_wrap=True)


def _show(report: dict[str, Any]) -> None:
    first, *others = report["findings"]
    out.print(Text(visible(first["text"]), "bold"))
    _show_models(report["comparison"], report["run"]["words"])
    for finding in others:
        out.print(Text.assemble(MARKS[finding["kind"]], f" {visible(finding['text'])}"))
    for each in report["comparison"]["explained"]:
        out.print(Text.assemble((f"{each['what']}: ", "dim bold"), (visible(each["had"]), "dim")))
    skipped = report["fairness"]["skipped"]
    for each in skipped[:SKIPPED_SHOWN]:
        out.print(Text(f"left out: {visible(each['why'])}", "dim"))
    if (more := len(skipped) - SKIPPED_SHOWN) > 0:
        out.print(Text(f"left out: {plural(more, 'more column')}; report.json has the reason of each", "dim"))
    out.print("+ good, - for information, ! must be answered before the model is used", style="dim")


def _show_models(comparison: dict[str, Any], kept: dict[str, bool]) -> None:
    from fl.data.vocabulary import Words

    words = Words.of(kept)
    columns = ("AP", "AUC", "prec.", "recall", "F1", words.heading)
    keys = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100")
    rows, own = [], None
    for row in comparison["models"]:
        figures = ["-" if row.get(key) is None else f"{row[key]:.3f}" for key in keys]
        rows.append((row["what"], *(figures if row["ran"] else ["not run", *[""] * 5])))
        own = row["what"] if row["name"] == "federated" else own
    right = tuple(range(1, 7))
    out.print(table(f"Fraud found on {words.test}", "model", *columns, rows=rows, right=right, bold=own))

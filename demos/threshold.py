"""`demos threshold`: choose from which score on a transaction is an alert, and keep the choice in the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from demos.console import out, print_json, table
from demos.options import JSON, FilePath, ranged
from fl import options

if TYPE_CHECKING:
    from fl.data.vocabulary import Words
    from fl.learning.thresholds import Rule


@click.command("threshold")
@click.argument("run", type=FilePath())
@click.option("--f1", is_flag=True, help="The best F1. This is the default.")
@ranged("--alerts", options.ALERTS_A_DAY, "At most so many alerts a day, of all banks together.")
@ranged("--cost-missed", options.COST_OF_ONE, "The least cost: what a fraud costs that is not flagged.")
@ranged("--cost-alert", options.COST_OF_ONE, "The least cost: what an alert costs, fraud or not.")
@click.option(
    "--per-bank",
    is_flag=True,
    help="A threshold for each bank, where its held-out rows hold frauds enough. --alerts then counts for each bank.",
)
@JSON
def threshold(
    run: Path,
    f1: bool,
    alerts: float | None,
    cost_missed: float | None,
    cost_alert: float | None,
    per_bank: bool,
    as_json: bool,
) -> None:
    """Choose the threshold of the finished run in folder RUN and write it to RUN/thresholds.json, for `score` and
    `evaluate`.

    It is chosen on labelled rows that the model was not trained on: those of the four weeks before training, and the
    validation rows; without cards that were known to be compromised. The data are read again from where the run found
    them, outside every privacy budget. Use this only if you may see all rows.

    \b
    python -m demos threshold runs/NAME --alerts 40
    python -m demos threshold runs/NAME --cost-missed 120 --cost-alert 4 --per-bank
    """
    rule, of_one_bank = _rules(f1, alerts, cost_missed, cost_alert, per_bank)
    from fl.data.vocabulary import Words
    from fl.runs.folder import read_object
    from fl.runs.held_out import choose, held_out_of
    from fl.runs.operating import write_thresholds

    rows = held_out_of(run)
    words = Words.of(read_object(run / "result.json").get("words"))
    chosen = choose(rule, rows, of_one_bank)
    write_thresholds(run, chosen)
    counted = {
        name: {
            "threshold": chosen.of(name),
            "own": name in chosen.banks,
            "held_out_frauds": int(part.label.sum()),
            "held_out_alerts": int((part.score >= chosen.of(name)).sum()),
            "held_out_days": part.days,
        }
        for name, part in rows.items()
    }
    if as_json:
        print_json({"run": str(run), "rule": dict(chosen.rule), "shared": chosen.shared, "banks": counted})
        return
    _show(rule, chosen.shared, counted, words)
    out.print(f"written: {run / 'thresholds.json'}", soft_wrap=True)


def _rules(
    f1: bool, alerts: float | None, missed: float | None, alert: float | None, per_bank: bool
) -> tuple[Rule, Rule | None]:
    """(the rule of all banks together, that of a single bank or None)."""
    from fl.learning.thresholds import ByAlerts, ByCost, ByF1

    costs = missed is not None or alert is not None
    if f1 + (alerts is not None) + costs > 1:
        raise click.UsageError("expected one of --f1, --alerts, or --cost-missed with --cost-alert, got several")
    if costs and (missed is None or alert is None):
        raise click.UsageError("--cost-missed and --cost-alert belong together: give both, in one currency")
    rule: Rule = ByF1()
    if alerts is not None:
        rule = ByAlerts(alerts)
    elif missed is not None and alert is not None:
        rule = ByCost(missed, alert)
    return rule, rule if per_bank else None


def _show(rule: Rule, shared: float, banks: dict[str, dict[str, Any]], words: Words) -> None:
    """The threshold of each bank, and its alerts: a day where rows have days, else among its held-out rows."""

    def alerts(each: dict[str, Any]) -> str:
        if not words.days:
            return f"{each['held_out_alerts']:,}"
        return f"{each['held_out_alerts'] / each['held_out_days']:.1f}" if each["held_out_days"] else "-"

    rows = [
        (
            name,
            f"{each['threshold']:.4f}",
            "its own" if each["own"] else "of all banks",
            f"{each['held_out_frauds']:,}",
            alerts(each),
        )
        for name, each in banks.items()
    ]
    title = f"Threshold {shared:.4f} of all banks, chosen {rule.words(days=words.days)}"
    heading, counted = ("alerts a day", "frauds") if words.days else ("alerts", "frauds, alerts")
    out.print(table(title, "bank", "threshold", "which", "frauds", heading, rows=rows, right=(1, 3, 4)))
    out.print(f"{counted}: in the held-out rows of the bank, on which the threshold was chosen", style="dim")

"""`demos budget RUN`: what each bank has spent of its epsilon, what is left, and what the next round would cost."""

from __future__ import annotations

from pathlib import Path

import click

from demos.console import out, print_json, table
from demos.options import JSON, FilePath
from fl.reports.protected import OUTSIDE_EPSILON


@click.command("budget")
@click.argument("run", type=FilePath())
@JSON
def budget(run: Path, as_json: bool) -> None:
    """Show what each bank of the run in folder RUN has spent of its epsilon. This command spends nothing.

    An epsilon counts for the whole life of a bank's data, over all runs that share its ledger. The total of statistics
    and training together is computed by composition; it is not the sum of the two.

    \b
    python -m demos budget runs/NAME
    """
    from fl.runs.budgets import bank_budgets

    budgets = bank_budgets(run)
    if as_json:
        print_json({"run_dir": str(run), "banks": [each.as_json() for each in budgets]})
        return
    rows = []
    for each in budgets:
        price = f"{each.next_round:.3f}" if each.affordable else f"{each.next_round:.3f}, refused"
        rows.append((each.bank, f"{each.limit:g}", f"{each.spent:.3f}", f"{each.left:.3f}", price))
    columns = ("bank", "limit", "spent", "left", "next round")
    out.print(table("Epsilon of every bank", *columns, rows=rows, right=(1, 2, 3, 4)))
    first = budgets[0]
    parts = "; ".join(f"{unit}: {spent:.3f} alone" for unit, spent in first.by_kind.items())
    counted = ", ".join(dict.fromkeys(each.accountant for each in budgets))
    out.print(f"delta {first.delta:g} ({counted}). Unit: one {first.unit}. {first.bank}: {parts}.")
    sure = 100 * first.protection.highest_posterior
    out.print(
        f"{first.bank}: an observer of all releases guesses whether one transaction was there in at most "
        f"{100 * first.protection.attack_accuracy:.1f} % of cases (a coin: 50 %), and becomes at most {sure:.3g} % "
        f"sure from {100 * first.protection.prior:.1f} %."
    )
    out.print(
        "Not covered: a card or a customer as a whole, and features of other rows that are computed from a row. "
        f"{OUTSIDE_EPSILON}",
        style="dim",
    )

"""`demos budget RUN`: what each bank has spent of its epsilon, what is left, and what the next round would cost."""

from __future__ import annotations

from pathlib import Path

import click

from demos.console import out, print_json, table
from demos.options import JSON, FilePath


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

    found = bank_budgets(run)
    if as_json:
        print_json({"run_dir": str(run), "banks": [account.as_json() for account in found]})
        return
    made = table("Epsilon of every bank", "bank", "limit", "spent", "left", "next round", right=(1, 2, 3, 4))
    for account in found:
        price = f"{account.next_round:.3f}" if account.affordable else f"{account.next_round:.3f}, refused"
        made.add_row(account.bank, f"{account.limit:g}", f"{account.spent:.3f}", f"{account.left:.3f}", price)
    out.print(made)
    first = found[0]
    parts = "; ".join(f"{unit}: {spent:.3f} alone" for unit, spent in first.by_kind.items())
    counted = ", ".join(dict.fromkeys(account.accountant for account in found))
    out.print(f"delta {first.delta:g} ({counted}). Unit: one {first.unit}. {first.bank}: {parts}.")
    out.print(
        "Not covered: a card or a customer as a whole, and features of other rows that are computed from a row.",
        style="dim",
    )

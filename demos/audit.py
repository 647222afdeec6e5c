"""`demos audit`: verify a key holder's ledger offline, and compare it with earlier copies and clients' journals.

`secagg.ledger` and `secagg.journal` verify and compare. The command needs no private key and changes no file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from demos.console import out, print_json, table
from demos.options import JSON, FilePath
from fl.plural import plural
from secagg.audit import audit as read_log
from secagg.journal import PURPOSE as JOURNAL
from secagg.journal import JournalReport, JournalRound, audit_journal
from secagg.ledger import LedgerReport, audit_ledger, compare, compare_journal

_FILE = FilePath()


@click.command()
@click.argument("ledger", type=_FILE)
@click.option(
    "--against",
    multiple=True,
    type=_FILE,
    help="An earlier copy of the ledger, or a client's journal. Can be repeated.",
)
@JSON
def audit(ledger: Path, against: tuple[Path, ...], as_json: bool) -> None:
    """Verify a LEDGER offline: its hash chain, its signatures, and that each step was decrypted at most once.

    A ledger alone cannot show that its end was cut off, or that it was reset to an earlier state and continued. With
    --against it is compared with earlier copies and with journals of clients: every offer that a client answered
    must be in the ledger, after the events that the offer refers to. A client's journal can also be audited alone.

    The process that uses the ledger must have ended. If there is a file that ends in -wal, copy it together with the
    ledger. Copy the ledger after the journals.

    \b
    python -m demos audit ledger.db
    python -m demos audit ledger.db --against journal-a.db --against journal-b.db --json
    """
    if not against and read_log(ledger).purpose == JOURNAL:
        _show_journal(audit_journal(ledger), as_json)
        return
    report = audit_ledger(ledger)
    compared = [_compared(ledger, other) for other in against]
    if as_json:
        print_json({**_ledger_json(report), "against": compared})
        return
    title = f"{report.path}: ledger of {report.owner.hex()[:16]}, intact"
    rows = [(str(step), model.hex()[:16], outcome.value) for step, model, outcome in report.steps]
    out.print(table(title, "step", "model", "outcome", rows=rows))
    for each in compared:
        out.print(f"{each['file']}: {each['verdict']}")
    dropped = f", {plural(report.dropped, 'release')} dropped" if report.dropped else ""
    out.print(
        f"{report.events} events, {report.decryptions} decryptions{dropped}; head {report.head.hex()}",
        soft_wrap=True,
    )


def _compared(ledger: Path, other: Path) -> dict[str, Any]:
    """Compare another file with the ledger. Raises `LedgerError` if they contradict each other."""
    if read_log(other).purpose == JOURNAL:
        rounds = compare_journal(ledger, other)
        verdict = f"{plural(rounds, 'round')} {'agrees' if rounds == 1 else 'agree'}"
        return {"file": str(other), "kind": "journal", "rounds": rounds, "verdict": verdict}
    beyond = compare(ledger, other)
    verdict = f"the ledger has {beyond} more events" if beyond else "equal"
    return {"file": str(other), "kind": "ledger", "events_beyond": beyond, "verdict": verdict}


def _ledger_json(report: LedgerReport) -> dict[str, Any]:
    return {
        "file": report.path,
        "kind": "ledger",
        "intact": True,
        "owner": report.owner.hex(),
        "events": report.events,
        "decryptions": report.decryptions,
        "releases_dropped": report.dropped,
        "head": report.head.hex(),
        "steps": [
            {"step": step, "model": model.hex(), "outcome": outcome.value} for step, model, outcome in report.steps
        ],
    }


def _show_journal(report: JournalReport, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "file": report.path,
                "kind": "journal",
                "intact": True,
                "owner": report.owner.hex(),
                "events": report.events,
                "head": report.head.hex(),
                "steps": [
                    {"step": each.step, "model": each.model.hex(), "outcome": _outcome(each)} for each in report.rounds
                ],
            }
        )
        return
    title = f"{report.path}: journal of {report.owner.hex()[:16]}, intact"
    rows = [(str(each.step), each.model.hex()[:16], _outcome(each)) for each in report.rounds]
    out.print(table(title, "step", "model", "outcome", rows=rows))
    out.print(f"{report.events} events; head {report.head.hex()}", soft_wrap=True)


def _outcome(seen: JournalRound) -> str:
    if seen.aborted:
        return "aborted"
    if seen.release is not None:
        return "finished" if seen.contribution is not None else "caught up"
    return "unfinished"

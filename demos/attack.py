"""`demos attack`: plays known attacks on encrypted aggregation, against stock systems and against this project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from demos.console import err, out, print_json, progress, table
from demos.options import JSON
from fl.extras import command

if TYPE_CHECKING:
    from demos.attacks.verdict import Attack, Performance


NOT_PLAYED = "not played"


@click.command("attack")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Play all attacks.")
@click.option("--list", "listing", is_flag=True, help="List the attacks and play none.")
@JSON
@click.pass_context
def attack(ctx: click.Context, names: tuple[str, ...], everything: bool, listing: bool, as_json: bool) -> None:
    """Play known attacks on encrypted aggregation.

    Each is played twice: against plain TenSEAL, or this project with one defence removed, where it must succeed, and
    against this project as shipped, where it must fail.

    \b
    python -m demos attack --list
    python -m demos attack malformed-ciphertext
    python -m demos attack --all --json

    The exit code is 1 when an attack fails where it must succeed, since it then proves nothing, or succeeds against
    this project. With --all, attacks that need an extra that is not installed are skipped and named.
    """
    chosen = _chosen(names, everything, listing)
    if listing:
        _list(chosen, as_json)
        return
    from demos.attacks.verdict import perform

    playable = [each for each in chosen if each.playable]
    missing = [each for each in chosen if not each.playable]
    if missing and not everything:
        raise click.ClickException(_needed_by(missing[0]))
    performances = []
    with progress("attacks", len(playable)) as advance:
        for done, each in enumerate(playable, start=1):
            performances.append(perform(each))
            advance(done)
    if as_json:
        print_json(report(performances, missing))
    else:
        _show(performances)
    for each in missing:
        err.print(f"not played: {_needed_by(each)}", style="bold yellow", markup=False)
    for line in _alarms(performances):
        err.print(line, style="bold red")
    if _alarms(performances):
        ctx.exit(1)


def report(performances: list[Performance], missing: Sequence[Attack] = ()) -> dict[str, Any]:
    """What `--json` prints. error: the names of the errors that were raised, or the attack's note if none was.

    missing: attacks that were not played because an extra is not installed.
    """
    left_out = [
        {"name": each.name, "stock": NOT_PLAYED, "figure": "", "ours": NOT_PLAYED, "error": _needed_by(each)}
        for each in missing
    ]
    return {
        "attacks": [
            {
                "name": each.attack.name,
                "stock": "succeeds" if each.control.succeeded else "fails",
                "figure": f"{each.control.against}: {each.control.figure}",
                "ours": each.shipped.outcome,
                "error": _errors(each),
            }
            for each in performances
        ]
        + left_out,
        "exposed_updates": sum(each.shipped.exposed_updates for each in performances),
    }


def _chosen(names: tuple[str, ...], everything: bool, listing: bool) -> list[Attack]:
    from demos.attacks import ATTACKS

    by_name = {each.name: each for each in ATTACKS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise click.UsageError(f"unknown attack {', '.join(unknown)}: --list shows all names")
    if names and everything:
        raise click.UsageError("names of attacks cannot be combined with --all")
    if not (names or everything or listing):
        raise click.UsageError("name an attack, or use --all; --list shows all names")
    return [by_name[name] for name in names] if names else list(ATTACKS)


def _list(attacks: list[Attack], as_json: bool) -> None:
    if as_json:
        print_json({"attacks": [{"name": each.name, "story": each.story} for each in attacks]})
        return
    out.print(table("Attacks", "name", "what the attacker does", rows=[(each.name, each.story) for each in attacks]))


def _show(performances: list[Performance]) -> None:
    shown = table("Attacks", "attack", "where it works", "figure", "here", "how it ends")
    shown.columns[0].no_wrap = True
    for each in performances:
        control, shipped = each.control, each.shipped
        here = {"refused": "green", "harmless": "green"}.get(shipped.outcome, "bold red")
        works = control.against if control.succeeded else Text(f"fails against {control.against}", "bold red")
        outcome = Text(shipped.outcome, here)
        shown.add_row(each.attack.name, works, control.figure, outcome, _ending(each), end_section=True)
    out.print(shown)
    exposed = sum(each.shipped.exposed_updates for each in performances)
    out.print(f"{len(performances)} attacks played; updates exposed here: {exposed}")


def _needed_by(attack: Attack) -> str:
    extra = attack.needs
    return f"{attack.name} needs the extra {extra!r}: in a checkout, {command(extra)}"


def _errors(performance: Performance) -> str:
    shipped = performance.shipped
    return ", ".join(dict.fromkeys(shipped.errors)) or f"none raised: {shipped.note}"


def _ending(performance: Performance) -> str:
    shipped = performance.shipped
    return "; ".join(filter(None, (", ".join(dict.fromkeys(shipped.errors)), shipped.note)))


def _alarms(performances: list[Performance]) -> list[str]:
    """Why the run is a failure: a control that did not succeed, or an attack on this project that did."""
    lines = []
    for each in performances:
        if not each.control.succeeded:
            lines.append(f"{each.attack.name}: the control failed ({each.control.figure}), so this proves nothing")
        if each.shipped.outcome not in ("refused", "harmless") or each.shipped.exposed_updates:
            lines.append(f"{each.attack.name}: {each.shipped.outcome} here: {_ending(each) or 'no error was raised'}")
    return lines

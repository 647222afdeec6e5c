"""`demos ledger`: look after the ledger of a key holder. `secagg.ledger` does the work."""

from __future__ import annotations

from pathlib import Path

import click

from demos.console import out, print_json
from demos.enrol import passphrase
from demos.options import JSON, FilePath, ranged
from fl import options
from fl.plural import plural
from secagg.identity import Identity
from secagg.ledger import Ledger

_FILE = FilePath()


@click.group()
def ledger() -> None:
    """Look after the ledger of a key holder.

    \b
    python -m demos ledger prune ledger.db --identity keyholder.key --keep 100
    """


@ledger.command()
@click.argument("ledger", type=_FILE)
@click.option("--identity", "file", required=True, type=_FILE, help="The key holder's identity, to sign the event.")
@ranged("--keep", options.RELEASES_KEPT, "Releases to keep: the last ones.", default=100)
@JSON
def prune(ledger: Path, file: Path, keep: int, as_json: bool) -> None:
    """Drop the sums of old releases from a LEDGER, and make the file smaller.

    A release takes 2 to 6 bytes a value. The last ones are kept, because a member that missed some rounds needs every
    release after them. The hash chain stays whole: of a dropped release the signed head and the hash of its sums stay,
    and a signed event says what was dropped. `demos audit` verifies the ledger as before.

    The process that uses the ledger must have ended. While the command runs it needs as much free space again as the
    smaller file takes.

    \b
    python -m demos ledger prune ledger.db --identity keyholder.key
    python -m demos ledger prune ledger.db --identity keyholder.key --keep 10 --json
    """
    owner = Identity.load(file, passphrase=passphrase())
    before = ledger.stat().st_size if ledger.exists() else 0
    opened = Ledger.existing(ledger, owner)
    try:
        dropped = opened.prune(keep)
    finally:
        opened.close()
    after = ledger.stat().st_size
    if as_json:
        print_json({"file": str(ledger), "dropped": dropped, "bytes_before": before, "bytes_after": after})
        return
    sizes = f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now"
    out.print(f"{ledger}: {plural(dropped, 'release')} dropped; {sizes}", soft_wrap=True)

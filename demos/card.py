"""`demos card RUN`: a model card and a data-protection impact assessment, drafted from a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from demos.console import out, print_json
from demos.options import JSON, FilePath


@click.command("card")
@click.argument("run", type=FilePath())
@click.option("--out", "folder", type=FilePath(), help="Folder for the two files. Default: RUN.")
@JSON
def card(run: Path, folder: Path | None, as_json: bool) -> None:
    """Draft model-card.md and dpia.md (GDPR Article 35(7)) from the files of the run in folder RUN.

    Only the run's folder is read. Fields that a person must fill in are marked "To be filled in". Run `evaluate`
    first, so that the drafts include calibration, drift and groups.

    \b
    python -m demos evaluate runs/NAME
    python -m demos card runs/NAME
    """
    from fl.reports.cards import write_cards

    where = run if folder is None else folder
    cards = write_cards(run, where)
    files = {"model_card": str(where / "model-card.md"), "dpia": str(where / "dpia.md")}
    if as_json:
        print_json({**files, "open_in_model_card": cards.open_in_model_card, "open_in_dpia": cards.open_in_dpia})
        return
    out.print(
        f"{files['model_card']}: {cards.open_in_model_card} fields for a person to fill in",
        soft_wrap=True,
    )
    out.print(f"{files['dpia']}: {cards.open_in_dpia} fields for a person to fill in", soft_wrap=True)

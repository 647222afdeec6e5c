"""`demos card RUN`: a model card and a data-protection impact assessment, drafted from a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from demos.console import out, print_json
from demos.options import FilePath


@click.command("card")
@click.argument("run", type=FilePath())
@click.option("--out", "folder", type=FilePath(), help="Where they go; RUN if left out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else there.")
def card(run: Path, folder: Path | None, as_json: bool) -> None:
    """Draft model-card.md and dpia.md (GDPR Article 35(7)) from what the run in folder RUN left.

    Nothing is read but the run's folder. What a run cannot know is marked "To be filled in" for a person. Run
    `evaluate` first, so that calibration, drift and groups are in them.

    \b
    python -m demos evaluate runs/NAME
    python -m demos card runs/NAME
    """
    from fl.reports.cards import write_cards

    where = run if folder is None else folder
    made = write_cards(run, where)
    files = {"model_card": str(where / "model-card.md"), "dpia": str(where / "dpia.md")}
    if as_json:
        print_json({**files, "open_in_model_card": made.open_in_model_card, "open_in_dpia": made.open_in_dpia})
        return
    out.print(f"{files['model_card']}: {made.open_in_model_card} fields for a person", highlight=False, soft_wrap=True)
    out.print(f"{files['dpia']}: {made.open_in_dpia} fields for a person", highlight=False, soft_wrap=True)

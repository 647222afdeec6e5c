"""`demos ablate CONFIG`: measure what each component of a run is worth. An interrupted ablation can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from demos.console import err, out, print_json, progress, table
from demos.options import JSON, FilePath, ranged
from fl import options


@click.command("ablate")
@click.argument("config", type=FilePath())
@ranged("--seeds", options.ABLATION_SEEDS, "Number of runs of every variant, each with its own seed.", default=3)
@ranged("--components", options.NAMES, "Names of the components to leave out, with commas. Default: all.")
@ranged("--epsilons", options.EPSILONS, "Other epsilons for a privacy-utility curve, for example 1,8.", default="")
@click.option("--out", "folder", type=FilePath(), help="Folder of all runs. Default: a new one under runs/.")
@click.option("--resume", is_flag=True, help="Continue the ablation in --out. Finished runs are kept.")
@click.option(
    "--html", "page", type=FilePath(), metavar="FILE", help="File for the report. Default: OUT/ablation.html."
)
@JSON
def ablate(
    config: Path,
    seeds: int,
    components: tuple[str, ...] | None,
    epsilons: tuple[float, ...],
    folder: Path | None,
    resume: bool,
    page: Path | None,
    as_json: bool,
) -> None:
    """Repeat the run of CONFIG (a run folder or its config.toml) with one component less at a time, for several seeds,
    and compare each result with the complete run of the same seed.

    For evaluation only: every run has its own privacy ledger, so the same rows are used many times.

    \b
    python -m demos train --customers 800 --clients 4 --algorithm fedprox --run-dir runs/base
    python -m demos ablate runs/base --seeds 3 --epsilons 1,8 --out runs/ablation
    python -m demos ablate runs/base --seeds 3 --epsilons 1,8 --out runs/ablation --resume
    """
    from fl.durable import replace_json
    from fl.reports.ablation import play, prepare, summarise, variants
    from fl.reports.ablation_page import write_page
    from fl.runs.folder import read_config

    if resume and folder is None:
        raise click.UsageError("--resume continues an ablation. Name its folder with --out.")
    base = read_config(config)
    plan = variants(base, components, epsilons)
    where = folder if folder is not None else Path(_fresh_name())
    prepare(where, base, plan, seeds, resume=resume)
    cells = []
    with progress("runs", len(plan) * seeds) as advance:
        for done in play(where, plan, seeds):
            cells.append(done)
            advance(len(cells))
    result = summarise(cells)
    replace_json(where / "ablation.json", result)
    write_page(result, page if page is not None else where / "ablation.html")
    if as_json:
        print_json(result)
    else:
        _show(result)
    err.print(f"ablation: {where}", soft_wrap=True)


def _fresh_name() -> str:
    import secrets
    from datetime import UTC, datetime

    return f"runs/ablation-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _show(result: dict[str, Any]) -> None:
    rows, complete = [], None
    for row in result["variants"]:
        figures = row["average_precision"]
        gained, worth, interval = figures["worth"], "", ""
        if gained is None:
            complete = row["name"]
        else:
            worth = f"{gained['mean']:+.3f}"
            interval = "-" if gained["low"] is None else f"{gained['low']:+.3f} to {gained['high']:+.3f}"
        rows.append((row["name"], f"{figures['mean']:.3f}", worth, interval, str(row["n"])))
    columns = ("run", "AP", "worth", "95 % interval", "n")
    out.print(table("What each component is worth", *columns, rows=rows, right=(1, 2, 3, 4), bold=complete))
    out.print(
        "AP: average precision, mean over seeds. worth: AP of the complete run minus AP of this one, in pairs of equal "
        "seed, with a t-interval. An interval that contains zero decides nothing: use more seeds.",
        style="dim",
    )
    for point in result["curve"]:
        name = "no privacy" if point["epsilon"] is None else f"epsilon {point['epsilon']:g}"
        out.print(f"{name}: average precision {point['average_precision']:.3f}")

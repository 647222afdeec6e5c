"""`demos export`: a run's model as an ONNX file, or its trees as a file of XGBoost."""

from __future__ import annotations

from pathlib import Path

import click

from demos.console import out, print_json
from demos.options import JSON, FilePath, Range
from fl import options
from fl.plural import plural


@click.command("export")
@click.argument("run", type=FilePath())
@click.option("--onnx", "target", type=FilePath(dir_okay=False), help="ONNX file to write the model to.")
@click.option(
    "--xgboost",
    "trees",
    type=FilePath(dir_okay=False),
    help="JSON file of XGBoost to write the model to. Only for runs of trees.",
)
@click.option(
    "--bank",
    type=Range(options.Text("the name of a bank")),
    metavar="BANK",
    help="Bank whose own layers the file gets. Only for runs whose banks have layers of their own.",
)
@click.option("--check", "checked", type=FilePath(), help="Transactions to compare the file with `score` on.")
@click.option("--history", type=FilePath(), help="With --check: labelled transactions from before.")
@JSON
def export(
    run: Path,
    target: Path | None,
    trees: Path | None,
    bank: str | None,
    checked: Path | None,
    history: Path | None,
    as_json: bool,
) -> None:
    """Write the model in folder RUN as an ONNX file, which onnxruntime scores with, without this package and torch.

    The file takes features and gives scores. Its metadata names each feature and how it was scaled, the threshold and
    the schema. docs/data.md says how features are computed; from Python, `Run.inputs` computes them.

    With --xgboost, the trees of a run of `train --model trees` are written for XGBoost, whose margins are theirs to the
    last bit. Its columns are those that trees see: from Python, `Run.tree_inputs` computes them. Of trees inside the
    noisy-or link these margins are of p, and a score is 1 - (1 - p)(1 - q): q is the input entity_risk of `Run.inputs`.

    With --check, the ONNX file and `score` both score the transactions of a file, and the command fails where a score
    differs by more than 1e-6.

    \b
    python -m demos export runs/NAME --onnx fraud.onnx
    python -m demos export runs/NAME --onnx fraud.onnx --check new.csv --history past.csv
    python -m demos export runs/NAME --xgboost fraud.json
    """
    if history is not None and checked is None:
        raise click.UsageError("--history is the past of the transactions to compare on: give --check FILE as well")
    if target is None and trees is None:
        raise click.UsageError("expected a file to write: give --onnx FILE or --xgboost FILE")
    if target is None and (checked is not None or bank is not None):
        raise click.UsageError("--check and --bank are about the ONNX file: give --onnx FILE as well")
    from fl.runs.api import load
    from fl.runs.onnx_file import TOLERANCE, disagreement, open_session, write_onnx

    loaded = load(run)
    model = loaded.model
    if trees is not None:
        loaded.export_xgboost(trees)
        if target is None:
            _tell_of_trees(trees, as_json, linked=loaded.tree_columns.linked)
    if target is None:
        return
    write_onnx(model, target, bank)
    report = {
        "onnx": str(target),
        "bytes": target.stat().st_size,
        "inputs": len(model.features),
        "threshold": model.threshold,
    }
    agreed = None
    if checked is not None:
        agreed = disagreement(model, open_session(target), checked, history, bank)
        report |= {"rows_compared": agreed.rows, "largest_difference": agreed.largest}
    if as_json:
        print_json(report)
    else:
        out.print(f"{target}: {report['bytes']:,} bytes, {len(model.features)} inputs")
        if agreed is not None:
            out.print(
                f"{plural(agreed.rows, 'transaction')} compared with score: largest difference {agreed.largest:.1e}"
            )
    if agreed is not None and not agreed.close:
        raise click.ClickException(f"expected scores within {TOLERANCE:g} of those of score; do not use {target}")


def _tell_of_trees(trees: Path, as_json: bool, *, linked: bool) -> None:
    size = trees.stat().st_size
    if as_json:
        print_json({"xgboost": str(trees), "bytes": size, "linked": linked})
        return
    out.print(f"{trees}: {size:,} bytes")
    if linked:
        out.print("its margins are the log odds of p; a score is 1 - (1 - p)(1 - q), with q the input entity_risk")

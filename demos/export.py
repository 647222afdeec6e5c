"""`demos export`: a run's model as an ONNX file, or its trees as a file of XGBoost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    python -m demos export runs/NAME --onnx fraud.onnx --xgboost fraud.json --json
    """
    if history is not None and checked is None:
        raise click.UsageError("--history is the past of the transactions to compare on: give --check FILE as well")
    if target is None and trees is None:
        raise click.UsageError("expected a file to write: give --onnx FILE or --xgboost FILE")
    if target is None and (checked is not None or bank is not None):
        raise click.UsageError("--check and --bank are about the ONNX file: give --onnx FILE as well")
    from fl.runs.api import load

    if target is not None:
        from fl.runs.onnx_file import TOLERANCE, disagreement, open_session, write_onnx  # needs the extra `export`

    loaded = load(run)
    model = loaded.model
    report: dict[str, Any] = {}
    lines, differs = [], None
    if trees is not None:
        loaded.export_xgboost(trees)
        size = trees.stat().st_size
        linked = loaded.tree_columns.linked
        report |= {"xgboost": str(trees), "xgboost_bytes": size, "linked": linked}
        lines.append(f"{trees}: {size:,} bytes")
        if linked:
            lines.append(
                "its margins are the log odds of p; a score is 1 - (1 - p)(1 - q), with q the input entity_risk"
            )
    if target is not None:
        write_onnx(model, target, bank)
        size, inputs = target.stat().st_size, len(model.features)
        report |= {"onnx": str(target), "bytes": size, "inputs": inputs, "threshold": model.threshold}
        lines.append(f"{target}: {size:,} bytes, {inputs} inputs")
        if checked is not None:
            agreed = disagreement(model, open_session(target), checked, history, bank)
            report |= {"rows_compared": agreed.rows, "largest_difference": agreed.largest}
            compared = plural(agreed.rows, "transaction")
            lines.append(f"{compared} compared with score: largest difference {agreed.largest:.1e}")
            if not agreed.close:
                differs = f"expected scores within {TOLERANCE:g} of those of score; do not use {target}"
    if as_json:
        print_json(report)
    else:
        for line in lines:
            out.print(line, markup=False, soft_wrap=True)
    if differs is not None:
        raise click.ClickException(differs)

"""What a bank of a run of trees compares and writes at home, on its own rows and with its own labels.

It sends none of it. Figures are of this bank's customers alone, so they are rougher than those of all banks together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fl.data.federation import BankData
from fl.errors import FederationError
from fl.flower.federation_plan import FederationPlan
from fl.flower.private.export import RUN, begin_folder
from fl.flower.trees.plan import TreeCourse
from fl.learning.evaluation import evaluate, require_measurable
from fl.runs.config import DataSettings
from fl.runs.model_file import write_model
from fl.runs.plan import RunPlan
from fl.runs.tree_baselines import grown_in_one_place
from fl.runs.tree_module import TreeScores
from fl.runs.verdict import LITTLE

ANY_THRESHOLD = 0.5  # where a bank has too few frauds to choose one
NAMES = {"federated": "trees of all banks", "alone_trees": "own trees, on this bank's rows alone"}


def compare(bank: BankData, module: TreeScores, course: TreeCourse) -> dict[str, Any]:
    """Figures by name. "not_measured" says why where the bank has too few frauds."""
    cpu = torch.device("cpu")
    try:
        require_measurable([bank])
        alone = TreeScores(grown_in_one_place(bank, course.columns, course.terms.settings), course.columns)
        figures = {
            name: evaluate([bank], [model], cpu).as_json()
            for name, model in (("federated", module), ("alone_trees", alone))
        }
    except FederationError as error:
        return {"bank": bank.name, "not_measured": str(error)}
    return {"bank": bank.name, "figures": figures, "gain_over_alone": _gain(figures)}


def told(compared: dict[str, Any]) -> str:
    """The comparison in lines for the bank's operator."""
    lines = [f"{compared['bank']}: average precision on its own test rows, without privacy"]
    if "not_measured" in compared:
        return "\n".join([*lines, f"  not measured: {compared['not_measured']}"])
    lines += [f"  {compared['figures'][name]['average_precision']:.3f}  {words}" for name, words in NAMES.items()]
    gain = compared["gain_over_alone"]
    worth = "more" if gain > LITTLE else "little" if gain > -LITTLE else "less than staying alone"
    return "\n".join([*lines, f"  joining brings {worth} ({gain:+.3f}), as one bank's rows show it"])


def export(
    folder: Path, plan: FederationPlan, run: RunPlan, data: DataSettings, module: TreeScores, compared: dict[str, Any]
) -> None:
    """Write the trees as a folder that `demos score` reads, beside the party file; the threshold is the bank's own."""
    figures = compared.get("figures")
    threshold = ANY_THRESHOLD if figures is None else figures["federated"]["threshold"]
    begin_folder(folder / RUN, plan, run, data)
    write_model(folder / RUN, module, run.source.table.schema, run.feature_names, threshold)


def _gain(figures: dict[str, Any]) -> float:
    together, alone = (float(figures[name]["average_precision"]) for name in ("federated", "alone_trees"))
    return together - alone

"""A federation of trees whose parties all live on this machine, and the same training in one process: demos and tests.

No real deployment is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from fl.data.federation import PartitionedTable, federation_of
from fl.errors import MetricError
from fl.flower.comparison import InProcess
from fl.flower.federation_plan import FEDERATION, FederationPlan
from fl.flower.local_parties import AppTable, LocalParties
from fl.flower.trees.plan import TreeCourse
from fl.learning.evaluation import evaluate, require_measurable
from fl.learning.model import model_hash
from fl.runs.tree_baselines import members_of
from fl.runs.tree_module import TreeScores
from fl.trees.training import add_plainly, grow

REPORTS = {"hashes": ["model_hash"]}


def tree_parties(
    folder: Path, plan: FederationPlan, course: TreeCourse, tables: Mapping[str, AppTable]
) -> LocalParties:
    """Folders of a key holder, an aggregator and the plan's members, each of these with the plan.

    `tables`: by member, entries of its [app] table beside those of the plan.
    """
    banks = {name: {"federation": FEDERATION, "bank": name, **tables[name]} for name in plan.members}
    parties = LocalParties(folder, course.settings, banks, len(plan.members), model_repeats=0, reports=REPORTS)
    parties.make()
    for name in plan.members:
        plan.write(parties.home(name))
    return parties


def in_one_process(course: TreeCourse, source: PartitionedTable) -> InProcess:
    """The trees that the same banks grow in one process by plain sums. `source`: all banks' rows."""
    torch.set_num_threads(1)
    banks, terms = federation_of(source).banks, course.terms
    *_, last = grow(members_of(banks, terms, course.columns), terms, add_plainly)
    module, measured, why = TreeScores(last.model, course.columns), None, None
    try:
        require_measurable(banks)
        measured = evaluate(banks, [module] * len(banks), torch.device("cpu")).mean["average_precision"]
    except MetricError as fault:
        why = str(fault)
    return InProcess(model_hash(module), measured, why)

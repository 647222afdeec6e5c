"""Real card payments: trees inside the noisy-or link against the federated network, and against each bank's own trees.

The figures are those of three test weeks without privacy; docs/adr/0032-trees.md has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from finished_runs import played

from fl.runs.asked import configuration
from fl.runs.kinds import begun

pytestmark = [pytest.mark.long, pytest.mark.shared_data]

Figures = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """Average precisions over three test weeks. `together`: with each bank's own evidence, as a member scores."""

    together: float
    released: float
    alone: float
    network: float


def compared(data: Path, partition: str, folder: Path) -> Compared:
    asked = {
        "data": data / "transactions_2018-04_to_2018-08.csv.gz",
        "partition": f"{data / 'customer_partition.csv'}:{partition}",
        "no_dp": True,
        "aggregation": "plain",
        "test_windows": 3,
    }
    experiment = played(begun(configuration({**asked, "model": "trees"}), folder / "trees"))
    for name in experiment.baselines():
        if name == "alone_trees":
            break
    figures: Figures = experiment.folder.read_json("metrics.json")
    alone: Figures = experiment.folder.read_json("baselines.json")["alone_trees"]
    rounds = played(begun(configuration({**asked, "model": "mlp", "no_baselines": True}), folder / "network"))
    network: Figures = rounds.folder.read_json("metrics.json")
    known = (figures["own_evidence"], figures, alone, network)
    return Compared(*(float(each["average_precision"]) for each in known))


def test_where_ten_banks_share_all_terminals_trees_are_above_the_network_and_far_above_trees_at_home(
    shared_data: Path, tmp_path: Path
) -> None:
    found = compared(shared_data, "BANK10_RANDOM", tmp_path)
    assert found.released > found.network + 0.03
    assert found.together > found.alone + 0.05


def test_where_natural_regions_share_little_trees_are_above_the_network_and_a_little_above_trees_at_home(
    shared_data: Path, tmp_path: Path
) -> None:
    found = compared(shared_data, "REGION8", tmp_path)
    assert found.released > found.network + 0.03
    assert found.together > found.alone + 0.01

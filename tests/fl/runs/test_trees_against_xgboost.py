"""On real card payments, the trees of a run beside XGBoost on the same rows: with the same bins, and with 1,024."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import fl
from fl.data.federation import Rows
from fl.runs.kinds import resumed
from fl.runs.tree_experiment import TreeExperiment
from fl.trees.coding import codes_of

pytestmark = [pytest.mark.long, pytest.mark.shared_data]

SAME_BINS = 0.003  # of average precision
FINEST_BINS = 0.01


class Grown:
    """A run of trees on the handbook's payments, and its rows as its trees see them."""

    def __init__(self, data: Path, run: Path, bins: int, partition: str, *, shared: bool) -> None:
        self.run = fl.train(
            data / "transactions_2018-04_to_2018-08.csv.gz",
            partition=f"{data / 'customer_partition.csv'}:{partition}",
            no_dp=True,
            model="trees",
            bins=bins,
            aggregation="plain",
            no_baselines=True,
            no_shared_statistics=None if shared else True,
            inputs="own",  # XGBoost knows no noisy-or link
            test_windows=3,
            run_dir=run,
        )
        experiment = resumed(run)
        assert isinstance(experiment, TreeExperiment)
        self.trees = self.run._trees().trees
        banks, self._columns = experiment.federation.banks, experiment.columns
        self.train = self._of([bank.train for bank in banks])
        self.test = [self._of([bank.test[window] for bank in banks]) for window in range(3)]

    def _of(self, parts: Sequence[Rows]) -> tuple[np.ndarray, np.ndarray]:
        """(what trees see of these rows, their labels)"""
        x = np.concatenate([self._columns.fold(part.x) for part in parts])
        return x, np.concatenate([part.y for part in parts])

    def coded(self, x: np.ndarray) -> np.ndarray:
        return codes_of(x, self.trees.columns, self.trees.edges).astype(np.float32)


def by_xgboost(grown: Grown, bins: int, *, coded: bool) -> float:
    """Average precision over the test weeks of XGBoost with the same settings, on the values or on their codes."""
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (extra `trees`)")
    seen = grown.coded if coded else np.asarray
    (x, y), settings = grown.train, grown.run.config.trees
    asked = {
        "objective": "binary:logistic",
        "eta": settings.rate,
        "max_depth": settings.depth,
        "lambda": settings.penalty,
        "min_child_weight": settings.least_hessian,
        "max_bin": bins,
        "tree_method": "hist",
        "base_score": float(y.mean()),
        "nthread": 1,
    }
    booster = xgboost.train(asked, xgboost.DMatrix(seen(x), y), settings.trees)
    margins = [
        (labels, booster.predict(xgboost.DMatrix(seen(rows)), output_margin=True)) for rows, labels in grown.test
    ]
    return fmean(average_precision_score(labels, margin) for labels, margin in margins)


@pytest.mark.parametrize("partition", ["BANK10_RANDOM", "REGION8"])
@pytest.mark.parametrize("shared", [False, True], ids=["own columns", "shared columns"])
def test_trees_find_as_much_as_xgboost_does_with_the_same_bins(
    shared_data: Path, tmp_path: Path, partition: str, shared: bool
) -> None:
    grown = Grown(shared_data, tmp_path / "run", 64, partition, shared=shared)
    found = grown.run.metrics["average_precision"]
    assert abs(found - by_xgboost(grown, 1024, coded=True)) <= SAME_BINS


@pytest.mark.parametrize("partition", ["BANK10_RANDOM", "REGION8"])
@pytest.mark.parametrize("shared", [False, True], ids=["own columns", "shared columns"])
def test_with_250_bins_trees_find_as_much_as_xgboost_does_with_1024(
    shared_data: Path, tmp_path: Path, partition: str, shared: bool
) -> None:
    grown = Grown(shared_data, tmp_path / "run", 250, partition, shared=shared)
    found = grown.run.metrics["average_precision"]
    assert found >= by_xgboost(grown, 1024, coded=False) - FINEST_BINS
    # The control: with bins of equal counts, as few as these, XGBoost finds less on the banks' own columns.
    if not shared:
        assert by_xgboost(grown, 250, coded=False) < found - FINEST_BINS

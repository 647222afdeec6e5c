"""Probabilities on three held-out weeks of the handbook's data: they add up to the frauds, in all and week by week."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl.reports.examination.calibration import calibration
from fl.reports.examination.evidence import gather
from fl.runs.api import train

TOGETHER = 0.10  # of the frauds of all weeks
EACH = 2.0  # standard deviations of a week's frauds


@pytest.mark.long
@pytest.mark.shared_data
def test_probabilities_add_up_to_the_frauds_of_three_weeks(shared_data: Path, tmp_path: Path) -> None:
    run = train(
        shared_data / "transactions_2018-04_to_2018-08.csv.gz",
        run_dir=tmp_path / "run",
        partition=f"{shared_data / 'customer_partition.csv'}:BANK10_RANDOM",
        no_dp=True,
        no_baselines=True,
        aggregation="plain",
        test_windows=3,
    )
    measured = calibration(gather(run.folder))
    weeks = measured["windows"]
    expected, seen = (sum(week[key] for week in weeks) for key in ("expected_frauds", "frauds"))
    print([(round(week["expected_frauds"], 1), week["frauds"], round(week["deviations"], 2)) for week in weeks])
    assert len(weeks) == 3 and abs(expected - seen) <= TOGETHER * seen
    assert np.all(np.abs([week["deviations"] for week in weeks]) <= EACH)
    # Taking back the weight of training alone does not do it.
    assert measured["corrected"]["expected_over_observed"] < 1 - TOGETHER

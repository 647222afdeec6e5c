"""Drift that was planted is found, and none where there is none."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import open_config, simulated_csv, train
from hypothesis import given
from hypothesis import strategies as st

from fl.data.simulate import Drift, Simulation, simulate
from fl.errors import DataError, MetricError
from fl.reports.examination.drift import LIMITS, _psi_alarm, drift, psi_by_day, stability_index
from fl.reports.examination.evidence import gather
from fl.runs.config import DataSettings

CUSTOMERS, BANKS, TEST_WEEKS = 800, 4, 3
PLANTED_DAY = 60  # 2024-03-01, the fifth of 21 test days
PLANTED = dt.date(2024, 1, 1) + dt.timedelta(days=PLANTED_DAY)
# Limits were chosen on seeds below 700; these are others.
FIRST_UNDRIFTED, UNDRIFTED = 700, 20
FIRST_DRIFTED, DRIFTED = 800, 5


def examined(seed: int, change: Drift | None, folder: Path, *, customers: int = CUSTOMERS) -> dict[str, Any]:
    """The drift part of the report of a run that was trained on simulated transactions."""
    world = Simulation(customers, customers // 2, banks=BANKS, seed=seed, drift=change)
    data = simulated_csv(world, folder / f"{seed}.csv")
    settings = DataSettings(str(data), "simulated", test_windows=TEST_WEEKS)
    found = drift(gather(train(open_config(settings, rounds=4, seed=seed), folder / f"run-{seed}")))
    data.unlink()
    return found


def measurable(first: int, runs: int, change: Drift | None, folder: Path) -> dict[int, dict[str, Any]]:
    """The drift part of so many runs, by seed, from seed `first` on.

    In so small a world a few seeds have no fraud among validation customers; they cannot be trained at all.
    """
    found: dict[int, dict[str, Any]] = {}
    for seed in itertools.count(first):
        if len(found) == runs:
            break
        with contextlib.suppress(MetricError):
            found[seed] = examined(seed, change, folder)
    return found


def days_to_find(found: dict[str, Any]) -> int | None:
    """From the planted day to the first alarm that was known on it or later; None without one."""
    known = [dt.date.fromisoformat(alarm["known_on"]) for alarm in found["alarms"]]
    late = [(day - PLANTED).days for day in known if day >= PLANTED]
    return min(late) if late else None


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_stability_index_of_two_bins_by_hand() -> None:
    found = stability_index(np.array([0.5, 0.5]), np.array([0.25, 0.75]))
    assert found == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5))


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=10), st.data())
def test_the_index_is_zero_for_equal_shares_and_never_negative(weights: list[float], data: st.DataObject) -> None:
    p = np.array(weights) / sum(weights)
    others = data.draw(st.lists(st.floats(0.01, 1.0), min_size=len(p), max_size=len(p)))
    q = np.array(others) / sum(others)
    assert stability_index(p, p) == pytest.approx(0.0, abs=1e-12)
    assert stability_index(p, q) >= 0.0
    assert stability_index(p, q) == pytest.approx(stability_index(q, p))


def test_a_week_is_no_drift_but_without_weekdays_it_would_be_one() -> None:
    """A value that is 1 at weekends: on the first test day, a Monday, it is 0 for everyone."""
    before_day = np.repeat(np.arange(4, 11), 1000)  # 1970-01-05 was a Monday
    weekend = ((before_day + 3) % 7 >= 5).astype(np.float64)
    after_day = before_day + 7
    by_weekday = psi_by_day(weekend, before_day, weekend, after_day, calendar=True)
    without = psi_by_day(weekend, before_day, weekend, after_day, calendar=False)
    assert max(by_weekday) == pytest.approx(0.0, abs=1e-9)
    assert without[0] > LIMITS.psi


def test_a_value_that_was_nearly_always_zero_has_a_bin_of_its_own() -> None:
    day = np.repeat(np.arange(7), 100)
    before = np.zeros(700)
    before[:7] = 1.0
    after = np.tile([0.0, 1.0], 350)
    assert psi_by_day(before, day, after, day + 7, calendar=True)[-1] > 1.0


@pytest.mark.parametrize(
    ("values", "alarm"), [([0.3, 0.3, 0.1, 0.3, 0.3], None), ([0.1, 0.3, 0.3, 0.3, 0.3], 13), ([0.25] * 5, None)]
)
def test_an_index_alarms_once_and_only_after_days_in_a_row(values: list[float], alarm: int | None) -> None:
    raised = _psi_alarm("amount", values, np.arange(10, 15), LIMITS)
    assert (None if raised is None else raised["day"]) == alarm


# --- planted change --------------------------------------------------------------------------------------------------


def test_a_planted_change_leaves_the_days_before_it_as_they_were() -> None:
    world = Simulation(60, 30, days=40, banks=3, fraud_share=0.02)
    plain, changed = (
        simulate(Simulation(60, 30, days=40, banks=3, fraud_share=0.02, drift=d)) for d in (None, Drift(20, 1.5, 3.0))
    )
    before = np.datetime64(world.start + dt.timedelta(days=20)) > plain.TIME
    columns = ["TIME", "CUSTOMER", "TERMINAL", "AMOUNT", "IS_FRAUD", "SCENARIO"]
    assert plain.loc[before, columns].equals(changed.loc[before, columns])
    assert changed.AMOUNT[~before].sum() == pytest.approx(1.5 * plain.AMOUNT[~before].sum(), rel=0.01)
    assert changed.IS_FRAUD[~before].sum() > 2 * plain.IS_FRAUD[~before].sum()


@pytest.mark.parametrize("wrong", [{"day": -1}, {"day": 0, "amount_factor": 0.0}, {"day": 0, "fraud_factor": 0.5}])
def test_a_change_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="expected"):
        Drift(**wrong)
    with pytest.raises(DataError, match="within its 20 days"):
        Simulation(60, 30, days=20, banks=3, drift=Drift(20))


def test_drift_is_not_looked_for_where_there_is_no_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{a:.2f},{int(a > 60)}" for a in rng.exponential(20, 3000)]
    (tmp_path / "plain.csv").write_text("\n".join(["size,bad", *rows]) + "\n")
    schema = 'name = "plain"\n[label]\ncolumn = "bad"\n[amount]\ncolumn = "size"\n'
    (tmp_path / "plain.toml").write_text(schema)
    settings = DataSettings(str(tmp_path / "plain.csv"), str(tmp_path / "plain.toml"), clients=3)
    found = drift(gather(train(open_config(settings), tmp_path / "run")))
    assert found == {
        "available": False,
        "why": "the schema names no time",
    }


def test_higher_amounts_are_found_within_two_weeks_and_no_drift_before_them(tmp_path: Path) -> None:
    found = examined(FIRST_DRIFTED + 1, Drift(PLANTED_DAY, amount_factor=1.5), tmp_path)
    late = days_to_find(found)
    assert late is not None and late <= 14
    assert any("amount" in alarm["signal"] for alarm in found["alarms"])
    assert all(dt.date.fromisoformat(alarm["day"]) >= PLANTED for alarm in found["alarms"])


@pytest.mark.long
def test_no_drift_is_reported_in_twenty_runs_without_any(tmp_path: Path) -> None:
    found = measurable(FIRST_UNDRIFTED, UNDRIFTED, None, tmp_path)
    largest = {seed: max(told["largest_psi"].values()) for seed, told in found.items()}
    print(f"largest PSI of {len(found)} runs without drift: {max(largest.values()):.3f} (limit {LIMITS.psi})")
    assert {seed: told["alarms"] for seed, told in found.items() if told["alarms"]} == {}


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [Drift(PLANTED_DAY, amount_factor=1.5), Drift(PLANTED_DAY, fraud_factor=4.0)],
    ids=["higher amounts", "a wave of fraud"],
)
def test_a_planted_drift_is_found_within_two_weeks(change: Drift, tmp_path: Path) -> None:
    found = measurable(FIRST_DRIFTED, DRIFTED, change, tmp_path)
    late = {seed: days_to_find(told) for seed, told in found.items()}
    signals = {seed: told["alarms"][0]["signal"] if told["alarms"] else None for seed, told in found.items()}
    print(f"days from {PLANTED} to the first alarm: {late}, by {signals}")
    assert all(days is not None and days <= 14 for days in late.values()), late

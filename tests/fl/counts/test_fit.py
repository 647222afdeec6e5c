"""The constants of episodes, found from counts alone: the world that made them comes back, and no other."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from test_episodes import DELAY, EPISODES, blocks_of, gaussian, laplace, periods, world

from fl.counts.day_filter import Chain, Shown, run
from fl.counts.episodes import BlockCounts, Episodes, OwnEvidence, compromised
from fl.counts.fit import fit_episodes, fit_own_episodes
from fl.errors import StatisticsError

WORLD = replace(EPISODES, onset=0.004, mean_days=20.0, shape=500.0, fraud_share=0.8, base_share=0.004)
SLOTS, DAYS = 500, 112
CONSTANTS = ("onset", "mean_days", "shape", "fraud_share", "base_share")


def near(found: Episodes, true: Episodes, days: float, share: float) -> None:
    assert found.present
    assert found.mean_days == pytest.approx(true.mean_days, rel=days)
    assert found.fraud_share == pytest.approx(true.fraud_share, rel=share)
    assert found.onset == pytest.approx(true.onset, rel=0.35)
    assert found.base_share == pytest.approx(true.base_share, abs=0.004)


@pytest.mark.parametrize(
    ("length", "noise", "resolution", "days", "share"),
    [
        (1, None, 1, 0.06, 0.06),
        (7, laplace(1.5), 1, 0.15, 0.15),
        (2, gaussian(0.7, 9), 9, 0.15, 0.15),
    ],
)
def test_the_constants_of_the_world_come_back(
    length: int, noise: np.ndarray | None, resolution: int, days: float, share: float
) -> None:
    frauds, _, _ = world(SLOTS, DAYS, WORLD, 5)
    near(fit_episodes(blocks_of(frauds, length, noise, resolution, 6), 1.0), WORLD, days, share)


def test_a_wide_law_of_durations_is_told_from_a_fixed_one() -> None:
    wide = replace(WORLD, mean_days=14.0, shape=1.5, fraud_share=0.6)
    frauds, _, _ = world(SLOTS, DAYS, wide, 5)
    found = fit_episodes(blocks_of(frauds, 1, None, 1, 6), 1.0)
    near(found, wide, 0.3, 0.15)
    assert found.shape < 5


def test_own_rows_alone_give_the_constants_too() -> None:
    frauds, rows, _ = world(SLOTS, DAYS, WORLD, 8)
    found = fit_own_episodes(OwnEvidence(frauds, rows, 100))
    near(found, WORLD, 0.06, 0.06)
    assert found.traffic == pytest.approx(1.0, rel=0.02)


def test_slots_without_any_row_cost_no_more_than_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    frauds, rows, _ = world(80, DAYS, WORLD, 8)
    widths: list[int] = []

    def counted(chain: Chain, shown: Shown, *more: Any) -> Any:
        widths.append(shown.slots)
        return run(chain, shown, *more)

    monkeypatch.setattr("fl.counts.fit.run", counted)
    plain = fit_own_episodes(OwnEvidence(frauds, rows, 100))
    wide = fit_own_episodes(OwnEvidence(*(np.pad(each, ((0, 0), (0, 400))) for each in (frauds, rows)), 100))
    assert max(widths) <= 81
    alike = [[getattr(found, name) for name in CONSTANTS] for found in (plain, wide)]
    assert alike[1] == pytest.approx(alike[0], rel=0.01)


def test_fitted_constants_find_the_entities_that_are_compromised() -> None:
    frauds, _, state = world(SLOTS, DAYS, WORLD, 9)
    blocks = blocks_of(frauds, 3, laplace(2.0), 1, 10)
    day = DAYS - 3
    known = blocks.ended_by(day - DELAY - 1)
    assert known is not None
    found = compromised(blocks, fit_episodes(known, 1.0), [day], DELAY)[0]
    assert found[state[day]].mean() > 4 * found[~state[day]].mean()
    assert found.mean() == pytest.approx(state[day].mean(), rel=0.5)


@pytest.mark.parametrize(
    ("length", "noise", "resolution"),
    [(1, None, 1), (7, laplace(0.7), 1), (2, laplace(2.6), 1), (2, gaussian(1.0, 6), 6)],
)
def test_frauds_at_one_rate_are_no_episodes_and_the_feature_is_a_constant(
    length: int, noise: np.ndarray | None, resolution: int
) -> None:
    frauds = np.random.default_rng(1).poisson(0.01, (70, 200))
    blocks = blocks_of(frauds, length, noise, resolution, 2)
    found = fit_episodes(blocks, 1.0)
    assert not found.present
    assert found.onset == 0
    assert not compromised(blocks, found, [60], DELAY).any()


def test_no_frauds_at_all_are_no_episodes() -> None:
    assert not fit_episodes(BlockCounts(periods(7, 10), np.zeros((10, 50)), None), 1.0).present
    nothing = OwnEvidence(np.zeros((30, 5), int), np.ones((30, 5), int), 0)
    assert not fit_own_episodes(nothing).present
    assert not fit_own_episodes(replace(nothing, transactions=np.zeros((30, 5), int))).present


def test_one_block_is_enough_to_fit_and_to_use() -> None:
    frauds, _, _ = world(SLOTS, 7, replace(WORLD, onset=0.01), 5)
    blocks = blocks_of(frauds, 7, None, 1, 0)
    found = fit_episodes(blocks, 1.0)
    assert found.present
    assert 5 < found.mean_days < 80  # one week cannot tell: the weak prior does
    probability = compromised(blocks, found, [14], DELAY)[0]
    assert probability[frauds.sum(axis=0).argmax()] > 5 * probability.min()


def test_a_traffic_that_was_stated_too_low_is_raised_and_the_frauds_of_a_day_stay() -> None:
    frauds, _, _ = world(SLOTS, DAYS, WORLD, 5)
    blocks = blocks_of(frauds, 7, None, 1, 0)
    right, low = fit_episodes(blocks, 1.0), fit_episodes(blocks, 0.2)
    assert low.traffic > 0.7
    assert low.fraud_share <= 0.98
    assert low.fraud_share * low.traffic == pytest.approx(right.fraud_share * right.traffic, rel=0.05)


def test_the_same_counts_give_the_same_constants() -> None:
    frauds, _, _ = world(150, 42, replace(WORLD, onset=0.01), 5)
    first, second = (fit_episodes(blocks_of(frauds, 3, laplace(2.0), 1, 1), 1.0) for _ in range(2))
    assert asdict(first) == asdict(second)


def test_counts_that_cannot_be_fitted_are_refused() -> None:
    with pytest.raises(StatisticsError, match="at least one released block"):
        fit_episodes(BlockCounts((), np.zeros((0, 3)), None), 1.0)
    with pytest.raises(StatisticsError, match="expected a traffic above 0"):
        fit_episodes(BlockCounts(periods(7, 1), np.zeros((1, 3)), None), 0.0)

"""The filter of episodes: exact against the enumeration of all histories, blind to what is not known yet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl import toml
from fl.counts import emission
from fl.counts.day_filter import TOGETHER, Chain, Shown, run
from fl.counts.durations import ending, surviving
from fl.counts.episodes import BlockCounts, Episodes, OwnEvidence, compromised
from fl.data.schema import Days
from fl.errors import StatisticsError
from fl.options import EPISODE_SHAPE

DELAY = 7
EPISODES = Episodes(0.002, 14.0, 6.0, 0.7, 0.004, 1.0, True, 100.0)


def periods(length: int, count: int, first: int = 0) -> tuple[Days, ...]:
    return tuple(Days(first + i * length, first + (i + 1) * length - 1) for i in range(count))


def laplace(epsilon: float) -> np.ndarray:
    """The discrete Laplace law as far as it matters."""
    steps = np.abs(np.arange(-80, 81))
    law = np.exp(-epsilon * steps)
    return law / law.sum()


def gaussian(sigma: float, resolution: int) -> np.ndarray:
    reach = int(12 * sigma * resolution)
    law = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma * resolution)) ** 2)
    return law / law.sum()


def noised(exact: np.ndarray, noise: np.ndarray | None, resolution: int, rng: np.random.Generator) -> np.ndarray:
    if noise is None:
        return exact.astype(float)
    steps = rng.choice(len(noise), size=exact.shape, p=noise) - len(noise) // 2
    return exact + steps / resolution


def world(
    slots: int, days: int, episodes: Episodes, seed: int, fixed: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frauds, transactions, compromised) per day and slot, of the model; `fixed`: durations even between two ends."""
    rng = np.random.default_rng(seed)
    state = np.zeros((days + 120, slots), bool)
    for day, slot in np.argwhere(rng.random(state.shape) < episodes.onset):
        lasts = np.ceil(rng.gamma(episodes.shape, (episodes.mean_days - 0.5) / episodes.shape))
        state[day : day + int(rng.integers(fixed[0], fixed[1] + 1) if fixed else lasts), slot] = True
    state = state[120:]
    transactions = rng.poisson(episodes.traffic, state.shape)
    return rng.binomial(transactions, np.where(state, episodes.fraud_share, episodes.base_share)), transactions, state


def blocks_of(frauds: np.ndarray, length: int, noise: np.ndarray | None, resolution: int, seed: int) -> BlockCounts:
    count = len(frauds) // length
    exact = frauds[: count * length].reshape(count, length, -1).sum(axis=1)
    rng = np.random.default_rng(seed)
    return BlockCounts(periods(length, count), noised(exact, noise, resolution, rng), noise, resolution)


# --- the recursion against all histories ----------------------------------------------------------------------------


def histories(chain: Chain, days: int) -> list[tuple[float, tuple[int, ...]]]:
    """(probability, state per day: 0 clean, a compromised for a days, the last age for all older)."""
    oldest = len(chain.ends)
    clean, ages = chain.stationary()
    found = [(p, (state,)) for state, p in enumerate([clean, *ages])]  # the day before the first
    for _ in range(days):
        longer = []
        for p, states in found:
            if states[-1] == 0:
                moves = [(0, 1 - chain.onset), (1, chain.onset)]
            else:
                ends = chain.ends[states[-1] - 1]
                moves = [(0, ends), (min(states[-1] + 1, oldest), 1 - ends)]
            longer += [(p * step, (*states, state)) for state, step in moves if step > 0]
        found = longer
    return [(p, states[1:]) for p, states in found]


def last_episode_within(states: Sequence[int], oldest: int) -> int:
    """Compromised days of a block that belong to its last episode."""
    backwards = list(itertools.dropwhile(lambda state: state == 0, reversed(states)))
    count = 0
    for state in backwards:
        if state == 0:
            break
        count += 1
        if state == 1:
            break
    assert count <= oldest
    return count


@pytest.mark.parametrize("lengths", [(3, 1, 3), (1, 1, 1, 1, 1), (2, 3)])
@pytest.mark.parametrize("gap", [0, 1])
def test_posterior_and_likelihood_are_those_of_the_enumerated_histories(lengths: tuple[int, ...], gap: int) -> None:
    rng = np.random.default_rng(sum(lengths) + gap)
    chain = Chain(0.2, np.array([0.3, 0.1, 0.6]))
    days = sum(lengths) + gap
    elapsed, closes = np.zeros(days, np.int64), np.full(days, -1)
    start, spans = gap, []
    for block, length in enumerate(lengths):
        elapsed[start : start + length] = np.arange(1, length + 1)
        closes[start + length - 1] = block
        spans.append((start, start + length))
        start += length
    kinds = sorted(set(lengths))
    ratios = [np.vstack([np.ones(4), rng.uniform(0.1, 4, (length, 4))]) for length in kinds]
    plain = [rng.normal(size=4) for _ in kinds]
    kind = np.array([kinds.index(length) for length in lengths])
    code, own = rng.integers(0, 4, (len(lengths), 2)), rng.uniform(0.2, 3, (days, 2))
    shown = Shown(elapsed, closes, kind, code, plain, ratios, own, 2)
    ahead = 2
    predicted, likelihood = run(chain, shown, np.array([-1, days - 1]), ahead)
    future = histories(chain, days + ahead)
    for slot in range(2):
        total = weight = 0.0
        for p, states in future:
            for day, state in enumerate(states[:days]):
                p *= own[day, slot] if state else 1.0
            for block, (first, last) in enumerate(spans):
                table, column = ratios[kind[block]], code[block, slot]
                p *= table[last_episode_within(states[first:last], 3), column] * np.exp(plain[kind[block]][column])
            total += p
            weight += p * (states[-1] > 0)
        assert likelihood[slot] == pytest.approx(np.log(total), rel=1e-12)
        assert predicted[1, slot] == pytest.approx(weight / total, rel=1e-12)
        assert predicted[0, slot] == pytest.approx(chain.stationary()[1].sum(), rel=1e-12)


def test_slots_do_not_depend_on_those_beside_them() -> None:
    frauds, rows, _ = world(TOGETHER + 30, 21, EPISODES, 3)
    blocks = blocks_of(frauds, 3, laplace(1.5), 1, 4)
    some = slice(TOGETHER - 20, None)
    few = BlockCounts(blocks.periods, blocks.frauds[:, some], blocks.noise)
    mine, mine_of_few = OwnEvidence(frauds, rows, 0), OwnEvidence(frauds[:, some], rows[:, some], 0)
    whole = compromised(blocks, EPISODES, [20, 30], DELAY, own=mine)
    np.testing.assert_allclose(
        whole[:, some], compromised(few, EPISODES, [20, 30], DELAY, own=mine_of_few), rtol=1e-9, atol=1e-15
    )


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "resolution"), [(None, 1), (laplace(1.0), 1), (gaussian(1.2, 5), 5)])
def test_the_probabilities_of_all_counts_sum_to_one_for_any_number_of_compromised_days(
    noise: np.ndarray | None, resolution: int
) -> None:
    reach = 0 if noise is None else len(noise) // 2
    values = np.arange(-reach, 200 * resolution + reach + 1)
    law = emission.observed(3, 0.9, values, noise, resolution)
    np.testing.assert_allclose(law.likelihoods(0.8, 0.004).sum(axis=1), 1.0, rtol=1e-6)


def test_a_count_above_all_means_speaks_for_an_episode_however_high_it_is() -> None:
    law = emission.observed(1, 1.0, np.arange(60), None, 1).likelihoods(0.8, 0.004)
    assert (np.diff(law[1] / law[0])[:12] > 0).all()
    assert (law[1] / law[0] > 1e6)[4:].all()


@pytest.mark.parametrize("mean", [1.0, 5.0, 28.0, 120.0])
@pytest.mark.parametrize("shape", [1.0, 1.5, 6.0, 1000.0])
def test_durations_have_the_mean_that_they_are_asked_for(mean: float, shape: float) -> None:
    ends = ending(mean, shape, 1)
    alive = surviving(ends)[:-1]
    found = alive[:-1].sum() + alive[-1] / ends[-1]
    assert found == pytest.approx(mean, rel=0.06, abs=0.17)


def test_a_large_shape_is_a_fixed_duration() -> None:
    alive = surviving(ending(28.0, 1000.0, 7))
    assert alive[24] > 0.99
    assert alive[30] < 0.02


def test_fixed_durations_beyond_the_ages_told_apart_end_all_the_same() -> None:
    chain = Chain(1e-3, ending(2000.0, EPISODE_SHAPE.high, 7))
    clean, ages = chain.stationary()
    assert (1 / clean - 1) / 1e-3 == pytest.approx(2000.0, rel=0.01)
    assert clean + ages.sum() == pytest.approx(1.0)


# --- what is known when ----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    day=st.integers(30, 62),
    length=st.sampled_from([1, 2, 3, 7]),
    with_blocks=st.booleans(),
    with_own=st.booleans(),
    later=st.sampled_from([[], [68]]),
    seed=st.integers(0, 2**32 - 1),
)
def test_nothing_looks_ahead(
    day: int, length: int, with_blocks: bool, with_own: bool, later: list[int], seed: int
) -> None:
    """Changing every label and row from day d - 7 on leaves the feature of day d unchanged; the day before counts."""
    if not (with_blocks or with_own):
        with_own = True
    rng = np.random.default_rng(seed)
    frauds, rows, _ = world(40, 63, replace(EPISODES, onset=0.02), 11)
    noise = laplace(2.0)
    count = 63 // length
    steps = rng.choice(len(noise), size=(count, 40), p=noise) - len(noise) // 2

    def feature(others: np.ndarray, own: np.ndarray, own_rows: np.ndarray) -> np.ndarray:
        exact = (others + own)[: count * length].reshape(count, length, -1).sum(axis=1)
        blocks = BlockCounts(periods(length, count), exact + steps.astype(float), noise) if with_blocks else None
        evidence = OwnEvidence(own, own_rows, 0) if with_own else None
        return compromised(blocks, EPISODES, [day, *later], DELAY, others_share=0.5, own=evidence)[0]

    own, own_rows = frauds // 2, rows // 2 + frauds
    before = feature(frauds, own, own_rows)
    others, mine, mine_rows = frauds.copy(), own.copy(), own_rows.copy()
    others[day - DELAY :] += rng.integers(1, 5, others[day - DELAY :].shape)
    mine[day - DELAY :] += rng.integers(1, 5, mine[day - DELAY :].shape)
    mine_rows[day - DELAY :] += 9
    assert (feature(others, mine, mine_rows) == before).all()
    if with_own:
        mine = own.copy()
        mine[day - DELAY - 1] += 3
        assert (feature(frauds, mine, np.maximum(own_rows, mine)) != before).any()


@pytest.mark.parametrize("first", [0, 4, 31])
@pytest.mark.parametrize("length", [1, 7])
def test_days_asked_for_together_are_those_asked_for_one_by_one(length: int, first: int) -> None:
    frauds, rows, _ = world(50, 63, replace(EPISODES, onset=0.02), 12)
    blocks, own = blocks_of(frauds, length, laplace(2.0), 1, 3), OwnEvidence(frauds[first:], rows[first:], first)
    days = range(3, 75, 4)
    together = compromised(blocks, EPISODES, days, DELAY, others_share=0.5, own=own)
    for day, row in zip(days, together, strict=True):
        alone = compromised(blocks, EPISODES, [day], DELAY, others_share=0.5, own=own)[0]
        np.testing.assert_allclose(row, alone, rtol=1e-9)


def test_a_block_counts_from_the_day_on_which_its_labels_are_known() -> None:
    empty = np.zeros((8, 2))
    full = empty.copy()
    full[5, 0] = 6.0  # days 35 to 41
    days = range(40, 60)
    without, given_ = (compromised(BlockCounts(periods(7, 8), c, None), EPISODES, days, DELAY) for c in (empty, full))
    assert next(d for d, a, b in zip(days, without[:, 0], given_[:, 0], strict=True) if a != b) == 41 + DELAY + 1
    assert (without[:, 1] == given_[:, 1]).all()


def test_without_anything_known_yet_or_any_more_the_probability_is_the_stationary_one() -> None:
    usual = 1 - Chain(EPISODES.onset, ending(14.0, 6.0, 7)).stationary()[0]
    counts = np.zeros((4, 3))
    counts[3, 0] = 9.0
    found = compromised(BlockCounts(periods(7, 4), counts, None), EPISODES, [0, 13, 30, 1000], DELAY)
    assert found[0] == pytest.approx(usual, rel=1e-9)
    assert found[1] == pytest.approx(usual, rel=1e-9)
    assert found[3] == pytest.approx(usual, rel=1e-6)


def test_an_entity_without_a_fraud_is_less_suspect_than_an_unknown_one_and_one_with_many_is_suspect() -> None:
    counts = np.zeros((6, 2))
    counts[4:, 1] = 6.0
    usual = 1 - Chain(EPISODES.onset, ending(14.0, 6.0, 7)).stationary()[0]
    seen = compromised(BlockCounts(periods(7, 6), counts, None), EPISODES, [42], 0)[0]
    assert seen[0] < usual
    assert seen[1] > 0.5


# --- a bank's own rows -----------------------------------------------------------------------------------------------


def test_one_day_of_own_rows_multiplies_the_odds_by_the_likelihood_ratio_of_its_labels() -> None:
    chain = Chain(EPISODES.onset, ending(14.0, 6.0, 1))
    clean, ages = chain.stationary()
    own = OwnEvidence(np.array([[1, 0]]), np.array([[3, 3]]), 5)
    found = compromised(None, EPISODES, [6], 0, own=own)[0]
    later_clean, later = chain.ahead(1)
    for slot, frauds in enumerate((1, 0)):
        ratio = (0.7 / 0.004) ** frauds * (0.3 / 0.996) ** (3 - frauds)
        expected = (clean * later_clean + ratio * float(ages @ later)) / (clean + ratio * ages.sum())
        assert found[slot] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_where_no_other_bank_adds_anything_a_release_says_nothing_beside_the_own_rows(length: int) -> None:
    frauds, rows, _ = world(60, 63, replace(EPISODES, onset=0.02), 2)
    own = OwnEvidence(frauds, rows, 0)
    blocks = blocks_of(frauds, length, None, 1, 0)
    both = compromised(blocks, EPISODES, [50, 70], DELAY, others_share=0.0, own=own)
    alone = compromised(None, EPISODES, [50, 70], DELAY, own=own)
    np.testing.assert_allclose(both, alone, rtol=1e-9)


def test_own_rows_that_cover_a_block_in_part_leave_the_block_as_it_was_released() -> None:
    frauds, rows, _ = world(60, 28, replace(EPISODES, onset=0.02), 2)
    blocks = blocks_of(frauds, 7, laplace(1.0), 1, 3)
    late = OwnEvidence(frauds[3:7], rows[3:7], 3)
    plain = compromised(blocks, EPISODES, [40], DELAY)
    np.testing.assert_allclose(compromised(blocks, EPISODES, [40], DELAY, others_share=0.9, own=late), plain, rtol=1e-9)
    whole = OwnEvidence(frauds[3:14], rows[3:14], 3)
    used = compromised(blocks, EPISODES, [40], DELAY, others_share=0.9, own=whole)
    assert np.abs(used - plain).max() > 1e-3


def test_own_rows_are_not_written_to() -> None:
    frauds, rows, _ = world(20, 28, EPISODES, 2)
    kept = frauds.copy(), rows.copy()
    compromised(blocks_of(frauds, 7, None, 1, 0), EPISODES, [40], 7, own=OwnEvidence(frauds[3:], rows[3:], 3))
    assert (frauds == kept[0]).all()
    assert (rows == kept[1]).all()


# --- constants and refusals ------------------------------------------------------------------------------------------


def test_without_episodes_the_feature_is_zero_everywhere() -> None:
    absent = Episodes(0.0, 14.0, 6.0, 0.004, 0.004, 1.0, False, 0.3)
    found = compromised(BlockCounts(periods(7, 3), np.ones((3, 4)), None), absent, [10, 30], DELAY)
    assert found.shape == (2, 4)
    assert not found.any()


def test_constants_read_back_as_they_were_written() -> None:
    lines = "\n".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else toml.literal(value)}"
        for name, value in asdict(EPISODES).items()
    )
    assert toml.filled(Episodes, toml.parsed(lines, "x", StatisticsError), "x", StatisticsError) == EPISODES


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"onset": 1.5}, "onset: expected"),
        ({"mean_days": 0.5}, "mean_days: expected"),
        ({"shape": float("nan")}, "shape: expected"),
        ({"base_share": 0.8}, "base_share below fraud_share"),
        ({"onset": 0.0}, "onset above 0"),
        ({"present": False}, "expected onset 0"),
        ({"traffic": 0}, "traffic: expected"),
    ],
)
def test_constants_that_contradict_each_other_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        replace(EPISODES, **changed)


def test_counts_that_are_none_are_refused() -> None:
    with pytest.raises(StatisticsError, match="expected shape"):
        BlockCounts(periods(7, 3), np.zeros((2, 4)), None)
    with pytest.raises(StatisticsError, match="disjoint"):
        BlockCounts((Days(0, 6), Days(6, 9)), np.zeros((2, 4)), None)
    with pytest.raises(StatisticsError, match="finite"):
        BlockCounts(periods(7, 1), np.full((1, 4), np.nan), None)
    with pytest.raises(StatisticsError, match="sum 1"):
        BlockCounts(periods(7, 1), np.zeros((1, 4)), np.array([0.2, 0.2, 0.2]))
    with pytest.raises(StatisticsError, match="resolution"):
        BlockCounts(periods(7, 1), np.zeros((1, 4)), None, 0)
    with pytest.raises(StatisticsError, match="0 <= frauds <= transactions"):
        OwnEvidence(np.ones((2, 3), int), np.zeros((2, 3), int), 0)
    with pytest.raises(StatisticsError, match="of one shape"):
        OwnEvidence(np.ones((2, 3), int), np.ones((2, 4), int), 0)


def test_questions_that_cannot_be_answered_are_refused() -> None:
    blocks = BlockCounts(periods(7, 3), np.zeros((3, 4)), None)
    with pytest.raises(StatisticsError, match="got neither"):
        compromised(None, EPISODES, [30], DELAY)
    with pytest.raises(StatisticsError, match="ascending"):
        compromised(blocks, EPISODES, [30, 29], DELAY)
    with pytest.raises(StatisticsError, match="others_share"):
        compromised(blocks, EPISODES, [30], DELAY, others_share=1.1)
    with pytest.raises(StatisticsError, match="4 slots"):
        compromised(blocks, EPISODES, [30], DELAY, own=OwnEvidence(np.zeros((2, 3), int), np.ones((2, 3), int), 0))

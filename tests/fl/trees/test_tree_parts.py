"""The parts of the trees by themselves: tables, gradients, the public grid, sums, draws, and monotone columns."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
import slow_trees
from hypothesis import given
from hypothesis import strategies as st
from tree_worlds import World

from fl.data.federation import Rows
from fl.errors import AggregationError, TreesError
from fl.learning.noisy_or import NoisyOr, negative_log_likelihood
from fl.secure.cost import cost_of_integers
from fl.trees import tables
from fl.trees.gradients import NO_CAUSE, gradients_and_hessians, labels_of, loss_sum
from fl.trees.grid import COARSE, FINE, Grid
from fl.trees.member import Member, TreeRows
from fl.trees.packing import pack, packed_length, unpack
from fl.trees.progress import Progress, base_score
from fl.trees.sampling import drawn_columns, drawn_rows
from fl.trees.settings import Column, Terms, TreeSettings
from fl.trees.training import add_plainly, cut_for, grow

STEPS = [-16_383, -9_001, -1024, -1, 0, 1, 7, 512, 4097, 16_383]


@pytest.mark.parametrize("step", STEPS)
def test_the_tables_hold_the_nearest_multiples_by_decimal_arithmetic(step: int) -> None:
    assert tables.sigmoids()[step + 16_384] == slow_trees.sigmoid_at(step)
    assert tables.losses()[step + 16_384] == slow_trees.softplus_at(step)


def test_the_tables_rise_from_end_to_end() -> None:
    for table, last in ((tables.sigmoids(), 2**30), (tables.losses(), 16 * 4096)):
        assert (np.diff(table) >= 0).all()
        assert (table[0], table[-1], len(table)) == (0, last, 32_769)


def test_a_score_is_looked_up_at_the_nearest_step_and_beyond_the_table_at_its_end() -> None:
    found = tables.places(np.array([-(2**40), -33, -32, -31, 0, 31, 32, 2**40]))
    assert (found - 16_384).tolist() == [-16_384, -1, 0, 0, 0, 0, 1, 16_384]


@pytest.mark.parametrize("weight_bits", [0, 3])
def test_gradients_and_curvatures_are_those_of_the_weighted_loss_within_half_a_unit(weight_bits: int) -> None:
    scores, weight = np.arange(-6 * 65_536, 6 * 65_536, 4096), 2.0**weight_bits
    for y in (0, 1):
        labels = labels_of(np.full(len(scores), y), None)
        gradients, hessians = gradients_and_hessians(scores, labels, weight_bits)
        p, w = 1 / (1 + np.exp(-scores / 65_536)), weight if y else 1.0
        np.testing.assert_allclose(gradients * weight / 2**11, w * (p - y), atol=0.51 * weight / 2**11)
        np.testing.assert_allclose(hessians * weight / 2**14, w * p * (1 - p), atol=0.51 * weight / 2**14)
        assert np.abs(gradients).max() <= 2**11
        assert 0 <= hessians.min() <= hessians.max() <= 2**12


def test_the_gradient_with_a_second_cause_is_the_slope_of_the_noisy_or_loss() -> None:
    """Against the loss that `fl.learning.noisy_or` has, by its differences."""
    for q in (1e-6, 0.02, 0.5, 0.97):
        for fraud in (0, 1):
            labels = labels_of(np.array([fraud]), np.array([q]))
            for score in (-5.0, -1.0, 0.5):
                above, below = (_noisy_or_loss(score + move, q, fraud) for move in (1e-3, -1e-3))
                found, _ = gradients_and_hessians(np.array([round(score * 65_536)]), labels, 0)
                assert found[0] / 2**11 == pytest.approx((above - below) / 2e-3, abs=2**-11)


def _noisy_or_loss(score: float, q: float, fraud: int) -> float:
    own = 1 / (1 + np.exp(-score))
    either = 1 - (1 - own) * (1 - q)
    return float(-np.log(either if fraud else 1 - either))


def test_the_noisy_or_of_this_room_is_the_one_of_the_logistic_model() -> None:
    """The same two causes give the same likelihood, whichever of the two says it."""
    module, nowhere = NoisyOr(1, prior=0.2), np.zeros(1, np.int64)
    for fraud in (0, 1):
        rows = Rows(
            np.array([[0.3]], np.float32), np.array([fraud], np.float32), nowhere.astype(np.int32), nowhere, nowhere
        )
        expected = negative_log_likelihood(module, rows)
        assert _noisy_or_loss(float(np.log(0.25)), 0.3, fraud) == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_the_sum_of_the_rows_losses_within_the_steps_of_its_table() -> None:
    scores = np.array([-3 * 65_536, 70_000, 12_345, -40_000])
    y, q = np.array([1, 0, 1, 1]), np.array([0.0, 0.4, 0.2, 0.9])
    expected = sum(
        _noisy_or_loss(score / 65_536, each, fraud) + (0 if fraud else np.log(1 - each))
        for score, each, fraud in zip(scores, q, y, strict=True)
    )
    assert loss_sum(scores, labels_of(y, q), 0) / 4096 == pytest.approx(expected, abs=4 * 2**-10)


def test_labels_and_probabilities_that_are_none_are_refused() -> None:
    assert labels_of(np.array([1]), np.array([0.0])).offset.tolist() == [NO_CAUSE]
    with pytest.raises(TreesError, match="0 or 1"):
        labels_of(np.array([2]), None)
    for q in (np.array([1.5]), np.array([np.nan]), np.array([0.5, 0.5])):
        with pytest.raises(TreesError, match="probabilit"):
            labels_of(np.array([1]), q)


def test_the_base_score_is_the_log_of_the_odds_and_bounded() -> None:
    with localcontext(prec=30):
        assert base_score(Decimal(1), Decimal(3)) == round(-Decimal(3).ln() * 65_536)
    assert base_score(Decimal(0), Decimal(3)) == -14 * 65_536
    assert base_score(Decimal(3), Decimal(0)) == 14 * 65_536


# --- the grid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [COARSE, FINE])
def test_the_cells_are_in_the_order_of_the_numbers_and_end_where_they_say(bits: int) -> None:
    rng, grid = np.random.default_rng(5), Grid(bits)
    sizes = 10.0 ** rng.integers(-9, 12, 5000)
    values = np.sort(np.concatenate([rng.normal(size=5000) * sizes, [0.0, -0.0, 1.0, -1.0]]).astype(np.float32))
    cells = grid.cells_of(values)
    assert (np.diff(cells) >= 0).all()
    assert (cells.min(), cells.max()) == (0, grid.cells - 1)
    for cell in np.unique(cells)[:-1]:
        end = np.array([grid.upper_end(int(cell))], np.float32)
        assert values[cells == cell].max() <= end[0]
        assert grid.cells_of(end)[0] == cell
        assert grid.cells_of(np.nextafter(end, np.float32(np.inf)))[0] == cell + 1


def test_few_bins_have_the_coarse_grid_and_many_the_fine_one() -> None:
    assert [Grid.of(bins).cells for bins in (2, 64, 128, 129, 250, 1024)] == [641, 641, 641, 2561, 2561, 2561]


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=Grid(COARSE).cells),
    st.one_of(st.integers(2, 80), st.integers(120, 140)),
)
def test_edges_are_those_of_the_reference_and_no_more_than_asked(counts: list[int], most: int) -> None:
    grid, parts = Grid.of(most), slow_trees.cells_of_a_power(most)
    spread = np.zeros(grid.cells, np.int64)
    spread[grid.side - 200 : grid.side - 200 + len(counts)] = counts
    cells = range(grid.cells - 1)
    values = [slow_trees.end_of(c - grid.side, parts) for c in cells for _ in range(min(int(spread[c]), 3))]
    few = grid.counts_on(np.array(values, np.float32))
    edges = grid.edges_from(few, most)
    assert edges == slow_trees.bin_edges(values, most)
    assert len(edges) < most
    assert list(edges) == sorted(set(edges))


@pytest.mark.parametrize("grid", [Grid(COARSE), Grid(FINE)])
def test_a_column_of_one_number_or_of_none_has_one_bin(grid: Grid) -> None:
    assert grid.edges_from(grid.counts_on(np.full(9, 3.5, np.float32)), 64) == ()
    assert grid.edges_from(grid.counts_on(np.full(9, np.nan, np.float32)), 64) == ()


# --- packed sums ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 62), min_size=1, max_size=60), st.sampled_from([7, 31, 40]), st.integers(1, 12))
def test_the_sum_of_packed_integers_unpacks_to_the_sums_of_the_fields(widths: list[int], cut: int, banks: int) -> None:
    wide = np.array(widths, np.int64)
    rng = np.random.default_rng(sum(widths))
    values = [
        rng.integers(0, (1 << wide) // banks + 1, len(wide)) * (rng.random(len(wide)) < 0.8) for _ in range(banks)
    ]
    values = [np.minimum(each, ((1 << wide) - 1) // banks) for each in values]
    packed = [pack(each, wide, cut) for each in values]
    assert all(each.min() >= 0 and each.max() < 1 << cut for each in packed)
    assert len(packed[0]) == packed_length(wide, cut)
    np.testing.assert_array_equal(unpack(np.sum(packed, axis=0), wide, cut), np.sum(values, axis=0))


def test_what_does_not_fit_its_field_is_refused() -> None:
    widths = np.array([3, 5], np.int64)
    for values in ([8, 0], [-1, 0], [1]):
        with pytest.raises(AggregationError, match="fields"):
            pack(np.array(values, np.int64), widths, 31)
    for sums in ([2**8], [-1], [0, 0]):
        with pytest.raises(AggregationError):
            unpack(np.array(sums, np.int64), widths, 8)
    with pytest.raises(AggregationError, match="too large"):
        unpack(np.array([2**8], np.int64), widths, 31)  # a bit behind the last field, inside the last integer


def test_a_sum_is_cut_where_a_bank_sends_least() -> None:
    """142,600 bits are one block of two primes at 39 bits, and one of three primes at 31."""
    cut = cut_for(np.full(4600, 31, np.int64), 10)
    at, at_31 = (cost_of_integers(-(-142_600 // each), 2**each - 1, 10).bytes_up for each in (cut, 31))
    assert at < 0.7 * at_31


# --- draws ----------------------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_tree_and_id_alone() -> None:
    ids = np.arange(100_000)
    drawn = drawn_rows(ids, 0.3, 7, 2)
    np.testing.assert_array_equal(drawn[::-1], drawn_rows(ids[::-1], 0.3, 7, 2))
    assert drawn.mean() == pytest.approx(0.3, abs=0.01)
    assert (drawn != drawn_rows(ids, 0.3, 7, 3)).mean() > 0.3
    assert (drawn != drawn_rows(ids, 0.3, 8, 2)).mean() > 0.3
    assert drawn_columns(10, 1.0, 0, 0) == tuple(range(10))
    assert len(drawn_columns(10, 0.25, 0, 0)) == 3
    assert len({drawn_columns(10, 0.25, 0, tree) for tree in range(20)}) > 5


# --- a training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_a_monotone_column_moves_the_score_in_one_direction_alone(sign: int) -> None:
    world = World(3, rows=800)
    columns = tuple(replace(each, monotone=sign if each.name in ("amount", "count") else 0) for each in world.columns)
    terms = Terms(columns, TreeSettings(trees=20, depth=4, least_hessian=0.5), 1)
    *_, last = grow([Member(terms, world.train)], terms, add_plainly)
    x = np.repeat(world.validation.x[:60], 50, axis=0)
    for column, low, high in ((0, -200, 300), (4, 0, 10)):
        moved = x.copy()
        moved[:, column] = np.tile(np.linspace(low, high, 50), 60)
        steps = np.diff(last.model.scores(moved).reshape(60, 50), axis=1) * sign
        assert (steps >= 0).all()
        assert (steps > 0).any(), "the column is used"


def test_a_sum_that_no_rows_have_is_refused() -> None:
    world = World(3, rows=300)
    terms, members = world.members(3)
    state = Progress.of(terms)
    state = state.after(add_plainly(state.request, [each.contribution(state) for each in members]))
    totals = add_plainly(state.request, [each.contribution(state) for each in members])
    for at in (0, 1, 2):
        with pytest.raises(AggregationError):
            state.after(np.concatenate([totals[:at], totals[at : at + 1] + 1, totals[at + 1 :]]))
    with pytest.raises(AggregationError, match="totals"):
        state.after(totals[:-1])
    with pytest.raises(AggregationError, match="totals"):
        state.after(-totals)


def test_the_request_for_a_sum_names_the_whole_history() -> None:
    world = World(3, rows=300)
    terms, members = world.members(3)
    names = [Progress.of(terms).request.name, Progress.of(replace(terms, purpose="1" * 64)).request.name]
    names += [state.request.name for state in grow(members, terms, add_plainly) if not state.finished]
    assert len(set(names)) == len(names)


def test_terms_and_rows_that_cannot_be_learned_are_refused() -> None:
    column = Column("x")
    with pytest.raises(TreesError, match="power of two"):
        TreeSettings(class_weight=3)
    with pytest.raises(TreesError, match="no order"):
        Column("x", categories=3, monotone=1)
    with pytest.raises(TreesError, match="different names"):
        Terms((column, column), TreeSettings(), 3)
    with pytest.raises(TreesError, match="at least one column"):
        Terms((), TreeSettings(), 3)
    terms = Terms((Column("x", categories=2),), TreeSettings(), 1)
    with pytest.raises(TreesError, match="categories below 2"):
        Member(terms, TreeRows(np.array([[2.0]]), np.array([1]), np.array([0])))
    with pytest.raises(TreesError, match="columns"):
        Member(terms, TreeRows(np.array([[1.0, 1.0]]), np.array([1]), np.array([0])))
    nothing = TreeRows(np.empty((0, 1)), np.empty(0), np.empty(0, np.int64))
    with pytest.raises(TreesError, match="no training rows"):
        list(grow([Member(terms, nothing)], terms, add_plainly))
    with pytest.raises(AggregationError, match="1 members"):
        list(grow([], terms, add_plainly))

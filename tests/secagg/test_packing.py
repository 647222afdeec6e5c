"""Encoding is not encryption: decode(sum of encode(u_i, w_i)) = (sum of w_i * quantise(u_i), sum of w_i), exactly.

Most tests add plaintext residues instead of ciphertexts, with noise of any admissible shape put in by hand: as many
clients as a plan allows then cost nothing. Some go through true encryption.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import exact_reference as exact
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import plans

from secagg.blocks import empty_block
from secagg.ckks import Encryptor, generate_keys
from secagg.errors import (
    LocalError,
    MalformedMessage,
    PeerError,
    PlanError,
    SumRefused,
    UpdateLengthMismatch,
    UpdateNotFinite,
    UpdateTypeUnsupported,
    WeightOutOfRange,
    WrongState,
)
from secagg.packing import (
    Decoder,
    Encoder,
    IntegerSums,
    average,
    check_update,
    check_weight,
    checked_average,
    error_bound,
    lane_factors,
    lanes_per_row,
)
from secagg.parameters import ALLOWED
from secagg.plan import RoundPlan, plan_round
from secagg.ring import ring_of
from secagg.workers import Workers

VECTORS = json.loads((exact.VECTORS / "packing.json").read_text(encoding="utf-8"))
KINDS = ("all +clip", "all -clip", "alternating", "one-hot", "denormals", "beyond the clip", "random", "zero")
NOISES = ("none", "largest", "smallest", "random")


def update_of(kind: str, plan: RoundPlan, dtype: type, rng: np.random.Generator) -> np.ndarray:
    """An update of the named shape. float32 rounds the clip: its nearest value may lie just outside, and is clipped."""
    n, clip = plan.length, plan.clip
    if kind in ("all +clip", "all -clip"):
        values = np.full(n, clip if kind == "all +clip" else -clip)
    elif kind == "alternating":
        values = np.where(np.arange(n) % 2 == 0, clip, -clip)
    elif kind == "one-hot":
        values = np.zeros(n)
        values[rng.integers(n)] = clip
    elif kind == "denormals":
        tiny = float(np.finfo(dtype).smallest_subnormal)
        values = np.resize([tiny, -tiny, 3 * tiny], n)
    elif kind == "beyond the clip":
        values = np.resize([3 * clip, -1.5 * clip, np.inf, -np.inf, 0.5 * clip], n)
        values = np.nan_to_num(values, posinf=float(np.finfo(dtype).max), neginf=float(np.finfo(dtype).min))
    elif kind == "random":
        values = rng.normal(0, clip / 2, n)
    else:
        values = np.zeros(n)
    return values.astype(dtype)


@dataclass(frozen=True)
class Group:
    """`count` clients that send the same update with the same weight."""

    update: np.ndarray
    weight: int
    count: int


def encoded(group: Group, plan: RoundPlan) -> tuple[list[np.ndarray], int]:
    encoder = Encoder(group.update, group.weight, plan)
    blocks = [residues.copy() for residues in encoder.blocks()]
    return blocks, encoder.clipped


def summed(groups: Sequence[Group], plan: RoundPlan) -> list[np.ndarray]:
    """Residues of the sum over all clients, uint64[primes, N] per block, without noise."""
    primes = np.array(plan.params.primes, dtype=np.uint64)[:, None]
    totals = [np.zeros((len(plan.params.primes), plan.params.degree), dtype=np.uint64) for _ in range(plan.blocks)]
    for group in groups:
        for total, block in zip(totals, encoded(group, plan)[0], strict=True):
            total += block * np.uint64(group.count) % primes
            total %= primes
    return totals


def noisy(
    totals: list[np.ndarray], noise: str, limit: int, plan: RoundPlan, rng: np.random.Generator
) -> list[np.ndarray]:
    primes = np.array(plan.params.primes, dtype=np.int64)[:, None]
    blocks = []
    for total in totals:
        e = {
            "none": np.zeros(plan.params.degree, dtype=np.int64),
            "largest": np.full(plan.params.degree, limit),
            "smallest": np.full(plan.params.degree, -limit),
            "random": rng.integers(-limit, limit + 1, plan.params.degree),
        }[noise]
        blocks.append(((total.astype(np.int64) + e) % primes).astype(np.uint32))
    return blocks


def decoded(blocks: Sequence[np.ndarray], plan: RoundPlan, clients: int) -> IntegerSums:
    decoder = Decoder(plan, clients)
    for index, block in enumerate(blocks):
        decoder.add(index, block)
    return decoder.sums()


def exact_sums(groups: Sequence[Group], plan: RoundPlan) -> list[int]:
    totals = [0] * plan.length
    for group in groups:
        factor = group.count * group.weight
        for i, value in enumerate(group.update.tolist()):
            totals[i] += factor * exact.quantised(value, plan.clip, plan.value_bits)
    return totals


def assert_average_within_bound(sums: IntegerSums, groups: Sequence[Group], plan: RoundPlan) -> None:
    """Against the exact rational weighted mean of the clipped updates, at the first and last positions."""
    released = average(sums, plan)
    assert released.dtype == np.float64 and released.shape == (plan.length,)
    clip, bound = Fraction(plan.clip), Fraction(error_bound(plan))
    weight = sum(group.count * group.weight for group in groups)
    for i in {*range(min(plan.length, 150)), *range(max(plan.length - 10, 0), plan.length)}:
        total = sum(
            group.count * group.weight * max(-clip, min(clip, Fraction(float(group.update[i])))) for group in groups
        )
        assert abs(Fraction(float(released[i])) - total / weight) <= bound


@st.composite
def rounds(draw: st.DrawFn) -> tuple[RoundPlan, list[Group], str, int]:
    """A plan, all the clients that it allows (or fewer) in up to four groups, and a shape of noise."""
    plan = draw(plans(max_length=draw(st.sampled_from([5, 300, 3_000, 20_000]))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    left = draw(st.one_of(st.just(plan.max_clients), st.integers(1, plan.max_clients)))
    groups: list[Group] = []
    while left:
        count = left if len(groups) == 3 else draw(st.integers(1, left))
        weight = draw(st.one_of(st.just(plan.max_weight), st.integers(1, plan.max_weight)))
        dtype = draw(st.sampled_from([np.float32, np.float64]))
        groups.append(Group(update_of(draw(st.sampled_from(KINDS)), plan, dtype, rng), weight, count))
        left -= count
    return plan, groups, draw(st.sampled_from(NOISES)), int(rng.integers(2**32))


def assert_round_is_exact(plan: RoundPlan, groups: list[Group], noise: str, seed: int) -> None:
    clients = sum(group.count for group in groups)
    blocks = noisy(summed(groups, plan), noise, plan.noise_limit(clients), plan, np.random.default_rng(seed))
    sums = decoded(blocks, plan, clients)
    assert sums.total_weight == sum(group.count * group.weight for group in groups)
    assert sums.sums.tolist() == exact_sums(groups, plan)
    assert_average_within_bound(sums, groups, plan)


# --- the law --------------------------------------------------------------------------------------------------------


@given(rounds())
@settings(max_examples=120, deadline=None)
def test_the_integer_sum_is_exact_for_random_plans_and_extreme_updates(drawn: Any) -> None:
    assert_round_is_exact(*drawn)


@pytest.mark.long
@given(rounds())
@settings(max_examples=2_000, deadline=None)
def test_the_integer_sum_is_exact_for_two_thousand_rounds(drawn: Any) -> None:
    assert_round_is_exact(*drawn)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_extreme_sums_exactly_with_every_client_and_full_weight(kind: str, noise: str) -> None:
    plan = plan_round(5_000, 1_000, clip=0.3, value_bits=16, max_weight=100)
    rng = np.random.default_rng(1)
    shares = ((np.float64, 600), (np.float32, 400))
    groups = [Group(update_of(kind, plan, dtype, rng), 100, count) for dtype, count in shares]
    assert_round_is_exact(plan, groups, noise, 2)


@pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)
def test_the_law_holds_in_every_parameter_set_across_blocks(params: Any) -> None:
    lanes = plan_round(10, 64, params=params).lanes
    plan = plan_round(2 * lanes * params.degree - 1, 64, params=params)
    assert plan.blocks == 2
    rng = np.random.default_rng(3)
    groups = [
        Group(update_of("random", plan, np.float64, rng), 1, 63),
        Group(update_of("all +clip", plan, np.float32, rng), 1, 1),
    ]
    sums = decoded(noisy(summed(groups, plan), "random", plan.noise_bound, plan, rng), plan, 64)
    scaled = np.clip(groups[0].update, -1, 1) * (1 / plan.step)
    np.testing.assert_array_equal(sums.sums, 63 * np.rint(scaled).astype(np.int64) + plan.max_value)


@given(plans())
@settings(max_examples=100, deadline=None)
def test_lanes_joined_in_one_integer_leave_a_bit_to_spare(plan: RoundPlan) -> None:
    joined = lanes_per_row(plan)
    assert 1 <= joined <= plan.lanes
    assert plan.radix**joined <= 2**62
    assert joined == plan.lanes or plan.radix ** (joined + 1) > 2**62 * (1 - 1e-9)


@pytest.mark.parametrize("value_bits", [2, 3, 12, 15, 16, 20, 21, 30, 31, 32, 39, 40])
@pytest.mark.parametrize("kind", ["all +clip", "all -clip", "random"])
def test_full_lanes_sum_exactly_however_many_are_joined(value_bits: int, kind: str) -> None:
    """One client alone fills every lane to its limit, so joined lanes come closest to 2**62."""
    plan = plan_round(100_000, 1, value_bits=value_bits, params=ALLOWED[-1])
    groups = [Group(update_of(kind, plan, np.float64, np.random.default_rng(8)), 1, 1)]
    assert_round_is_exact(plan, groups, "largest", 0)


@pytest.mark.parametrize("room", [0, -1, 1])
def test_the_weight_finds_its_place_at_the_edge_of_a_block(room: int) -> None:
    """The weight is the last value of a full block, the first of a new one, or has one value of room after it."""
    lanes = plan_round(10, 4, params=ALLOWED[0], max_weight=7).lanes
    plan = plan_round(lanes * 4096 - 1 - room, 4, params=ALLOWED[0], max_weight=7)
    assert plan.blocks == (2 if room < 0 else 1)
    group = Group(update_of("all -clip", plan, np.float64, np.random.default_rng(0)), 7, 4)
    sums = decoded(noisy(summed([group], plan), "largest", plan.noise_bound, plan, np.random.default_rng(0)), plan, 4)
    assert sums.total_weight == 28
    assert set(sums.sums.tolist()) == {-28 * plan.max_value}


@pytest.fixture(scope="module", params=[ALLOWED[0], ALLOWED[5]], ids=lambda params: params.name)
def keys(request: pytest.FixtureRequest) -> Any:
    return generate_keys(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_true_ciphertexts_are_exact(keys: Any, kind: str) -> None:
    public, secret = keys
    plan = plan_round(3_000, 5, clip=2.5, value_bits=12, max_weight=9, params=public.params)
    rng, ring = np.random.default_rng(4), ring_of(plan.params)
    members = ((np.float64, 9), (np.float32, 1), (np.float64, 5))
    groups = [Group(update_of(kind, plan, dtype, rng), weight, 1) for dtype, weight in members]
    encryptor = Encryptor(public)
    totals = [np.zeros_like(empty_block(plan.params)) for _ in range(plan.blocks)]
    for group in groups:
        for total, plaintext in zip(totals, Encoder(group.update, group.weight, plan).blocks(), strict=True):
            block = np.empty_like(total)
            ring.to_ntt(plaintext)
            encryptor.encrypt_into(plaintext, block)
            ring.add(total, block)
    sums = decoded([secret.decrypt(total) for total in totals], plan, 3)
    assert sums.sums.tolist() == exact_sums(groups, plan)
    assert sums.total_weight == 15
    assert_average_within_bound(sums, groups, plan)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"length-{case['plan']['length']}")
def test_encoded_blocks_equal_the_vectors(case: dict[str, Any]) -> None:
    params = next(p for p in ALLOWED if p.name == case["parameter_set"])
    plan = plan_round(**case["plan"], params=params)
    update = np.array([case["scale"] * ((i * 7919) % 2001 - 1000) / 1000 for i in range(plan.length)])
    blocks, clipped = encoded(Group(update, case["weight"], 1), plan)
    assert [exact.little_endian_sha256(block.tolist()) for block in blocks] == case["blocks_sha256"]
    assert clipped == case["clipped"]
    quantised = [case["weight"] * exact.quantised(value, 1.0, plan.value_bits) for value in update[:4].tolist()]
    assert quantised == case["first_integers"]


def test_lane_factors_are_the_place_values() -> None:
    plan = plan_round(100_000, 64)
    factors = lane_factors(plan)
    assert plan.lanes > 2
    for i, prime in enumerate(plan.params.primes):
        assert factors[i].tolist() == [plan.span * plan.radix**lane % prime for lane in range(plan.lanes)]


# --- what the error bound means -------------------------------------------------------------------------------------


@given(st.floats(1e-30, 1e30), st.integers(2, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_halfway_values_stay_within_the_error_bound(clip: float, value_bits: int, seed: int) -> None:
    """The worst case of rounding: values next to the middle between two quantised ones."""
    plan = plan_round(64, 2, clip=clip, value_bits=value_bits)
    rng = np.random.default_rng(seed)
    middles = (rng.integers(-plan.max_value, plan.max_value, 64) + 0.5) * plan.step
    group = Group(np.clip(np.nextafter(middles, rng.choice([-np.inf, np.inf], 64)), -clip, clip), 1, 2)
    sums = decoded(noisy(summed([group], plan), "none", 0, plan, rng), plan, 2)
    assert_average_within_bound(sums, [group], plan)


def test_the_error_bound_is_half_a_step_and_not_loose() -> None:
    plan = plan_round(2, 2, value_bits=8)
    assert plan.step / 2 < plan.max_error < plan.step / 2 * (1 + 1e-9)
    group = Group(np.array([0.4999 * plan.step, 0.0]), 1, 2)
    sums = decoded(noisy(summed([group], plan), "none", 0, plan, np.random.default_rng(0)), plan, 2)
    assert abs(average(sums, plan)[0] - group.update[0]) > 0.999 * error_bound(plan)


# --- clipping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("clip", "value_bits"), [(2.5, 12), (1.0, 16), (0.1, 20)])
def test_clipped_values_are_those_outside_the_clip(dtype: type, clip: float, value_bits: int) -> None:
    plan = plan_round(10_000, 2, clip=clip, value_bits=value_bits)
    update = np.random.default_rng(5).normal(0, clip, 10_000).astype(dtype)
    update[:3] = clip, -clip, 0
    encoder = Encoder(update, 1, plan)
    assert encoder.clipped == 0
    for _ in encoder.blocks():
        pass
    expected = int((np.abs(update.astype(np.float64)) > clip).sum())
    assert 2_000 < expected < 5_000
    assert encoder.clipped == expected
    for _ in encoder.blocks():
        pass
    assert encoder.clipped == expected  # encoded again, counted anew


# --- updates and weights that are refused ---------------------------------------------------------------------------

PLAN = plan_round(6, 4, max_weight=10)


@pytest.mark.parametrize(
    "update",
    [
        [0.0] * 6,
        (0.0,) * 6,
        None,
        np.zeros(6, dtype=np.int64),
        np.zeros(6, dtype=np.float16),
        np.zeros(6, dtype=np.longdouble),
        np.zeros(6, dtype=np.complex128),
        np.zeros(6, dtype=bool),
        np.zeros(6, dtype=">f8" if np.little_endian else "<f8"),
        np.zeros(6, dtype=object),
        np.zeros((2, 3)),
        np.zeros((6, 1)),
        np.array(0.0),
    ],
    ids=lambda update: f"{type(update).__name__}-{getattr(update, 'dtype', '')}-{getattr(update, 'shape', '')}",
)
def test_anything_but_a_vector_of_float32_or_float64_is_refused(update: Any) -> None:
    with pytest.raises(UpdateTypeUnsupported, match=r"^update: expected a float32 or float64 array of shape \(6,\)"):
        check_update(update, PLAN)


class Smooth(np.ndarray):
    """Says that everything is finite, whatever it holds."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        if ufunc is np.isfinite:
            return np.ones(self.shape, dtype=bool)
        return getattr(ufunc, method)(*(np.asarray(each) for each in inputs), **options)


def test_a_subclass_that_hides_what_its_memory_holds_is_refused(tmp_path: Path) -> None:
    hiding = np.full(6, np.nan)
    mapped: Any = np.memmap(tmp_path / "values", np.float64, "w+", shape=(6,))
    masked = np.ma.masked_invalid(hiding)  # type: ignore[no-untyped-call]
    for update in (masked, hiding.view(Smooth), hiding.view(np.recarray), mapped):
        for refuse in (lambda update: check_update(update, PLAN), lambda update: Encoder(update, 1, PLAN)):
            with pytest.raises(UpdateTypeUnsupported, match=f"plain numpy array, got a {type(update).__name__}; pass"):
                refuse(update)
    check_update(np.asarray(mapped), PLAN)


@pytest.mark.parametrize("length", [0, 1, 5, 7, 600])
def test_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(UpdateLengthMismatch, match=f"expected 6 values, got {length}"):
        Encoder(np.zeros(length), 1, PLAN)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("position", [0, 2**20 - 1, 2**20, 2**20 + 6])
def test_a_value_that_is_not_finite_is_refused_at_its_position(bad: float, dtype: type, position: int) -> None:
    plan = plan_round(2**20 + 7, 2)
    update = np.zeros(plan.length, dtype=dtype)
    check_update(update, plan)
    update[position] = bad
    with pytest.raises(UpdateNotFinite, match=f"value {position} is NaN or infinite"):
        check_update(update, plan)


@pytest.mark.parametrize("weight", [0, -1, 11, 1.0, 1.5, "1", None, True, np.float64(1.0)])
def test_a_weight_outside_the_plan_is_refused(weight: Any) -> None:
    with pytest.raises(WeightOutOfRange, match=r"^weight: expected an integer in 1\.\.10, got "):
        Encoder(np.zeros(6), weight, PLAN)


@pytest.mark.parametrize("weight", [1, 10, np.int64(10), np.uint8(3)])
def test_integer_weights_of_any_type_are_taken(weight: Any) -> None:
    check_weight(weight, PLAN)


def test_refusals_of_updates_and_weights_are_local_errors() -> None:
    updates = (UpdateTypeUnsupported, UpdateLengthMismatch, UpdateNotFinite)
    assert all(issubclass(error, LocalError) for error in (*updates, WeightOutOfRange, WrongState, PlanError))
    assert issubclass(SumRefused, PeerError)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strided_reversed_and_read_only_views_encode_like_their_copies(dtype: type) -> None:
    plan = plan_round(1_000, 2)
    wide = np.random.default_rng(6).normal(0, 0.4, (1_000, 3)).astype(dtype)
    frozen = wide[:, 0].copy()
    frozen.setflags(write=False)
    for view in (wide[:, 1], wide[::-1, 0], frozen, np.broadcast_to(dtype(0.25), 1_000)):
        blocks, clipped = encoded(Group(view, 1, 1), plan)
        expected, count = encoded(Group(view.copy(), 1, 1), plan)
        assert clipped == count
        np.testing.assert_array_equal(blocks, expected)


def test_encoding_leaves_the_update_as_it_was() -> None:
    plan = plan_round(1_000, 2)
    update = np.random.default_rng(7).normal(0, 2, 1_000)
    before = update.copy()
    encoded(Group(update, 1, 1), plan)
    np.testing.assert_array_equal(update, before)


# --- sums that are refused ------------------------------------------------------------------------------------------

SUM_PLAN = plan_round(4_000, 8, value_bits=8, max_weight=10, params=ALLOWED[0])
CLIENTS = 3


def sum_blocks(
    integers: Sequence[int], noise: int = 0, extra: int = 0, coefficient: int = 17, plan: RoundPlan = SUM_PLAN
) -> list[np.ndarray]:
    """The blocks of given lane sums, with `noise + extra` added to one coefficient of the first block."""
    blocks = exact.coefficients(integers, plan.params.degree, plan.lanes, plan.span, plan.radix)
    blocks[0][coefficient] += noise + extra
    return [np.array([[c % p for c in b] for p in plan.params.primes], dtype=np.uint32) for b in blocks]


def honest(weight: int = 12, **changes: int) -> list[int]:
    """Lane sums of an honest round of total weight 12, with single values replaced: position -> value."""
    integers = [0] * SUM_PLAN.values_per_block
    integers[0], integers[3_999] = weight * SUM_PLAN.max_value, -weight * SUM_PLAN.max_value
    integers[SUM_PLAN.length] = weight
    for position, value in changes.items():
        integers[int(position[1:])] = value
    return integers


def verdict(blocks: list[np.ndarray], clients: int = CLIENTS) -> IntegerSums:
    return decoded(blocks, SUM_PLAN, clients)


def test_an_honest_sum_passes_with_its_largest_noise_and_values() -> None:
    assert SUM_PLAN.lanes >= 2
    for noise in (SUM_PLAN.noise_limit(CLIENTS), -SUM_PLAN.noise_limit(CLIENTS)):
        sums = verdict(sum_blocks(honest(), noise=noise))
        assert sums.total_weight == 12
        assert (sums.sums[0], sums.sums[3_999]) == (12 * SUM_PLAN.max_value, -12 * SUM_PLAN.max_value)


@pytest.mark.parametrize("sign", [1, -1])
def test_noise_beyond_the_limit_of_this_roster_is_refused(sign: int) -> None:
    limit = SUM_PLAN.noise_limit(CLIENTS)
    assert limit < SUM_PLAN.noise_limit(CLIENTS + 1)
    verdict(sum_blocks(honest(), noise=sign * limit))
    with pytest.raises(SumRefused):
        verdict(sum_blocks(honest(), noise=sign * (limit + 1)))
    verdict(sum_blocks(honest(), noise=sign * (limit + 1)), clients=CLIENTS + 1)  # one more client, one more noise


@pytest.mark.parametrize("coefficient", [0, 17, 4095])
def test_anything_above_the_top_lane_is_refused(coefficient: int) -> None:
    top = SUM_PLAN.span * SUM_PLAN.radix**SUM_PLAN.lanes
    for extra in (top, -top, SUM_PLAN.params.modulus // 2):
        verdict(sum_blocks(honest(), coefficient=coefficient))
        with pytest.raises(SumRefused):
            verdict(sum_blocks(honest(), extra=extra, coefficient=coefficient))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("position", [0, 1, 3_999])
def test_a_lane_beyond_what_the_weights_allow_is_refused(sign: int, position: int) -> None:
    largest = 12 * SUM_PLAN.max_value
    assert largest < SUM_PLAN.max_lane  # the lane could hold more: only the weights bound it
    verdict(sum_blocks(honest(**{f"_{position}": sign * largest})))
    with pytest.raises(SumRefused):
        verdict(sum_blocks(honest(**{f"_{position}": sign * (largest + 1)})))


@pytest.mark.parametrize("weight", [0, -12, CLIENTS - 1, CLIENTS * 10 + 1])
def test_a_total_weight_that_this_roster_cannot_have_is_refused(weight: int) -> None:
    for possible in (CLIENTS, CLIENTS * 10):
        verdict(sum_blocks([0] * SUM_PLAN.length + [possible]))
    with pytest.raises(SumRefused):
        verdict(sum_blocks([0] * SUM_PLAN.length + [weight]))


@pytest.mark.parametrize("value", [1, -1])
@pytest.mark.parametrize("position", [SUM_PLAN.length + 1, SUM_PLAN.values_per_block - 1, 5_000])
def test_a_lane_that_nobody_uses_must_be_zero(position: int, value: int) -> None:
    verdict(sum_blocks(honest(**{f"_{position}": 0})))
    with pytest.raises(SumRefused):
        verdict(sum_blocks(honest(**{f"_{position}": value})))


def test_a_whole_unused_lane_block_is_checked_when_the_weight_stands_alone() -> None:
    plan = plan_round(SUM_PLAN.values_per_block, 8, value_bits=8, max_weight=10, params=ALLOWED[0])
    assert plan.blocks == 2
    integers = [0] * plan.length + [12] + [0] * (plan.values_per_block - 1)
    decoded(sum_blocks(integers, plan=plan), plan, CLIENTS)
    integers[plan.length + 4_096] = 1
    with pytest.raises(SumRefused):
        decoded(sum_blocks(integers, plan=plan), plan, CLIENTS)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_a_block_that_is_still_masked_is_refused(seed: int, masked: int) -> None:
    """A uniform block passes the headroom with probability below 2**-N; the other block is honest."""
    plan = plan_round(SUM_PLAN.values_per_block + 10, 8, value_bits=8, max_weight=10, params=ALLOWED[0])
    blocks = sum_blocks([0] * plan.length + [12], plan=plan)
    decoded(blocks, plan, CLIENTS)
    rng = np.random.default_rng(seed)
    blocks[masked] = np.stack([rng.integers(0, p, plan.params.degree, dtype=np.uint32) for p in plan.params.primes])
    with pytest.raises(SumRefused):
        decoded(blocks, plan, CLIENTS)


def test_the_verdict_says_only_that_it_refuses() -> None:
    top = SUM_PLAN.span * SUM_PLAN.radix**SUM_PLAN.lanes
    bad = (
        sum_blocks(honest(), noise=SUM_PLAN.noise_limit(CLIENTS) + 1),
        sum_blocks(honest(), extra=top),
        sum_blocks(honest(_7000=1)),
        sum_blocks([0] * SUM_PLAN.length + [1]),
    )
    words = set()
    for blocks in bad:
        with pytest.raises(SumRefused) as refusal:
            verdict(blocks)
        words.add(str(refusal.value))
    assert words == {"refused"}


def test_a_refusal_in_an_early_block_is_not_forgotten() -> None:
    plan = plan_round(SUM_PLAN.values_per_block + 10, 8, value_bits=8, max_weight=10, params=ALLOWED[0])
    decoder = Decoder(plan, CLIENTS)
    bad, good = sum_blocks([0] * plan.length + [12], noise=plan.noise_bound + 1, plan=plan)
    decoder.add(0, bad)
    decoder.add(1, good)
    with pytest.raises(SumRefused):
        decoder.sums()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("transformed", [False, True], ids=["coefficients", "transformed"])
def test_a_block_taken_apart_on_several_threads_gives_the_same_sums(threads: int, transformed: bool) -> None:
    block = sum_blocks(honest(_1=5, _2047=-7, _2048=11))[0]
    alone = decoded([block], SUM_PLAN, CLIENTS)
    decoder = Decoder(SUM_PLAN, CLIENTS)
    with Workers(threads) as workers:
        if transformed:
            ring_of(SUM_PLAN.params).to_ntt(block)
            decoder.add_transformed(0, block.astype(np.uint64), workers)
        else:
            decoder.add(0, block, workers)
    np.testing.assert_array_equal(decoder.sums().sums, alone.sums)
    assert decoder.sums().total_weight == alone.total_weight


@pytest.mark.parametrize("column", [0, 2047, 2048, 4095])
def test_one_bad_coefficient_is_found_by_whichever_thread_has_it(column: int) -> None:
    def verdict_of(blocks: list[np.ndarray]) -> None:
        decoder = Decoder(SUM_PLAN, CLIENTS)
        with Workers(2) as workers:
            decoder.add(0, blocks[0], workers)
        decoder.sums()

    limit, above = SUM_PLAN.noise_limit(CLIENTS), SUM_PLAN.span * SUM_PLAN.radix**SUM_PLAN.lanes
    verdict_of(sum_blocks(honest(), noise=limit, coefficient=column))
    for wrong in (
        sum_blocks(honest(), noise=limit + 1, coefficient=column),
        sum_blocks(honest(), extra=above, coefficient=column),
    ):
        with pytest.raises(SumRefused):
            verdict_of(wrong)


def test_the_largest_noise_seen_is_reported() -> None:
    decoder = Decoder(SUM_PLAN, CLIENTS)
    decoder.add(0, sum_blocks(honest(), noise=-321)[0])
    assert decoder.largest_noise == 321


def test_blocks_are_taken_in_order_and_once_and_none_may_be_missing() -> None:
    plan = plan_round(SUM_PLAN.values_per_block + 10, 8, value_bits=8, max_weight=10, params=ALLOWED[0])
    first, second = sum_blocks([0] * plan.length + [12], plan=plan)
    decoder = Decoder(plan, CLIENTS)
    with pytest.raises(WrongState, match="expected number 0 of 2"):
        decoder.add(1, second)
    decoder.add(0, first)
    with pytest.raises(WrongState, match="expected number 1 of 2"):
        decoder.add(0, first)
    with pytest.raises(WrongState, match="expected 2 blocks before `sums` is called, got 1"):
        decoder.sums()
    decoder.add(1, second)
    with pytest.raises(WrongState):
        decoder.add(2, second)
    assert decoder.sums().total_weight == 12


@pytest.mark.parametrize("clients", [0, -1, 9])
def test_a_roster_that_the_plan_does_not_cover_is_refused(clients: int) -> None:
    Decoder(SUM_PLAN, 8)
    with pytest.raises(PlanError, match=r"^clients: expected 1\.\.8"):
        Decoder(SUM_PLAN, clients)


# --- released sums --------------------------------------------------------------------------------------------------


def test_released_sums_are_checked_like_decrypted_ones() -> None:
    def released(value: int, weight: int, length: int = SUM_PLAN.length) -> IntegerSums:
        return IntegerSums(np.full(length, value, dtype=np.int64), weight)

    largest = 12 * SUM_PLAN.max_value
    for value in (largest, -largest, 0):
        sums = released(value, 12)
        np.testing.assert_array_equal(checked_average(sums, SUM_PLAN, CLIENTS), average(sums, SUM_PLAN))
    for bad in (
        released(largest + 1, 12),
        released(-largest - 1, 12),
        released(0, CLIENTS - 1),
        released(0, CLIENTS * 10 + 1),
        released(0, 12, SUM_PLAN.length - 1),
    ):
        with pytest.raises(MalformedMessage, match="released sums"):
            checked_average(bad, SUM_PLAN, CLIENTS)
    with pytest.raises(MalformedMessage, match="released sums"):
        checked_average(released(0, 0), SUM_PLAN, 0)


def test_sums_show_nothing_of_themselves() -> None:
    assert "1234" not in repr(IntegerSums(np.full(4, 1234, dtype=np.int64), 1234))

"""The two implementations of the inner loops agree bit for bit, and the choice between them is never silent."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from itertools import pairwise
from types import ModuleType

import exact_reference as exact
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import kernels
from secagg import kernels_numpy as plain
from secagg.parameters import ALLOWED, ParameterSet
from secagg.ring import ring_of

BLOCK_VECTORS = json.loads((exact.VECTORS / "blocks.json").read_text(encoding="utf-8"))
SMALL, MIDDLE, LARGE = ALLOWED[1], ALLOWED[6], ALLOWED[-1]

both = pytest.mark.parametrize("name", ["numpy", "numba"])
some_sets = pytest.mark.parametrize("params", [SMALL, MIDDLE, LARGE], ids=lambda params: params.name)
seeds = st.integers(0, 2**32 - 1)


def module(name: str) -> ModuleType:
    if name == "numba":
        pytest.importorskip("numba", reason="numba is not installed (extra `fast`): only numpy's kernels exist here")
    return importlib.import_module(f"secagg.kernels_{name}")


def residues(rng: np.random.Generator, params: ParameterSet, *leading: int) -> np.ndarray:
    """Random residues with the edges 0, 1, prime - 1 in every row."""
    rows = [rng.integers(0, p, (*leading, params.degree), dtype=np.uint32) for p in params.primes]
    for prime, row in zip(params.primes, rows, strict=True):
        edges = rng.integers(0, params.degree, 30)
        row[..., edges] = np.resize(np.array([0, 1, prime - 1], dtype=np.uint32), 30)
    return np.stack(rows, axis=-2)


# --- agreement ------------------------------------------------------------------------------------------------------


def test_both_modules_offer_the_same_functions() -> None:
    compiled = module("numba")
    for name in (
        "forward_ntt", "inverse_ntt", "quantise_onto", "pack_lanes", "unpack_lanes", "unpack_sums",
        "unpack_transformed",
        "add_modular", "subtract_modular", "in_range", "pack30", "unpack30", "fold_packed", "fold_words",
        "pack_sums", "unpack_sums_of", "scale_sums",
    ):  # fmt: skip
        assert callable(getattr(plain, name))
        assert callable(getattr(compiled, name))
        assert getattr(kernels, name) in (getattr(plain, name), getattr(compiled, name))


def lanes_of(params: ParameterSet, rng: np.random.Generator, divisors: list[int]) -> plain.Lanes:
    ring = ring_of(params)
    offsets = np.array([int(rng.integers(0, p)) for p in params.primes], dtype=np.uint32)
    bases = np.array(divisors, dtype=np.int64)
    return plain.Lanes(ring.primes, ring.garner_inverses, offsets, bases, divisors[0] // 2, divisors[-1] // 2)


@both
@some_sets
@pytest.mark.parametrize("edges", [(0,), (0, 257, 300)], ids=["whole", "in parts"])
@pytest.mark.parametrize("length", [0, 1, 300, "all"])
def test_sums_are_the_digits_in_the_order_of_values(
    name: str, params: ParameterSet, edges: tuple[int, ...], length: int | str
) -> None:
    kernel, degree = module(name), params.degree
    rng = np.random.default_rng(6)
    lanes = lanes_of(params, rng, [2**20, 1001, 1001])
    mixed = residues(rng, params)
    mixed[:, :100] = rng.integers(0, 1000, 100, dtype=np.uint32)
    digits = np.empty((3, degree), dtype=np.int64)
    left = plain.unpack_lanes(mixed, lanes.primes, lanes.inverses, lanes.offsets, lanes.divisors, digits)
    values = digits[1:].reshape(-1) - lanes.max_lane
    count = values.shape[0] if length == "all" else int(length)
    sums, rest = np.full(count, -9, np.int64), np.full(values.shape[0] - count, -9, np.int64)
    parts = [kernel.unpack_sums(mixed, lanes, sums, rest, first, last) for first, last in pairwise([*edges, degree])]
    np.testing.assert_array_equal(np.concatenate([sums, rest]), values)
    assert max(part.noise for part in parts) == np.abs(digits[0] - lanes.noise_centre).max()
    assert max(part.highest for part in parts) == values[:count].max(initial=0)
    assert min(part.lowest for part in parts) == values[:count].min(initial=0)
    assert any(part.above for part in parts) is bool(left.any())


@both
def test_nothing_above_the_highest_digit_is_found_where_nothing_is(name: str) -> None:
    kernel, rng = module(name), np.random.default_rng(7)
    lanes = lanes_of(SMALL, rng, [2**20, 1001, 1001])._replace(offsets=np.zeros(len(SMALL.primes), dtype=np.uint32))
    small = np.repeat(rng.integers(0, 2**20 * 7, (1, SMALL.degree), dtype=np.uint32), len(SMALL.primes), axis=0)
    sums, rest = np.empty(2 * SMALL.degree, dtype=np.int64), np.empty(0, dtype=np.int64)
    assert kernel.unpack_sums(small, lanes, sums, rest, 0, SMALL.degree).above is False


@some_sets
@both
def test_unpacking_from_transformed_words_is_transforming_back_and_unpacking(params: ParameterSet, name: str) -> None:
    kernel, ring = module(name), ring_of(params)
    rng = np.random.default_rng(4)
    a, lanes = residues(rng, params), lanes_of(params, rng, [2**20, 1001, 77])
    transformed = a.copy()
    plain.forward_ntt(transformed, ring.roots, ring.root_quotients, ring.primes)
    wide = transformed.astype(np.uint64)
    expected, found = (np.empty(2 * params.degree, dtype=np.int64) for _ in range(2))
    one, other = expected[:-5], found[:-5]
    inverse = plain.Inverse(ring.inverse_roots, ring.inverse_root_quotients, ring.inverse_degree)
    of_coefficients = plain.unpack_sums(a, lanes, one, expected[-5:], 0, params.degree)
    of_words = kernel.unpack_transformed(wide, inverse, lanes, other, found[-5:])
    assert of_words == of_coefficients
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(wide, transformed)


@some_sets
@pytest.mark.parametrize("fill", ["random", "zero", "top"])
def test_both_transforms_agree(params: ParameterSet, fill: str) -> None:
    compiled, ring = module("numba"), ring_of(params)
    a = residues(np.random.default_rng(1), params)
    if fill != "random":
        a[:] = 0 if fill == "zero" else ring.primes[:, None] - np.uint32(1)
    b = a.copy()
    plain.forward_ntt(a, ring.roots, ring.root_quotients, ring.primes)
    compiled.forward_ntt(b, ring.roots, ring.root_quotients, ring.primes)
    np.testing.assert_array_equal(a, b)
    for kernel, target in ((plain, a), (compiled, b)):
        kernel.inverse_ntt(target, ring.inverse_roots, ring.inverse_root_quotients, ring.primes, ring.inverse_degree)
    np.testing.assert_array_equal(a, b)


@given(seeds, st.sampled_from([SMALL, MIDDLE, LARGE]))
@settings(max_examples=12, deadline=None)
def test_both_modular_sums_agree(seed: int, params: ParameterSet) -> None:
    compiled, ring = module("numba"), ring_of(params)
    rng = np.random.default_rng(seed)
    a, b = residues(rng, params, 2), residues(rng, params, 2)
    for name in ("add_modular", "subtract_modular"):
        one, other = a.copy(), a.copy()
        getattr(plain, name)(one, b, ring.primes)
        getattr(compiled, name)(other, b, ring.primes)
        np.testing.assert_array_equal(one, other)
        assert plain.in_range(one, ring.primes)
        assert compiled.in_range(one, ring.primes)


@some_sets
def test_both_range_checks_find_one_bad_residue_anywhere(params: ParameterSet) -> None:
    compiled, ring = module("numba"), ring_of(params)
    rng = np.random.default_rng(5)
    good = residues(rng, params, 2)
    for _ in range(20):
        prime, value = int(rng.integers(len(params.primes))), rng.choice([0, 1, 2**30 - params.primes[-1], 2**31])
        bad = good.copy()
        bad[rng.integers(2), prime, rng.integers(params.degree)] = params.primes[prime] + value
        for kernel in (plain, compiled):
            assert kernel.in_range(good, ring.primes) is True
            assert kernel.in_range(bad, ring.primes) is False


@given(
    seeds, st.sampled_from([np.float32, np.float64]), st.integers(2, 32), st.integers(1, 2**14), st.floats(1e-30, 1e30)
)
@settings(max_examples=60, deadline=None)
def test_both_quantisations_agree(seed: int, dtype: type, value_bits: int, weight: int, clip: float) -> None:
    compiled = module("numba")
    rng = np.random.default_rng(seed)
    step = clip / (2 ** (value_bits - 1) - 1)
    ties = (np.arange(-20, 20) + 0.5) * step
    edges = [0.0, -0.0, clip, -clip, np.nextafter(clip, np.inf), -np.nextafter(clip, np.inf), 5e-324, -1e-310, 1e300]
    with np.errstate(over="ignore"):
        update = np.concatenate([rng.normal(0, clip, 200), ties, edges, [-np.finfo(dtype).max]]).astype(dtype)
    update = update[np.isfinite(update)]
    one, other = np.full(update.shape, 7, np.int64), np.full(update.shape, 7, np.int64)
    pair = ((plain, one), (compiled, other))
    counts = [kernel.quantise_onto(update, clip, 1 / step, weight, out) for kernel, out in pair]
    assert counts == [int((np.abs(update.astype(np.float64)) > clip).sum())] * 2
    np.testing.assert_array_equal(one, other)
    assert (one - 7).tolist() == [weight * exact.quantised(float(value), clip, value_bits) for value in update]


def next_to_multiples(rng: np.random.Generator, prime: int, count: int) -> np.ndarray:
    """Values below 2**62 that float64 cannot tell from a multiple of the prime, on either side of it."""
    quotients = rng.integers(-(2**62) // prime + 1, 2**62 // prime, count)
    return quotients * prime + rng.integers(-1500, 1501, count)


@given(seeds, st.sampled_from([SMALL, MIDDLE, LARGE]))
@settings(max_examples=20, deadline=None)
def test_reduction_is_exact_next_to_every_multiple_of_a_prime(seed: int, params: ParameterSet) -> None:
    """A float64 quotient that rounds across an integer once gave a residue that was off by 2**32, one in 2**24."""
    compiled, ring = module("numba"), ring_of(params)
    rng = np.random.default_rng(seed)
    factors = np.ones((len(params.primes), 1), dtype=np.uint32)
    for prime in params.primes:
        values = next_to_multiples(rng, prime, params.degree)[None, :]
        for kernel in (plain, compiled):
            out = np.empty((len(params.primes), params.degree), np.uint32)
            kernel.pack_lanes(values, factors, ring.primes, out)
            np.testing.assert_array_equal(out, values % ring.primes[:, None].astype(np.int64))


@given(seeds, st.sampled_from([SMALL, MIDDLE, LARGE]), st.integers(1, 24))
@settings(max_examples=15, deadline=None)
def test_both_lane_packings_agree_with_exact_integers(seed: int, params: ParameterSet, lanes: int) -> None:
    compiled, ring = module("numba"), ring_of(params)
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**62) + 1, 2**62, (lanes, params.degree))
    values[0, :2000] = next_to_multiples(rng, int(rng.choice(params.primes)), 2000)
    values[-1, 2000:2004] = -(2**62) + 1, 2**62 - 1, -1, 0
    factors = np.stack([rng.integers(0, p, lanes, dtype=np.uint32) for p in params.primes])
    factors[:, 0] = ring.primes - np.uint32(1)
    one, other = (np.empty((len(params.primes), params.degree), np.uint32) for _ in range(2))
    plain.pack_lanes(values, factors, ring.primes, one)
    compiled.pack_lanes(values, factors, ring.primes, other)
    np.testing.assert_array_equal(one, other)
    for column in (*range(0, 2004, 83), 2000, 2001, 2002, params.degree - 1):
        for i, prime in enumerate(params.primes):
            total = sum(int(values[lane, column]) * int(factors[i, lane]) for lane in range(lanes))
            assert one[i, column] == total % prime


@given(
    seeds,
    st.sampled_from([SMALL, MIDDLE, LARGE]),
    st.lists(st.integers(2, 2**47) | st.integers(2, 2**24), min_size=1, max_size=12),
)
@settings(max_examples=15, deadline=None)
def test_both_lane_unpackings_agree(seed: int, params: ParameterSet, divisors: list[int]) -> None:
    compiled, ring = module("numba"), ring_of(params)
    rng = np.random.default_rng(seed)
    mixed = residues(rng, params)
    mixed[:, :100] = rng.integers(0, 1000, 100, dtype=np.uint32)  # small numbers: their upper digits are zero
    mixed[:, 100:110] = ring.primes[:, None] - np.uint32(1)  # -1
    offsets = np.array([int(rng.integers(0, p)) for p in params.primes], dtype=np.uint32)
    bases = np.array(divisors, dtype=np.int64)
    one, other = (np.empty((len(divisors), params.degree), np.int64) for _ in range(2))
    left_one = plain.unpack_lanes(mixed, ring.primes, ring.garner_inverses, offsets, bases, one)
    left_other = compiled.unpack_lanes(mixed, ring.primes, ring.garner_inverses, offsets, bases, other)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(left_one, left_other)


@both
@some_sets
def test_long_division_is_exact_at_and_next_to_every_multiple(name: str, params: ParameterSet) -> None:
    """Where a float64 quotient is off by one: 30 divisors, a block of random multiples each, and their neighbours."""
    kernel, ring = module(name), ring_of(params)
    rng = np.random.default_rng(9)
    primes = ring.primes.astype(np.uint64)[:, None]
    for bits in rng.integers(10, 48, 30).tolist():
        divisor = int(rng.integers(2 ** (bits - 1), 2**bits)) | 1
        limbs = (params.modulus // divisor // 2).bit_length() // 30
        multiplier = rng.integers(0, 2**30, (limbs, params.degree), dtype=np.uint64)
        remainder = rng.choice(np.array([0, 1, divisor - 1]), params.degree).astype(np.uint64)
        value = np.zeros((len(params.primes), params.degree), dtype=np.uint64)
        for limb in multiplier[::-1]:
            value = (value * np.uint64(2**30) + limb) % primes
        value = (value * (np.uint64(divisor) % primes) + remainder % primes) % primes
        digits = np.empty((1, params.degree), dtype=np.int64)
        none = np.zeros(len(params.primes), dtype=np.uint32)
        bases = np.array([divisor], dtype=np.int64)
        left = kernel.unpack_lanes(value.astype(np.uint32), ring.primes, ring.garner_inverses, none, bases, digits)
        np.testing.assert_array_equal(digits[0], remainder.astype(np.int64))
        np.testing.assert_array_equal(left != 0, multiplier.any(axis=0))


@both
def test_two_digits_taken_in_one_division_are_exact_at_and_next_to_every_multiple(name: str) -> None:
    """Pairs whose product is near the largest divisor, or small: on either side of where they are joined."""
    kernel, ring = module(name), ring_of(SMALL)
    rng = np.random.default_rng(11)
    pairs = [(2**23, 2**24), (2**23 + 1, 2**24), (3, 2**45), (2**20, 2**20), (2, 2), (2**46, 3), (5, 2**44 + 7)]
    pairs += [(int(rng.integers(2, 2**b)), int(rng.integers(2, 2 ** (47 - b)))) for b in rng.integers(2, 46, 20)]
    for low, high in pairs:
        product = low * high
        edges = [0, 1, low - 1, low, low + 1, product - 1, product - low, product // 2]
        rests = [edges[i] % product for i in rng.integers(0, len(edges), SMALL.degree)]
        multiples = rng.integers(0, max(SMALL.modulus // product // 2, 1).bit_length(), SMALL.degree)
        values = [(1 << int(m)) // 2 * product + rest for m, rest in zip(multiples, rests, strict=True)]
        residues_of_values = np.array([[v % p for v in values] for p in SMALL.primes], dtype=np.uint32)
        digits = np.empty((2, SMALL.degree), dtype=np.int64)
        none, bases = np.zeros(len(SMALL.primes), dtype=np.uint32), np.array([low, high], dtype=np.int64)
        left = kernel.unpack_lanes(residues_of_values, ring.primes, ring.garner_inverses, none, bases, digits)
        assert digits[0].tolist() == [v % SMALL.modulus % low for v in values]
        assert digits[1].tolist() == [v % SMALL.modulus // low % high for v in values]
        assert (left != 0).tolist() == [v % SMALL.modulus // product != 0 for v in values]


@given(seeds, st.integers(1, 500))
@settings(max_examples=20, deadline=None)
def test_both_bit_packings_agree(seed: int, groups: int) -> None:
    compiled = module("numba")
    values = np.random.default_rng(seed).integers(0, 2**30, 4 * groups, dtype=np.uint32)
    values[:3] = 0, 2**30 - 1, 2**29
    one, other = np.empty(15 * groups, np.uint8), np.empty(15 * groups, np.uint8)
    plain.pack30(values, one)
    compiled.pack30(values, other)
    np.testing.assert_array_equal(one, other)
    back_one, back_other = np.empty_like(values), np.empty_like(values)
    plain.unpack30(one, back_one)
    compiled.unpack30(one, back_other)
    np.testing.assert_array_equal(back_one, values)
    np.testing.assert_array_equal(back_other, values)


@some_sets
@pytest.mark.parametrize("wild", [False, True], ids=["in range", "any 30 bits"])
@both
def test_adding_packed_rows_is_unpacking_and_adding_and_can_be_taken_out_exactly(
    name: str, wild: bool, params: ParameterSet
) -> None:
    """Also where residues are not below their primes: `subtract_modular` gives back the total before."""
    kernel, primes = module(name), ring_of(params).primes
    rng = np.random.default_rng(8)
    total = np.concatenate([residues(rng, params), residues(rng, params)])
    added = np.concatenate([residues(rng, params), residues(rng, params)])
    if wild:
        added[:] = rng.integers(0, 2**30, added.shape, dtype=np.uint32)
        added[:, :3] = 2**30 - 1
    packed = np.empty(added.size * 30 // 8 + 1, dtype=np.uint8)[1:]  # at an odd address, as in a message
    plain.pack30(added, packed)
    before, largest = total.copy(), np.full(added.shape[0], 7, dtype=np.uint32)
    kernel.fold_packed(packed, primes, total, largest)
    np.testing.assert_array_equal(largest, added.max(axis=1))
    expected = before.copy()
    for half in (slice(0, len(primes)), slice(len(primes), None)):
        plain.add_modular(expected[half], added[half], primes)
    np.testing.assert_array_equal(total, expected)
    for half in (slice(0, len(primes)), slice(len(primes), None)):
        kernel.subtract_modular(total[half], added[half], primes)
    np.testing.assert_array_equal(total, before)


@pytest.mark.parametrize("params", ALLOWED, ids=str)
def test_both_quotients_are_those_of_exact_division(params: ParameterSet) -> None:
    primes = np.array(params.primes, dtype=np.uint32)
    rng = np.random.default_rng(params.degree)
    table = rng.integers(0, primes[:, None], (2, len(primes), 500), dtype=np.uint64)
    table[:, :, :3] = np.stack([np.zeros_like(primes), np.ones_like(primes), primes - 1], axis=-1)
    table[:, :, 3] = (primes.astype(np.uint64) * 5) >> np.uint64(4)
    exact = [[[int(x) * 2**32 // int(p) for x in row] for row, p in zip(half, primes, strict=True)] for half in table]
    for name in ("numpy", "numba"):
        out = np.empty(table.shape, dtype=np.uint32)
        module(name).quotients(table, primes, out)
        assert out.tolist() == exact, name


@given(seeds, st.integers(0, 180), st.integers(0, 300), st.booleans())
@settings(max_examples=40, deadline=None)
def test_both_rejection_samplings_agree(seed: int, filled: int, count: int, negative: bool) -> None:
    compiled, primes = module("numba"), np.array(ALLOWED[-1].primes[:3], dtype=np.uint32)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, primes[:, None], (3, 60), dtype=np.uint32)
    words = rng.integers(0, 2**32, count, dtype=np.uint32)
    words[::7] |= np.uint32(2**30 - 1)  # rejected, whatever the two top bits
    one, other = rows.copy(), rows.copy()
    assert plain.fold_words(one, filled, words, primes, negative) == compiled.fold_words(
        other, filled, words, primes, negative
    )
    np.testing.assert_array_equal(one, other)
    assert (one < primes[:, None]).all()
    np.testing.assert_array_equal(one.ravel()[:filled], rows.ravel()[:filled])


@both
def test_rejection_sampling_adds_the_accepted_words_in_order(name: str) -> None:
    kernel, primes = module(name), np.array(ALLOWED[0].primes[:1], dtype=np.uint32)
    prime = int(primes[0])
    row = np.array([[5, prime - 1, 0, 7]], dtype=np.uint32)
    words = np.array([2, 2**30 - 1, prime, 1 | 3 << 30, 9, 9, 9], dtype=np.uint32)
    assert kernel.fold_words(row, 1, words, primes, False) == 4
    assert row.tolist() == [[5, 1, 1, 16]]
    assert kernel.fold_words(row, 1, words[:1], primes, True) == 2
    assert row.tolist() == [[5, prime - 1, 1, 16]]


@both
def test_a_word_is_held_against_the_prime_of_the_row_that_is_being_filled(name: str) -> None:
    """A word between two primes is rejected in one row and taken in the other, whichever pieces it comes in."""
    kernel, primes = module(name), np.array([12289, 40961], dtype=np.uint32)
    words = np.array([1, 12289, 2, 12289, 40961, 40960, 3], dtype=np.uint32)
    for cuts in ([7], [1, 6], [2, 3, 2], [1] * 7):
        rows, filled, start = np.zeros((2, 2), dtype=np.uint32), 0, 0
        for cut in cuts:
            filled = kernel.fold_words(rows, filled, words[start : start + cut], primes, False)
            start += cut
        assert rows.tolist() == [[1, 2], [12289, 40960]] and filled == 4, cuts


@both
@pytest.mark.parametrize("case", BLOCK_VECTORS["cases"], ids=lambda case: str(case["residues"]))
def test_bit_packing_equals_the_vectors(name: str, case: dict[str, object]) -> None:
    kernel = module(name)
    values = np.array(case["residues"], dtype=np.uint32)
    packed = np.empty(15 * values.shape[0] // 4, dtype=np.uint8)
    kernel.pack30(values, packed)
    assert packed.tobytes().hex() == case["packed"]
    back = np.empty_like(values)
    kernel.unpack30(packed, back)
    np.testing.assert_array_equal(back, values)


@both
def test_a_value_equal_to_the_clip_is_not_counted_as_clipped(name: str) -> None:
    """For 2.5 / 2047 the product clip * (1 / step) rounds above 2047: counting after scaling would be wrong."""
    kernel, clip, largest = module(name), 2.5, 2047
    inverse = 1 / (clip / largest)
    assert clip * inverse > largest
    update = np.array([clip, -clip, np.nextafter(clip, 3), -3.0, np.nextafter(clip, 0)])
    out = np.zeros(5, np.int64)
    assert kernel.quantise_onto(update, clip, inverse, 1, out) == 2
    assert out.tolist() == [largest, -largest, largest, -largest, largest]


@both
def test_quantisation_reads_strided_arrays(name: str) -> None:
    kernel = module(name)
    wide = np.linspace(-1, 1, 60, dtype=np.float32)
    one, other = np.zeros(20, np.int64), np.zeros(20, np.int64)
    kernel.quantise_onto(wide[::3], 1.0, 127.0, 2, one)
    kernel.quantise_onto(np.ascontiguousarray(wide[::3]), 1.0, 127.0, 2, other)
    np.testing.assert_array_equal(one, other)


# --- choice ---------------------------------------------------------------------------------------------------------


def imported_kernels(environment: dict[str, str], before: str = "") -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "SECAGG_KERNELS"}
    program = f"{before}\nfrom secagg import kernels\nprint(kernels.NAME)"
    return subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=False
    )


@both
def test_the_environment_forces_the_kernels(name: str) -> None:
    module(name)
    assert imported_kernels({"SECAGG_KERNELS": name}).stdout.strip() == name


def test_numba_is_chosen_where_it_is_installed() -> None:
    module("numba")
    assert imported_kernels({}).stdout.strip() == "numba"


def test_an_unknown_choice_is_refused_by_name() -> None:
    done = imported_kernels({"SECAGG_KERNELS": "fortran"})
    assert done.returncode != 0
    assert "EngineUnavailable: SECAGG_KERNELS: expected numpy or numba, got 'fortran'" in done.stderr


WITHOUT_NUMBA = "import sys; sys.modules['numba'] = None"


def test_without_numba_the_numpy_kernels_are_used() -> None:
    assert imported_kernels({}, WITHOUT_NUMBA).stdout.strip() == "numpy"


def test_asking_for_numba_without_it_is_an_error_and_no_fallback() -> None:
    done = imported_kernels({"SECAGG_KERNELS": "numba"}, WITHOUT_NUMBA)
    assert done.returncode != 0
    assert "EngineUnavailable" in done.stderr
    assert "pip install -e '.[fast]'" in done.stderr


def test_numba_works_where_no_cache_folder_is_writable() -> None:
    module("numba")
    unwritable = {"NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator", "SECAGG_KERNELS": "numba"}
    done = imported_kernels(unwritable)
    assert done.stdout.strip() == "numba", done.stderr


@both
@pytest.mark.parametrize("width", range(1, 7))
@pytest.mark.parametrize("count", [1, 1000, 2**15 + 7])
def test_released_sums_are_packed_as_their_lowest_bytes(name: str, width: int, count: int) -> None:
    kernel, rng = module(name), np.random.default_rng(width)
    shift = 2 ** (8 * width - 1) - 1
    sums = rng.integers(-shift, shift, count, endpoint=True)
    sums[0] = shift
    packed = np.zeros((count, width), dtype=np.uint8)
    kernel.pack_sums(sums, shift, packed)
    expected = b"".join((int(value) + shift).to_bytes(width, "little") for value in sums)
    assert packed.tobytes() == expected
    back = np.empty(count, dtype=np.int64)
    assert kernel.unpack_sums_of(packed, shift, back) == 2 * shift
    np.testing.assert_array_equal(back, sums)


@both
@pytest.mark.parametrize("count", [1, 2**15 + 7])
def test_released_sums_are_scaled_as_numpy_does_and_their_extremes_found(name: str, count: int) -> None:
    kernel, rng = module(name), np.random.default_rng(count)
    sums, factor = rng.integers(-(2**47), 2**47, count), 1.0 / 3 / 12345
    scaled = np.empty(count, dtype=np.float64)
    highest, lowest = kernel.scale_sums(sums, factor, scaled)
    np.testing.assert_array_equal(scaled, np.multiply(sums, factor))
    assert (highest, lowest) == (max(0, int(sums.max())), min(0, int(sums.min())))

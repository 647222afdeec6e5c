"""Sketches are exact, linear and unbiased; their plan keeps what it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import secagg
from secagg import kernels, kernels_numpy
from secagg.errors import PlanError
from secagg.masks import expand_key
from secagg.sketches import early_seed, integer_sketch, late_seed, sketch_of_sums
from secagg.sketchplan import LEAST_RMS, MAX_CLIENTS, pairs, plan_sketches

LONG = secagg.plan_round(length=10_000, max_clients=5)
SHORT = secagg.plan_round(length=300, max_clients=5)


def integers(plan, update):
    return np.rint(np.clip(update, -plan.clip, plan.clip) * (1.0 / plan.step)).astype(np.int64)


def test_an_update_that_fits_the_ring_is_its_own_sketch():
    sketch = plan_sketches(SHORT)
    update = np.random.default_rng(1).uniform(-1.2, 1.2, 300)
    assert sketch.identity and sketch.width == 300 and sketch.looks == 1
    assert np.array_equal(integer_sketch(update, SHORT, sketch, bytes(32)), integers(SHORT, update))


def test_a_count_sketch_is_what_its_definition_says_value_by_value():
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    sketch, seed = plan_sketches(LONG), early_seed(bytes(32))
    degree = sketch.params.degree
    assert not sketch.identity and sketch.looks == 2 and sketch.rows == 3

    def stream(label, length):
        return Cipher(algorithms.AES(expand_key(seed, label)), modes.CTR(bytes(16))).encryptor().update(bytes(length))

    shifts = np.frombuffer(stream(b"secagg v2 sketch shifts", 12), dtype="<u4")
    signs = stream(b"secagg v2 sketch signs", degree)  # eight rows share these bytes, a bit each
    values = np.random.default_rng(2).integers(-LONG.max_value, LONG.max_value + 1, LONG.length)
    expected = [0] * degree
    for i, value in enumerate(values):
        place = (i + int(shifts[i // degree])) % degree
        minus = signs[i % degree] >> (i // degree) & 1
        expected[place] += -int(value) if minus else int(value)
    assert sketch_of_sums(values, sketch, seed).tolist() == expected


@pytest.mark.parametrize("length", [1, 7, 64, 65, 1_000, 64 * 8, 64 * 17 + 3])
def test_both_kernels_add_the_same_rotated_rows(length):
    draw = np.random.default_rng(length)
    rows = -(-length // 64)
    values, shifts = draw.integers(-(2**40), 2**40, length), draw.integers(0, 64, rows)
    shifts[0] = 0
    signs = draw.integers(0, 256, -(-rows // 8) * 64, dtype=np.uint8)
    one, start = draw.integers(-9, 9, 64), np.zeros(64, dtype=np.int64)
    other, by_hand = one.copy(), one.copy()
    kernels.add_rows(values, signs, shifts, one)
    kernels_numpy.add_rows(values, signs, shifts, other)
    for i, value in enumerate(values):
        row, column = divmod(i, 64)
        by_hand[(column + shifts[row]) % 64] += -value if signs[row // 8 * 64 + column] >> (row % 8) & 1 else value
    assert np.array_equal(one, by_hand) and np.array_equal(other, by_hand)
    for kind in (np.float32, np.float64):
        update = draw.normal(0, 1, length).astype(kind)
        update[:1] = 0.75 / 8  # a middle between two integers
        one, other = start.copy(), start.copy()
        kernels.quantise_rows(update, 1.5, 8.0, signs, shifts, one)
        kernels_numpy.quantise_rows(update, 1.5, 8.0, signs, shifts, other)
        assert np.array_equal(one, other)


def test_the_sketch_of_a_sum_is_the_sum_of_the_sketches():
    draw = np.random.default_rng(3)
    for plan in (SHORT, LONG):
        sketch, seed = plan_sketches(plan), late_seed(b"k" * 32, bytes(32), bytes(32))
        updates = [draw.uniform(-1.5, 1.5, plan.length) for _ in range(5)]
        total = np.sum([integers(plan, update) for update in updates], axis=0)
        parts = np.sum([integer_sketch(update, plan, sketch, seed) for update in updates], axis=0)
        assert np.array_equal(sketch_of_sums(total, sketch, seed), parts)


def test_inner_products_of_count_sketches_are_unbiased_with_the_variance_of_the_paper():
    """400 seeds: the mean of a product is within 7 standard errors, its variance at most 1.5 times the bound."""
    sketch, draw = plan_sketches(LONG), np.random.default_rng(4)
    u = integers(LONG, draw.uniform(-1, 1, LONG.length))
    v = integers(LONG, 0.6 * draw.uniform(-1, 1, LONG.length)) + u // 2
    exact = float(np.dot(u.astype(float), v.astype(float)))
    found = []
    for index in range(400):
        seed = late_seed(index.to_bytes(32, "little"), bytes(32), bytes(32))
        a, b = (sketch_of_sums(x, sketch, seed).astype(float) for x in (u, v))
        found.append(float(np.dot(a, b)))
    bound = (np.dot(u, u.astype(float)) * np.dot(v, v.astype(float)) + exact**2) / sketch.params.degree
    assert abs(np.mean(found) - exact) < 7 * np.sqrt(bound / 400)
    assert np.var(found) < 1.5 * bound


def test_a_late_seed_changes_with_each_thing_it_depends_on():
    parts = [b"a" * 32, b"b" * 32, b"c" * 32]
    seeds = {late_seed(*parts)} | {
        late_seed(*(b"x" * 32 if i == j else part for j, part in enumerate(parts))) for i in range(3)
    }
    assert len(seeds) == 4


@pytest.mark.parametrize("length", [1, 4096, 4097, 8192, 8193, 12_000, 1_000_000, 20_000_000])
@pytest.mark.parametrize("clients", [2, 10, MAX_CLIENTS])
def test_a_plan_keeps_its_bounds(length, clients):
    plan = secagg.plan_round(length=length, max_clients=clients)
    sketch = plan_sketches(plan)
    degree, modulus = sketch.params.degree, sketch.params.modulus
    assert sketch.scale >= 4 * sketch.noise_bound + 1
    assert sketch.identity == (length <= 8192)
    assert sketch.rows * degree >= length or sketch.identity
    largest = sketch.norm_bound**2 + sketch.product_error(sketch.norm_bound, sketch.norm_bound)
    assert 2 * sketch.scale**2 * largest < modulus
    assert sketch.norm_bound**2 >= length * plan.max_value**2 * (1 - 2.0**-50)
    # five times n^2 times the largest norm must not wrap (ADR 0023)
    assert 5 * clients**2 * sketch.norm_limit(clients) * sketch.scale**2 < modulus
    one = 6 * degree + 4 * len(sketch.params.primes)  # a linear part and a constant
    assert sketch.products_bytes(clients) == clients * sketch.bytes // 2 + pairs(clients) * one
    assert sketch.largest_rms >= LEAST_RMS


@pytest.mark.parametrize("length", [1, 300, 12_000, 1_000_000])
@pytest.mark.parametrize("clients", [2, 10, 40, MAX_CLIENTS])
def test_twice_the_scale_would_wrap_or_cost_norm(length, clients):
    sketch = plan_sketches(secagg.plan_round(length=length, max_clients=clients))
    larger = replace(sketch, scale=2 * sketch.scale)
    wraps = 2 * larger.scale**2 * sketch.norm_bound**2 >= sketch.params.modulus
    wide = larger.scale * larger.rows * larger.max_value >= 2**62 or larger.scale > 2**47
    assert wraps or wide or larger.largest_rms < min(1, sketch.largest_rms)


def test_the_sizes_are_those_of_the_documents():
    million = plan_sketches(secagg.plan_round(length=1_000_000, max_clients=10))
    assert (million.bytes, million.looks, million.scale) == (92_160, 2, 2**15)
    assert million.products_bytes(10) == 1_813_140
    assert million.largest_rms > 1
    many = plan_sketches(secagg.plan_round(length=1_000_000, max_clients=32))
    assert 0.2 < many.largest_rms < 0.25 and many.products_bytes(32) == 14_457_024
    most = plan_sketches(secagg.plan_round(length=1_000_000, max_clients=128))
    assert most.largest_rms > 1 and most.products_bytes(128) == 421_659_648
    assert plan_sketches(secagg.plan_round(length=12_000, max_clients=128)).products_bytes(128) == 208_896_768


def test_what_no_robust_round_can_hold_is_refused_by_name():
    with pytest.raises(PlanError, match="expected max_weight=1, got 2"):
        plan_sketches(secagg.plan_round(length=10, max_clients=3, max_weight=2))
    with pytest.raises(PlanError, match="up to 128 clients"):
        plan_sketches(secagg.plan_round(length=10, max_clients=129))
    with pytest.raises(PlanError, match="lower value_bits"):
        plan_sketches(secagg.plan_round(length=2**30, max_clients=32, value_bits=40))

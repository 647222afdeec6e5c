"""Why several pairs never share a polynomial: the packed products of an earlier design, and three attacks on them.

The design: sketches of d = 256 sums, N / d pairs in one block, each rotated by X^(d k). The product of two sketches of
d coefficients reaches from X^-(d - 1) to X^(d - 1), so coefficient d k of the opened block is the inner product of pair
k. Content behind coefficient d alters other pairs of the block; a tail check was meant to find it, on one random
combination of all sketches. What is opened is modelled here as the polynomial that the key holder would have, which
hiding does not change. Large content *within* d coefficients passes every check and meets the other sketches' noise,
which stands in all N coefficients. Products here do not share anything (`gram.py`): the last test. Randomness is fixed.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
from fixed_generator import FixedGenerator

import secagg
from secagg import ckks, gram, randomness, sketchkey
from secagg.ring import ring_of
from secagg.sketchkey import generate_sketch_keys, mirrored
from secagg.sketchplan import plan_sketches

CLIENTS, WIDTH = 5, 256
ATTACKER = 2
SKETCH = plan_sketches(secagg.plan_round(length=WIDTH, max_clients=CLIENTS))
PARAMS, RING = SKETCH.params, ring_of(SKETCH.params)
PRIMES = np.array(PARAMS.primes, dtype=np.uint64)[:, None]
MODULUS, SLOTS = PARAMS.modulus, PARAMS.degree // WIDTH
PAIRS = list(combinations_with_replacement(range(CLIENTS), 2))
assert len(PAIRS) <= SLOTS


@pytest.fixture
def keys(monkeypatch):
    def fixed_secret(params):
        return residues(randomness.ternary(randomness.stream(b"fixed secret".ljust(32), "u"), params.degree))

    monkeypatch.setattr(sketchkey, "os", FixedGenerator(b"packed products"))
    monkeypatch.setattr(ckks, "generate_secret", fixed_secret)
    return generate_sketch_keys(PARAMS)


def residues(integers):
    """Transformed residues of N integers."""
    found = np.array([[int(value) % p for value in integers] for p in PARAMS.primes], dtype=np.uint32)
    RING.to_ntt(found)
    return found


def encrypted(integers, key):
    """A sketch with any content modulo Q: Python integers, already scaled."""
    block = key.encrypt(np.zeros(1, dtype=np.int64))
    RING.add(block[0], residues(list(integers) + [0] * (PARAMS.degree - len(integers))))
    return block


def honest_sketches(seed):
    return [np.random.default_rng(seed + i).integers(-2_000, 2_001, WIDTH) for i in range(CLIENTS)]


def scaled(sketch):
    return [int(value) * SKETCH.scale for value in sketch]


def phases(blocks, secret):
    """D u + e of every sketch, uint64[primes, N], transformed."""
    found = []
    for block in blocks:
        plain = secret.decrypt(block)
        RING.to_ntt(plain)
        found.append(plain.astype(np.uint64))
    return found


def packed(blocks, secret):
    """{pair: inner product} that a packed block would show."""
    plain = phases(blocks, secret)
    total = np.zeros_like(plain[0])
    for k, (i, j) in enumerate(PAIRS):
        monomial = [0] * PARAMS.degree
        monomial[WIDTH * k] = 1
        mirror = mirrored(plain[j].astype(np.uint32), PARAMS)
        product = plain[i] * mirror % PRIMES
        total = (total + product * residues(monomial)) % PRIMES
    opened = total.astype(np.uint32)
    RING.from_ntt(opened)
    values = gram._centred_integers(opened[:, : WIDTH * len(PAIRS) : WIDTH].T, PARAMS)
    return {pair: value / SKETCH.scale**2 for pair, value in zip(PAIRS, values, strict=True)}


def tail_is_noise(block, secret, factor=1):
    """The tail check on factor times a sketch: is everything behind coefficient d noise of that size?"""
    plain = secret.decrypt(block).astype(np.uint64) * np.uint64(factor) % PRIMES
    values = gram._centred_integers(plain[:, WIDTH:].astype(np.uint32).T, PARAMS)
    return max(map(abs, values)) <= factor * SKETCH.noise_limit(1)


def exact(sketches):
    return {(i, j): float(np.dot(sketches[i], sketches[j])) for i, j in PAIRS}


def honest(pairs):
    return [pair for pair in pairs if ATTACKER not in pair]


def largest_error(found, sketches, pairs):
    """Of these pairs, as a share of the norms."""
    right = exact(sketches)
    return max(abs(found[i, j] - right[i, j]) / math.sqrt(right[i, i] * right[j, j]) for i, j in pairs)


def test_packed_products_of_honest_sketches_are_right(keys):
    key, secret = keys
    shown = honest_sketches(1)
    assert largest_error(packed([encrypted(scaled(each), key) for each in shown], secret), shown, PAIRS) < 1e-3


def tail(sketch):
    """A sketch with as much content behind d as before it, at every place."""
    return scaled(np.tile(sketch, SLOTS))


def test_content_behind_the_width_alters_packed_products_of_honest_pairs_and_the_tail_check_finds_it(keys):
    key, secret = keys
    for seed in range(10):
        shown = honest_sketches(100 + seed)
        blocks = [encrypted(scaled(each), key) for each in shown]
        blocks[ATTACKER] = encrypted(tail(shown[0]), key)
        assert largest_error(packed(blocks, secret), shown, honest(PAIRS)) > 0.5
        assert [tail_is_noise(block, secret) for block in blocks] == [i != ATTACKER for i in range(CLIENTS)]


def test_a_tail_check_on_a_combination_with_small_factors_misses_half_of_the_modulus(keys):
    """(Q + 1) / 2 times an even factor is small, so one combination is fooled with probability 1/2."""
    key, secret = keys
    block = encrypted([0] * WIDTH + [(MODULUS + 1) // 2], key)
    assert not tail_is_noise(block, secret) and not tail_is_noise(block, secret, 3)
    assert tail_is_noise(block, secret, 2) and tail_is_noise(block, secret, 1_000)


def wrapped(target, seed):
    """14 integers beyond the root of the modulus or near it, whose squares add up to nearly `target` modulo Q.

    A client does not know its own noise, which its integers meet 240 times over: they are as large as the limit allows.
    """
    draw = np.random.default_rng(seed)
    most = int(SKETCH.scale**2 * SKETCH.norm_limit(CLIENTS)) >> 14
    assert most > math.isqrt(MODULUS)
    found = [most - int.from_bytes(draw.bytes(5), "little") for _ in range(8)]
    rest = (target - sum(value * value for value in found)) % MODULUS
    for _ in range(6):
        found.append(math.isqrt(rest))
        rest -= found[-1] ** 2
    return found


def test_large_content_within_the_width_passes_every_check_and_alters_packed_products_of_honest_pairs(keys):
    key, secret = keys
    limit = SKETCH.norm_limit(CLIENTS)
    for seed in range(10):
        shown = honest_sketches(200 + seed)
        # At places where no honest sketch moves anything, as behind the end of a short update.
        for each in shown:
            each[-20:] = 0
        content = [0] * (WIDTH - 20) + wrapped(int(limit / 2) * SKETCH.scale**2, seed)
        blocks = [encrypted(scaled(each), key) for each in shown]
        blocks[ATTACKER] = encrypted(content, key)
        found = packed(blocks, secret)
        assert tail_is_noise(blocks[ATTACKER], secret)
        alone = gram.open_products(gram.hidden_products([blocks[ATTACKER]], key, SKETCH, 1), 1, secret, SKETCH, 1)
        assert 0 < alone[0, 0] <= limit  # a norm that an honest sketch can have, and not that of the content
        assert sum(value**2 for value in content) > 2**20 * limit * SKETCH.scale**2
        assert largest_error(found, shown, honest(PAIRS)) > 5


@pytest.mark.parametrize("kind", ["behind the width", "large"])
def test_no_content_of_anyone_alters_a_product_of_two_others(keys, kind):
    """The design that is shipped, under the same two attacks."""
    key, secret = keys
    for seed in range(10):
        shown = honest_sketches(300 + seed)
        blocks = [encrypted(scaled(each), key) for each in shown]
        content = tail(shown[0]) if kind == "behind the width" else [0] * (WIDTH - 20) + wrapped(2**60, seed)
        blocks[ATTACKER] = encrypted(content, key)
        payload = gram.hidden_products(blocks, key, SKETCH, 1)
        found = gram.open_products(payload, CLIENTS, secret, SKETCH, 1)
        right = exact(shown)
        for i, j in honest(PAIRS):
            bound = SKETCH.product_error(math.sqrt(right[i, i]), math.sqrt(right[j, j]))
            assert abs(found[i, j] - right[i, j]) <= bound

"""What the owner of the sketch key sees besides the constants tells it nothing: c1 of every sketch, and linear parts.

Two attacks read everything that it sees. `divided` is that on the first design, which hid c0 sigma(d0) alone and sent
c1 sigma(c1): the linear part of a client with itself over its square part gives c0 / c1, hence (D u + e) / c1, and one
colluding client divides its own c1 out of the square part that it shares with the victim. `solved` needs no colluder,
since c1 is known here: where a linear part is not hidden, half of it over c1 is sigma(c0). Both are run on what
is sent and on the linear parts before they are cut to 48 bits. All randomness is fixed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from fixed_generator import FixedGenerator

import secagg
from secagg import ckks, gram, kernels, randomness, sketchkey
from secagg.blocks import empty_block, read_block
from secagg.ring import ring_of
from secagg.sketchkey import generate_sketch_keys, mirrored
from secagg.sketchplan import plan_sketches

PLAN = secagg.plan_round(length=500, max_clients=3)
SKETCH = plan_sketches(PLAN)
PARAMS, RING = SKETCH.params, ring_of(SKETCH.params)
PRIMES = np.array(PARAMS.primes, dtype=np.uint64)[:, None]


def small(seed, which, degree=PARAMS.degree):
    source = randomness.stream(seed.ljust(32), which)
    return randomness.ternary(source, degree) if which == "u" else randomness.binomial(source, degree)


@pytest.fixture
def fixed(monkeypatch):
    def fixed_secret(params):
        residues = sketchkey._residues(small(b"fixed secret", "u", params.degree), params)
        ring_of(params).to_ntt(residues)
        return residues

    monkeypatch.setattr(sketchkey, "os", FixedGenerator(b"hidden products"))
    monkeypatch.setattr(ckks, "generate_secret", fixed_secret)


def encrypted(integers, key):
    block = empty_block(PARAMS)
    read_block(gram.seal_sketch(integers, key, SKETCH), 0, PARAMS, block)
    return block


class View(NamedTuple):
    """seconds: of every client. sent: a pair's linear part as it arrives, the nearest residues. exact: before the cut.
    All uint64[primes, N], transformed."""

    seconds: list
    sent: dict
    exact: dict


def transformed(residues):
    RING.to_ntt(residues)
    return residues.astype(np.uint64)


def view(blocks, key, monkeypatch, hidden=True):
    """What the key holder receives of these sketches. hidden=False: zeros hide the constant alone."""
    drawn, fresh = [], sketchkey.FreshZeros.next

    def recorded(self):
        drawn.append(fresh(self))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(sketchkey.FreshZeros, "next", recorded)
        payload = gram.hidden_products(blocks, key, SKETCH, threads=1)
    parts = gram.parts_of(payload, len(blocks), SKETCH)
    sent, exact = {}, {}
    for index, (i, j) in enumerate(gram._order(len(blocks))):
        mirror0, mirror1 = (mirrored(blocks[each][0], PARAMS).astype(np.uint64) for each in (i, j))
        linear = (blocks[i][1] * mirror1 % PRIMES + mirror0 * blocks[j][1] % PRIMES) % PRIMES
        u, e1, _ = drawn[index]
        if hidden:
            factor, error = (transformed(sketchkey._residues(each, PARAMS)) for each in (u, e1))
            linear = (linear + factor * key.expanded % PRIMES + error) % PRIMES
            nearest = gram.lifted(parts.uppers[index], parts.lowers[index], PARAMS)
            sent[i, j] = transformed(nearest)
        exact[i, j] = linear
    seconds = []
    for row, block in zip(parts.seconds, blocks, strict=True):
        second = np.empty_like(block[1])
        kernels.unpack30(row, second)
        assert np.array_equal(second, block[1])
        seconds.append(second.astype(np.uint64))
    return View(seconds, sent, exact)


def inverse(residues):
    """Slot by slot, by Fermat's little theorem."""
    rows = []
    for row, prime in zip(residues, PARAMS.primes, strict=True):
        result, base, exponent = np.ones_like(row), row.copy(), prime - 2
        while exponent:
            if exponent & 1:
                result = result * base % np.uint64(prime)
            base, exponent = base * base % np.uint64(prime), exponent >> 1
        rows.append(result)
    return np.stack(rows)


HALVES = np.array([pow(2, -1, p) for p in PARAMS.primes], dtype=np.uint64)[:, None]


def integers_of(message):
    """The sketch in a transformed D u + e: int64[width], of Python integers where they are large."""
    found = message.astype(np.uint32)
    RING.from_ntt(found)
    values = gram._centred_integers(found.T, PARAMS)
    return np.array([(value + SKETCH.scale // 2) // SKETCH.scale for value in values], dtype=object)[: SKETCH.width]


def divided(linear, seconds, secret):
    """What the ratio attack takes for the sketch of client 0, with client 1 (its c1 is known to the attacker)."""
    square, shared = (
        seconds[0] * mirrored(each.astype(np.uint32), PARAMS) % PRIMES for each in (seconds[0], seconds[1])
    )
    # linear = 2 c1 sigma(c0), square = c1 sigma(c1): their ratio is sigma(2 c0 / c1).
    ratio = linear * inverse(square) % PRIMES * HALVES % PRIMES
    message_over_c1 = (mirrored(ratio.astype(np.uint32), PARAMS).astype(np.uint64) + secret._s) % PRIMES
    victim_c1 = shared * inverse(mirrored(seconds[1].astype(np.uint32), PARAMS).astype(np.uint64)) % PRIMES
    return integers_of(message_over_c1 * victim_c1 % PRIMES)


def solved(linear, seconds, secret):
    """What half of the linear part over c1 is, if that is sigma(c0)."""
    mirror = linear * HALVES % PRIMES * inverse(seconds[0]) % PRIMES
    c0 = mirrored(mirror.astype(np.uint32), PARAMS).astype(np.uint64)
    return integers_of((c0 + seconds[0] * secret._s) % PRIMES)


def trial(index, key, secret, monkeypatch, hidden=True):
    """(the victim's sketch, what the attacks find)."""
    draw = np.random.default_rng(index)
    victim, colluder = (draw.integers(-PLAN.max_value, PLAN.max_value + 1, SKETCH.width) for _ in range(2))
    seen = view([encrypted(victim, key), encrypted(colluder, key)], key, monkeypatch, hidden)
    linears = (seen.sent[0, 0], seen.exact[0, 0]) if hidden else (seen.exact[0, 0],)
    return victim, [attack(linear, seen.seconds, secret) for linear in linears for attack in (divided, solved)]


def test_the_ratio_attack_on_the_whole_view_finds_nothing_in_20_of_20(fixed, monkeypatch):
    assert found_in(20, monkeypatch) == 0


@pytest.mark.long
def test_the_ratio_attack_on_the_whole_view_finds_nothing_in_200_of_200(fixed, monkeypatch):
    assert found_in(200, monkeypatch) == 0


def found_in(trials, monkeypatch):
    """In how many trials a tenth of the victim's values or more come out right: guessing gets 2**-16 of them."""
    key, secret = generate_sketch_keys(PARAMS)
    found = 0
    for index in range(trials):
        victim, guesses = trial(index, key, secret, monkeypatch)
        found += int(any((victim == guess).mean() > 0.1 for guess in guesses))
    return found


def test_where_the_constant_alone_is_hidden_the_attacks_find_the_whole_sketch(fixed, monkeypatch):
    key, secret = generate_sketch_keys(PARAMS)
    for index in range(5):
        victim, guesses = trial(index, key, secret, monkeypatch, hidden=False)
        assert len(guesses) == 2 and all(np.array_equal(victim, guess) for guess in guesses)


def chi_square(values, prime):
    """Of 257 bins of equal width, on residues modulo `prime`: (statistic, bins)."""
    counts = np.bincount(
        (values.astype(np.uint64) * np.uint64(257) // np.uint64(prime)).astype(np.int64), minlength=257
    )
    expected = values.size / 257
    return float(((counts - expected) ** 2 / expected).sum())


LIMIT_257 = 378.2  # of chi-square with 256 degrees of freedom: p > 1e-6; the draws here are fixed


def opened(linear, left, right, secret):
    """The opened polynomial of a pair without its constant part, coefficients: uint32[primes, N]."""
    mirror = mirrored(secret.times(right.astype(np.uint32)), PARAMS).astype(np.uint64)
    square = secret.times(left.astype(np.uint32)).astype(np.uint64) * mirror % PRIMES
    found = ((linear * secret._s + square) % PRIMES).astype(np.uint32)
    RING.from_ntt(found)
    return found


def test_what_the_key_holder_sees_of_a_pair_is_uniform_before_and_after_it_is_opened(fixed, monkeypatch):
    key, secret = generate_sketch_keys(PARAMS)
    blocks = [encrypted(np.full(SKETCH.width, value), key) for value in (3, -3, 32_767)]
    seen = view(blocks, key, monkeypatch)
    for linears in (seen.sent, seen.exact):
        for index, prime in enumerate(PARAMS.primes):
            assert chi_square(np.concatenate([linear[index] for linear in linears.values()]), prime) < LIMIT_257
            after = [opened(linear, seen.seconds[i], seen.seconds[j], secret) for (i, j), linear in linears.items()]
            assert chi_square(np.concatenate([each[index] for each in after]), prime) < LIMIT_257
    for index, prime in enumerate(PARAMS.primes):
        assert chi_square(np.concatenate([second[index] for second in seen.seconds]), prime) < LIMIT_257


def test_the_fractions_that_are_sent_are_uniform_in_their_upper_and_lower_bits(fixed):
    key, _ = generate_sketch_keys(PARAMS)
    blocks = [encrypted(np.full(SKETCH.width, value), key) for value in (0, 0, 32_767)]
    parts = gram.parts_of(gram.hidden_products(blocks, key, SKETCH, threads=1), 3, SKETCH)
    assert chi_square(parts.uppers.reshape(-1), 2**32) < LIMIT_257
    assert chi_square(parts.lowers.reshape(-1), 2**16) < LIMIT_257


def test_the_whole_product_of_a_pair_would_not_be_uniform(fixed):
    """The control: with the polynomial of which only the constant travels, the opened block is that of the sketches."""
    key, secret = generate_sketch_keys(PARAMS)
    block = encrypted(np.full(SKETCH.width, 3), key)
    mirror = mirrored(block, PARAMS)
    whole = np.zeros_like(block[0])
    kernels.multiply(block[0], mirror[0], RING.primes, whole)
    square = block[1].astype(np.uint64) * mirror[1] % PRIMES
    first = block[1].astype(np.uint64) * mirror[0] % PRIMES * secret._s % PRIMES
    second = block[0].astype(np.uint64) * mirror[1] % PRIMES * mirrored(secret._s, PARAMS) % PRIMES
    both = secret._s.astype(np.uint64) * mirrored(secret._s, PARAMS) % PRIMES
    product = ((whole + first + second + square * both) % PRIMES).astype(np.uint32)
    RING.from_ntt(product)
    values = gram._centred_integers(product.T, PARAMS)
    assert max(abs(value) for value in values) < PARAMS.modulus // 2**20
    assert values[0] == pytest.approx(9 * SKETCH.width * SKETCH.scale**2, rel=0.2)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_pair_is_hidden_with_its_own_zero(fixed, monkeypatch, threads):
    key, _ = generate_sketch_keys(PARAMS)
    made, fresh = [], sketchkey.FreshZeros.next

    def recorded(self):
        made.append(fresh(self))
        return made[-1]

    monkeypatch.setattr(sketchkey.FreshZeros, "next", recorded)
    gram.hidden_products([encrypted(np.zeros(SKETCH.width, dtype=np.int64), key)] * 3, key, SKETCH, threads)
    assert len(made) == 6
    assert len({u.tobytes() for u, _, _ in made}) == len({e1.tobytes() for _, e1, _ in made}) == 6


def test_what_hides_a_pair_is_an_encryption_of_zero(fixed, monkeypatch):
    """With c0 = d0 = 0 a pair is the zero alone: its linear part and its constant are those of an encryption."""
    key, _ = generate_sketch_keys(PARAMS)
    monkeypatch.setattr(sketchkey, "os", SimpleNamespace(urandom=lambda count: b"one key for both".ljust(32)))
    u, e0, e1 = (small(b"one key for both", which) for which in ("u", "e0", "e1"))
    whole = key.encrypt_with(u, e0, e1, np.zeros_like(key.residues))
    nothing = np.zeros_like(whole)
    nothing[1] = 1
    parts = gram.parts_of(gram.hidden_products([nothing], key, SKETCH, threads=1), 1, SKETCH)
    for half in whole:
        RING.from_ntt(half)
    assert np.array_equal(parts.constants[0], whole[0][:, 0])
    off = gram.lifted(parts.uppers[0], parts.lowers[0], PARAMS).astype(np.int64) - whole[1]
    distances = [abs(value) for value in gram._centred_integers(np.mod(off, PRIMES.astype(np.int64)).T, PARAMS)]
    assert max(distances) <= (PARAMS.modulus >> 49) * 1.01

"""Ring arithmetic against exact Python integers and against SEAL itself."""

from __future__ import annotations

import json
import random
from typing import Any

import exact_reference as exact
import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import kernels
from secagg.ckks import _saved_residues
from secagg.parameters import ALLOWED, ParameterSet
from secagg.ring import Ring, bit_reversed, minimal_root, ring_of

VECTORS = json.loads((exact.VECTORS / "ring.json").read_text(encoding="utf-8"))
LARGEST = [p for p in ALLOWED if (p.degree, len(p.primes)) in ((4096, 3), (8192, 6), (16384, 13))]  # hold every prime

every_set = pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)
every_prime = pytest.mark.parametrize("params", LARGEST, ids=lambda params: params.name)


def residues_of(coefficients: list[int] | np.ndarray, params: ParameterSet) -> np.ndarray:
    """uint32[primes, N] of integer coefficients of any size and sign."""
    return np.array([[int(c) % p for c in coefficients] for p in params.primes], dtype=np.uint32)


def random_residues(rng: np.random.Generator, params: ParameterSet, *leading: int) -> np.ndarray:
    columns = [rng.integers(0, p, (*leading, params.degree), dtype=np.uint32) for p in params.primes]
    return np.stack(columns, axis=-2)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"{case['degree']}-{case['prime']}")
def test_the_transform_and_its_root_equal_the_vectors(case: dict[str, Any]) -> None:
    degree, prime = case["degree"], case["prime"]
    params = next(p for p in LARGEST if p.degree == degree)
    assert minimal_root(prime, degree) == case["minimal_root"]
    residues = residues_of(exact.formula_coefficients(degree, prime), params)
    ring_of(params).to_ntt(residues)
    values = residues[params.primes.index(prime)]
    assert values[:4].tolist() == case["first_values"]
    assert exact.little_endian_sha256([values.tolist()]) == case["values_sha256"]


def test_the_minimal_root_is_found_among_all_of_them() -> None:
    prime, degree = 97, 16
    primitive = [r for r in range(97) if pow(r, degree, prime) == prime - 1]
    assert len(primitive) == degree
    assert minimal_root(prime, degree) == min(primitive)


def test_bit_reversal_reverses_bits() -> None:
    assert bit_reversed(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert bit_reversed(4096) == [exact.bit_reverse(i, 4096) for i in range(4096)]


@every_prime
def test_the_tables_hold_what_they_are_named_for(params: ParameterSet) -> None:
    ring = ring_of(params)
    for i, prime in enumerate(params.primes):
        root = minimal_root(prime, params.degree)
        for position in (0, 1, 2, 3, params.degree // 2, params.degree - 1):
            exponent = exact.bit_reverse(position, params.degree)
            power, inverse = pow(root, exponent, prime), pow(root, -exponent, prime)
            assert ring.roots[i, position] == power
            assert ring.inverse_roots[i, position] == inverse
            assert ring.root_quotients[i, position] == (power << 32) // prime
            assert ring.inverse_root_quotients[i, position] == (inverse << 32) // prime
        assert int(ring.inverse_degree[i]) * params.degree % prime == 1
        for j in range(i):
            assert int(ring.garner_inverses[j, i]) * params.primes[j] % prime == 1


def test_shared_tables_cannot_be_written() -> None:
    ring = ring_of(LARGEST[0])
    assert ring_of(LARGEST[0]) is ring
    for table in (ring.roots, ring.primes, ring.inverse_roots, ring.garner_inverses):
        with pytest.raises(ValueError, match="read-only"):
            table[...] = 0


# --- against SEAL ---------------------------------------------------------------------------------------------------


def seal_context(params: ParameterSet, primes: tuple[int, ...]) -> Any:
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(params.degree)
    parameters.set_coeff_modulus([seal.Modulus(p) for p in (*primes, params.special_prime)])
    return seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)


def slots_of(coefficients: np.ndarray) -> np.ndarray:
    """complex128[N/2]: the values at zeta**(3**j), zeta = exp(i pi / N), where SEAL's encoder places its slots."""
    degree = coefficients.shape[0]
    twist = np.exp(1j * np.pi * np.arange(degree) / degree)
    at_odd_powers = np.fft.ifft(coefficients * twist) * degree  # [t] = value at zeta**(2t + 1)
    exponents = [pow(3, j, 2 * degree) for j in range(degree // 2)]
    return at_odd_powers[[(exponent - 1) // 2 for exponent in exponents]]


def encoded_by_seal(coefficients: np.ndarray, params: ParameterSet) -> np.ndarray:
    """SEAL's encoder on the slots of an integer polynomial: it rounds back to the same integers and transforms them."""
    plaintext = seal.Plaintext()
    encoder = seal.CKKSEncoder(seal_context(params, params.primes))
    encoder.encode(slots_of(coefficients).tolist(), 1.0, plaintext)
    assert plaintext.is_ntt_form()
    count = len(params.primes) * params.degree
    return _saved_residues(plaintext, 72, count).astype(np.uint32).reshape(-1, params.degree)


def assert_equal_to_seal(coefficients: np.ndarray, params: ParameterSet) -> None:
    ours = residues_of(coefficients, params)
    ring_of(params).to_ntt(ours)
    np.testing.assert_array_equal(ours, encoded_by_seal(coefficients, params))


@every_set
def test_a_random_polynomial_is_transformed_as_in_seals_encoder(params: ParameterSet) -> None:
    rng = np.random.default_rng(params.degree + len(params.primes))
    assert_equal_to_seal(rng.integers(-(2**30), 2**30, params.degree), params)


@pytest.mark.parametrize("exponent", [0, 1, 2, 1000, 4095])
def test_each_monomial_is_transformed_as_in_seals_encoder(exponent: int) -> None:
    coefficients = np.zeros(4096, dtype=np.int64)
    coefficients[exponent] = -(2**35) - 1
    assert_equal_to_seal(coefficients, LARGEST[0])


@every_prime
def test_every_root_is_the_one_that_seal_uses(params: ParameterSet) -> None:
    for prime in params.primes:
        tables = seal_context(params, (prime,)).first_context_data().small_ntt_tables()
        assert tables.modulus().value() == prime
        assert tables.get_root() == minimal_root(prime, params.degree)


# --- against exact integers -----------------------------------------------------------------------------------------


@every_prime
def test_transformed_values_are_the_polynomial_at_odd_powers_of_the_root(params: ParameterSet) -> None:
    """Horner's rule at a few points: independent of every fast transform, the reference's included."""
    rng = random.Random(params.degree)
    coefficients = [rng.getrandbits(100) - 2**99 for _ in range(params.degree)]
    residues = residues_of(coefficients, params)
    ring_of(params).to_ntt(residues)
    for i, prime in enumerate(params.primes[:3]):
        root = minimal_root(prime, params.degree)
        for position in (0, 1, 2, params.degree - 1, rng.randrange(params.degree)):
            point = pow(root, 2 * exact.bit_reverse(position, params.degree) + 1, prime)
            assert residues[i, position] == exact.evaluate(coefficients, point, prime)


@every_set
def test_the_inverse_takes_the_transform_back(params: ParameterSet) -> None:
    rng = np.random.default_rng(7)
    ring = ring_of(params)
    original = random_residues(rng, params)
    residues = original.copy()
    ring.to_ntt(residues)
    assert not np.array_equal(residues, original)
    assert ring.in_range(residues)
    ring.from_ntt(residues)
    np.testing.assert_array_equal(residues, original)


@given(st.integers(0, 2**32 - 1), st.sampled_from(LARGEST))
@settings(max_examples=25, deadline=None)
def test_the_transform_is_linear_and_invertible(seed: int, params: ParameterSet) -> None:
    rng, ring = np.random.default_rng(seed), ring_of(params)
    a, b = random_residues(rng, params), random_residues(rng, params)
    both = a.copy()
    ring.add(both, b)
    for residues in (a, b, both):
        ring.to_ntt(residues)
    ring.subtract(both, b)
    np.testing.assert_array_equal(both, a)


sparse = st.dictionaries(st.integers(0, 4095), st.integers(-(2**80), 2**80), min_size=1, max_size=6)


@given(sparse, sparse)
@settings(max_examples=20, deadline=None)
def test_products_of_transforms_are_negacyclic_products(left: dict[int, int], right: dict[int, int]) -> None:
    params = LARGEST[0]
    ring = ring_of(params)
    dense = [np.array([poly.get(i, 0) for i in range(4096)], dtype=object) for poly in (left, right)]
    a, b = (residues_of(list(poly), params) for poly in dense)
    ring.to_ntt(a)
    ring.to_ntt(b)
    product = (a.astype(np.uint64) * b % ring.primes[:, None]).astype(np.uint32)
    ring.from_ntt(product)
    expected = exact.negacyclic_product(left, right, 4096)
    np.testing.assert_array_equal(product, residues_of([expected.get(i, 0) for i in range(4096)], params))


# --- reconstruction -------------------------------------------------------------------------------------------------


def balanced_digits(value: int, divisors: list[int]) -> tuple[list[int], int]:
    """Digits of value + offset, lowest first, and what is left above them, in Python integers."""
    digits = []
    for divisor in divisors:
        value, digit = divmod(value, divisor)
        digits.append(digit)
    return digits, value


def reconstruct(
    values: list[int], params: ParameterSet, divisors: list[int], offset: int
) -> tuple[np.ndarray, np.ndarray]:
    ring = ring_of(params)
    digits = np.empty((len(divisors), len(values)), dtype=np.int64)
    left = kernels.unpack_lanes(
        residues_of(values, params),
        ring.primes,
        ring.garner_inverses,
        np.array([offset % p for p in params.primes], dtype=np.uint32),
        np.array(divisors, dtype=np.int64),
        digits,
    )
    return digits, left


def assert_reconstructed(values: list[int], params: ParameterSet, divisors: list[int], offset: int) -> None:
    digits, left = reconstruct(values, params, divisors, offset)
    for column, value in enumerate(values):
        residues = [value % p for p in params.primes]
        number = exact.balanced_crt(residues, params.primes) % params.modulus
        expected, above = balanced_digits((number + offset) % params.modulus, divisors)
        assert digits[:, column].tolist() == expected
        assert bool(left[column]) == (above != 0)


@every_set
def test_reconstruction_equals_the_chinese_remainder_theorem_at_the_edges(params: ParameterSet) -> None:
    q = params.modulus
    divisors = [2 * 40_000 + 1, 2**47 - 1, 3]
    product = divisors[0] * divisors[1] * divisors[2]
    offset = (product - 1) // 2
    edges = [0, 1, -1, q // 2, -(q // 2), q - 1, product // 2, -(product // 2), product // 2 + 1, -(product // 2) - 1]
    edges += [divisors[0] // 2, divisors[0] // 2 + 1, *params.primes, *(p - 1 for p in params.primes)]
    assert_reconstructed(edges, params, divisors, offset)


@given(st.sampled_from(ALLOWED), st.data())
@settings(max_examples=60, deadline=None)
def test_reconstruction_equals_the_chinese_remainder_theorem(params: ParameterSet, data: st.DataObject) -> None:
    divisors = [data.draw(st.integers(3, 2**23), label="span")]
    product = divisors[0]
    while product < params.modulus and data.draw(st.booleans() if len(divisors) > 1 else st.just(True)):
        divisors.append(data.draw(st.integers(3, 2**47), label="radix"))
        product *= divisors[-1]
    values = data.draw(st.lists(st.integers(0, params.modulus - 1), min_size=1, max_size=8))
    offset = data.draw(st.integers(0, params.modulus - 1))
    assert_reconstructed(values, params, divisors, offset)


@given(st.integers(2, 2**47), st.integers(0, 2**29), st.data())
@settings(max_examples=60, deadline=None)
def test_quotients_next_to_a_multiple_are_exact(divisor: int, quotient: int, data: st.DataObject) -> None:
    """Where the float64 estimate of the division is most likely to be one off."""
    params = ALLOWED[-1]
    around = [max(divisor * quotient + d, 0) for d in (-1, 0, 1)]
    higher = data.draw(st.integers(0, params.primes[2] - 1)) * params.primes[0] * params.primes[1]
    values = [*around, *(higher - higher % divisor + d for d in (0, divisor - 1))]
    assert_reconstructed(values, params, [divisor, divisor], 0)


# --- sums -----------------------------------------------------------------------------------------------------------


@every_prime
def test_sums_and_differences_are_modular(params: ParameterSet) -> None:
    rng, ring = np.random.default_rng(3), ring_of(params)
    a, b = random_residues(rng, params, 2), random_residues(rng, params, 2)
    top = ring.primes[:, None] - np.uint32(1)
    a[0], b[0, :, ::2], b[1, :, :5] = top, top, 0
    primes = ring.primes[:, None].astype(np.uint64)
    total, difference = a.copy(), a.copy()
    ring.add(total, b)
    ring.subtract(difference, b)
    np.testing.assert_array_equal(total, (a.astype(np.uint64) + b) % primes)
    np.testing.assert_array_equal(difference, (a.astype(np.uint64) + primes - b) % primes)


@every_prime
def test_a_residue_equal_to_its_prime_is_out_of_range(params: ParameterSet) -> None:
    ring = ring_of(params)
    for i in range(len(params.primes)):
        residues = np.zeros((2, len(params.primes), params.degree), dtype=np.uint32)
        residues[:] = ring.primes[:, None] - np.uint32(1)
        assert ring.in_range(residues)
        residues[1, i, -1] = params.primes[i]
        assert not ring.in_range(residues)


def test_a_ring_can_be_built_anew_and_is_the_same() -> None:
    fresh, kept = Ring(LARGEST[0]), ring_of(LARGEST[0])
    np.testing.assert_array_equal(fresh.roots, kept.roots)
    np.testing.assert_array_equal(fresh.root_quotients, kept.root_quotients)


# --- the vectors themselves -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_vector_files_are_what_the_exact_reference_writes() -> None:
    for name, content in exact.all_vectors().items():
        assert json.loads((exact.VECTORS / name).read_text(encoding="utf-8")) == json.loads(json.dumps(content)), name

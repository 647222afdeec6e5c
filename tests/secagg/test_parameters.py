"""The allow-list of parameter sets: SEAL's primes, within the 2024 security guideline."""

from __future__ import annotations

import math

import pytest
import tenseal.sealapi as seal
from exact_reference import allowed_sets, is_prime, largest_primes

from secagg.parameters import ALLOWED, MAX_LOG2_Q, PRIME_BITS, ParameterSet

GUIDELINE_LOG2_Q = {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430}  # ePrint 2024/463, ternary, 128-bit classical

every_set = pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)


def seal_accepts(degree: int, bits: list[int]) -> bool:
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(degree, bits))
    return bool(seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128).parameters_set())


def chain_bits(params: ParameterSet) -> list[int]:
    return [prime.bit_length() for prime in (*params.primes, params.special_prime)]


def test_the_primality_test_knows_primes_from_pseudoprimes() -> None:
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert not is_prime(3_215_031_751)  # strong pseudoprime to the bases 2, 3, 5 and 7
    assert is_prime(2**61 - 1)


@every_set
def test_every_modulus_is_a_prime_that_allows_the_transform(params: ParameterSet) -> None:
    chain = (*params.primes, params.special_prime)
    assert len(set(chain)) == len(chain)
    for prime in chain:
        assert is_prime(prime)
        assert prime % (2 * params.degree) == 1


@every_set
def test_residues_of_every_data_prime_fit_thirty_bits(params: ParameterSet) -> None:
    assert all(2**29 < prime < 2**PRIME_BITS for prime in params.primes)


@every_set
def test_data_primes_are_the_largest_of_their_size(params: ParameterSet) -> None:
    assert params.primes == tuple(reversed(largest_primes(30, params.degree, len(params.primes))))


@every_set
def test_the_chain_is_the_one_that_seal_creates(params: ParameterSet) -> None:
    created = [modulus.value() for modulus in seal.CoeffModulus.Create(params.degree, chain_bits(params))]
    assert created == [*params.primes, params.special_prime]


@every_set
def test_the_key_modulus_keeps_the_2024_guideline(params: ParameterSet) -> None:
    product = params.modulus * params.special_prime
    assert product <= 2 ** GUIDELINE_LOG2_Q[params.degree]
    assert math.log2(product) <= params.log2_key_modulus <= GUIDELINE_LOG2_Q[params.degree]


def test_the_limits_are_those_of_the_guideline_and_stricter_than_seals() -> None:
    assert MAX_LOG2_Q == GUIDELINE_LOG2_Q
    for degree, limit in MAX_LOG2_Q.items():
        assert limit < seal.CoeffModulus.MaxBitCount(degree, seal.SEC_LEVEL_TYPE.TC128)


@every_set
def test_seal_accepts_the_chain_at_128_bits(params: ParameterSet) -> None:
    assert seal_accepts(params.degree, chain_bits(params))


def test_seal_refuses_a_chain_above_its_own_limit() -> None:
    assert not seal_accepts(4096, [30, 30, 30, 30])


def test_the_allow_list_is_the_documented_one() -> None:
    assert [(p.degree, p.primes, p.special_prime) for p in ALLOWED] == allowed_sets()
    assert len({params.name for params in ALLOWED}) == len(ALLOWED)


@every_set
def test_a_block_on_the_wire_is_two_polynomials_of_thirty_bits_a_residue(params: ParameterSet) -> None:
    assert params.ciphertext_bytes * 8 == 2 * len(params.primes) * params.degree * 30

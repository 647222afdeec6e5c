"""The fast engine: residue by residue what the formula says, opened by SEAL, with the randomness it claims."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import exact_reference as exact
import numpy as np
import pytest
from scipy import stats

import secagg
from secagg import errors
from secagg.blocks import empty_block
from secagg.ckks import SecretKey, generate_keys
from secagg.engines import available_engines, resolve_engine
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import plan_round
from secagg.publickey import PublicKey
from secagg.ring import ring_of
from secagg.workers import Workers

pytest.importorskip("numba", reason="the fast engine needs the extra 'fast'")
from secagg.ckks_fast import FastEncryptor, binomial, ternary

SMALL, MIDDLE, LARGE = ALLOWED[0], ALLOWED[5], ALLOWED[-1]
P_VALUE = 1e-9  # a right sampler fails a test of this file once in a thousand million runs


@pytest.fixture(scope="module", params=[SMALL, MIDDLE, LARGE], ids=lambda params: params.name)
def keys(request: pytest.FixtureRequest) -> tuple[PublicKey, SecretKey]:
    return generate_keys(request.param)


def uniform(params: ParameterSet, rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.integers(0, p, params.degree, dtype=np.uint32) for p in params.primes])


def noise_of(secret: SecretKey, block: np.ndarray, plaintext: np.ndarray, params: ParameterSet) -> np.ndarray:
    """int64[N]: decryption minus plaintext; every prime must agree about it."""
    difference = secret.decrypt(block)
    ring_of(params).subtract(difference, plaintext)
    primes = np.array(params.primes, dtype=np.int64)[:, None]
    centred = difference.astype(np.int64)
    centred -= primes * (centred > primes // 2)
    assert (centred == centred[0]).all()
    return centred[0]


def test_ciphertexts_equal_the_formula_in_python_integers_residue_by_residue() -> None:
    public, _ = generate_keys(SMALL)
    rng = np.random.default_rng(0)
    plaintext = uniform(SMALL, rng)
    u = rng.integers(-1, 2, SMALL.degree).astype(np.int8)
    e0, e1 = (rng.integers(-21, 22, SMALL.degree).astype(np.int8) for _ in range(2))
    for extreme, low, high in ((u, -1, 1), (e0, -21, 21), (e1, -21, 21)):
        extreme[:2] = low, high
    block = empty_block(SMALL)
    FastEncryptor(public).encrypt_with(u, e0, e1, plaintext.copy(), block)
    for i, prime in enumerate(SMALL.primes):
        root = exact.smallest_primitive_root(prime, SMALL.degree)
        message = [int(m) + int(e) for m, e in zip(plaintext[i], e0, strict=True)]
        ut, mt, et = (exact.transformed([int(x) for x in row], root, prime) for row in (u, message, e1))
        b, a = (public.residues[half, i].tolist() for half in (0, 1))
        assert block[0, i].tolist() == [(x * y + z) % prime for x, y, z in zip(b, ut, mt, strict=True)]
        assert block[1, i].tolist() == [(x * y + z) % prime for x, y, z in zip(a, ut, et, strict=True)]


@pytest.mark.parametrize("threads", [1, 3])
def test_seal_opens_what_the_fast_engine_seals(keys: tuple[PublicKey, SecretKey], threads: int) -> None:
    public, secret = keys
    params = public.params
    rng = np.random.default_rng(1)
    with Workers(threads) as workers:
        encryptor = FastEncryptor(public, workers)
        for plaintext in (
            uniform(params, rng),
            np.zeros((len(params.primes), params.degree), dtype=np.uint32),
            np.repeat(np.array(params.primes, dtype=np.uint32)[:, None] - 1, params.degree, axis=1),
        ):
            block = empty_block(params)
            encryptor.encrypt_coefficients(plaintext.copy(), block)
            assert ring_of(params).in_range(block)
            noise = noise_of(secret, block, plaintext, params)
            expected = 3.24 * np.sqrt(4 * params.degree / 3 + 1)
            assert 0.8 * expected < noise.std() < 1.2 * expected
            bound = plan_round(100, 1, params=params, value_bits=8).noise_bound
            assert np.abs(noise).max() <= bound


def test_both_engines_release_the_same_integers() -> None:
    plan = plan_round(length=20_000, max_clients=4, max_weight=9)
    rng = np.random.default_rng(2)
    updates = [rng.normal(size=plan.length) for _ in range(2)] + [np.full(plan.length, s) for s in (9.0, -9.0)]
    weights = [1, 9, 9, 4]
    fast, seal = (secagg.run_round(updates, weights, plan=plan, engine=engine) for engine in ("fast", "seal"))
    np.testing.assert_array_equal(fast.sums, seal.sums)


def test_clients_of_one_round_may_use_different_engines() -> None:
    plan = plan_round(length=500, max_clients=3)
    banks = [secagg.Identity.generate(f"bank {i}") for i in range(3)]
    authority, server = secagg.Identity.generate("key holder"), secagg.Identity.generate("aggregator")
    enrolment = secagg.Enrolment.of(authority.member, server.member, tuple(b.member for b in banks))
    key_holder, aggregator = secagg.KeyHolder(authority, enrolment, plan), secagg.Aggregator(server, enrolment, plan)
    engines = ("seal", "fast", "auto")
    clients = [secagg.Client(b, enrolment, plan, engine=e) for b, e in zip(banks, engines, strict=True)]
    offer = key_holder.open(1, bytes(32))
    for client in clients:
        key_holder.receive_join(client.join(offer, bytes(32)))
    roster = key_holder.close_roster()
    aggregator.open(offer, roster)
    for client in clients:
        aggregator.receive(client.contribute(roster, np.full(500, 0.5)))
    assert (key_holder.release(aggregator.close()).sums == 3 * round(0.5 * plan.max_value)).all()


def test_auto_is_the_fast_engine_where_numba_is_and_an_unknown_one_is_refused() -> None:
    assert available_engines() == ("seal", "fast")
    assert resolve_engine("auto") == "fast"
    with pytest.raises(errors.EngineUnavailable, match="warp"):
        resolve_engine("warp")


# --- randomness -----------------------------------------------------------------------------------------------------


def test_ternary_digits_are_uniform_by_chi_square() -> None:
    digits = np.concatenate([ternary(os.urandom(32), 16_384) for _ in range(20)])
    counts = np.bincount(digits + 1, minlength=3)
    assert counts.shape == (3,)
    assert stats.chisquare(counts).pvalue > P_VALUE


def test_errors_follow_the_centred_binomial_of_42_bits_by_chi_square_and_moments() -> None:
    draws = np.concatenate([binomial(os.urandom(32), "e0", 16_384) for _ in range(20)]).astype(np.int64)
    assert np.abs(draws).max() <= 21
    support = np.arange(-21, 22)
    expected = stats.binom.pmf(support + 21, 42, 0.5) * draws.size
    common = expected > 20
    counts = np.array([(draws == value).sum() for value in support])
    counts = np.append(counts[common], counts[~common].sum())
    assert stats.chisquare(counts, np.append(expected[common], expected[~common].sum())).pvalue > P_VALUE
    assert abs(draws.mean()) < 6 * np.sqrt(10.5 / draws.size)
    assert abs(draws.var() - 10.5) < 6 * np.sqrt(215.25 / draws.size)


def test_the_ranges_of_one_key_and_the_streams_of_two_keys_are_uncorrelated() -> None:
    one, other = os.urandom(32), os.urandom(32)
    streams = [ternary(one, 16_384), binomial(one, "e0", 16_384), binomial(one, "e1", 16_384)]
    streams += [ternary(other, 16_384), binomial(other, "e0", 16_384)]
    correlation = np.corrcoef(np.array(streams, dtype=np.float64))
    assert np.abs(correlation - np.eye(5)).max() < 7 / np.sqrt(16_384)


def test_a_coefficient_does_not_depend_on_how_many_follow_it() -> None:
    key = bytes(range(32))
    np.testing.assert_array_equal(ternary(key, 4_096), ternary(key, 16_384)[:4_096])
    np.testing.assert_array_equal(binomial(key, "e1", 4_096), binomial(key, "e1", 16_384)[:4_096])


def test_ternary_takes_bytes_below_255_modulo_three() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(32)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(6_000))
    assert ternary(key, 5_000).tolist() == [byte % 3 - 1 for byte in stream if byte != 255][:5_000]


def test_errors_count_21_bits_against_the_next_21() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(32)
    counter = (2).to_bytes(8, "big") + bytes(8)
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(8_000))
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(1_000)]
    wanted = [(w & (2**21 - 1)).bit_count() - ((w >> 21) & (2**21 - 1)).bit_count() for w in words]
    assert binomial(key, "e1", 1_000).tolist() == wanted


def _zero_block(public: PublicKey) -> bytes:
    block = empty_block(public.params)
    encryptor = FastEncryptor(public)
    encryptor.encrypt_coefficients(np.zeros(block.shape[1:], dtype=np.uint32), block)
    return block.tobytes()


def _forked(encryptor: FastEncryptor, pipe) -> None:  # type: ignore[no-untyped-def]
    block = empty_block(SMALL)
    encryptor.encrypt_coefficients(np.zeros(block.shape[1:], dtype=np.uint32), block)
    pipe.send(block.tobytes())


def test_calls_threads_and_forked_children_never_share_a_stream() -> None:
    public, _ = generate_keys(SMALL)
    encryptor = FastEncryptor(public)
    seen = [_zero_block(public) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        seen += pool.map(_zero_block, [public] * 8)
    context = multiprocessing.get_context("fork")
    for _ in range(3):  # the same object in children of the same moment
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_forked, args=(encryptor, there))
        child.start()
        seen.append(here.recv())
        child.join()
    assert len(set(seen)) == len(seen)


def test_a_key_whose_residues_are_out_of_range_is_refused_before_it_is_used() -> None:
    public, _ = generate_keys(SMALL)
    wrong = public.residues.copy()
    wrong[0, 0, 0] = SMALL.primes[0]
    with pytest.raises(errors.WrongKey):
        FastEncryptor(PublicKey(SMALL, wrong))

"""The fast engine: residue by residue what the formula says, opened by SEAL, with the randomness it claims."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import exact_reference as exact
import numpy as np
import pytest
from scipy import stats

import secagg
from secagg import errors, randomness
from secagg.blocks import empty_block
from secagg.ckks import SecretKey, generate_keys
from secagg.engines import available_engines, resolve_engine
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import plan_round
from secagg.publickey import PublicKey
from secagg.ring import ring_of
from secagg.workers import Workers

pytest.importorskip("numba", reason="the fast engine needs the extra 'fast'")
from secagg import ckks_fast
from secagg.ckks_fast import FastEncryptor
from secagg.session import Parties, Session, Terms

SMALL, MIDDLE, LARGE = ALLOWED[0], ALLOWED[5], ALLOWED[-1]
HEADLINE = plan_round(length=1_000_000, max_clients=8).params  # what the benchmarks measure
P_VALUE = 1e-4  # for streams of fixed keys, which a right sampler passes in every run or in none
CHANCE = 2.0**-45  # that a right encryptor, whose keys come from the operating system, fails one test of this file


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


@pytest.mark.parametrize("params", [SMALL, HEADLINE], ids=lambda params: params.name)
def test_ciphertexts_equal_the_formula_in_python_integers_residue_by_residue(params: ParameterSet) -> None:
    public, _ = generate_keys(params)
    rng = np.random.default_rng(0)
    plaintext = uniform(params, rng)
    u = rng.integers(-1, 2, params.degree).astype(np.int8)
    e0, e1 = (rng.integers(-21, 22, params.degree).astype(np.int8) for _ in range(2))
    for extreme, low, high in ((u, -1, 1), (e0, -21, 21), (e1, -21, 21)):
        extreme[:2] = low, high
    block = empty_block(params)
    FastEncryptor(public).encrypt_with(u, e0, e1, plaintext.copy(), block)
    for i, prime in enumerate(params.primes):
        root = exact.smallest_primitive_root(prime, params.degree)
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
    plaintexts = np.stack(
        [
            uniform(params, rng),
            np.zeros((len(params.primes), params.degree), dtype=np.uint32),
            np.repeat(np.array(params.primes, dtype=np.uint32)[:, None] - 1, params.degree, axis=1),
        ]
    )
    blocks = np.empty((3, 2, *plaintexts.shape[1:]), dtype=np.uint32)
    with Workers(threads) as workers:
        FastEncryptor(public).encrypt_blocks(plaintexts.copy(), blocks, workers)
        assert len({block[1].tobytes() for block in blocks}) == 3  # each has randomness of its own
        for plaintext, block in zip(plaintexts, blocks, strict=True):
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
    session = Session(Parties.generate(["bank 0", "bank 1", "bank 2"]))
    key_holder, aggregator = session.key_holder(Terms(plan)), session.aggregator(Terms(plan))
    clients = [session.client(i, Terms(plan, engine=engine)) for i, engine in enumerate(("seal", "fast", "auto"))]
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


def fixed_key(number: int) -> bytes:
    return number.to_bytes(32, "little")


def ternary(key: bytes, count: int) -> np.ndarray:
    return randomness.ternary(randomness.stream(key, "u"), count)


def binomial(key: bytes, which: str, count: int) -> np.ndarray:
    return randomness.binomial(randomness.stream(key, which), count)


def test_ternary_digits_are_uniform_by_chi_square() -> None:
    digits = np.concatenate([ternary(fixed_key(i), 16_384) for i in range(20)])
    counts = np.bincount(digits + 1, minlength=3)
    assert counts.shape == (3,)
    assert stats.chisquare(counts).pvalue > P_VALUE


def test_errors_follow_the_centred_binomial_of_42_bits_by_chi_square_and_moments() -> None:
    draws = np.concatenate([binomial(fixed_key(i), "e0", 16_384) for i in range(20)]).astype(np.int64)
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
    one, other = fixed_key(1), fixed_key(2)
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


FACTOR = 1_000  # far above what errors reach


def glass_key() -> PublicKey:
    """A key that hides nothing: both halves are the constant FACTOR, so that u, e0 and e1 can be read off."""
    residues = np.full((2, len(SMALL.primes) + 1, SMALL.degree), FACTOR, dtype=np.uint64)
    residues.flags.writeable = False
    return PublicKey(SMALL, residues)


def drawn(encryptor: FastEncryptor) -> np.ndarray:
    """int64[3, N]: u, e0 and e1 of one call, from what it wrote."""
    block = empty_block(SMALL)
    encryptor.encrypt_coefficients(np.zeros(block.shape[1:], dtype=np.uint32), block)
    halves = []
    for half in block:
        ring_of(SMALL).from_ntt(half)
        prime = SMALL.primes[0]
        halves.append(half[0].astype(np.int64) - prime * (half[0] > prime // 2))
    u = np.rint(halves[0] / FACTOR).astype(np.int64)
    assert np.array_equal(u, np.rint(halves[1] / FACTOR))
    return np.stack([u, halves[0] - FACTOR * u, halves[1] - FACTOR * u])


def largest_correlation(found: list[np.ndarray]) -> float:
    """Of any two of all vectors drawn, as a multiple of what independent ones exceed with probability CHANCE."""
    rows = np.concatenate(found).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    correlation = np.abs(rows @ rows.T - np.eye(len(rows)))
    pairs = len(rows) * (len(rows) - 1) / 2
    limit = stats.norm.isf(CHANCE / pairs / 2) / np.sqrt(SMALL.degree)
    return float(correlation.max() / limit)


def _drawn_of_new(_: int = 0) -> np.ndarray:
    return drawn(FastEncryptor(glass_key()))


def _send_drawn(encryptor: FastEncryptor | None, pipe: Any) -> None:
    pipe.send(_drawn_of_new() if encryptor is None else drawn(encryptor))


def test_what_is_read_off_a_key_of_glass_is_what_the_samplers_promise() -> None:
    u, e0, e1 = drawn(FastEncryptor(glass_key()))
    assert set(np.unique(u)) == {-1, 0, 1}
    for e in (e0, e1):
        assert np.abs(e).max() <= 21
        assert e.var() == pytest.approx(10.5, rel=0.2)  # nine standard deviations


def test_blocks_calls_threads_forked_and_spawned_processes_draw_independently() -> None:
    """Every u, e0 and e1 against every other: none is equal to, and none follows, another."""
    encryptor = FastEncryptor(glass_key())
    found = [drawn(encryptor) for _ in range(4)]  # the blocks of one contribution
    found += [_drawn_of_new() for _ in range(3)]  # other contributions
    with ThreadPoolExecutor(4) as pool:
        found += pool.map(_drawn_of_new, range(8))
        found += pool.map(drawn, [encryptor] * 4)
    for start, given in (("fork", encryptor), ("fork", encryptor), ("fork", None), ("spawn", None), ("spawn", None)):
        context = multiprocessing.get_context(start)
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_send_drawn, args=(given, there))
        child.start()
        found.append(here.recv())
        child.join()
    assert largest_correlation(found) < 1.0


def test_a_stream_that_two_calls_share_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [_drawn_of_new() for _ in range(3)]
    monkeypatch.setattr(ckks_fast.os, "urandom", bytes)
    assert largest_correlation([*found, _drawn_of_new()]) < 1.0
    assert largest_correlation([*found, _drawn_of_new(), _drawn_of_new()]) > 5.0


def test_a_key_whose_residues_are_out_of_range_is_refused_before_it_is_used() -> None:
    public, _ = generate_keys(SMALL)
    wrong = public.residues.copy()
    wrong[0, 0, 0] = SMALL.primes[0]
    with pytest.raises(errors.WrongKey):
        FastEncryptor(PublicKey(SMALL, wrong))

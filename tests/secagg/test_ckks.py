"""Keys, encryption and decryption inside SEAL: exact round trips, the promised noise, and keys that test themselves."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from forked import in_a_child

from secagg import ckks
from secagg.blocks import empty_block
from secagg.ckks import Encryptor, SecretKey, generate_keys, generate_readable_keys, generate_secret
from secagg.engines import residues_of
from secagg.errors import EngineUnavailable, KeySelfTestFailed, WrongKey
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import ERROR_MAX, plan_round
from secagg.publickey import PublicKey
from secagg.ring import ring_of

SMALL = ALLOWED[0]
every_set = pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)


@pytest.fixture(scope="module")
def keys() -> tuple[PublicKey, SecretKey]:
    return generate_keys(SMALL)


def uniform(params: ParameterSet, seed: int) -> np.ndarray:
    """A plaintext that uses all of Q: uint32[primes, N], coefficients."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, p, params.degree, dtype=np.uint32) for p in params.primes])


def encrypted(encryptor: Encryptor, plaintext: np.ndarray, params: ParameterSet) -> np.ndarray:
    transformed, block = plaintext.copy(), empty_block(params)
    ring_of(params).to_ntt(transformed)
    encryptor.encrypt_into(transformed, block)
    return block


def noise_of(secret: SecretKey, block: np.ndarray, plaintext: np.ndarray, params: ParameterSet) -> np.ndarray:
    """int64[N]: decryption minus plaintext; every prime must agree about it."""
    difference = secret.decrypt(block)
    assert difference.dtype == np.uint32 and ring_of(params).in_range(difference)
    ring_of(params).subtract(difference, plaintext)
    primes = np.array(params.primes, dtype=np.int64)[:, None]
    centred = difference.astype(np.int64)
    centred -= primes * (centred > primes // 2)
    assert (centred == centred[0]).all()
    return centred[0]


def single_block_limit(params: ParameterSet, clients: int) -> int:
    return plan_round(1, clients, params=params).noise_limit(clients)


# --- round trips and noise ------------------------------------------------------------------------------------------


@every_set
def test_decryption_is_the_plaintext_plus_noise_of_the_promised_size(params: ParameterSet) -> None:
    public, secret = generate_keys(params)
    plaintext = uniform(params, 1)
    block = encrypted(Encryptor(public), plaintext, params)
    assert ring_of(params).in_range(block)
    noise = noise_of(secret, block, plaintext, params)
    rounding = math.sqrt((1 + 2 * params.degree / 3) / 12)  # c0 and c1*s, rounded after division by the special prime
    assert noise.std() == pytest.approx(rounding, rel=0.08)
    # Of 4,096 normal values none beyond two standard deviations: once in 2^270.
    assert 2 * rounding < np.abs(noise).max() < single_block_limit(params, 1)


@pytest.mark.parametrize("params", [ALLOWED[1], ALLOWED[6], ALLOWED[-1]], ids=lambda params: params.name)
def test_the_noise_of_a_sum_is_the_sum_of_the_noises(params: ParameterSet) -> None:
    public, secret = generate_keys(params)
    encryptor, ring = Encryptor(public), ring_of(params)
    plaintext, block = np.zeros_like(uniform(params, 0)), np.zeros_like(empty_block(params))
    noises = []
    for seed in range(8):
        term = uniform(params, seed)
        ciphertext = encrypted(encryptor, term, params)
        noises.append(noise_of(secret, ciphertext, term, params))
        ring.add(plaintext, term)
        ring.add(block, ciphertext)
    total = noise_of(secret, block, plaintext, params)
    np.testing.assert_array_equal(total, np.sum(noises, axis=0))
    assert np.abs(total).max() < single_block_limit(params, 8)


def test_decryption_is_also_available_in_transformed_order(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    block = encrypted(Encryptor(public), uniform(SMALL, 2), SMALL)
    transformed = secret.decrypt_transformed(block)
    ring_of(SMALL).from_ntt(transformed)
    np.testing.assert_array_equal(transformed, secret.decrypt(block))


def test_encrypting_twice_gives_unrelated_ciphertexts(keys: tuple[PublicKey, SecretKey]) -> None:
    public, _ = keys
    plaintext, encryptor = uniform(SMALL, 3), Encryptor(public)
    one, other = encrypted(encryptor, plaintext, SMALL), encrypted(encryptor, plaintext, SMALL)
    again = encrypted(Encryptor(public), plaintext, SMALL)
    for pair in ((one, other), (one, again)):
        assert np.count_nonzero(pair[0] == pair[1]) < 5  # of 16,384 residues below 2**30


def test_every_key_pair_is_fresh_and_opens_only_its_own_ciphertexts(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    other_public, other_secret = generate_keys(SMALL)
    assert public != other_public
    plaintext = uniform(SMALL, 4)
    block = encrypted(Encryptor(public), plaintext, SMALL)
    noise_of(secret, block, plaintext, SMALL)
    with pytest.raises(AssertionError):  # the primes do not even agree
        noise_of(other_secret, block, plaintext, SMALL)


# --- the routes into and out of SEAL --------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [ALLOWED[0], ALLOWED[5]], ids=lambda params: params.name)
def test_reading_through_zstd_and_through_the_binding_is_equal(params: ParameterSet) -> None:
    assert ckks._zstd() is not None, "this tenseal hides zstd: only the slow route is in use"
    context = ckks._context_of(params)
    generator = seal.KeyGenerator(context.context)
    public, ciphertext, plaintext = seal.PublicKey(), seal.Ciphertext(), seal.Plaintext()
    generator.create_public_key(public)
    seal.Encryptor(context.context, public).encrypt_zero(ciphertext)
    seal.Decryptor(context.context, generator.secret_key()).decrypt(ciphertext, plaintext)
    count = len(params.primes) * params.degree
    for source, inner, offset, size in (
        (public, public.data(), 97, 2 * (count + params.degree)),
        (ciphertext, ciphertext, 97, 2 * count),
        (plaintext, plaintext, 72, count),
    ):
        np.testing.assert_array_equal(ckks._saved_residues(source, offset, size), ckks._elements(inner, size))


def test_without_zstd_everything_works_through_the_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckks, "_zstd", lambda: None)
    public, secret = generate_keys(SMALL)
    plaintext = uniform(SMALL, 5)
    noise = noise_of(secret, encrypted(Encryptor(public), plaintext, SMALL), plaintext, SMALL)
    assert np.abs(noise).max() < single_block_limit(SMALL, 1)
    generate_readable_keys(SMALL)  # raises where the secret that was read does not open the public key


def test_a_saved_object_of_another_size_is_refused_by_name(keys: tuple[PublicKey, SecretKey]) -> None:
    context = ckks._context_of(SMALL)
    with ckks._private_file() as file:
        public = context.load_public_key(keys[0].residues, file)
    count = keys[0].residues.size
    ckks._saved_residues(public, 97, count)
    for wrong in (count - 1, count + 1):
        with pytest.raises(EngineUnavailable, match=r"object saved by SEAL: expected \d+ bytes, got \d+"):
            ckks._saved_residues(public, 97, wrong)


def test_without_memory_files_nothing_secret_touches_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ckks._version()  # cached: it saves an empty plaintext, once
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    saved: list[type] = []
    original = ckks._save
    monkeypatch.setattr(ckks, "_save", lambda source: (saved.append(type(source)), original(source))[1])
    public, secret = generate_keys(SMALL)
    plaintext = uniform(SMALL, 6)
    block = encrypted(Encryptor(public), plaintext, SMALL)
    assert np.abs(noise_of(secret, block, plaintext, SMALL)).max() < single_block_limit(SMALL, 1)
    generate_readable_keys(SMALL)
    generate_secret(SMALL)
    assert set(saved) == {seal.PublicKey, seal.Ciphertext}  # no plaintext: a secret key is read as one
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_is_private_while_it_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ckks._private_file() as file:
        assert Path(file.path).parent == tmp_path
        assert os.stat(file.path).st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not ckks._has_memory_files(), reason="the file is kept only where it is in memory")
def test_the_file_that_blocks_go_through_is_closed_with_its_key() -> None:
    generate_keys(SMALL)
    before = open_files()
    public, secret = generate_keys(SMALL)
    block = encrypted(Encryptor(public), uniform(SMALL, 7), SMALL)
    for _ in range(3):
        secret.decrypt(block)
    assert open_files() == before + 1
    del secret
    assert open_files() == before


@pytest.mark.skipif(not ckks._has_memory_files(), reason="the file is kept only where it is in memory")
def test_a_forked_child_never_writes_into_its_parents_file(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    block = encrypted(Encryptor(public), uniform(SMALL, 8), SMALL)
    other = encrypted(Encryptor(public), uniform(SMALL, 9), SMALL)
    expected = secret.decrypt(block)
    kept = secret._file
    assert kept is not None
    content = kept.read()
    assert in_a_child(lambda: secret.decrypt(other)).startswith("WrongState: a secret key")
    assert kept.read() == content
    np.testing.assert_array_equal(secret.decrypt(block), expected)
    assert secret._file is kept


def test_what_is_decrypted_shows_nothing(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    decrypted = secret.begin_decrypt(encrypted(Encryptor(public), uniform(SMALL, 10), SMALL))
    assert repr(decrypted) == "Decrypted(OMITTED)"


def test_a_set_that_seal_refuses_is_named() -> None:
    broken = dataclasses.replace(SMALL, primes=(*SMALL.primes, *ALLOWED[1].primes[:1], 1073643521), special_prime=40961)
    with pytest.raises(EngineUnavailable, match="SEAL rejects N4096x4"):
        ckks._Context(broken)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_a_secret_key_shows_nothing_and_is_never_copied_out(keys: tuple[PublicKey, SecretKey]) -> None:
    _, secret = keys
    assert repr(secret) == str(secret) == f"{secret}" == "SecretKey(OMITTED)"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            attempt(secret)


def test_keys_show_no_residues(keys: tuple[PublicKey, SecretKey]) -> None:
    public, _ = keys
    assert str(public.residues[0, 0, 0]) not in repr(public)


# --- the self-test of keys ------------------------------------------------------------------------------------------


def with_error(public: PublicKey, change: np.ndarray) -> PublicKey:
    """`public` with int64[primes, N] coefficients added to its first half: another error of the same key."""
    params = public.params
    residues = public.residues.copy()
    primes = np.array(params.primes, dtype=np.int64)[:, None]
    term = (change % primes).astype(np.uint32)
    ring_of(params).to_ntt(term)
    residues[0, :-1] = (residues[0, :-1] + term) % primes.astype(np.uint64)
    return PublicKey(params, residues)


def error_of(public: PublicKey, secret: SecretKey) -> np.ndarray:
    return ckks.centred(secret.decrypt(public.residues[:, :-1, :].astype(np.uint32)), public.params)


def sound(public: PublicKey, secret: SecretKey) -> bool:
    """The self-test's verdict."""
    return ckks._keys_are_sound(public, secret, residues_of(secret, public.params))


def test_generated_keys_have_small_equal_errors_and_pass(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    error = error_of(public, secret)
    assert np.abs(error).max() <= ERROR_MAX
    assert error.std() == pytest.approx(math.sqrt(10.5), rel=0.1)
    assert sound(public, secret)
    assert sound(with_error(public, np.zeros((2, SMALL.degree), dtype=np.int64)), secret)


def test_an_error_that_differs_between_primes_fails_the_self_test(keys: tuple[PublicKey, SecretKey]) -> None:
    change = np.zeros((2, SMALL.degree), dtype=np.int64)
    change[1, 5] = 1
    assert not sound(with_error(keys[0], change), keys[1])


def test_an_error_coefficient_beyond_its_distribution_fails_the_self_test(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    error = error_of(public, secret)
    change = np.zeros((2, SMALL.degree), dtype=np.int64)
    change[:, 5] = ERROR_MAX - error[5]
    assert sound(with_error(public, change), secret)
    change[:, 5] += 1
    assert not sound(with_error(public, change), secret)


def test_an_error_of_too_large_a_norm_fails_the_self_test(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    error = error_of(public, secret)
    change = np.tile(6 * np.sign(error) - error, (2, 1))  # every coefficient 6, squared sum 36 N instead of 10.5 N
    assert not sound(with_error(public, change), secret)


class OtherSecret:
    """Decrypts the self-test's `c1 = 1` to a chosen polynomial, everything else truly."""

    def __init__(self, secret: SecretKey, polynomial: np.ndarray) -> None:
        self.secret, self.polynomial = secret, polynomial

    def decrypt(self, block: np.ndarray) -> np.ndarray:
        return self.secret.decrypt(block)

    def decrypt_transformed(self, block: np.ndarray) -> np.ndarray:
        residues = np.stack([(self.polynomial % p).astype(np.uint32) for p in SMALL.primes])
        ring_of(SMALL).to_ntt(residues)
        return residues


def test_a_secret_that_is_not_ternary_or_too_heavy_fails_the_self_test(keys: tuple[PublicKey, SecretKey]) -> None:
    public, secret = keys
    ternary = np.random.default_rng(1).integers(-1, 2, SMALL.degree)
    two = ternary.copy()
    two[7] = 2
    assert sound(public, OtherSecret(secret, ternary))
    assert not sound(public, OtherSecret(secret, two))
    assert not sound(public, OtherSecret(secret, np.ones(SMALL.degree, dtype=np.int64)))


def test_unsound_keys_are_made_anew_and_given_up_after_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([False, False, True])
    monkeypatch.setattr(ckks, "_keys_are_sound", lambda public, secret, residues: next(verdicts))
    generate_keys(SMALL)
    assert next(verdicts, None) is None
    monkeypatch.setattr(ckks, "_keys_are_sound", lambda public, secret, residues: False)
    with pytest.raises(KeySelfTestFailed, match="8 keys"):
        generate_keys(SMALL)


@every_set
def test_the_residues_of_a_secret_open_what_seal_encrypts_under_its_public_key(params: ParameterSet) -> None:
    public, residues = generate_readable_keys(params)
    plaintext = uniform(params, 10)
    block = encrypted(Encryptor(public), plaintext, params)
    noise = noise_of(ckks._Residues(params, residues), block, plaintext, params)
    assert np.abs(noise).max() < single_block_limit(params, 1)
    with pytest.raises(AssertionError):  # the primes do not agree
        noise_of(ckks._Residues(params, generate_secret(params)), block, plaintext, params)


def test_a_secret_of_another_key_fails_the_self_test_of_the_residues() -> None:
    public, residues = generate_readable_keys(SMALL)
    other = generate_secret(SMALL)
    assert ckks._keys_are_sound(public, ckks._Residues(SMALL, residues), residues)
    assert not ckks._keys_are_sound(public, ckks._Residues(SMALL, other), other)


def test_residues_of_unsound_keys_are_overwritten_and_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    verdicts = iter([False, True])
    monkeypatch.setattr(
        ckks, "_keys_are_sound", lambda public, secret, residues: (seen.append(residues), next(verdicts))[1]
    )
    _, residues = generate_readable_keys(SMALL)
    assert not seen[0].any() and residues is seen[1] and residues.any()
    monkeypatch.setattr(ckks, "_keys_are_sound", lambda public, secret, residues: False)
    with pytest.raises(KeySelfTestFailed, match="8 keys"):
        generate_readable_keys(SMALL)


def test_what_the_self_test_makes_of_secret_and_error_is_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the public key, the error gives the secret: s = (e - b) / a wherever a has an inverse."""
    made: list[np.ndarray] = []
    real = ckks.centred

    def watched(residues: np.ndarray, params: ParameterSet) -> np.ndarray:
        small = real(residues, params)
        assert small is not None and small.any() and small.base is None  # not a view of an array that stays
        made.extend((residues, small))
        return small

    monkeypatch.setattr(ckks, "centred", watched)
    _, residues = generate_readable_keys(SMALL)
    assert len(made) == 4 and not any(each.any() for each in made) and residues.any()


def test_a_secret_is_overwritten_when_its_test_fails_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def out_of_memory(*arguments: Any) -> bool:
        seen.extend(each for each in arguments if isinstance(each, np.ndarray))
        assert seen[-1].any()
        raise MemoryError

    monkeypatch.setattr(ckks, "_secret_is_sound", out_of_memory)
    for generate in (generate_keys, generate_readable_keys, generate_secret):
        with pytest.raises(MemoryError):
            generate(SMALL)
    assert len(seen) == 3 and not any(each.any() for each in seen)


# --- public keys from elsewhere -------------------------------------------------------------------------------------


def changed(public: PublicKey, where: Any, value: int) -> PublicKey:
    residues = public.residues.copy()
    residues[where] = value
    return PublicKey(public.params, residues)


@pytest.mark.parametrize("prime", [0, 1, 2])
@pytest.mark.parametrize("excess", [0, 1, 2**40])
def test_a_public_key_residue_not_below_its_prime_is_refused(keys: Any, prime: int, excess: int) -> None:
    limit = (*SMALL.primes, SMALL.special_prime)[prime]
    changed(keys[0], (1, prime, 9), limit - 1).check()
    with pytest.raises(WrongKey, match="not below its prime"):
        changed(keys[0], (1, prime, 9), limit + excess).check()


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("prime", [0, 1, 2])
def test_a_public_key_with_a_zero_polynomial_is_refused(keys: Any, half: int, prime: int) -> None:
    """A zero second half would encrypt nothing at all."""
    with pytest.raises(WrongKey, match="a polynomial is zero"):
        changed(keys[0], (half, prime), 0).check()


def test_a_public_key_of_another_shape_or_type_is_refused(keys: Any) -> None:
    residues = keys[0].residues
    for bad in (residues[:, :2], residues[:1], residues[..., :2048], residues.astype(np.uint32), residues[None]):
        with pytest.raises(WrongKey, match=r"public key: expected uint64\[2, 3, 4096\], got "):
            PublicKey(SMALL, bad).check()


def test_encryption_checks_the_public_key_first(keys: Any) -> None:
    with pytest.raises(WrongKey):
        Encryptor(changed(keys[0], (1, 0), 0))


def test_public_keys_are_equal_by_value(keys: Any) -> None:
    public = keys[0]
    twin = PublicKey(SMALL, public.residues.copy())
    assert public == twin
    assert hash(public) == hash(twin)
    assert public != changed(public, (0, 0, 0), 1)
    assert public != "key"


def test_a_copy_of_a_public_key_remembers_nothing_about_an_array_that_can_change(keys: Any) -> None:
    public = keys[0]
    public.check()
    for other in (copy.deepcopy(public), pickle.loads(pickle.dumps(public))):
        assert other.digest == public.digest and other.residues.flags.writeable
        other.residues[0, 0, 0] = SMALL.primes[0]
        assert other.digest != public.digest
        with pytest.raises(WrongKey, match="not below its prime"):
            other.check()

"""Opening without SEAL: the same residues as SEAL's decryption, bit for bit, and the same verdicts on hostile sums."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from forked import in_a_child
from simulator import MODEL, Federation, Peers

import secagg
from secagg import ckks, kernels, masks, packing, workers
from secagg.blocks import empty_block, write_block
from secagg.engines import available_engines, decryption_keys, encryptor, residues_of
from secagg.errors import (
    EngineUnavailable,
    PeerError,
    ResidueOutOfRange,
    StepNotIncreasing,
    SumRefused,
    TransparentCiphertext,
    TruncatedMessage,
    WrongState,
)
from secagg.ledger import Outcome, audit_ledger
from secagg.opening import open_sum
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import RoundPlan, plan_round
from secagg.publickey import PublicKey
from secagg.ring import ring_of
from secagg.stages import StageClock

if "fast" not in available_engines():
    pytest.skip("the fast engine needs numba", allow_module_level=True)

from secagg.ckks_fast import FastSecretKey

SMALL = ALLOWED[0]
Keys = tuple[PublicKey, ckks.SecretKey, FastSecretKey]


def keys_of(params: ParameterSet) -> Keys:
    """One secret key twice: in SEAL, and as residues."""
    public, secret = ckks.generate_keys(params)
    residues = residues_of(secret, params)
    return public, secret, FastSecretKey(params, residues)


def hostile(params: ParameterSet, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Ciphertexts without end, each below the primes and with no zero c1: what a lying aggregator may hand in."""
    primes = np.array(params.primes, dtype=np.uint32)[:, None]
    while True:
        uniform = np.stack([np.stack([rng.integers(0, p, params.degree, dtype=np.uint32) for p in params.primes])] * 2)
        yield uniform  # c0 equals c1
        yield np.stack([uniform[0], uniform[1][:, ::-1]])
        yield np.broadcast_to(primes - 1, uniform.shape).copy()  # the largest there is, everywhere
        sparse = np.zeros_like(uniform)
        sparse[1, np.arange(len(primes)), rng.integers(0, params.degree, len(primes))] = 1
        yield sparse  # one slot of one: a slot of the secret
        sparse[0] = primes - 1
        yield sparse
        constant = np.broadcast_to(np.uint32(rng.integers(1, 2**20)), uniform.shape).copy()
        constant[0] = 0
        yield constant  # a multiple of the secret itself
        near = uniform.copy()
        near[rng.random(uniform.shape) < 0.5] = 0
        near[1, :, 0] = 1
        yield near


def honest(params: ParameterSet, public: PublicKey, rng: np.random.Generator) -> np.ndarray:
    plain = np.stack([rng.integers(0, p, params.degree, dtype=np.uint32) for p in params.primes])
    block = empty_block(params)
    encryptor("fast", public).encrypt_coefficients(plain, block)
    return block


def compare(params: ParameterSet, keys: Keys, block: np.ndarray) -> None:
    """All three ways out of a block: through SEAL, as two passes, and in the loop that opens sums."""
    _, secret, fast = keys
    expected = secret.decrypt(block)
    np.testing.assert_array_equal(fast.decrypt(block), expected)
    packed = np.empty(params.ciphertext_bytes, dtype=np.uint8)
    write_block(block, 0, params, packed)
    rows, linear = block[0].copy(), packed.reshape(2, len(params.primes), -1)[1]
    half = len(params.primes) // 2
    for part in (slice(0, half), slice(half, len(params.primes))):
        assert fast.decrypt_rows(linear[part], part, rows[part]) == 0
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)
def test_every_ciphertext_decrypts_as_in_seal_bit_for_bit(params: ParameterSet) -> None:
    keys, rng = keys_of(params), np.random.default_rng(7)
    # 324 ciphertexts over all sets: many where they are small.
    for block, _ in zip(hostile(params, rng), range(40 if params.degree == 4096 else 14), strict=False):
        compare(params, keys, block)
    for _ in range(3):
        compare(params, keys, honest(params, keys[0], rng))


@pytest.mark.long
def test_ten_thousand_ciphertexts_decrypt_as_in_seal_bit_for_bit() -> None:
    rng, done = np.random.default_rng(8), 0
    while done < 10_000:
        for params, count in ((ALLOWED[0], 500), (ALLOWED[1], 300), (ALLOWED[4], 100), (ALLOWED[-1], 20)):
            keys = keys_of(params)  # 11 different keys of each set
            for block, _ in zip(hostile(params, rng), range(count), strict=False):
                compare(params, keys, block)
            for _ in range(count // 20):
                compare(params, keys, honest(params, keys[0], rng))
            done += count + count // 20


# --- whole sums -----------------------------------------------------------------------------------------------------

BLOCKS = 5
_ONE = plan_round(1, 3, value_bits=8, params=SMALL)
PLAN = plan_round(BLOCKS * _ONE.values_per_block - 1, 3, value_bits=8, params=SMALL)
SEED = masks.MaskTerm(b"s" * 32, negative=False)

any_threads = pytest.mark.parametrize("threads", [1, 2, 5])


@pytest.fixture(scope="module")
def sealed() -> tuple[Keys, bytes, np.ndarray]:
    """Keys, the payload of one client's masked contribution as a sum of one, and its integers."""
    keys = keys_of(PLAN.params)
    update = np.random.default_rng(0).uniform(-1, 1, PLAN.length)
    payload, block = np.empty(PLAN.residue_bytes, dtype=np.uint8), empty_block(PLAN.params)
    engine, stream = encryptor("auto", keys[0]), masks.MaskStream([SEED], PLAN.params)
    for index, residues in enumerate(packing.Encoder(update, 1, PLAN).blocks()):
        engine.encrypt_coefficients(residues, block)
        stream.apply(index, block[0])
        write_block(block, index, PLAN.params, payload)
    return keys, payload.tobytes(), np.rint(update / PLAN.step).astype(np.int64)


def opened(key: ckks.SecretKey | FastSecretKey, payload: bytes, threads: int, plan: RoundPlan = PLAN) -> np.ndarray:
    return open_sum(payload, key, [SEED], plan, 1, threads, StageClock()).sums


@any_threads
@pytest.mark.parametrize("group", [1, 2 * 4 * 2 * 4096, 1 << 30], ids=["alone", "in pairs", "together"])
def test_a_sum_opens_to_the_integers_whatever_the_threads_and_the_groups(sealed, monkeypatch, threads, group) -> None:
    (_, secret, fast), payload, integers = sealed
    monkeypatch.setattr(workers, "GROUP", group)
    np.testing.assert_array_equal(opened(fast, payload, threads), integers)
    np.testing.assert_array_equal(opened(secret, payload, threads), integers)


def verdict(key: ckks.SecretKey | FastSecretKey, payload: bytes, threads: int) -> tuple[str, str]:
    try:
        opened(key, payload, threads)
    except PeerError as error:
        return type(error).__name__, str(error)
    return "opened", ""


def changed(payload: bytes, block: int, polynomial: int, prime: int, residues: np.ndarray) -> bytes:
    """The payload with another row, uint32[N]."""
    row = residues.shape[0] * 30 // 8
    packed = np.frombuffer(payload, dtype=np.uint8).copy()
    start = block * PLAN.params.ciphertext_bytes + (polynomial * len(PLAN.params.primes) + prime) * row
    kernels.pack30(residues, packed[start : start + row])
    return packed.tobytes()


@any_threads
def test_what_one_engine_refuses_the_other_refuses_in_the_same_words(sealed, threads) -> None:
    (_, secret, fast), payload, _ = sealed
    degree, prime = PLAN.params.degree, PLAN.params.primes[1]
    last = np.arange(degree, dtype=np.uint32)
    last[-1] = prime  # the smallest that is not below it
    size = PLAN.params.ciphertext_bytes
    cases = {
        "c0 out of range": (changed(payload, 1, 0, 1, last), ResidueOutOfRange, "block 1 holds a residue"),
        "c1 out of range": (changed(payload, 4, 1, 1, last), ResidueOutOfRange, "block 4 holds a residue"),
        "c1 zero": (
            changed(payload, 3, 1, 0, np.zeros(degree, np.uint32)),
            TransparentCiphertext,
            "block 3 has c1 = 0",
        ),
        "truncated": (payload[: 2 * size + 7], TruncatedMessage, "block 2: expected"),
        "a bit of c0": (bytes([payload[0] ^ 1]) + payload[1:], SumRefused, "refused"),
        "a row of c1": (changed(payload, 2, 1, 1, last // 2), SumRefused, "refused"),
    }
    for name, (bytes_, error, said) in cases.items():
        answers = {verdict(key, bytes_, threads) for key in (secret, fast)}
        ((kind, text),) = answers
        assert kind == error.__name__ and text.startswith(said), name


def test_all_of_it_counts_as_decrypting(sealed) -> None:
    (_, _, fast), payload, _ = sealed
    clock = StageClock()
    open_sum(payload, fast, [SEED], PLAN, 1, 1, clock)
    assert clock.stages["unpack"].seconds == 0 < clock.stages["decrypt"].seconds
    assert clock.stages["decrypt"].bytes == PLAN.blocks * len(PLAN.params.primes) * PLAN.params.degree * 4
    assert 0 < clock.parts["seed masks"].seconds == clock.stages["verify"].seconds


# --- the key --------------------------------------------------------------------------------------------------------


def test_a_round_has_the_key_of_its_engine_and_any_other_name_is_refused() -> None:
    federation = Federation(clients=2)
    for name, kind in (("seal", ckks.SecretKey), ("fast", FastSecretKey), ("auto", FastSecretKey)):
        assert isinstance(decryption_keys(name, SMALL)[1], kind)
        holder = secagg.KeyHolder(federation.authority, federation.enrolment, federation.plan, 2, engine=name)
        holder.open(1, bytes(32))
        assert isinstance(holder._current().secret_key, kind)
    with pytest.raises(EngineUnavailable, match="expected auto or one of seal, fast"):
        secagg.KeyHolder(federation.authority, federation.enrolment, federation.plan, 2, engine="slow")


def test_the_secret_is_read_out_of_seal_once_and_what_was_read_on_the_way_is_overwritten(monkeypatch) -> None:
    reads: list[np.ndarray] = []
    original = ckks._begin_reading_plaintext

    def kept(*arguments):
        read = original(*arguments)

        def reading():
            reads.append(read())
            return reads[-1]

        return reading

    monkeypatch.setattr(ckks, "_begin_reading_plaintext", kept)
    _, key = decryption_keys("fast", SMALL)
    assert len(reads) == 1 and not reads[0].any()
    assert key._residues.any()


def test_the_key_shows_nothing_and_is_never_copied_out() -> None:
    _, key = decryption_keys("fast", SMALL)
    assert repr(key) == str(key) == f"{key}" == "FastSecretKey(OMITTED)"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(key)
    block = np.ones((2, 2, SMALL.degree), dtype=np.uint32)
    assert "WrongState" in in_a_child(lambda: key.decrypt(block))
    key.decrypt(block)


def test_a_key_is_overwritten_when_its_round_ends_and_then_decrypts_nothing() -> None:
    federation = Federation(clients=2)
    peers = Peers(federation)
    offer, roster = peers.roster(1)
    key = peers.key_holder._current().secret_key
    assert isinstance(key, FastSecretKey)
    held = (key._residues, key._quotients)
    peers.aggregator.open(offer, roster)
    for index, client in enumerate(peers.clients):
        peers.aggregator.receive(client.contribute(roster, federation.update(index)))
    peers.key_holder.release(peers.aggregator.close())
    assert not any(array.any() for array in held)
    with pytest.raises(WrongState, match="its round has ended"):
        key.decrypt(np.ones((2, 2, SMALL.degree), dtype=np.uint32))


def test_the_key_of_either_engine_says_that_its_round_has_ended() -> None:
    block = np.ones((2, 2, SMALL.degree), dtype=np.uint32)
    for name in ("seal", "fast"):
        _, key = decryption_keys(name, SMALL)
        key.decrypt(block)
        key.wipe()
        for use in (key.decrypt, key.decrypt_transformed):
            with pytest.raises(WrongState, match="its round has ended"):
                use(block)


def test_a_key_that_is_dropped_without_a_release_is_overwritten_too() -> None:
    peers = Peers(Federation(clients=2))
    peers.roster(1)
    key = peers.key_holder._current().secret_key
    held = (key._residues, key._quotients)
    assert all(array.any() for array in held)
    peers.key_holder.abort()
    del key
    gc.collect()
    assert not any(array.any() for array in held)


def test_the_same_secret_has_a_valid_public_key_in_both_engines() -> None:
    public, secret, fast = keys_of(SMALL)
    halves = public.residues[:, :-1].astype(np.uint32)
    error = ckks.centred(fast.decrypt(halves), SMALL)
    np.testing.assert_array_equal(error, ckks.centred(secret.decrypt(halves), SMALL))
    coefficients = fast._residues.copy()
    ring_of(SMALL).from_ntt(coefficients)
    assert set(np.unique(ckks.centred(coefficients, SMALL))) == {-1, 0, 1}


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_key_holder_killed_between_blocks_has_used_the_step_and_released_nothing(tmp_path, block, when) -> None:
    """The key dies with its process, whichever engine holds it."""
    federation = Federation(clients=2, length=9_000, params=SMALL, folder=tmp_path)
    assert federation.plan.blocks == 2

    def open_and_die() -> None:
        peers, calls, honest = Peers(federation), iter(range(10)), FastSecretKey.decrypt_rows

        def deadly(self, *arguments):
            last = next(calls) == block
            if last and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            fault = honest(self, *arguments)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return fault

        FastSecretKey.decrypt_rows = deadly  # in this process alone
        peers.key_holder.release(peers.encrypted_sum(1, [federation.update(1), federation.update(2)]))

    assert in_a_child(open_and_die) == ""  # it died and said nothing
    report = audit_ledger(federation.ledger_file)
    assert (report.decryptions, [outcome for *_, outcome in report.steps]) == (1, [Outcome.ABANDONED])
    holder = federation.key_holder()
    assert holder.stored_release(1) is None
    with pytest.raises(StepNotIncreasing):
        holder.open(1, MODEL)
    assert [abort.header.step for abort in holder.report_abandoned()] == [1]

"""Opening a sum of several blocks on any number of threads: the same integers, and every fault ends it by its name."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest

from secagg import ckks, masks, packing
from secagg.blocks import empty_block, read_block, write_block
from secagg.engines import encryptor
from secagg.errors import EngineUnavailable, SumRefused, TruncatedMessage
from secagg.opening import _Unpacking, open_sum
from secagg.parameters import ALLOWED
from secagg.plan import RoundPlan, plan_round
from secagg.stages import StageClock

BLOCKS = 5
_ONE = plan_round(1, 3, value_bits=8, params=ALLOWED[0])
PLAN = plan_round(BLOCKS * _ONE.values_per_block - 1, 3, value_bits=8, params=ALLOWED[0])

any_threads = pytest.mark.parametrize("threads", [1, 2, 3])


@pytest.fixture(scope="module")
def sealed() -> tuple[ckks.SecretKey, bytes, np.ndarray]:
    """A key, the payload of one client's contribution as a sum of one, and its integers."""
    public, secret = ckks.generate_keys(PLAN.params)
    update = np.random.default_rng(0).uniform(-1, 1, PLAN.length)
    payload, block = np.empty(PLAN.residue_bytes, dtype=np.uint8), empty_block(PLAN.params)
    engine = encryptor("auto", public)
    for index, residues in enumerate(packing.Encoder(update, 1, PLAN).blocks()):
        engine.encrypt_coefficients(residues, block)
        write_block(block, index, PLAN.params, payload)
    return secret, payload.tobytes(), np.rint(update / PLAN.step).astype(np.int64)


def opened(secret: ckks.SecretKey, payload: bytes, threads: int, plan: RoundPlan = PLAN) -> packing.IntegerSums:
    no_terms: list[masks.MaskTerm] = []
    return open_sum(payload, secret, no_terms, plan, 1, threads, StageClock())


@any_threads
def test_every_number_of_threads_opens_the_same_integers(sealed, threads: int) -> None:
    secret, payload, integers = sealed
    assert PLAN.blocks == BLOCKS
    sums = opened(secret, payload, threads)
    np.testing.assert_array_equal(sums.sums, integers)
    assert sums.total_weight == 1


def fail_at(number: int, error: Exception, original: Callable[..., object]) -> Callable[..., object]:
    """`original`, whose call number `number` raises."""
    calls = iter(range(1_000))

    def failing(*arguments: object) -> object:
        if next(calls) == number:
            raise error
        return original(*arguments)

    return failing


@any_threads
@pytest.mark.parametrize("number", [0, 1, BLOCKS - 1])
@pytest.mark.parametrize("place", ["decompressing", "taking apart"])
def test_a_fault_beside_seal_ends_the_opening_with_its_name_and_leaves_no_thread_behind(
    sealed, threads: int, number: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, payload, integers = sealed
    opened(secret, payload, threads)  # the threads that stay have begun
    before = threading.active_count()
    fault = EngineUnavailable(f"planted into block {number}")
    with monkeypatch.context() as patched:
        if place == "decompressing":
            native = ckks._zstd()
            if native is None:
                pytest.skip("this build of tenseal hides its zstd: nothing is decompressed beside SEAL")
            decompress = fail_at(number, fault, native)
            patched.setattr(ckks, "_zstd", lambda: decompress)
        else:
            honest = packing.Decoder.add_transformed
            patched.setattr(packing.Decoder, "add_transformed", fail_at(number, fault, honest))
        with pytest.raises(EngineUnavailable, match=f"planted into block {number}"):
            opened(secret, payload, threads)
    assert threading.active_count() == before
    np.testing.assert_array_equal(opened(secret, payload, threads).sums, integers)


@any_threads
def test_a_payload_that_ends_inside_a_block_and_a_block_that_was_changed_are_refused(sealed, threads: int) -> None:
    secret, payload, _ = sealed
    opened(secret, payload, threads)
    before = threading.active_count()
    with pytest.raises(TruncatedMessage, match="block 3"):
        opened(secret, payload[: 3 * PLAN.params.ciphertext_bytes + 10], threads)
    for block in (0, 2, BLOCKS - 1):
        changed = bytearray(payload)
        changed[block * PLAN.params.ciphertext_bytes] ^= 1
        with pytest.raises(SumRefused, match=r"^refused$"):
            opened(secret, bytes(changed), threads)
    assert threading.active_count() == before


def test_what_is_being_taken_apart_is_never_copied_or_shown(sealed) -> None:
    secret, payload, _ = sealed
    block = empty_block(PLAN.params)
    read_block(payload, 0, PLAN.params, block)
    decrypted = secret.begin_decrypt(block)
    job = _Unpacking(packing.Decoder(PLAN, 1), 0, decrypted.take_out())
    for secretive in (decrypted, job):
        assert "OMITTED" in repr(secretive)
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                attempt(secretive)

"""Clients and key holders on a torch device: the payloads, sums and refusals of memory.

On CPU tensors, with the code that runs on CUDA; on CUDA where there is a device.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fl.errors import AggregationError
from fl.secure import device_rounds
from fl.secure.device_ring import device_ring
from fl.secure.device_rounds import TorchDevice, encrypted
from fl.secure.session import arithmetic_on
from secagg import packing, randomness
from secagg.blocks import empty_block, read_block, write_block
from secagg.ckks import SecretKey, generate_keys
from secagg.errors import (
    LocalError,
    ResidueOutOfRange,
    SumRefused,
    TransparentCiphertext,
    TruncatedMessage,
    UpdateLengthMismatch,
    UpdateNotFinite,
    UpdateReused,
    UpdateTypeUnsupported,
    WrongKey,
)
from secagg.ledger import Outcome
from secagg.masks import MaskStream, MaskTerm
from secagg.messages import Roster
from secagg.opening import open_sum
from secagg.parameters import ALLOWED
from secagg.plan import plan_round
from secagg.publickey import PublicKey
from secagg.ring import ring_of
from secagg.robust import Robust
from secagg.rules import Rule
from secagg.session import Parties, Roles, Session, Terms
from secagg.stages import StageClock
from secagg.workers import Workers

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
BLOCKS = 5
CLIENTS = 3
_ONE = plan_round(1, 8, value_bits=16, params=ALLOWED[5])
PLAN = plan_round(BLOCKS * _ONE.values_per_block - 1, 8, value_bits=16, params=ALLOWED[5])
TERMS = [MaskTerm(bytes([i]) * 32, negative=bool(i % 2)) for i in range(4)]
SEEDS = [MaskTerm(bytes([9]) * 32, negative=False)]
ONE_BLOCK = 1  # byte of memory: a batch then has one block
some_memory = pytest.mark.parametrize("memory", [ONE_BLOCK, 12 << 20, None], ids=["one block", "three blocks", "all"])

Keys = tuple[PublicKey, SecretKey]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return generate_keys(PLAN.params)


def on_device(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).to(DEVICE)


def update(seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.6, PLAN.length).astype(dtype)


def repeatable_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on both ways to encrypt get the same AES keys in the same order, and nothing else does."""
    draws = iter(range(1_000))

    def fixed(size: int) -> bytes:
        return hashlib.sha256(b"draw %d" % next(draws)).digest()[:size]

    for module in ("randomness", "ckks_fast") if find_spec("numba") is not None else ("randomness",):
        monkeypatch.setattr(f"secagg.{module}.os", SimpleNamespace(urandom=fixed))


def sealed_in_memory(public: PublicKey, values: np.ndarray, weight: int, terms: Sequence[MaskTerm]) -> bytes:
    """What `Client` seals with engine `fast`, on one thread."""
    ckks_fast = pytest.importorskip("secagg.ckks_fast", reason="the fast engine needs the extra 'fast'")
    payload, block = np.empty(PLAN.residue_bytes, dtype=np.uint8), empty_block(PLAN.params)
    engine, stream = ckks_fast.FastEncryptor(public), MaskStream(terms, PLAN.params)
    for index, plaintext in enumerate(packing.Encoder(values, weight, PLAN).blocks()):
        engine.encrypt_coefficients(plaintext, block)
        stream.apply(index, block[0])
        write_block(block, index, PLAN.params, payload)
    return payload.tobytes()


@some_memory
@pytest.mark.parametrize("terms", [[], TERMS], ids=["unmasked", "masked"])
def test_a_payload_equals_that_of_the_fast_engine_for_the_same_randomness(
    keys: Keys, memory: int | None, terms: list[MaskTerm], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, clock = update(1), StageClock()
    repeatable_keys(monkeypatch)
    expected = sealed_in_memory(keys[0], values, 1, terms)
    repeatable_keys(monkeypatch)
    payload, clipped = TorchDevice(DEVICE, memory).seal(on_device(values), 1, keys[0], terms, PLAN, clock)
    assert payload == expected
    assert clipped == np.count_nonzero(np.abs(values) > PLAN.clip) > 0
    assert (clock.stages["mask"].bytes > 0) is bool(terms)


def test_every_block_has_a_fresh_key_and_the_integers_of_the_fast_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    repeatable_keys(monkeypatch)
    u, e0, e1 = randomness.fresh(3, 4096, Workers(1))
    for block in range(3):
        key = hashlib.sha256(b"draw %d" % block).digest()
        assert np.array_equal(u[block], randomness.ternary(randomness.stream(key, "u"), 4096))
        assert np.array_equal(e0[block], randomness.binomial(randomness.stream(key, "e0"), 4096))
        assert np.array_equal(e1[block], randomness.binomial(randomness.stream(key, "e1"), 4096))


@pytest.mark.parametrize("params", [ALLOWED[1], ALLOWED[5], ALLOWED[-1]], ids=lambda params: params.name)
def test_encryption_of_any_residues_equals_the_compiled_one(params: Any) -> None:
    ckks_fast = pytest.importorskip("secagg.ckks_fast", reason="the fast engine needs the extra 'fast'")
    rng, ring = np.random.default_rng(2), device_ring(params, DEVICE)
    shape = (2, len(params.primes) + 1, params.degree)
    limits = np.array([*params.primes, params.special_prime], dtype=np.uint64)[:, None]
    public = PublicKey(params, rng.integers(0, limits, shape, dtype=np.uint64))
    plaintext = rng.integers(0, limits[:-1], (2, len(params.primes), params.degree), dtype=np.uint64).astype(np.uint32)
    plaintext[0, :, :9], plaintext[1, :, :9] = 0, limits[:-1] - 1
    u = rng.integers(-1, 2, (2, params.degree)).astype(np.int8)
    e0, e1 = (rng.integers(-21, 22, (2, params.degree)).astype(np.int8) for _ in range(2))
    expected = np.stack([empty_block(params)] * 2)
    engine = ckks_fast.FastEncryptor(public)
    for block in range(2):
        engine.encrypt_with(u[block], e0[block], e1[block], plaintext[block].copy(), expected[block])
    key = ring.residues(public.residues[:, :-1].astype(np.uint32))
    found = encrypted(ring.residues(plaintext), (u, e0, e1), key, ring)
    assert np.array_equal(found.cpu().numpy(), expected)


# --- opening --------------------------------------------------------------------------------------------------------


def sum_of(public: PublicKey, updates: Sequence[np.ndarray]) -> bytearray:
    """The payload of a sum of contributions that carry the seed masks and no pair masks."""
    blocks, ring = np.zeros((PLAN.blocks, *empty_block(PLAN.params).shape), dtype=np.uint32), ring_of(PLAN.params)
    part = empty_block(PLAN.params)
    for values in updates:
        payload, _ = TorchDevice(DEVICE).seal(values, 1, public, SEEDS, PLAN, StageClock())
        for index, total in enumerate(blocks):
            read_block(payload, index, PLAN.params, part)
            ring.add(total, part)
    return written(blocks)


def written(blocks: np.ndarray) -> bytearray:
    payload = np.empty(PLAN.residue_bytes, dtype=np.uint8)
    for index, block in enumerate(blocks):
        write_block(block, index, PLAN.params, payload)
    return bytearray(payload)


@pytest.fixture(scope="module")
def honest(keys: Keys) -> bytearray:
    return sum_of(keys[0], [update(seed) for seed in range(CLIENTS)])


def opened(secret: SecretKey, payload: bytes | bytearray, memory: int | None = None) -> packing.IntegerSums:
    """The sums, from the device."""
    return TorchDevice(DEVICE, memory).open_sum(payload, secret, SEEDS * CLIENTS, PLAN, CLIENTS, StageClock())


@some_memory
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_sum_opens_to_the_integers_that_entered_it(
    keys: Keys, honest: bytearray, memory: int | None, kind: Callable[[bytearray], bytes]
) -> None:
    assert PLAN.blocks == BLOCKS
    found = opened(keys[1], kind(honest), memory)
    values = [np.clip(update(seed).astype(np.float64), -PLAN.clip, PLAN.clip) for seed in range(CLIENTS)]
    exact = sum(np.rint(each * (1.0 / PLAN.step)).astype(np.int64) for each in values)
    assert np.array_equal(found.sums, exact)
    assert found.total_weight == CLIENTS
    in_memory = open_sum(honest, keys[1], SEEDS * CLIENTS, PLAN, CLIENTS, 1, StageClock())
    assert np.array_equal(found.sums, in_memory.sums)


def spoiled(honest: bytearray, block: int, change: Callable[[np.ndarray], None]) -> bytearray:
    blocks = np.empty((PLAN.blocks, *empty_block(PLAN.params).shape), dtype=np.uint32)
    for index, each in enumerate(blocks):
        read_block(honest, index, PLAN.params, each)
    change(blocks[block])
    return written(blocks)


def add_constant(value: int) -> Callable[[np.ndarray], None]:
    """Add `value` to the first coefficient: the polynomial 1 has value 1 in every slot."""

    def change(block: np.ndarray) -> None:
        primes = np.array(PLAN.params.primes, dtype=object)[:, None]
        block[0] = ((block[0].astype(object) + value) % primes).astype(np.uint32)

    return change


HOSTILE = {
    "noise": add_constant(2 * PLAN.noise_bound),
    "a lane beyond its limit": add_constant(PLAN.span * 6 * PLAN.max_value),
    "headroom": add_constant(PLAN.params.modulus // 2),
    "another c1": lambda block: block[1].__setitem__((0, 0), (int(block[1][0, 0]) + 1) % PLAN.params.primes[0]),
}


@some_memory
@pytest.mark.parametrize("block", [0, BLOCKS - 1])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_sum_is_refused_as_it_is_in_memory(
    keys: Keys, honest: bytearray, memory: int | None, block: int, what: str
) -> None:
    payload = spoiled(honest, block, HOSTILE[what])
    with pytest.raises(SumRefused) as on_device:
        opened(keys[1], payload, memory)
    with pytest.raises(SumRefused) as in_memory:
        open_sum(payload, keys[1], SEEDS * CLIENTS, PLAN, CLIENTS, 1, StageClock())
    assert str(on_device.value) == str(in_memory.value)


@pytest.mark.parametrize("seed", range(3))
def test_random_residues_and_a_missing_seed_are_refused(keys: Keys, honest: bytearray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    primes = np.array(PLAN.params.primes, dtype=np.uint32)[:, None]
    blocks = rng.integers(0, primes, (PLAN.blocks, 2, len(primes), PLAN.params.degree), dtype=np.uint32)
    with pytest.raises(SumRefused):
        opened(keys[1], written(blocks))
    with pytest.raises(SumRefused):
        TorchDevice(DEVICE).open_sum(honest, keys[1], SEEDS * (CLIENTS - 1), PLAN, CLIENTS, StageClock())


@some_memory
@pytest.mark.parametrize("block", [0, BLOCKS - 1])
def test_a_malformed_sum_is_refused_by_the_name_that_it_has_in_memory(
    keys: Keys, honest: bytearray, memory: int | None, block: int
) -> None:
    def too_large(each: np.ndarray) -> None:
        each[1, -1, -1] = PLAN.params.primes[-1]

    def transparent(each: np.ndarray) -> None:
        each[1, 1] = 0

    for change, error in ((too_large, ResidueOutOfRange), (transparent, TransparentCiphertext)):
        payload = spoiled(honest, block, change)
        with pytest.raises(error):
            opened(keys[1], payload, memory)
        with pytest.raises(error):
            open_sum(payload, keys[1], SEEDS * CLIENTS, PLAN, CLIENTS, 1, StageClock())
    with pytest.raises(TruncatedMessage):
        opened(keys[1], honest[:-1], memory)


@pytest.mark.parametrize("what", ["honest", "refused", "malformed"])
def test_the_secret_is_overwritten_on_the_device_however_opening_ends(
    keys: Keys, honest: bytearray, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[device_rounds._Opening] = []
    original = device_rounds._Opening.batch

    def watched(self: device_rounds._Opening, *arguments: Any) -> Any:
        assert bool(self._secret.any())
        made.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(device_rounds._Opening, "batch", watched)
    payload = bytearray(honest)
    if what == "honest":
        opened(keys[1], payload)
    else:
        change = HOSTILE["noise"] if what == "refused" else lambda block: block[1].__setitem__(slice(None), 0)
        with pytest.raises((SumRefused, TransparentCiphertext)):
            opened(keys[1], spoiled(payload, 0, change))
    assert made and not any(bool(each._secret.any()) for each in made)
    assert "OMITTED" in repr(made[0])
    for copied in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            copied(made[0])


# --- roles ----------------------------------------------------------------------------------------------------------


WEIGHTED = plan_round(12_345, CLIENTS, value_bits=12, max_weight=9)


def small(seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.6, WEIGHTED.length).astype(dtype)


def roles_of(clients_on_device: bool, key_holder_on_device: bool) -> Roles:
    session = Session(Parties.generate([f"bank {i}" for i in range(CLIENTS)]))
    memory, elsewhere = Terms(WEIGHTED), Terms(WEIGHTED, device=TorchDevice(DEVICE, 1 << 20))
    roles = session.roles(elsewhere if clients_on_device else memory)
    other = session.key_holder(elsewhere if key_holder_on_device else memory, roles.observer.clock)
    return replace(roles, key_holder=other)


def joined(roles: Roles) -> Roster:
    offer = roles.sent(roles.key_holder.open(1, bytes(32)))
    for client in roles.clients:
        roles.key_holder.receive_join(roles.sent(client.join(offer, bytes(32))))
    roster = roles.sent(roles.key_holder.close_roster())
    roles.aggregator.open(offer, roster)
    return roster


def as_parameter(values: np.ndarray) -> torch.Tensor:
    return torch.nn.Parameter(on_device(values))


@pytest.mark.parametrize("key_holder_on_device", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["tensor", "parameter", "numpy", "in memory"])
def test_a_round_of_weighted_tensors_releases_the_exact_sums(
    kind: str, dtype: type, key_holder_on_device: bool
) -> None:
    forms = {"tensor": on_device, "parameter": as_parameter}
    roles, weights = roles_of(kind != "in memory", key_holder_on_device), (1, 9, 4)
    roster = joined(roles)
    updates = [small(seed, dtype) for seed in range(CLIENTS)]
    for client, values, weight in zip(roles.clients, updates, weights, strict=True):
        given = forms.get(kind, lambda each: each)(values)
        client.check_update(given, weight)
        roles.aggregator.receive(roles.sent(client.contribute(roster, given, weight)))
        assert client.clipped == np.count_nonzero(np.abs(values.astype(np.float64)) > WEIGHTED.clip) > 0
    release = roles.sent(roles.key_holder.release(roles.sent(roles.aggregator.close())))
    clipped = [np.clip(values.astype(np.float64), -WEIGHTED.clip, WEIGHTED.clip) for values in updates]
    integers = [np.rint(each * (1.0 / WEIGHTED.step)).astype(np.int64) for each in clipped]
    assert np.array_equal(release.sums, sum(w * each for w, each in zip(weights, integers, strict=True)))
    assert roles.clients[0].accept(release).total_weight == sum(weights)


def test_a_sum_with_something_added_is_refused_on_a_device_and_the_step_stays_consumed() -> None:
    roles = roles_of(True, True)
    roster = joined(roles)
    for seed, client in enumerate(roles.clients):
        roles.aggregator.receive(roles.sent(client.contribute(roster, on_device(small(seed)))))
    added = np.zeros((2, len(WEIGHTED.params.primes), WEIGHTED.params.degree), dtype=np.uint32)
    added[0] = 2 * WEIGHTED.noise_bound  # the constant 2B has this value in every slot
    roles.aggregator._running_sum().add(0, added)
    with pytest.raises(SumRefused):
        roles.key_holder.release(roles.sent(roles.aggregator.close()))
    assert roles.key_holder.outcome(1) is Outcome.REFUSED


def test_the_journal_knows_a_tensor_and_an_array_of_the_same_values_as_one_update() -> None:
    roles = roles_of(True, True)
    roster = joined(roles)
    client = roles.clients[0]
    client.contribute(roster, on_device(small(0)))
    client.abort()
    with pytest.raises(UpdateReused):
        client.check_update(small(0))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (torch.zeros(WEIGHTED.length, dtype=torch.float16, device=DEVICE), UpdateTypeUnsupported),
        (torch.zeros(WEIGHTED.length, dtype=torch.int64, device=DEVICE), UpdateTypeUnsupported),
        (torch.zeros(1, WEIGHTED.length, device=DEVICE), UpdateTypeUnsupported),
        (torch.zeros(WEIGHTED.length, device="meta"), UpdateTypeUnsupported),
        (torch.zeros(WEIGHTED.length, device=DEVICE).as_subclass(Subclass), UpdateTypeUnsupported),
        ([0.0] * WEIGHTED.length, UpdateTypeUnsupported),
        (np.zeros(WEIGHTED.length, dtype=np.int64), UpdateTypeUnsupported),
        (torch.zeros(WEIGHTED.length - 1, device=DEVICE), UpdateLengthMismatch),
        (torch.full((WEIGHTED.length,), torch.nan, device=DEVICE), UpdateNotFinite),
    ],
    ids=["half", "integers", "matrix", "elsewhere", "subclass", "list", "integer array", "short", "NaN"],
)
def test_an_update_that_cannot_be_encoded_is_refused_and_the_client_may_go_on(wrong: Any, error: type) -> None:
    roles = roles_of(True, True)
    roster = joined(roles)
    client = roles.clients[0]
    with pytest.raises(error, match="update"):
        client.contribute(roster, wrong)
    assert client.contribute(roster, on_device(small(0))).payload


def test_a_tensor_is_refused_by_a_client_without_a_device() -> None:
    roles = roles_of(False, True)
    roster = joined(roles)
    with pytest.raises(UpdateTypeUnsupported, match="got Tensor"):
        roles.clients[0].contribute(roster, on_device(small(0)))


def test_an_array_with_negative_strides_or_without_leave_to_write_is_sealed() -> None:
    backwards = small(0)[::-1]
    backwards.flags.writeable = False
    roles = roles_of(True, True)
    assert roles.clients[0].contribute(joined(roles), backwards).payload


def test_a_public_key_with_a_residue_out_of_range_is_refused(keys: Keys) -> None:
    residues = keys[0].residues.copy()
    residues[0, 0, 0] = PLAN.params.primes[0]
    with pytest.raises(WrongKey):
        TorchDevice(DEVICE).seal(update(0), 1, PublicKey(PLAN.params, residues), [], PLAN, StageClock())


def test_a_device_that_is_not_there_and_memory_of_nothing_are_refused_by_name() -> None:
    with pytest.raises(AggregationError, match="torch cannot use 'abacus'"):
        arithmetic_on("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(AggregationError, match="torch cannot use 'cuda'"):
            arithmetic_on("cuda")
    with pytest.raises(AggregationError, match="memory"):
        TorchDevice(DEVICE, 0)
    assert arithmetic_on(None) is None
    assert repr(arithmetic_on("cpu")) == "TorchDevice('cpu')"


def test_a_robust_round_does_not_take_a_device() -> None:
    session = Session(Parties.generate([f"bank {i}" for i in range(5)]))
    terms = Terms(plan_round(1_000, 5), robust=Robust(Rule("outliers")), device=TorchDevice(DEVICE))
    with pytest.raises(LocalError, match="robust"):
        session.roles(terms)


def test_every_block_is_in_exactly_one_batch_and_a_batch_fits_the_memory() -> None:
    block = 8 * 12 * len(PLAN.params.primes) * PLAN.params.degree
    for memory, largest in ((1, 1), (2 * block, 2), (3 * block - 1, 2), (1 << 40, PLAN.blocks)):
        batches = TorchDevice(DEVICE, memory)._batches(PLAN)
        assert [number for first, count in batches for number in range(first, first + count)] == list(range(BLOCKS))
        assert max(count for _, count in batches) == largest

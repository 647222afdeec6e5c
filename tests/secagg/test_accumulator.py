"""Adding a contribution is all or nothing, also where its last row is bad or an interruption comes in between."""

from __future__ import annotations

import signal
import threading
import time
from types import ModuleType

import numpy as np
import pytest

import secagg
from secagg import errors, kernels
from secagg import kernels_numpy as plain
from secagg.accumulator import Accumulator, InMemory, fold
from secagg.arrays import U32
from secagg.blocks import write_block
from secagg.parameters import ALLOWED
from secagg.workers import Workers

PARAMS = ALLOWED[0]
PLAN = secagg.plan_round(length=6 * 4096, max_clients=3, params=PARAMS)
SHAPE = (PLAN.blocks, 2, len(PARAMS.primes), PARAMS.degree)
PRIMES = np.array(PARAMS.primes, dtype=np.uint32)[:, None]


class BlockByBlock:
    """A sum that is no `InMemory`, as one on a device is none."""

    def __init__(self) -> None:
        self.total: U32 = np.zeros(SHAPE, dtype=np.uint32)

    def add(self, index: int, block: U32) -> None:
        plain.add_modular(self.total[index], block, PRIMES[:, 0])

    def subtract(self, index: int, block: U32) -> None:
        plain.subtract_modular(self.total[index], block, PRIMES[:, 0])

    def block(self, index: int) -> U32:
        view: U32 = self.total[index]
        return view


SUMS = {"in memory": lambda: InMemory(PLAN), "block by block": BlockByBlock}


def contribution(seed: int) -> U32:
    rng = np.random.default_rng(seed)
    residues: U32 = rng.integers(0, PRIMES, SHAPE, dtype=np.uint32)
    residues[..., :3] = np.concatenate([np.zeros_like(PRIMES), np.ones_like(PRIMES), PRIMES - 1], axis=1)
    return residues


def payload_of(residues: U32) -> bytes:
    packed = np.empty(PLAN.residue_bytes, dtype=np.uint8)
    for index, block in enumerate(residues):
        write_block(block, index, PARAMS, packed)
    return packed.tobytes()


def state(total: Accumulator) -> U32:
    return np.stack([total.block(index) for index in range(PLAN.blocks)])


@pytest.fixture(params=["numpy", "numba"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if request.param == "numba":
        module = pytest.importorskip("secagg.kernels_numba", reason="numba is not installed (extra `fast`)")
    else:
        module = plain
    for name in ("fold_packed", "unpack30", "add_modular", "subtract_modular"):
        monkeypatch.setattr(kernels, name, getattr(module, name))
    return module


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("where", SUMS)
def test_sums_are_those_of_the_residues(kernel: ModuleType, where: str, threads: int) -> None:
    total, expected = SUMS[where](), np.zeros(SHAPE, dtype=np.int64)
    with Workers(threads) as workers:
        for seed in range(4):
            residues = contribution(seed)
            fold(total, payload_of(residues), PLAN, workers)
            expected += residues
    np.testing.assert_array_equal(state(total), expected % PRIMES)


BAD = {
    "a residue that is its prime in the last row": ((-1, 1, -1, -1), "prime", errors.ResidueOutOfRange, -1),
    "a residue that is its prime in the first row": ((0, 0, 0, 0), "prime", errors.ResidueOutOfRange, 0),
    "thirty ones": ((1, 0, -1, 5), 2**30 - 1, errors.ResidueOutOfRange, 1),
    "c1 zero modulo the last prime": ((2, 1, -1), 0, errors.TransparentCiphertext, 2),
    "c1 zero modulo every prime": ((1, 1), 0, errors.TransparentCiphertext, 1),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", SUMS)
def test_a_refused_contribution_leaves_the_sum_as_it_was(
    kernel: ModuleType, where: str, bad: str, threads: int
) -> None:
    place, value, error, block = BAD[bad]
    total, residues = SUMS[where](), contribution(1)
    residues[place] = PARAMS.primes[place[2]] if value == "prime" else value
    with Workers(threads) as workers:
        fold(total, payload_of(contribution(0)), PLAN, workers)
        before = state(total)
        with pytest.raises(error, match=f"block {block % PLAN.blocks}"):
            fold(total, payload_of(residues), PLAN, workers)
    np.testing.assert_array_equal(state(total), before)


def test_a_zero_c0_is_taken(kernel: ModuleType) -> None:
    total, residues = InMemory(PLAN), contribution(1)
    residues[:, 0] = 0
    fold(total, payload_of(residues), PLAN, Workers(1))
    np.testing.assert_array_equal(state(total), residues)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("after", range(2 * PLAN.blocks))
def test_an_interruption_leaves_the_sum_as_it_was(
    kernel: ModuleType, monkeypatch: pytest.MonkeyPatch, after: int, threads: int
) -> None:
    """It may come before or after the compiled loop has added a half of a block."""
    total = InMemory(PLAN)
    fold(total, payload_of(contribution(0)), PLAN, Workers(1))
    before, calls = state(total), []

    def interrupted(*arguments: object) -> None:
        calls.append(1)
        if len(calls) > after and after % 2:
            raise KeyboardInterrupt
        kernel.fold_packed(*arguments)
        if len(calls) > after:
            raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "fold_packed", interrupted)
    with Workers(threads) as workers, pytest.raises(KeyboardInterrupt):
        fold(total, payload_of(contribution(1)), PLAN, workers)
    np.testing.assert_array_equal(state(total), before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_while_another_thread_adds_leaves_the_sum_as_it_was(
    kernel: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = InMemory(PLAN)
    fold(total, payload_of(contribution(0)), PLAN, Workers(1))
    before, begun = state(total), threading.Event()

    def late(*arguments: object) -> None:
        if threading.current_thread() is not threading.main_thread() and not begun.is_set():
            begun.set()
            time.sleep(0.05)  # the caller has added its part, and waits
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)
        kernel.fold_packed(*arguments)

    monkeypatch.setattr(kernels, "fold_packed", late)
    with Workers(2) as workers, pytest.raises(KeyboardInterrupt):
        fold(total, payload_of(contribution(1)), PLAN, workers)
    time.sleep(0.3)
    np.testing.assert_array_equal(state(total), before)


@pytest.mark.parametrize("where", SUMS)
def test_a_payload_of_another_length_is_refused_before_it_is_read(where: str) -> None:
    total, payload = SUMS[where](), payload_of(contribution(0))
    for other in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(errors.MalformedMessage, match=f"expected {PLAN.residue_bytes} bytes"):
            fold(total, other, PLAN, Workers(1))
    assert not state(total).any()

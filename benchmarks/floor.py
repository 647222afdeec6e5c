"""Compares each stage of a round with its floor: its unavoidable work at the speed of this machine.

The module measures how fast one core does each kind of work by itself (`Speeds`), counts how much of it the stages of a
round need (`works`), plays rounds on one thread, and compares both (`floors`).

A floor is the larger of two times: to move the stage's arrays through the caches once, and to compute its modular
products at the rate of a loop that does nothing else on data in the first-level cache. The times of keystream and hash
bytes are added, since one core cannot do them at the same time. A floor is not a prediction: transforms also shuffle
values, and one stage's pass over memory removes the next stage's data from the caches.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import secagg
from benchmarks.cases.encrypted import play_round
from benchmarks.errors import BenchmarkSettingsError
from benchmarks.meter import Meter
from benchmarks.workload import CLIP
from secagg.hashing import large_hash
from secagg.packing import lanes_per_row
from secagg.session import Terms

WORD = 4  # bytes of a residue in memory
BLOCK = 1 << 21  # bytes: a polynomial of all primes and its neighbours, which is what the loops work on
LARGE = 1 << 24  # bytes hashed in one go
KEYSTREAM = 1 << 19  # bytes of one call of the cipher, into memory that is there, as masks take them
REPEATS = 7


@dataclass(frozen=True)
class Speeds:
    """The speed of one core of this machine at each kind of work by itself: the best of several measurements."""

    copied: float  # bytes read, plus bytes written, of arrays the size of a block
    multiplied: float  # products modulo a 30-bit prime, in the first-level cache
    keystream: float  # bytes of AES-256-CTR
    hashed: float  # bytes of BLAKE3


@dataclass(frozen=True)
class Work:
    """The unavoidable work of a stage of one party. moved: bytes read and written once; products: modulo a prime."""

    moved: float
    products: float = 0.0
    keystream: float = 0.0  # bytes
    hashed: float = 0.0  # bytes

    def seconds(self, speeds: Speeds) -> float:
        """The floor."""
        passes = max(self.moved / speeds.copied, self.products / speeds.multiplied)
        return passes + self.keystream / speeds.keystream + self.hashed / speeds.hashed


@dataclass(frozen=True)
class Floor:
    """One line of the table. Seconds are those of one party: a client, the server per contribution, the key holder."""

    phase: str
    stage: str
    work: Work
    floor_seconds: float
    seconds: float
    closes: str  # what would bring the stage nearer


CLOSES = {
    ("client", "pack"): "one pass from update to residues instead of two",
    ("client", "encrypt"): "transforms of higher radix: fewer passes over each polynomial",
    ("client", "mask"): "folding words while they are in the first-level cache, or a sparser graph",
    ("client", "serialize"): "packing words while they are in the cache of the encryption",
    ("server", "check"): "several cores, which share the hash where they are allowed",
    ("server", "sum"): "16 residues unpacked by one vector instruction, instead of four from two words",
    ("open", "verify"): "as the masks of a client",
    ("open", "decrypt"): "digits of several lanes in one division",
    ("open", "unpack"): "memory of the average that is allocated already: its pages are new",
}


def works(plan: secagg.RoundPlan, clients: int) -> dict[tuple[str, str], Work]:
    """The work of every stage of a masked round: at one client, at the server per contribution, at the key holder."""
    degree, primes, blocks = plan.params.degree, len(plan.params.primes), plan.blocks
    polynomials = primes * blocks  # transforms of one half of a ciphertext
    half = polynomials * degree  # residues in one half
    transform = degree / 2 * math.log2(degree)  # butterflies, a product each
    payload, ciphertext = float(plan.residue_bytes), 2.0 * half * WORD
    rows = math.ceil(plan.lanes / lanes_per_row(plan))
    garner = primes * (primes - 1) / 2
    digits = (plan.lanes + 1) * (primes + 1) / 2  # divisions with remainder, about a product each
    terms = clients  # an own seed and one key for every peer
    noise = blocks * degree * (1 + 2 * 8.0)  # bytes: ternary, and two errors of 8
    return {
        ("client", "pack"): Work(plan.length * 4.0 + half * WORD, rows * half),
        ("client", "encrypt"): Work(half * WORD + ciphertext, 3 * polynomials * transform + 2 * half, noise),
        ("client", "mask"): Work(2.0 * half * WORD, 0.0, terms * half * WORD),
        ("client", "serialize"): Work(ciphertext + payload, hashed=payload),
        ("server", "check"): Work(0.0, hashed=payload),
        ("server", "sum"): Work(payload + 2 * ciphertext),
        ("open", "verify"): Work(payload + 2 * ciphertext, 0.0, clients * half * WORD, payload),
        # The fast engine decrypts and unpacks in the same loops; of unpacking, the client's division is left.
        ("open", "decrypt"): Work(
            payload / 2 + 2 * half * WORD + plan.length * 8.0,
            half + polynomials * transform + (garner + digits) * blocks * degree,
        ),
        ("open", "unpack"): Work(plan.length * 16.0),
    }


def measure_speeds() -> Speeds:
    """Speeds of this core. Raises `BenchmarkSettingsError` without numba, which compiles the loop of products."""
    try:
        from benchmarks.products import multiply_repeatedly
    except ImportError as fault:
        raise BenchmarkSettingsError("floor needs numba: run pip install -e '.[fast]' in a checkout") from fault
    source, target, hashed = np.ones(BLOCK, np.uint8), np.empty(BLOCK, np.uint8), bytes(LARGE)
    zeros, stream = bytes(KEYSTREAM), bytearray(KEYSTREAM + 16)
    cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    values, passes = np.arange(1, 4097, dtype=np.uint32), 2_000
    multiply_repeatedly(values, 1)
    return Speeds(
        copied=2 * BLOCK / _best(lambda: np.copyto(target, source)),
        multiplied=passes * values.size / _best(lambda: multiply_repeatedly(values, passes)),
        keystream=8 * KEYSTREAM / _best(lambda: [cipher.update_into(zeros, stream) for _ in range(8)]),
        hashed=LARGE / _best(lambda: large_hash(hashed, threads=1)),
    )


def floors(length: int, clients: int, value_bits: int, say: Callable[[str], None]) -> tuple[Speeds, list[Floor]]:
    """The floor and the measured seconds of every stage, on one thread. Seconds are the least of `REPEATS` rounds."""
    plan = secagg.plan_round(length=length, max_clients=clients, clip=CLIP, value_bits=value_bits)
    say("speeds of one core")
    speeds = measure_speeds()
    generator = np.random.default_rng(0)
    updates = [(0.1 * generator.standard_normal(length)).astype(np.float32) for _ in range(clients)]
    terms = Terms(plan, engine="fast", threads=1)
    least: dict[tuple[str, str], float] = {}
    with _one_thread():
        for number in range(1, REPEATS + 1):
            say(f"round {number} of {REPEATS}")
            meter = Meter()
            play_round(updates.__getitem__, clients, terms, meter)
            for key, seconds in _per_party(meter, clients):
                least[key] = min(least.get(key, math.inf), seconds)
    needed = works(plan, clients)
    return speeds, [
        Floor(phase, stage, work, work.seconds(speeds), least[phase, stage], CLOSES[phase, stage])
        for (phase, stage), work in needed.items()
    ]


def _per_party(meter: Meter, clients: int) -> Iterator[tuple[tuple[str, str], float]]:
    record: dict[str, Any] = meter.as_dict()["phases"]
    for phase, parties in (("client", clients), ("server", clients), ("open", 1)):
        for stage, found in record[phase]["stages"].items():
            yield (phase, stage), found["seconds"] / parties


@contextmanager
def _one_thread() -> Iterator[None]:
    """Restrict this process to one core, so that other threads of SEAL or numpy gain nothing."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _best(action: Callable[[], object]) -> float:
    """Least seconds of several calls."""
    seconds = math.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds


def as_dict(speeds: Speeds, found: list[Floor]) -> dict[str, Any]:
    """Ready for JSON. Speeds per second; everything else in seconds, bytes and products."""
    return {"speeds": asdict(speeds), "stages": [asdict(floor) for floor in found]}

"""Limits of single banks: memory, time and traffic. They determine batch, chunk and bits.

What it does: reads limits (TOML), estimates what a round asks of a bank, and chooses

- `value_bits` and `chunk` (coordinates sealed at once), which all banks of a roster have in common: the bank with the
  smallest limits decides;
- `batch` (rows whose gradients are in memory at once), which each bank chooses for itself; it changes the result by
  rounding only, since gradients are added up over a batch of any size;

or refuses a limit that cannot be met, by name. Bits are reduced last: first the finest grid within the limits of all
banks, then the largest chunk, then each bank's largest batch.

Estimates were measured on this project's code (docs/algorithms.md). They are of memory on top of the interpreter, the
libraries and the bank's rows. Time is measured on this machine with random numbers, never on anyone's rows; a bank's
`speed` says how its own machine compares.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from fl import options
from fl.data.federation import Rows
from fl.errors import ResourceError
from fl.learning.training import PHYSICAL_BATCH, LocalTraining, PrivateSteps, train_private, train_seeded
from fl.secure.cost import SealingCost, sealing_cost
from fl.secure.session import InProcessRounds, Joined
from fl.toml import filled, parsed, text_of

LEAST_BITS = 8  # with fewer, an update of a few hundredths of the clip is mostly rounded to 0
LEAST_BATCH = 16  # rows
BATCHES = tuple(PHYSICAL_BATCH >> shift for shift in range(7))  # 1024 ... 16
EVERYONE = "all"  # table of a limits file that applies to every bank

_MEGABYTE = 2**20  # bytes
_STATE_COPIES = 6  # of the parameters in float32: weights, gradients, momentum, start, update, vector
_SEALING_BLOCKS = 8  # scratch blocks: measured 6.3 to 6.9
_PROBE_ROWS = 512


@dataclass(frozen=True)
class BankLimits:
    """The limits of one bank; None: no limit."""

    memory_mb: Annotated[float | None, options.MEMORY_MB] = None  # on top of interpreter, libraries and rows
    seconds: Annotated[float | None, options.SECONDS] = None  # of one round's training and sealing
    bytes_per_round: Annotated[int | None, options.BYTES] = None  # that it sends
    speed: Annotated[float, options.SPEED] = 1.0  # of its machine relative to this one

    def __post_init__(self) -> None:
        options.check(self, ResourceError)


@dataclass(frozen=True)
class ResourceSettings:
    """The `[resources]` table of config.toml: a limits file, and limits of every bank that the file does not name."""

    file: Annotated[str | None, options.FILE] = None
    memory_mb: Annotated[float | None, options.MEMORY_MB] = None
    seconds: Annotated[float | None, options.SECONDS] = None
    bytes_per_round: Annotated[int | None, options.BYTES] = None

    def __post_init__(self) -> None:
        options.check(self, ResourceError)


@dataclass(frozen=True)
class RoundWork:
    """The work of a round before anything is chosen. `rows`: by bank, row gradients of one training."""

    rows: Mapping[str, int]
    inputs: int
    hidden: int  # units of all hidden layers
    length: int  # parameters
    travelling: int  # most coordinates that are sent in a round
    clients: int  # largest roster
    clip: float
    value_bits: int  # asked for
    max_weight: int
    private: bool


@dataclass(frozen=True)
class MachineSpeed:
    """How fast the measuring machine is.

    `rows_per_second`: by batch. `seconds_per_block`: of sealing one ciphertext of degree `degree`.
    """

    rows_per_second: Mapping[int, float]
    seconds_per_block: float
    degree: int


@dataclass(frozen=True)
class BankShare:
    """The work of one bank in a round, with the estimate of its memory, time and traffic."""

    batch: int  # rows at once
    memory_mb: float
    seconds: float
    bytes_per_round: int


@dataclass(frozen=True)
class ResourceChoice:
    """The values that all banks have in common, and each bank's own share."""

    value_bits: int
    chunk: int | None  # coordinates sealed at once; None: all
    banks: Mapping[str, BankShare] = field(default_factory=dict)
    limits: Mapping[str, BankLimits] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The content of resources.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ResourceChoice:
        """The inverse of `as_json`."""
        return cls(
            content["value_bits"],
            content["chunk"],
            {name: BankShare(**share) for name, share in content["banks"].items()},
            {name: BankLimits(**limits) for name, limits in content["limits"].items()},
        )


def limits_of(settings: ResourceSettings, banks: Sequence[str]) -> dict[str, BankLimits]:
    """Each bank's limits. Raises `ResourceError` for a file that cannot be read or that names an unknown bank."""
    tables: dict[str, Any] = {}
    if settings.file is not None:
        tables = parsed(text_of(Path(settings.file), ResourceError), settings.file, ResourceError)
    for name, table in tables.items():
        if name not in (EVERYONE, *banks):
            raise ResourceError(f"{settings.file}: expected tables [{EVERYONE}] or of {', '.join(banks)}, got {name!r}")
        filled(BankLimits, table, f"{settings.file}: [{name}]", ResourceError)
    common = replace(
        BankLimits(settings.memory_mb, settings.seconds, settings.bytes_per_round), **tables.get(EVERYONE, {})
    )
    return {bank: replace(common, **tables.get(bank, {})) for bank in banks}


def choose(limits: Mapping[str, BankLimits], work: RoundWork, machine: MachineSpeed) -> ResourceChoice:
    """The finest grid, the largest chunk and the largest batches within the limits of all banks.

    Raises `ResourceError` naming the bank, the limit and the smallest limit that would do.
    """
    options = list(product(range(work.value_bits, min(LEAST_BITS, work.value_bits) - 1, -1), _chunks(work.travelling)))
    for bits, chunk in options:
        cost = _cost(work, bits, chunk)
        shares = {bank: _share(limit, work, machine, bank, cost) for bank, limit in limits.items()}
        fitting = {bank: share for bank, share in shares.items() if share is not None}
        if len(fitting) == len(shares):
            return ResourceChoice(bits, chunk, fitting, dict(limits))
    raise _refusal(limits, work, machine, options)


def measure_machine(module: nn.Module, local: LocalTraining, private: PrivateSteps | None, inputs: int) -> MachineSpeed:
    """Measure the time of local training at every batch size, and of sealing, on random numbers. Takes 1 to 2 s."""
    rng = np.random.default_rng(0)
    index = np.arange(_PROBE_ROWS, dtype=np.int64)
    probe = Rows(
        rng.standard_normal((_PROBE_ROWS, inputs)).astype(np.float32),
        (index % 8 == 0).astype(np.float32),
        np.zeros(_PROBE_ROWS, np.int32),
        index,
        index,
    )
    rates = {batch: _PROBE_ROWS / _train_seconds(module, probe, local, private, batch) for batch in BATCHES}
    names = ("a", "b", "c")
    rounds = InProcessRounds(names, clip=1.0, quorum=3)
    update = rng.uniform(-1, 1, 4000).astype(np.float32)
    joined = Joined(names, tuple(update * part for part in (0.1, 0.2, 0.3)), (1, 1, 1), "00" * 32)
    stages = rounds.average(joined, 16).stages
    cost = sealing_cost(4000, clients=3, clip=1.0, value_bits=16)
    sealing = sum(stages[name] for name in ("pack", "encrypt", "mask", "serialize"))
    return MachineSpeed(rates, sealing / (3 * cost.blocks), cost.degree)


def _train_seconds(
    module: nn.Module, rows: Rows, local: LocalTraining, private: PrivateSteps | None, batch: int
) -> float:
    """Seconds of one pass over `rows`, `batch` at once: the faster of two passes, because the first is slower."""
    device, taken = torch.device("cpu"), []
    for _ in range(2):
        clock = time.perf_counter()
        if private is not None:
            once = replace(private, sample_rate=1.0, steps=1)
            train_private(module, rows, local, once, device=device, at_once=batch)
        else:
            train_seeded(module, rows, replace(local, epochs=1), seed=0, device=device, at_once=batch)
        taken.append(time.perf_counter() - clock)
    return min(taken)


def _chunks(length: int) -> list[int | None]:
    """Sizes of a chunk: the whole vector (None), then smaller sizes down to the values of the smallest ciphertext."""
    smallest = 4096
    pieces = []
    size = length
    while size > smallest:
        size = -(-size // 2)
        pieces.append(size)
    return [None, *pieces]


def _cost(work: RoundWork, bits: int, chunk: int | None) -> SealingCost:
    length, clients, weight = work.travelling, work.clients, work.max_weight
    return sealing_cost(length, clients=clients, clip=work.clip, value_bits=bits, max_weight=weight, chunk=chunk)


def memory_bytes(work: RoundWork, cost: SealingCost, batch: int) -> int:
    """Memory of a bank in a round. Training and sealing do not overlap; copies of the model exist all the time."""
    per_row = 8 * (work.inputs + 3 * work.hidden)  # activations and their gradients
    if work.private:
        per_row += 8 * work.length  # one gradient per row, and a product of it
    return _STATE_COPIES * 4 * work.length + max(batch * per_row, cost.payload_bytes(_SEALING_BLOCKS))


def _seconds(work: RoundWork, machine: MachineSpeed, bank: str, cost: SealingCost, batch: int, speed: float) -> float:
    training = work.rows[bank] / machine.rows_per_second[batch]
    sealing = cost.blocks * machine.seconds_per_block * cost.degree / machine.degree
    return (training + sealing) / speed


def _share(limit: BankLimits, work: RoundWork, machine: MachineSpeed, bank: str, cost: SealingCost) -> BankShare | None:
    """The bank's largest batch within its limits; None when there is none."""
    if limit.bytes_per_round is not None and cost.bytes_up > limit.bytes_per_round:
        return None
    for batch in BATCHES:
        memory = memory_bytes(work, cost, batch) / _MEGABYTE
        seconds = _seconds(work, machine, bank, cost, batch, limit.speed)
        fits = limit.memory_mb is None or memory <= limit.memory_mb
        if fits and (limit.seconds is None or seconds <= limit.seconds):
            return BankShare(batch, memory, seconds, cost.bytes_up)
    return None


def _refusal(
    limits: Mapping[str, BankLimits], work: RoundWork, machine: MachineSpeed, options: Sequence[tuple[int, int | None]]
) -> ResourceError:
    """The error for the first limit that no choice can meet, with the smallest limit that would do; else for all."""
    costs = [_cost(work, bits, chunk) for bits, chunk in options]
    for bank, limit in limits.items():
        memory = min(memory_bytes(work, cost, LEAST_BATCH) for cost in costs) / _MEGABYTE
        seconds = min(_seconds(work, machine, bank, cost, batch, limit.speed) for cost in costs for batch in BATCHES)
        sent = min(cost.bytes_up for cost in costs)
        for name, asked, least in (
            ("memory_mb", limit.memory_mb, memory),
            ("seconds", limit.seconds, seconds),
            ("bytes_per_round", limit.bytes_per_round, sent),
        ):
            if asked is not None and asked < least:
                enough = str(least) if isinstance(least, int) else f"{least:.4g}"
                return ResourceError(
                    f"{bank}: {name} {asked:g} is too little: a round takes {enough} or more; raise it, send "
                    "fewer layers (--option layers=...), or leave the bank out"
                )
    lone = [bank for bank, limit in limits.items() if all(_share(limit, work, machine, bank, c) is None for c in costs)]
    who = ", ".join(lone or limits)
    return ResourceError(
        f"{who}: each limit can be met alone, but no batch, chunk and value_bits meet all of them: raise one of them"
    )

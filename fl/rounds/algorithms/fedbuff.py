"""FedBuff: a round closes as soon as K banks have finished, without waiting for the slowest bank.

    a bank takes the newest model w_b, trains as long as it needs, and joins the round that is open then
    round t closes at K joins:  w_t = w_(t-1) + server_lr / K * sum over joined k of s(t - 1 - b_k) * update_k
    s(staleness) = 1 / sqrt(1 + staleness), as an integer weight in 1..max_weight over max_weight

Source: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous
Aggregation", AISTATS 2022, Algorithm 1; s is its polynomial staleness function.

Changes by encryption: The buffer is a roster. Banks join when they finish, the key holder closes the roster at K joins,
and the K banks encrypt their updates for exactly that roster. Updates refer to several models, so the offer contains a
hash over the list of allowed base models (`model_hash`). Every bank knows those models from releases that it verified,
hashes the list itself, and answers no offer with another hash. The sum of the weights is released, single weights are
not. Whoever delivers the models can see when a bank last took one.

Time is simulated: `Clock` is a public table of how many ticks each bank trains. Under differential privacy, a
bank records its spending when it begins a training, whether or not it enters a round.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np

from fl import options
from fl.errors import AlgorithmError
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.state import ReleasedAverage, Seat, State, Vector

BUFFER = 3
MAX_WEIGHT = 8
DURATIONS = (1, 2, 3)  # ticks


@dataclass(frozen=True)
class Clock:
    """A timetable in which bank i trains for `durations[i]` ticks and a round closes at `buffer` joins.

    Equal finishing times are ordered by position. Raises `AlgorithmError`.
    """

    durations: Annotated[tuple[int, ...], options.DURATIONS]  # one per bank
    buffer: Annotated[int, options.BUFFER]  # K
    max_weight: Annotated[int, options.MAX_WEIGHT]

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "fedbuff: ")
        if self.buffer > len(self.durations):
            raise AlgorithmError(
                f"fedbuff: a buffer of {self.buffer} joins cannot be filled by {len(self.durations)} banks"
            )

    @property
    def largest(self) -> int:
        return self.buffer

    def seats(self, number: int) -> tuple[Seat, ...]:
        finishing = _under_way(self.durations, self.buffer, number - 1)[: self.buffer]
        return tuple(
            Seat(bank, base, staleness_weight(number - 1 - base, self.max_weight))
            for _, bank, base in sorted(finishing, key=lambda training: training[1])
        )

    def starting(self, number: int, *, resumed: bool = False) -> tuple[int, ...]:
        if number == 1 or resumed:
            return tuple(range(len(self.durations)))
        return tuple(seat.bank for seat in self.seats(number - 1))

    def bases(self, number: int) -> frozenset[int]:
        """Models that some bank trains from after round `number` was released."""
        return frozenset(base for _, _, base in _under_way(self.durations, self.buffer, number))


def _under_way(durations: tuple[int, ...], buffer: int, number: int) -> tuple[tuple[int, int, int], ...]:
    """(tick at which it ends, bank, base) of every training after round `number` was released, earliest end first."""
    for earlier in range(number):  # fills the cache, so that no call recurses deeper than one round
        _after(durations, buffer, earlier)
    return _after(durations, buffer, number)


@cache
def _after(durations: tuple[int, ...], buffer: int, number: int) -> tuple[tuple[int, int, int], ...]:
    if number == 0:
        return tuple(sorted((ticks, bank, 0) for bank, ticks in enumerate(durations)))
    before = _after(durations, buffer, number - 1)
    joined, waiting = before[:buffer], before[buffer:]
    now = joined[-1][0]
    return tuple(sorted([*waiting, *((now + durations[bank], bank, number) for _, bank, _ in joined)]))


def staleness_weight(staleness: int, max_weight: int) -> int:
    """s(staleness) * max_weight as an integer, at least 1."""
    return max(1, round(max_weight / math.sqrt(1 + staleness)))


@dataclass(frozen=True)
class FedBuff(FedAvg):
    """`server_lr`: step along the buffer's mean. Raises `AlgorithmError`."""

    name: ClassVar[str] = "fedbuff"
    timetable: Clock
    server_lr: Annotated[float, options.SERVER_LR] = 1.0

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "fedbuff: ")

    @property
    def max_weight(self) -> int:
        return self.timetable.max_weight

    def begin(self, first: Vector) -> State:
        return State(first, {_name(0): first})

    def trains_from(self, state: State, seat: Seat) -> Vector:
        base = state.memory[_name(seat.base)]
        assert base.dtype == np.float32
        return base

    def model_hash(self, state: State, hash_of: Callable[[Vector], str]) -> str:
        return base_models_hash({_number(name): hash_of(model) for name, model in state.memory.items()})

    def apply(self, state: State, released: ReleasedAverage) -> State:
        share = self.server_lr * released.total_weight / (self.max_weight * released.contributors)
        model = (state.model + share * released.average).astype(np.float32)
        needed = self.timetable.bases(released.number)
        kept = {name: base for name, base in state.memory.items() if _number(name) in needed}
        return State(model, {**kept, _name(released.number): model})


def base_models_hash(models: dict[int, str]) -> str:
    """The hash in a round's offer: SHA-256 over a tag and the number and hash of each allowed base, ascending.

    `models`: hash (64 hexadecimal digits) of each base, by the number of the round that released it.
    """
    digest = hashlib.sha256(b"fl base models v1")
    for number, model in sorted(models.items()):
        digest.update(struct.pack("<Q", number) + bytes.fromhex(model))
    return digest.hexdigest()


def _name(number: int) -> str:
    """Name of a base model in the state's memory."""
    return f"model {number}"


def _number(name: str) -> int:
    return int(name.removeprefix("model "))

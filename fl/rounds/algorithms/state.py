"""Types of all algorithms: the state between two rounds, a bank's seat in a round, and the released average.

An algorithm (`fl.rounds.algorithms.fedavg.FedAvg` and its subclasses) is a value without state: it makes the first
`State`, and makes the next one from a state and a released average. All that a run keeps from round to round is in the
state, hence in the checkpoint, so that a resumed run continues bit for bit.

Style: `init` and `apply` of google/fedjax, with the server's aggregation taken out: here it is an encrypted sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class State:
    """A run between two rounds.

    `model`: float32[length], the same at all banks. `memory`: the algorithm's own arrays by name, float32 or
    float64.
    """

    model: Vector = field(repr=False)
    memory: Mapping[str, NDArray[np.floating]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Seat:
    """One bank's part in a round: it trained from the model after round `base`, and has the weight `weight`."""

    bank: int  # position among the run's banks
    base: int  # number of a round; 0: the first model
    weight: int = 1


@dataclass(frozen=True)
class ReleasedAverage:
    """The released result of a round, which all its members know.

    `average`: float64[length], sum(weight * update) / total_weight, 0 where nothing was sent. `sent`: bool[length],
    the coordinates that were sent. `total_weight`: over all contributors.
    """

    number: int
    average: NDArray[np.float64] = field(repr=False)
    sent: NDArray[np.bool_] = field(repr=False)
    contributors: int
    total_weight: int


class Timetable(Protocol):
    """The banks that train in each round. It is a function of public settings, so all know it in advance."""

    @property
    def largest(self) -> int:
        """Most seats that a round can have."""

    def seats(self, number: int) -> tuple[Seat, ...]:
        """The seats of round `number`, ascending by bank."""

    def starting(self, number: int, *, resumed: bool = False) -> tuple[int, ...]:
        """Banks that begin a training when round `number` is offered.

        `resumed`: the process with the unfinished trainings has ended, and they begin again.
        """


def trainings(timetable: Timetable, rounds: int) -> int:
    """Most trainings that any bank begins in `rounds` rounds. The noise for the lifelong budget is calibrated to it."""
    begun: dict[int, int] = {}
    for number in range(1, rounds + 1):
        for bank in timetable.starting(number):
            begun[bank] = begun.get(bank, 0) + 1
    return max(begun.values(), default=0)


def affordable_rounds(
    timetable: Timetable, rounds: int, finished: int, begun: Mapping[int, int], allowance: int
) -> int:
    """Number of the last round that a resumed run can finish without any bank training more than `allowance` times.

    `begun`: trainings that each bank has recorded so far, interrupted ones included.
    """
    count = dict(begun)
    for number in range(finished + 1, rounds + 1):
        for bank in timetable.starting(number, resumed=number == finished + 1):
            count[bank] = count.get(bank, 0) + 1
            if count[bank] > allowance:
                return number - 1
    return rounds

"""Decide which banks take part in a round, and simulate banks that vanish.

- `Everyone` and `Sampled` are timetables. A sample is drawn from the run's seed, which is public, so it amplifies
  no epsilon: everybody knows which banks took part.
- `Dropouts` is a simulation of banks that vanish. A bank that vanishes before the roster closes is left out, with
  no effect on others. If it vanishes later, its masks are missing and the sum is noise: the key holder signs an abort
  that names the bank, and the round is offered again without it, at most `retries` times.

After an abort, an update may enter only a roster of identical members: otherwise the difference of the two sums would
reveal updates (`secagg.journal`). A retry has other members, so the remaining banks train again, with new noise, and
record the spending. Without differential privacy, `reuse` allows them to send the same update again.

Source: partial participation as in McMahan et al., AISTATS 2017 (C, the fraction of clients per round); dropouts before
and after the roster as in docs/protocol.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fl import options
from fl.errors import AlgorithmError
from fl.rounds.algorithms.state import Seat
from fl.seeds import derive_seed


@dataclass(frozen=True)
class Everyone:
    """All `banks` take part in every round."""

    banks: int

    @property
    def largest(self) -> int:
        return self.banks

    def seats(self, number: int) -> tuple[Seat, ...]:
        return tuple(Seat(bank, number - 1) for bank in range(self.banks))

    def starting(self, number: int, *, resumed: bool = False) -> tuple[int, ...]:
        return tuple(range(self.banks))


@dataclass(frozen=True)
class Sampled:
    """A `fraction` of the `banks`, rounded up, at least `least`, drawn anew for every round; or `AlgorithmError`."""

    banks: Annotated[int, options.BANKS]
    fraction: Annotated[float, options.FRACTION]
    least: Annotated[int, options.BANKS]
    seed: Annotated[int, options.SEED]

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "participation: ")
        if self.least > self.banks:
            raise AlgorithmError(f"participation: a quorum of {self.least} needs as many banks, got {self.banks}")

    @property
    def largest(self) -> int:
        return max(self.least, math.ceil(self.fraction * self.banks))

    def seats(self, number: int) -> tuple[Seat, ...]:
        return tuple(Seat(bank, number - 1) for bank in self.starting(number))

    def starting(self, number: int, *, resumed: bool = False) -> tuple[int, ...]:
        rng = np.random.default_rng(derive_seed(self.seed, "participation", number))
        return tuple(sorted(int(bank) for bank in rng.choice(self.banks, self.largest, replace=False)))


@dataclass(frozen=True)
class Dropouts:
    """How often banks vanish, how often a round is offered again, and with which updates.

    `before`, `after`: probability of one bank vanishing before or after its roster closes, in every attempt.
    """

    before: Annotated[float, options.PROBABILITY] = 0.0
    after: Annotated[float, options.PROBABILITY] = 0.0
    retries: Annotated[int, options.RETRIES] = 2
    reuse: bool = False
    seed: Annotated[int, options.SEED] = 0

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "dropouts: ")

    def vanished(self, number: int, attempt: int, banks: Sequence[int]) -> tuple[frozenset[int], frozenset[int]]:
        """(banks that vanish before the roster closes, banks that vanish after it) among `banks`."""
        rng = np.random.default_rng(derive_seed(self.seed, "dropouts", number, attempt))
        draws = dict(zip(banks, rng.random((len(banks), 2)).tolist(), strict=True))
        early = frozenset(bank for bank in banks if draws[bank][0] < self.before)
        late = frozenset(bank for bank in banks if bank not in early and draws[bank][1] < self.after)
        return early, late

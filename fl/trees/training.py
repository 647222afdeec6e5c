"""Play a training of trees in one process: ask for a sum, add up what the banks contribute, go on.

`pooled` rows are a federation of one member. Between machines every bank holds its own `Member` and the same
`Progress`, and whoever leads a round only has to carry the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fl.errors import AggregationError
from fl.secure.session import encrypted_sum
from fl.trees.member import Member
from fl.trees.packing import pack, packed_length, unpack
from fl.trees.progress import Progress, Request
from fl.trees.settings import Terms

Integers = NDArray[np.int64]
# The request, and one int64[values] per bank -> int64[values], their sum
Sum = Callable[[Request, Sequence[Integers]], Integers]

CUT = 31  # bits of a packed integer: what one lane of an encrypted sum holds of a bank


def grow(members: Sequence[Member], terms: Terms, add: Sum, progress: Progress | None = None) -> Iterator[Progress]:
    """The progress after each sum, from `progress` on; the last one has the model.

    Raises `AggregationError` where the members are not as many as the terms say, and whatever `add` raises.
    """
    if len(members) != terms.members:
        raise AggregationError(f"expected {terms.members} members by the terms, got {len(members)}")
    state = Progress.of(terms) if progress is None else progress
    while not state.finished:
        state = state.after(add(state.request, [member.contribution(state) for member in members]))
        yield state


def add_plainly(request: Request, contributions: Sequence[Integers]) -> Integers:
    """The sum without encryption."""
    total: Integers = np.sum(contributions, axis=0)
    return total


@dataclass
class EncryptedSums:
    """Sums that nobody can separate, each in a masked encrypted round of its own, and what they have taken so far.

    `bytes_up`, `bytes_down`: of all banks together. `seconds`: of the rounds, without one-time preparation.
    """

    engine: str = "auto"
    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    by_round: list[float] = field(default_factory=list, repr=False)

    def __call__(self, request: Request, contributions: Sequence[Integers]) -> Integers:
        """The sum. Raises what `encrypted_sum` and `pack` raise."""
        packed = [pack(each, request.widths, CUT) for each in contributions]
        summed = encrypted_sum(
            [partial(_drawn, each) for each in packed],
            length=packed_length(request.widths, CUT),
            largest=(1 << CUT) - 1,
            model_hash=request.name,
            engine=self.engine,
        )
        self.rounds += 1
        self.bytes_up += summed.bytes_up
        self.bytes_down += summed.bytes_down
        self.seconds += summed.seconds
        self.by_round.append(summed.seconds)
        return unpack(summed.totals, request.widths, CUT)


def _drawn(packed: Integers, roster: int) -> Integers:
    """A bank's integers do not depend on the roster: there is no noise in them."""
    return packed

"""Play a training of trees in one process: ask for a sum, add up what the banks contribute, go on.

Pooled rows are a federation of one member. Between machines every bank holds its own `Member` and the same
`Progress`, and whoever leads a round only has to carry the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fl.errors import AggregationError
from fl.secure.cost import cost_of_integers
from fl.secure.session import IntegerRounds, IntegerSum
from fl.trees.member import Member
from fl.trees.packing import pack, packed_length, unpack
from fl.trees.progress import Progress, Request
from fl.trees.settings import Terms

Integers = NDArray[np.int64]
# The request, and one int64[values] per bank -> int64[values], their sum
Sum = Callable[[Request, Sequence[Integers]], Integers]

CUTS = range(16, 40)  # bits of a packed integer; an encrypted sum takes integers of at most 39 bits from a bank


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


def cut_for(widths: Integers, members: int) -> int:
    """The size of packed integers, in bits, at which a bank sends and receives least: the same at every bank.

    `widths`: of the fields. A round of few values fills one ciphertext, whatever their size. Raises `AggregationError`
    where no plan fits.
    """
    costs = {}
    for cut in CUTS:
        try:
            cost = cost_of_integers(packed_length(widths, cut), (1 << cut) - 1, members)
        except AggregationError:
            continue
        costs[cut] = cost.bytes_up + cost.key_bytes
    if not costs:
        raise AggregationError(f"a sum of {int(widths.sum()):,} bits from {members} banks cannot be encrypted")
    return min(costs, key=lambda cut: (costs[cut], -cut))


def sum_encrypted(
    request: Request, contributions: Sequence[Integers], engine: str = "auto", rounds: IntegerRounds | None = None
) -> IntegerSum:
    """The sum as a masked encrypted round of its own, with keys of its own. `totals`: int64[values], of the fields.

    `rounds`: of the federation whose sums follow each other, in place of a new one with `engine`. Raises what
    `IntegerRounds` and `pack` raise.
    """
    rounds = rounds or IntegerRounds(len(contributions), engine=engine)
    cut = cut_for(request.widths, len(contributions))
    packed = [pack(each, request.widths, cut) for each in contributions]
    summed = rounds.sum(
        [partial(_as_they_are, each) for each in packed],
        length=packed_length(request.widths, cut),
        largest=(1 << cut) - 1,
        model_hash=request.name,
    )
    return replace(summed, totals=unpack(summed.totals, request.widths, cut))


def _as_they_are(packed: Integers, roster: int) -> Integers:
    """A bank's integers hold no noise, so they do not depend on the roster."""
    return packed

"""The average of the updates that a robust rule keeps.

`secagg.rules` decides from inner products alone. In plain sight they are those of the updates themselves, each clipped
as the aggregation clips it, since what is judged must be what is added. `docs/threat-model.md` says what a rule
promises and what it costs in trust.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fl.errors import AggregationError, RuleRefusedRound
from fl.secure.rule_settings import RobustSettings
from fl.secure.session import Aggregate, Joined, plain_sum
from secagg.rules import select


def robust_plain_sum(joined: Joined, *, clip: float, settings: RobustSettings) -> Aggregate:
    """Average those whom the rule keeps, without encryption; whoever computes it sees every update.

    Raises `BanksVanished` as `plain_sum`, and `RuleRefusedRound` where the rule keeps too few.
    """
    clipped = np.stack([np.clip(np.asarray(update, dtype=np.float64), -clip, clip) for update in joined.updates])
    gram = clipped @ clipped.T
    verdict = select((gram + gram.T) / 2, settings.asked)  # BLAS need not sum both halves in one order
    if not verdict.kept:
        raise RuleRefusedRound(verdict.reason, ())
    return plain_sum_of(joined, verdict.kept, clip=clip)


def plain_sum_of(joined: Joined, kept: tuple[int, ...], *, clip: float) -> Aggregate:
    """The average of the members at positions `kept` alone, without encryption. `clipped` is that of all members."""
    few = replace(
        joined,
        banks=tuple(joined.banks[i] for i in kept),
        updates=tuple(joined.updates[i] for i in kept),
        weights=tuple(joined.weights[i] for i in kept),
    )
    everyone = tuple(int((np.abs(update) > clip).sum()) for update in joined.updates)
    return replace(plain_sum(few, clip=clip), clipped=everyone, kept=kept)


def plain_sum_without(joined: Joined, banks: frozenset[str], *, clip: float) -> Aggregate:
    """The average of all members but `banks`, as if their attack had been known: a bound for every rule.

    Raises `AggregationError` when nobody else is in the roster.
    """
    kept = tuple(i for i, name in enumerate(joined.banks) if name not in banks)
    if not kept:
        raise AggregationError(f"round {joined.number}: the roster holds attackers only: raise --fraction")
    return plain_sum_of(joined, kept, clip=clip)

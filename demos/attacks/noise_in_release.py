"""Attack 12: exact sums reveal the signs of the encryption noise.

The aggregator adds B, the bound of the noise, to every coefficient of the sum. If the noise digit is only as wide as
the noise, 2B + 1, it overflows exactly where the noise is positive, and the overflow moves into the lowest lane. The
rest of the digit stays in range, so every check passes, and the lowest lane is one too high exactly where the noise was
positive. The noise is u*e + e0 + e1*s, and Li and Micciancio (EUROCRYPT 2021) recover the key from results that contain
it.

What stops it here: the digit is 4B + 1 wide, and only noise within +-B is accepted. Whatever was added, two noises that
both pass cause the same carry into the lanes (docs/parameters.md, "What a release may carry").
"""

from __future__ import annotations

import dataclasses

from demos.attacks import federation
from demos.attacks.federation import CLIENTS, Federation
from demos.attacks.verdict import Attack, Attempt, Control, Loot, Shipped, judge
from secagg import RoundPlan, plan_round
from secagg.arrays import U32
from secagg.ring import ring_of


class NarrowPlan(RoundPlan):
    """A plan whose noise digit is only 2B + 1 wide: one bit less per coefficient. All else is as in `RoundPlan`."""

    @property
    def span(self) -> int:
        return 2 * self.noise_bound + 1


def narrow(plan: RoundPlan) -> NarrowPlan:
    """The same plan with the narrow digit."""
    return NarrowPlan(*(getattr(plan, field.name) for field in dataclasses.fields(plan)))


def lifted(cast: Federation, by: int) -> U32:
    """`by` in every coefficient of every block, to be added to a c0."""
    blocks = cast.constant(0, by)
    for block in blocks:
        ring_of(cast.plan.params).to_ntt(block[0])
    return blocks


def control() -> Control:
    """Masks are on. The round has as many clients as the plan admits, so that the accepted noise fills its digit."""
    cast = Federation(plan=narrow(_plan()))
    collected = cast.collect()
    total = cast.honest_sum(collected)
    noise = cast.noise(total)[0]
    release = cast.key_holder.release(
        cast.signed_sum(collected, cast.added(total, lifted(cast, cast.plan.noise_bound)))
    )
    difference = release.sums - cast.integers()
    degree = cast.plan.params.degree
    matching = int((difference[:degree] == (noise > 0)).sum())
    return Control(
        "this project with a noise digit of 2B + 1",
        matching == degree and not difference[degree:].any(),
        f"released; the exact sums carry the sign of {matching} of {degree} noises",
    )


def shipped() -> Shipped:
    """The same shift up and down, shifts to the edges of the next digit, and a shift by 1, which passes."""
    bound, span = _plan().noise_bound, _plan().span

    def shift(by: int) -> Attempt:
        def attempt() -> Loot:
            cast = Federation(plan=_plan())
            collected = cast.collect()
            total = cast.added(cast.honest_sum(collected), lifted(cast, by))
            release = cast.key_holder.release(cast.signed_sum(collected, total))
            difference = release.sums - cast.integers()
            return Loot(cast.estimate(difference), cast.victim, accepted=bool(difference.any()))

        return attempt

    return judge(
        [shift(by) for by in (bound, -bound, span // 2, span - bound, 1)],
        note="a shift by 1 passes and changes no digit",
    )


def _plan() -> RoundPlan:
    return plan_round(federation.LENGTH, max_clients=CLIENTS, params=federation.SMALL)


ATTACK = Attack(
    "noise-in-the-release",
    "add the noise bound to every coefficient and read signs of noise in the exact sums",
    control,
    shipped,
)

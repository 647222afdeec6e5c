"""A release and the average in it: what a client, an aggregator or a bystander reads out of the key holder's message.

`read_release` checks what anybody can check who holds the enrolment list and the plan. The reader's own journal says
whether the reader took part in the round of the release, and whether it accepted the release before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from secagg import packing
from secagg.arrays import F64
from secagg.enrolment import Enrolment
from secagg.errors import WrongPlan, WrongRound
from secagg.messages import Release
from secagg.plan import RoundPlan
from secagg.stages import StageClock
from secagg.verification import check_signature
from secagg.workers import Workers


@dataclass(frozen=True)
class Average:
    """The result of a round. values: float64[length], the weighted mean of the clipped updates.

    error_bound: |values - exact weighted mean| per value. total_weight: sum of the contributions' weights.
    contributors: number of clients in the sum. release_hash: 32 bytes that name the release, for a journal.
    """

    values: F64 = field(repr=False)
    error_bound: float
    total_weight: int
    contributors: int
    release_hash: bytes = field(repr=False)


def read_release(
    release: Release,
    enrolment: Enrolment,
    plan: RoundPlan,
    *,
    threads: int | None = None,
    clock: StageClock | None = None,
) -> Average:
    """Check that the enrolled key holder signed this release under this plan, and divide its sums.

    threads: all cores when None; 2 are of use, to divide while the signature is checked. clock: adds up the time of the
    stages "check" and "unpack". Raises `WrongRound` for another session, `WrongPlan`,
    `UnknownClient` and `BadSignature` for another signer, `MalformedMessage` for sums that so many clients cannot have.
    """
    clock = clock or StageClock()
    header = release.header
    if header.session != enrolment.session:
        raise WrongRound("session: the release is of another federation: refuse it")
    if header.plan != plan.fingerprint:
        raise WrongPlan("plan: the release is of a round under another plan: refuse it")
    sums = packing.IntegerSums(release.sums, release.total_weight)
    with Workers(threads, plan.residue_bytes, most=2) as workers:
        dividing = workers.start(partial(packing.checked_average, sums, plan, release.contributors))
        with clock.stage("check"):
            release_hash = check_signature(release, enrolment.key_holder.key)
        with clock.stage("unpack"):
            values = dividing()
    return Average(values, packing.error_bound(plan), release.total_weight, release.contributors, release_hash)

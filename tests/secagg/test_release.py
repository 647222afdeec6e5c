"""read_release: the average of what the enrolled key holder signed, for anybody who holds the list and the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulator import Federation, Peers

import secagg
from secagg.errors import BadSignature, MalformedMessage, UnknownClient, WrongPlan, WrongRound
from secagg.messages import Release
from secagg.transcript import message_hash, signed_bytes

FEDERATION = Federation(clients=3, length=20)
UPDATES = [FEDERATION.update(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def release() -> Release:
    return Peers(FEDERATION).round(1, UPDATES)


def signed(release: Release, identity: secagg.Identity = FEDERATION.authority) -> Release:
    return replace(release, signature=identity.sign(signed_bytes(release)))


def test_a_bystander_reads_the_average_that_the_members_had(release):
    average = secagg.read_release(release, FEDERATION.enrolment, FEDERATION.plan)
    exact = np.mean([np.clip(update, -1, 1) for update in UPDATES], axis=0)
    assert np.abs(average.values - exact).max() <= average.error_bound
    assert (average.contributors, average.total_weight) == (3, 3)
    assert average.release_hash == message_hash(release)


def test_a_changed_value_is_refused(release):
    changed = replace(release, sums=release.sums + 1)
    with pytest.raises(BadSignature):
        secagg.read_release(changed, FEDERATION.enrolment, FEDERATION.plan)


def test_a_release_that_somebody_else_signed_is_refused(release):
    server = replace(release, header=replace(release.header, sender=FEDERATION.server.key))
    with pytest.raises(UnknownClient):
        secagg.read_release(signed(server, FEDERATION.server), FEDERATION.enrolment, FEDERATION.plan)


def test_a_release_of_another_federation_is_refused_before_its_signature_is_looked_at(release):
    elsewhere = Federation(clients=3, length=20)
    with pytest.raises(WrongRound):
        secagg.read_release(release, elsewhere.enrolment, elsewhere.plan)


def test_a_release_under_another_plan_is_refused(release):
    other = secagg.plan_round(length=20, max_clients=3, clip=2.0)
    with pytest.raises(WrongPlan):
        secagg.read_release(release, FEDERATION.enrolment, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"sums": np.full(20, 10**9)},
        {"sums": np.zeros(19, np.int64)},
        {"total_weight": 2},
        {"total_weight": 4},
        {"contributors": 4},
    ],
)
def test_sums_that_so_many_clients_cannot_have_are_refused_although_they_are_signed(release, changes):
    with pytest.raises(MalformedMessage):
        secagg.read_release(signed(replace(release, **changes)), FEDERATION.enrolment, FEDERATION.plan)


def test_the_time_is_added_to_the_callers_clock(release):
    clock = secagg.StageClock()
    secagg.read_release(release, FEDERATION.enrolment, FEDERATION.plan, clock=clock)
    assert clock.stages["check"].seconds > 0 and clock.stages["unpack"].seconds > 0

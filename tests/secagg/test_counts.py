"""One rule for every count that a caller passes: integers of Python's and numpy's, within a range, and nothing else."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from simulator import MODEL, Federation

import secagg
from secagg.errors import LocalError, PlanError, WeightOutOfRange
from secagg.workers import Workers

FEDERATION = Federation(clients=3, max_weight=7)
PLAN, BANK = FEDERATION.plan, FEDERATION.banks[0]
UPDATES = [FEDERATION.update(seed) for seed in range(3)]


def planned(**changes):
    return secagg.plan_round(**{"length": 100, "max_clients": 3, "value_bits": 8, "max_weight": 2, **changes})


def client(**changes):
    return secagg.Client(BANK, FEDERATION.enrolment, PLAN, **changes)


def key_holder(**changes):
    return secagg.KeyHolder(FEDERATION.authority, FEDERATION.enrolment, PLAN, **changes)


def contributed(weight):
    peers = FEDERATION.client(0), FEDERATION.client(1)
    holder = FEDERATION.key_holder()
    offer = holder.open(1, MODEL)
    for each in peers:
        holder.receive_join(each.join(offer, MODEL))
    return peers[0].contribute(holder.close_roster(), UPDATES[0], weight)


def played(**changes):
    return secagg.run_round(UPDATES, plan=PLAN, **{"quorum": 2, "threads": 1, **changes})


# Name -> the call, a right value, one below the range, one above it, and the error.
COUNTS = {
    "length": (lambda n: planned(length=n), 2, 0, 2**34, PlanError),
    "max_clients": (lambda n: planned(max_clients=n), 3, 0, 2**17, PlanError),
    "value_bits": (lambda n: planned(value_bits=n), 8, 1, 41, PlanError),
    "max_weight": (lambda n: planned(max_weight=n), 3, 0, 2**21, PlanError),
    "quorum of a client": (lambda n: client(quorum=n), 2, 1, 4, PlanError),
    "quorum of a key holder": (lambda n: key_holder(quorum=n), 2, 1, 4, PlanError),
    "quorum of a round": (lambda n: played(quorum=n), 2, 1, 4, PlanError),
    "threads of a client": (lambda n: client(threads=n), 1, 0, 10**6, PlanError),
    "threads of a key holder": (lambda n: key_holder(threads=n), 1, 0, 10**6, PlanError),
    "threads of a round": (lambda n: played(threads=n), 1, 0, 10**6, PlanError),
    "threads of getting ready": (lambda n: secagg.prepare(PLAN, threads=n), 1, 0, 10**6, PlanError),
    "threads of workers": (Workers, 1, 0, 10**6, PlanError),
    "model_repeats": (lambda n: client(model_repeats=n), 2, -1, 2**31, LocalError),
    "step": (lambda n: key_holder().open(n, MODEL), 5, -1, 2**63, LocalError),
    "step of an outcome": (lambda n: key_holder().outcome(n), 5, -1, 2**63, LocalError),
    "step of a release": (lambda n: key_holder().stored_release(n), 5, -1, 2**63, LocalError),
    "weight": (contributed, 3, 0, 8, WeightOutOfRange),
    "weights of a round": (lambda n: played(weights=[n, 1, 1]), 3, 0, 8, WeightOutOfRange),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_an_integer_of_pythons_or_numpys_within_its_range(name):
    call, right, below, above, error = COUNTS[name]
    for value in (right, np.int64(right), np.uint8(right), np.int32(right)):
        call(value)
    wrong = (below, above, float(right), np.float64(right), True, np.True_, str(right), Fraction(right), [right])
    for value in (*wrong, float("nan"), float("inf"), np.array(right), np.array([right])):
        with pytest.raises(error, match=f"^{name.split()[0].removesuffix('s')}s?: expected an integer in "):
            call(value)


def test_what_is_kept_of_a_numpy_integer_is_pythons():
    narrow = secagg.plan_round(np.int32(1000), np.int32(60_000), 1.0, np.int8(16), np.int32(100))
    wide = secagg.plan_round(1000, 60_000, 1.0, 16, 100)
    assert narrow == wide and narrow.fingerprint == wide.fingerprint
    assert {type(getattr(narrow, name)) for name in ("length", "max_clients", "value_bits", "max_weight")} == {int}
    assert narrow.max_lane > 2**31  # more than the numpy integers it came from could hold
    assert type(key_holder(quorum=np.int64(2)).open(np.int64(4), MODEL).quorum) is int


def test_a_round_whose_weights_are_numpys_is_the_round_of_pythons():
    weights = np.array([1, 7, 3], dtype=np.uint8)
    assert played(weights=list(weights)).total_weight == 11
    np.testing.assert_array_equal(played(weights=weights).sums, played(weights=[1, 7, 3]).sums)

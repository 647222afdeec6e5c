"""run_round: the exact weighted mean for any admissible input, or a named error before a key is made."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import secagg
from secagg import errors, wire
from secagg.masks import MaskingDisabledWarning
from secagg.messages import Contribution, Join, Offer, Release, Roster
from secagg.session import Parties, Session, Terms
from secagg.transcript import signed_bytes

ROOT = Path(__file__).resolve().parents[2]


def exact_integers(updates, weights, plan):
    """Sum of w * rint(clip(u) / step), computed away from the package."""
    total = np.zeros(plan.length, dtype=object)
    for update, weight in zip(updates, weights, strict=True):
        scaled = np.clip(update.astype(np.float64) * (1.0 / plan.step), -plan.max_value, plan.max_value)
        total += weight * np.array([round(x) for x in scaled], dtype=object)  # ties to even, as rint
    return total


def test_the_average_is_the_mean_within_the_bound_and_the_sums_are_exact():
    plan = secagg.plan_round(length=10_000, max_clients=6)
    rng = np.random.default_rng(3)
    updates = [rng.normal(scale=0.6, size=plan.length) for _ in range(6)]
    result = secagg.run_round(updates, plan=plan)
    assert (exact_integers(updates, [1] * 6, plan) == result.sums).all()
    exact = np.mean([np.clip(u, -1, 1) for u in updates], axis=0)
    assert np.abs(result.average - exact).max() <= result.error_bound <= plan.max_error
    assert (result.total_weight, result.contributors) == (6, 6)
    assert result.clipped == tuple(int((np.abs(u) > 1).sum()) for u in updates)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    length=st.integers(1, 9_000),
    clients=st.integers(2, 5),
    value_bits=st.integers(2, 24),
    max_weight=st.integers(1, 1_000),
    clip=st.sampled_from([1e-6, 0.5, 1.0, 3e4]),
    dtype=st.sampled_from([np.float32, np.float64]),
    shape=st.sampled_from(["plus", "minus", "alternating", "one-hot", "denormal", "random"]),
    masking=st.booleans(),
    data=st.data(),
)
def test_any_round_gives_the_exact_integer_sums(
    length, clients, value_bits, max_weight, clip, dtype, shape, masking, data
):
    plan = secagg.plan_round(length, clients, clip, value_bits, max_weight)
    weights = data.draw(st.lists(st.integers(1, max_weight), min_size=clients, max_size=clients))
    update = {
        "plus": np.full(length, 2 * clip),
        "minus": np.full(length, -clip),
        "alternating": clip * (-1.0) ** np.arange(length),
        "one-hot": clip * (np.arange(length) == length - 1),
        "denormal": np.full(length, 5e-324),
        "random": np.random.default_rng(length).normal(scale=clip, size=length),
    }[shape].astype(dtype)
    updates = [update, *(-update if i % 2 else update for i in range(1, clients))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskingDisabledWarning)
        result = secagg.run_round(updates, weights, plan=plan, quorum=2, masking=masking)
    assert (exact_integers(updates, weights, plan) == result.sums).all()
    assert result.total_weight == sum(weights)
    for position in {0, length // 2, length - 1}:
        exact = sum(
            w * Fraction(float(np.clip(u[position].astype(np.float64), -clip, clip)))
            for u, w in zip(updates, weights, strict=True)
        ) / sum(weights)
        assert abs(Fraction(float(result.average[position])) - exact) <= Fraction(result.error_bound)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"updates": [np.zeros(9)] * 3}, errors.UpdateLengthMismatch),
        ({"updates": [np.zeros(10), np.zeros(10), np.full(10, np.nan)]}, errors.UpdateNotFinite),
        ({"updates": [np.zeros(10), np.zeros(10), np.full(10, -np.inf)]}, errors.UpdateNotFinite),
        ({"updates": [np.zeros(10, dtype=np.int64)] * 3}, errors.UpdateTypeUnsupported),
        ({"updates": [[0.0] * 10] * 3}, errors.UpdateTypeUnsupported),
        ({"updates": [np.zeros(10)] * 2}, errors.QuorumNotMet),
        ({"updates": [np.zeros(10)] * 9}, errors.PlanError),
        ({"quorum": 1}, errors.PlanError),
        ({"weights": [1, 1]}, errors.WeightOutOfRange),
        ({"weights": [1, 1, 0]}, errors.WeightOutOfRange),
        ({"weights": [1, 1, 6]}, errors.WeightOutOfRange),
        ({"weights": [1, 1, 1.5]}, errors.WeightOutOfRange),
        ({"engine": "warp"}, errors.EngineUnavailable),
    ],
)
def test_bad_input_is_refused_by_name(change, error):
    plan = secagg.plan_round(length=10, max_clients=4, max_weight=5)
    inputs = {"updates": [np.zeros(10)] * 3, "weights": None, "quorum": 3, "engine": "auto", **change}
    with pytest.raises(error):
        secagg.run_round(
            inputs["updates"], inputs["weights"], plan=plan, quorum=inputs["quorum"], engine=inputs["engine"]
        )


def test_masking_is_on_by_default_and_turning_it_off_warns():
    plan = secagg.plan_round(length=10, max_clients=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert secagg.run_round([np.zeros(10)] * 3, plan=plan).stages["mask"].bytes > 0
    with pytest.warns(MaskingDisabledWarning):
        assert secagg.run_round([np.zeros(10)] * 3, plan=plan, masking=False).stages["mask"].bytes == 0


def test_every_stage_of_the_contract_is_measured():
    plan = secagg.plan_round(length=10, max_clients=3)
    stages = secagg.run_round([np.zeros(10)] * 3, plan=plan).stages
    assert list(stages) == [
        "keygen", "pack", "encrypt", "mask", "serialize", "check", "sum", "verify", "decrypt", "unpack",
    ]  # fmt: skip
    assert all(stage.seconds > 0 for stage in stages.values())


def test_a_roster_beyond_the_complete_graph_still_sums_exactly():
    plan = secagg.plan_round(length=5, max_clients=140)
    rng = np.random.default_rng(1)
    updates = [rng.uniform(-1, 1, size=5) for _ in range(140)]
    result = secagg.run_round(updates, plan=plan, threads=1)
    assert (exact_integers(updates, [1] * 140, plan) == result.sums).all()


def test_three_processes_that_exchange_bytes_get_the_average():
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "three_processes.py")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    error, bound = (float(word.strip(",\n")) for word in (run.stdout.split()[2], run.stdout.split()[4]))
    assert error <= bound


def test_an_aggregator_process_never_loads_tenseal():
    code = (
        "import sys, secagg; secagg.Aggregator; secagg.Enrolment; secagg.Identity; secagg.decode; secagg.plan_round;"
        "sys.exit(any(name.split('.')[0] in ('tenseal', '_sealapi_cpp', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_aggregator_needs_no_more_memory_for_many_clients_than_for_few():
    plan = secagg.plan_round(length=60_000, max_clients=1_000)
    few, many = _aggregator_peak(plan, 3), _aggregator_peak(plan, 30)
    # What grows with a client is its signed hash and its name, and tables of them grow in jumps; not its residues.
    assert plan.residue_bytes > 300_000 > 27 * 4_000 >= many - few


def _aggregator_peak(plan, count):
    """Peak bytes that an aggregator allocates while `count` members contribute."""
    parties = Parties.generate([f"bank {i}" for i in range(count)])
    roles = Session(parties).roles(Terms(plan))
    key_holder, aggregator, clients = roles.key_holder, roles.aggregator, roles.clients
    offer = key_holder.open(1, bytes(32))
    for client in clients:
        key_holder.receive_join(client.join(offer, bytes(32)))
    roster = key_holder.close_roster()
    # One real payload, signed by each member: the aggregator cannot tell, and the test stays short.
    first = clients[0].contribute(roster, np.zeros(plan.length))
    tracemalloc.start()
    try:
        aggregator.open(offer, roster)
        for bank in parties.clients:
            unsigned = replace(first, header=replace(first.header, sender=bank.key))
            aggregator.receive(replace(unsigned, signature=bank.sign(signed_bytes(unsigned))))
        aggregator.close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_sums_over_many_blocks(threads):
    plan = secagg.plan_round(length=400_000, max_clients=3, value_bits=16)
    assert plan.blocks > 1
    updates = [np.random.default_rng(i).uniform(-1.1, 1.1, plan.length).astype(np.float32) for i in range(3)]
    result = secagg.run_round(updates, plan=plan, threads=threads)
    exact = sum(np.rint(np.clip(u.astype(np.float64), -1, 1) / plan.step) for u in updates).astype(np.int64)
    assert (result.sums == exact).all()


def test_the_bytes_of_a_round_are_those_of_its_messages_as_encoded():
    plan = secagg.plan_round(length=10, max_clients=4)
    result = secagg.run_round([np.zeros(10)] * 4, plan=plan)
    size = {kind: wire.message_bytes(kind, plan, 4) for kind in (Join, Contribution, Offer, Roster, Release)}
    assert result.bytes_up == 4 * (size[Join] + size[Contribution])
    assert result.bytes_down == 4 * (size[Offer] + size[Roster] + size[Release])
    assert list(result.wire_bytes) == ["offer", "join", "roster", "contribution", "sum", "release"]


def test_every_contribution_is_reported_as_it_is_sent():
    plan, reported = secagg.plan_round(length=10, max_clients=3), []
    secagg.run_round([np.zeros(10)] * 3, plan=plan, on_contribution=reported.append)
    assert reported == [1, 2, 3]


def test_between_the_first_message_and_the_average_the_protocol_reads_no_clock_and_counts_no_bytes():
    body = inspect.getsource(secagg.run_round).split("# 1. ")[1].split("return _result(release")[0]
    assert "accept(release)" in body
    assert not re.search(r"\b(clock|stage|seconds|observer|bytes|len)\b", body)

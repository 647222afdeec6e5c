"""The planner: what it promises about overflow, noise and size, against exact and independent arithmetic."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import exact_reference as exact
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import plan_inputs, plans

from secagg.errors import PlanError
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import (
    ERROR_MAX,
    ERROR_VARIANCE,
    FAILURE_TARGET_LOG2,
    MAX_CLIENTS,
    MAX_LENGTH,
    MAX_VALUE_BITS,
    MAX_WEIGHT,
    RoundPlan,
    key_norm_limits,
    plan_round,
)

VECTORS = json.loads((exact.VECTORS / "plan.json").read_text(encoding="utf-8"))


def assert_no_honest_round_can_overflow(plan: RoundPlan) -> None:
    p = plan.params
    assert plan.span * plan.radix**plan.lanes * 2 <= p.modulus
    top = sum(plan.max_lane * plan.radix**lane for lane in range(plan.lanes))
    largest = 2 * plan.noise_bound + plan.span * top
    assert 2 * largest + 1 == plan.span * plan.radix**plan.lanes  # every digit pattern is used, none twice
    assert plan.span > 4 * plan.noise_limit(plan.max_clients)  # noises that pass are less than a digit apart
    assert plan.max_clients * plan.max_weight <= plan.max_lane  # the sum of weights fits its lane as well


def assert_noise_stays_within_the_failure_target(plan: RoundPlan) -> None:
    coefficients = plan.blocks * plan.params.degree
    assert plan.noise_bound == exact.noise_bound(plan.params.degree, plan.max_clients, coefficients)
    assert plan.failure_log2 <= FAILURE_TARGET_LOG2 == -40
    assert plan.failure_log2 > -40.1  # and no room is given away


def assert_fewest_bytes(plan: RoundPlan) -> None:
    choices = exact.choices(plan.length, plan.max_clients, plan.value_bits, plan.max_weight)
    assert plan.residue_bytes == min(choice.bytes for choice in choices)
    own = (plan.params.degree, plan.params.primes, plan.lanes)
    chosen = [choice for choice in choices if (choice.degree, choice.primes, choice.lanes) == own]
    assert [(c.blocks, c.noise_bound, c.bytes) for c in chosen] == [(plan.blocks, plan.noise_bound, plan.residue_bytes)]


# --- laws over all inputs -------------------------------------------------------------------------------------------


@given(plans())
@settings(max_examples=150, deadline=None)
def test_honest_sums_can_never_overflow(plan: RoundPlan) -> None:
    assert_no_honest_round_can_overflow(plan)


@given(plans())
@settings(max_examples=80, deadline=None)
def test_a_wrong_coefficient_is_less_likely_than_two_to_the_minus_forty(plan: RoundPlan) -> None:
    assert_noise_stays_within_the_failure_target(plan)


@given(plan_inputs())
@settings(max_examples=15, deadline=None)
def test_no_allowed_choice_costs_fewer_bytes(inputs: dict[str, Any]) -> None:
    assert_fewest_bytes(plan_round(**inputs))


@pytest.mark.long
@given(plan_inputs())
@settings(max_examples=1_000, deadline=None)
def test_all_promises_hold_for_a_thousand_plans(inputs: dict[str, Any]) -> None:
    plan = plan_round(**inputs)
    assert_no_honest_round_can_overflow(plan)
    assert_noise_stays_within_the_failure_target(plan)
    assert_fewest_bytes(plan)


@given(plan_inputs())
@settings(max_examples=50, deadline=None)
def test_equal_inputs_give_equal_plans_and_fingerprints(inputs: dict[str, Any]) -> None:
    one, other = plan_round(**inputs), plan_round(**inputs)
    assert one == other
    assert one.fingerprint == other.fingerprint
    assert len(one.fingerprint) == 32


@given(plans(max_length=100_000), st.data())
@settings(max_examples=50, deadline=None)
def test_the_noise_limit_grows_with_the_roster_up_to_the_bound(plan: RoundPlan, data: st.DataObject) -> None:
    few = data.draw(st.integers(1, plan.max_clients))
    many = data.draw(st.integers(few, plan.max_clients))
    assert 0 < plan.noise_limit(few) <= plan.noise_limit(many) <= plan.noise_limit(plan.max_clients) == plan.noise_bound


@pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)
def test_every_allowed_set_can_be_asked_for(params: ParameterSet) -> None:
    plan = plan_round(10_000, 8, params=params)
    assert plan.params is params
    assert_no_honest_round_can_overflow(plan)
    assert_noise_stays_within_the_failure_target(plan)


# --- size and choice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value_bits", "limit"), [(16, 6.6), (12, 5.3), (8, 4.2)])
def test_a_million_values_of_64_clients_cost_no_more_bytes_than_promised(value_bits: int, limit: float) -> None:
    plan = plan_round(1_000_000, 64, value_bits=value_bits)
    assert plan.bytes_per_value <= limit
    assert plan.bytes_per_value == plan.blocks * plan.params.ciphertext_bytes / 1_000_000


def test_among_equally_small_choices_the_faster_one_is_taken() -> None:
    plan = plan_round(1_000_000, 64, value_bits=14)
    rivals = [plan_round(1_000_000, 64, value_bits=14, params=params) for params in ALLOWED]
    equal = [rival for rival in rivals if rival.residue_bytes == plan.residue_bytes]
    assert len(equal) > 1
    assert plan.params.nanoseconds_per_residue == min(rival.params.nanoseconds_per_residue for rival in equal)


def test_a_short_vector_gets_a_small_ring() -> None:
    assert plan_round(1, 2).params.degree == 4096


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"length-{case['inputs']['length']}")
def test_plans_equal_the_vectors(case: dict[str, Any]) -> None:
    plan = plan_round(**case["inputs"])
    assert plan.residue_bytes == case["contribution_bytes"]
    got = {
        "degree": plan.params.degree,
        "primes": len(plan.params.primes),
        "lanes": plan.lanes,
        "noise_bound": plan.noise_bound,
        "fingerprint": plan.fingerprint.hex(),
    }
    assert got in case["candidates"]


def test_the_description_names_the_chosen_set_and_its_figures() -> None:
    plan = plan_round(1_000_000, 64)
    text = plan.describe()
    for figure in (
        f"N = {plan.params.degree}",
        f"{len(plan.params.primes)} primes",
        f"{plan.lanes}",
        f"{plan.blocks:,}",
        f"{plan.bytes_per_value:.2f}",
    ):
        assert figure in text


def test_the_dictionary_is_json_and_agrees_with_the_plan() -> None:
    plan = plan_round(1_000_000, 64)
    figures = json.loads(json.dumps(plan.as_dict()))
    assert figures["fingerprint"] == plan.fingerprint.hex()
    assert figures["primes"] == list(plan.params.primes)
    assert figures["headroom_bits"] >= 1


# --- fingerprint ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"length": 1001},
        {"max_clients": 9},
        {"clip": math.nextafter(1.0, 2.0)},
        {"value_bits": 17},
        {"max_weight": 2},
        {"lanes": 3},
        {"noise_bound": 12_346},
        {"params": ALLOWED[1]},
        {"params": dataclasses.replace(ALLOWED[0], special_prime=40961)},
        {"params": dataclasses.replace(ALLOWED[0], primes=tuple(reversed(ALLOWED[0].primes)))},
        {"params": dataclasses.replace(ALLOWED[0], degree=8192)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_changed_field_changes_the_fingerprint(change: dict[str, Any]) -> None:
    plan = RoundPlan(1000, 8, 1.0, 16, 1, ALLOWED[0], 2, 12_345)
    assert dataclasses.replace(plan, **change).fingerprint != plan.fingerprint


def test_every_field_of_a_plan_is_covered_by_the_fingerprint_test() -> None:
    assert {field.name for field in dataclasses.fields(RoundPlan)} == {
        "length", "max_clients", "clip", "value_bits", "max_weight", "params", "lanes", "noise_bound",
    }  # fmt: skip


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["refusals"], ids=lambda case: f"{case['names']}-{case['inputs']}")
def test_refused_inputs_of_the_vectors_are_named(case: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=case["names"]):
        plan_round(**case["inputs"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, bad)
            for name in ("length", "max_clients", "value_bits", "max_weight")
            for bad in (0, -1, 2.0, "3", None, True)
        ),
        ("length", MAX_LENGTH + 1),
        ("max_clients", MAX_CLIENTS + 1),
        ("value_bits", MAX_VALUE_BITS + 1),
        ("max_weight", MAX_WEIGHT + 1),
        *(("clip", bad) for bad in (0, 0.0, -1.0, math.nan, math.inf, 1e31, 1e-31, "1", None, True, 10**400)),
    ],
)
def test_a_bad_input_is_refused_by_its_name(name: str, value: Any) -> None:
    good = {"length": 10, "max_clients": 2, "clip": 1.0, "value_bits": 16, "max_weight": 1}
    plan_round(**good)
    with pytest.raises(PlanError, match=f"^{name}: expected"):
        plan_round(**{**good, name: value})


def test_a_lane_that_cannot_hold_the_sum_names_every_input_that_would_help() -> None:
    plan_round(10, MAX_CLIENTS, value_bits=30)
    with pytest.raises(PlanError, match=r"value_bits \(now 31\), max_weight \(now 2\) or max_clients \(now 65536\)"):
        plan_round(10, MAX_CLIENTS, value_bits=31, max_weight=2)


def test_a_set_too_small_for_one_lane_is_refused_although_a_larger_one_would_do() -> None:
    inputs = {"length": 10, "max_clients": MAX_CLIENTS, "value_bits": 30}
    assert plan_round(**inputs).params.degree >= 4096
    with pytest.raises(PlanError, match="lower value_bits, max_weight or max_clients"):
        plan_round(**inputs, params=ALLOWED[0])


def test_a_set_outside_the_allow_list_is_refused() -> None:
    foreign = dataclasses.replace(ALLOWED[0], special_prime=ALLOWED[-1].special_prime)
    with pytest.raises(PlanError, match=r"^params: .* allow-list"):
        plan_round(10, 2, params=foreign)


# --- the noise itself -----------------------------------------------------------------------------------------------


def centred_binomial(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.binomial(21, 0.5, shape).astype(np.float64) - rng.binomial(21, 0.5, shape)


def negacyclic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product modulo X^N + 1 of small real polynomials, by a float64 transform of length 2N."""
    degree = a.shape[-1]
    full = np.fft.irfft(np.fft.rfft(a, 2 * degree) * np.fft.rfft(b, 2 * degree), 2 * degree)
    return full[..., :degree] - full[..., degree:]


@pytest.mark.parametrize("params", ALLOWED, ids=lambda params: params.name)
def test_the_noise_of_seals_own_engine_fits_the_budget_for_every_roster(params: ParameterSet) -> None:
    """docs/parameters.md, "SEAL's engine": c0's rounding, c1's against the secret, and the rest divided by P."""
    _, secret = key_norm_limits(params.degree)
    for clients in (1, 2, 3, 10, 100, 1_000, 10_000, MAX_CLIENTS):
        for coefficients in (params.degree, 2**20, MAX_LENGTH):
            tail = 2 * (math.log(2 * coefficients) + 40 * math.log(2))
            rounding = clients / 2 + math.sqrt(clients * secret / 12 * tail)
            budget = exact.noise_bound(params.degree, clients, coefficients)
            assert rounding + budget / params.special_prime <= budget / 3


def test_the_variance_proxies_are_those_of_the_distributions() -> None:
    signs = np.arange(-21, 22)
    weights = np.array([math.comb(42, 21 + s) for s in signs]) / 2.0**42
    assert np.dot(weights, signs.astype(float) ** 2) == pytest.approx(ERROR_VARIANCE)
    assert signs.max() == ERROR_MAX
    for t in np.linspace(-3, 3, 61):  # sub-Gaussian: E exp(tX) <= exp(proxy * t^2 / 2)
        assert np.dot(weights, np.exp(t * signs)) <= math.exp(ERROR_VARIANCE * t * t / 2) * (1 + 1e-12)
        assert (1 + 2 * math.cosh(t)) / 3 <= math.exp(2 / 3 * t * t / 2) * (1 + 1e-12)


@pytest.mark.parametrize("degree", [4096, 8192, 16384])
def test_keys_keep_the_norm_limits_that_the_bound_assumes(degree: int) -> None:
    rng = np.random.default_rng(degree)
    error_limit, secret_limit = key_norm_limits(degree)
    errors = (centred_binomial(rng, (200, degree)) ** 2).sum(axis=1)
    secrets = (rng.integers(-1, 2, (200, degree)) ** 2).sum(axis=1)
    assert errors.max() < error_limit < 1.4 * errors.mean()
    assert secrets.max() < secret_limit < 1.1 * secrets.mean()


def test_simulated_noise_has_the_predicted_size_and_stays_far_inside_the_bound() -> None:
    degree, clients = 4096, 64
    rng = np.random.default_rng(2)
    e, s = centred_binomial(rng, (degree,)), rng.integers(-1, 2, degree).astype(float)
    u = rng.integers(-1, 2, (clients, degree)).astype(float)
    e0, e1 = centred_binomial(rng, (2, clients, degree))
    noise = negacyclic(u, e) + e0 + negacyclic(e1, s)
    predicted = math.sqrt(2 / 3 * np.dot(e, e) + 10.5 + 10.5 * np.dot(s, s))
    assert noise.std() == pytest.approx(predicted, rel=0.02)
    plan = plan_round(1000, clients, params=ALLOWED[0])
    total = np.abs(noise.sum(axis=0)).max()
    assert 3 * predicted * math.sqrt(clients) < total < plan.noise_limit(clients)
    assert np.abs(noise[0]).max() < plan.noise_limit(1)

"""Audits find what is wrong and do not cry wolf."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from privacy_audit import AuditError, audit_counts, audit_training, noise_verdict, one_run_bound

from fl.counts.plan import Integers, Noise, contribution, fraud_blocks_plan
from fl.data.federation import Rows
from fl.learning.model import build_model
from fl.learning.training import LocalTraining, PrivateSteps
from fl.privacy.accounting import epsilon
from fl.privacy.discrete_laplace import plan_laplace
from fl.privacy.mechanisms import Mechanism
from fl.privacy.noise_shares import plan_noise
from fl.privacy.randomness import Entropy

DELTA = 1e-5
SLOTS = 500


def stream(seed: bytes) -> Entropy:
    """Reproducible bytes, so that a statistical test cannot fail once in a while."""
    counter = itertools.count()
    return lambda count: hashlib.shake_256(seed + next(counter).to_bytes(8, "big")).digest(count)


def released(noise: Noise, *, quiet: bool = False):
    plan = fraud_blocks_plan([40], 23, 7, 5, [("terminal", SLOTS)], noise)
    assert plan.entry is not None
    claimed, banks = epsilon([plan.entry], DELTA), noise.banks

    def contribute(counts: Integers) -> Integers:
        if quiet:
            return counts.reshape(-1) * plan.resolution
        entropy = stream(b"counts")
        shares = [contribution(np.zeros(plan.shape, np.int64), plan, banks, entropy=entropy) for _ in range(banks - 1)]
        return contribution(counts, plan, banks, entropy=entropy) + sum(shares)

    return audit_counts(
        plan,
        contribute,
        canaries=400,
        guesses=300,
        claimed_epsilon=claimed,
        delta=DELTA,
        entropy=stream(b"coins"),
    )


@pytest.mark.parametrize("noise", [plan_noise(2.0, 5, 1), plan_laplace(1.0, 5, 1)])
def test_counts_with_the_claimed_noise_pass(noise: Noise) -> None:
    result = released(noise)
    assert not result.violated and result.guesses == 300 and result.correct < 270


@pytest.mark.parametrize("noise", [plan_noise(2.0, 5, 1), plan_laplace(1.0, 5, 1)])
def test_counts_whose_noise_is_secretly_missing_are_found_out(noise: Noise) -> None:
    result = released(noise, quiet=True)
    assert result.violated and result.correct == 300 and result.lower_bound > result.claimed_epsilon


def trained(noise_multiplier: float, claimed_noise: float):
    rng = np.random.default_rng(0)
    rows = 400
    table = Rows(
        rng.normal(0, 1, (rows, 15)).astype(np.float32).clip(-3, 3),
        (rng.random(rows) < 0.02).astype(np.float32),
        np.zeros(rows, np.int32),
        np.arange(rows),
        np.arange(rows),
    )
    return audit_training(
        build_model(15, seed=0, dropout=0.0),
        table,
        LocalTraining("sgd", learning_rate=0.02, pos_weight=1.0),
        PrivateSteps(0.5, noise_multiplier, 8, 1.0, 200.0),
        canaries=300,
        guesses=150,
        claimed_epsilon=epsilon([Mechanism(0.5, claimed_noise, 8)], DELTA),
        delta=DELTA,
        entropy=stream(b"training"),
    )


def test_training_with_the_claimed_noise_passes() -> None:
    assert not trained(4.5, 4.5).violated


def test_training_whose_noise_is_secretly_missing_is_found_out() -> None:
    result = trained(1e-6, 4.5)
    assert result.violated and 1.0 < result.claimed_epsilon < result.lower_bound


def test_perfect_guesses_prove_what_can_be_worked_out_by_hand() -> None:
    """100 right out of 100: p^100 = 0.05, p = e^eps / (1 + e^eps)."""
    included = np.arange(100) < 50
    result = one_run_bound(included.astype(float), included, claimed_epsilon=3.0, delta=0.0)
    p = 0.05**0.01
    assert result.correct == 100
    assert result.lower_bound == pytest.approx(math.log(p / (1 - p)), abs=0.011)
    assert result.violated


def test_guesses_no_better_than_coins_prove_nothing() -> None:
    included = np.tile([True, False], 50)
    scores = np.repeat(np.arange(50.0), 2)
    assert one_run_bound(scores, included, claimed_epsilon=0.1, delta=DELTA).lower_bound == 0.0


def test_delta_makes_the_same_guesses_prove_less() -> None:
    included = np.arange(100) < 50
    bounds = [
        one_run_bound(included.astype(float), included, claimed_epsilon=1.0, delta=d).lower_bound for d in (0.0, 1e-3)
    ]
    assert bounds[1] < bounds[0]


@pytest.mark.parametrize(("share", "verdict"), [(1.0, "consistent"), (0.5, "too little"), (2.0, "too much")])
def test_the_falsifier_passes_right_noise_and_fails_half_of_it(share: float, verdict: str) -> None:
    samples = np.random.default_rng(3).normal(0, 5, 2000)
    assert noise_verdict(share * samples, 5.0) == verdict


def test_audits_that_could_conclude_nothing_are_refused() -> None:
    with pytest.raises(AuditError, match="even number"):
        one_run_bound(np.zeros(4), np.zeros(4, bool), claimed_epsilon=1.0, delta=DELTA, guesses=3)
    with pytest.raises(AuditError, match="100 samples"):
        noise_verdict(np.zeros(5), 1.0)

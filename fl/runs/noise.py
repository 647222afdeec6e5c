"""Calibrate the noise of a new run: the least that the budget of the bank with the largest spending allows.

All banks use the same noise. `with_noise` reads the banks' ledgers and calibrates the noise of shared counts and of
all rounds.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from fl.privacy.calibrate import calibrate, calibrate_clients, calibrate_counts, calibrate_steps, require_left
from fl.privacy.mechanisms import Entry, noisy_counts
from fl.privacy.noise_shares import NoisePlan
from fl.rounds.joint_noise import GRID, row_sensitivity, update_sensitivity
from fl.runs.budgets import open_ledgers
from fl.runs.config import BY_NOISE, PrivacySettings
from fl.runs.plan import RunPlan

NOISE_PER_STEP = 2.7e-3  # standard deviation, in the unit of the weights; figures in docs/adr/0012

Histories = list[list[Entry]]  # of each bank


def with_noise(plan: RunPlan) -> RunPlan:
    """`plan` with calibrated noise in its configuration; `plan` itself without differential privacy.

    Ledgers in the run folder do not exist yet, so they count as empty. Raises `BudgetError`.
    """
    config, privacy = plan.config, plan.config.privacy
    if privacy is None:
        return plan
    histories: Histories = [[]]
    if privacy.budget_dir is not None:
        ledgers = open_ledgers(Path(privacy.budget_dir), privacy, plan.banks)
        histories = [ledger.history() for ledger in ledgers.values()]
    if config.statistics is not None and plan.sharing is not None:
        noises = [_of_counts(plan, privacy, history) for history in histories]
        most = max(noises, key=lambda noise: noise.sigma)
        config = replace(config, statistics=replace(config.statistics, sigma=most.sigma))
        entry = noisy_counts(most, plan.sharing.columns, plan.sharing.days)
        histories = [[*history, entry] for history in histories]
    of_rounds = _of_joint_steps if plan.takes_joint_steps else _of_own_steps if privacy.unit == "row" else _of_clients
    return RunPlan(replace(config, privacy=of_rounds(plan, privacy, histories)), plan.source)


def _of_counts(plan: RunPlan, privacy: PrivacySettings, history: list[Entry]) -> NoisePlan:
    """The noise of shared counts, for a share of the remaining epsilon."""
    settings, sharing = plan.config.statistics, plan.sharing
    assert settings is not None and sharing is not None
    already = require_left(history, privacy.epsilon, privacy.delta)
    return calibrate_counts(
        history,
        columns=sharing.columns,
        days=sharing.days,
        banks=len(plan.banks),
        colluders=settings.colluders,
        epsilon_limit=already + settings.budget_share * (privacy.epsilon - already),
        delta=privacy.delta,
    )


def _of_own_steps(plan: RunPlan, privacy: PrivacySettings, histories: Histories) -> PrivacySettings:
    noises = [
        calibrate(
            history,
            sample_rate=privacy.sample_rate,
            steps=max(plan.trainings * privacy.steps, 1),
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
        )
        for history in histories
    ]
    return replace(privacy, noise_multiplier=max(noises))


def _of_clients(plan: RunPlan, privacy: PrivacySettings, histories: Histories) -> PrivacySettings:
    variances = [
        calibrate_clients(
            history,
            sensitivity=update_sensitivity(plan.travelling),
            dimension=plan.travelling,
            banks=len(plan.banks),
            colluders=privacy.colluders,
            rounds=max(plan.trainings, 1),
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
        ).share_variance
        for history in histories
    ]
    return replace(privacy, share_variance=max(variances))


def _of_joint_steps(plan: RunPlan, privacy: PrivacySettings, histories: Histories) -> PrivacySettings:
    calibrations = [
        calibrate_steps(
            history,
            sensitivity=row_sensitivity(plan.model.length),
            dimension=plan.model.length,
            banks=len(plan.banks),
            colluders=privacy.colluders,
            steps=max(plan.config.rounds, 1),
            epsilon_limit=privacy.epsilon,
            delta=privacy.delta,
        )
        for history in histories
    ]
    once, pieces = max(calibrations, key=lambda each: each[0].share_variance * each[1])
    privacy = replace(privacy, share_variance=once.share_variance, share_pieces=pieces)
    if plan.config.training.learning_rate != BY_NOISE:
        return privacy
    # The learning rate with which the noise moves every weight by `NOISE_PER_STEP` per step: a function of the noise.
    banks = len(plan.banks)
    shares = pieces * (banks - privacy.colluders)
    sigma = math.sqrt(shares * once.share_variance) / GRID * privacy.max_grad_norm  # of a summed gradient
    return replace(privacy, learning_rate=NOISE_PER_STEP * privacy.expected_batch * banks / sigma)

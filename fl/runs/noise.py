"""Calibrate the noise of a new run: the least that the budget of the bank with the largest spending allows.

All banks use the same noise. `with_noise` reads the banks' ledgers and calibrates the noise of shared constants, of
shared counts and of all rounds, in this order.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from fl.counts.settings import StatisticsSettings, law_of_noise, most_days, moved
from fl.learning.private_schedule import private_schedule
from fl.learning.private_size import MOST_RATE
from fl.privacy.calibrate import (
    calibrate,
    calibrate_clients,
    calibrate_counts,
    calibrate_laplace,
    calibrate_steps,
    require_left,
)
from fl.privacy.mechanisms import Entry
from fl.rounds.joint_noise import GRID, row_sensitivity, update_sensitivity
from fl.runs.budgets import open_ledgers
from fl.runs.config import BY_NOISE, PrivacySettings
from fl.runs.constants import plan_of_constants, with_noise_of_constants
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
    if config.constants is not None:
        settings = with_noise_of_constants(config.constants, plan.source, privacy, histories)
        config = replace(config, constants=settings)
        plan = replace(plan, config=config)
        of_constants = plan_of_constants(config, plan.source).entry
        assert of_constants is not None
        histories = [[*history, of_constants] for history in histories]
    if config.statistics is not None and plan.sharing is not None:
        chosen = [_of_counts(plan, config.statistics, privacy, history) for history in histories]
        config = replace(config, statistics=max(chosen, key=_noise_of_counts))
        plan = replace(plan, config=config)  # the length of a block follows from epsilon, and the columns from that
        assert plan.sharing is not None and plan.sharing.entry is not None
        entry = plan.sharing.entry
        histories = [[*history, entry] for history in histories]
    of_rounds = _of_joint_steps if plan.takes_joint_steps else _of_own_steps if privacy.unit == "row" else _of_clients
    return replace(plan, config=replace(config, privacy=of_rounds(plan, privacy, histories)))


def _of_counts(
    plan: RunPlan, settings: StatisticsSettings, privacy: PrivacySettings, history: list[Entry]
) -> StatisticsSettings:
    """The settings with the epsilon of counts, a share of what is left, and with the sigma of Gaussian noise."""
    schema, days = plan.source.table.schema, most_days(plan.source, settings)
    kinds, reports = len(schema.parties.shared), schema.parties.reports
    already = require_left(history, privacy.epsilon, privacy.delta)
    share = settings.budget_share * (privacy.epsilon - already)
    if law_of_noise(settings) == "gaussian":
        noise = calibrate_counts(
            history,
            columns=kinds,
            days=days,
            banks=len(plan.banks),
            colluders=settings.colluders,
            epsilon_limit=already + share,
            delta=privacy.delta,
            reports=reports,
        )
        return replace(settings, epsilon=share, sigma=noise.sigma)
    laplace = calibrate_laplace(
        history,
        kinds=kinds,
        days=days,
        banks=len(plan.banks),
        colluders=settings.colluders,
        epsilon_limit=already + share,
        delta=privacy.delta,
        reports=reports,
    )
    return replace(settings, epsilon=laplace.epsilon * moved(schema))


def _noise_of_counts(settings: StatisticsSettings) -> float:
    """The more, the noisier."""
    assert settings.epsilon is not None
    return -settings.epsilon if settings.sigma is None else settings.sigma


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
            sensitivity=row_sensitivity(plan.travelling, plan.source.table.schema.parties.reports),
            dimension=plan.travelling,
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
    banks, rows = len(plan.banks), privacy.expected_batch * len(plan.banks)
    if plan.config.model.kind == "noisy-or":
        schedule = replace(private_schedule(privacy.epsilon), steps=plan.config.rounds)
        # Of a summed gradient: the noise of all banks, colluders included.
        sigma = math.sqrt(banks * pieces * once.share_variance) / GRID * privacy.max_grad_norm
        return replace(privacy, learning_rate=schedule.learning_rate(sigma, rows))
    # The learning rate with which the noise moves every weight by `NOISE_PER_STEP` per step. On many rows the noise
    # would allow a rate at which the mean gradient itself leads astray. Without declared rows the divisor counts none.
    most = math.inf if privacy.rows_per_bank is None else MOST_RATE
    shares = pieces * (banks - privacy.colluders)
    sigma = math.sqrt(shares * once.share_variance) / GRID * privacy.max_grad_norm
    return replace(privacy, learning_rate=min(NOISE_PER_STEP * rows / sigma, most))

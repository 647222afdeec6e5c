"""Each bank by itself at the run's epsilon: what a bank that joined nobody would have to publish.

What it does: `private_alone` gives each bank a model of its own, from noisy counts of its own frauds and noisy steps on
its own rows. Model, mechanisms, steps and the split of epsilon are those of the run. A bank alone has to add
all the noise that protects its rows: as much as the n - t honest banks of the run add together.

It is an evaluation: no ledger records it, and nobody sees the noisy values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl.counts.entity_risk import EntityRisk
from fl.counts.episodes import BlockCounts
from fl.counts.plan import StatisticsPlan, bank_counts
from fl.data.federation import BankData
from fl.data.reading import Transactions
from fl.learning.model import flatten, unflatten
from fl.learning.private_schedule import private_schedule
from fl.learning.training import train_private
from fl.privacy.discrete_gaussian import discrete_gaussian
from fl.privacy.discrete_laplace import LaplacePlan, laplace_share
from fl.rounds.algorithms.state import ReleasedAverage, Seat
from fl.rounds.joint_noise import JointNoise
from fl.rounds.joint_steps import JointSteps, NoisyOrSteps
from fl.runs.noise import NOISE_PER_STEP
from fl.runs.plan import RunPlan
from fl.runs.risk import RiskOfParties, first_test_day

EVALUATIONS = 20  # of each bank's likelihood on all slots: one fit for every bank would be most of a run's time


def private_alone(
    plan: RunPlan, parties: RiskOfParties, device: torch.device
) -> tuple[tuple[BankData, ...], list[nn.Module]]:
    """(every bank's rows with the risk that its own noisy counts show, its own model). `plan` has privacy."""
    views, models = [], []
    for bank, (_, rows, _) in zip(parties.banks, plan.source.banks, strict=True):
        risk = None
        if parties.risk is not None and plan.sharing is not None:
            table = plan.source.table.take(rows)
            blocks = _noisy_blocks(table, parties.risk, plan.sharing)
            delay, per_day = table.schema.label.delay_days, table.schema.parties.terminal_per_day
            today = first_test_day(plan.source)
            known = EntityRisk.of(blocks, parties.risk.keys, delay, per_day, today, evaluations=EVALUATIONS)
            risk = known.on(bank.days.tolist())
        views.append(bank.with_risk(risk, risk))
        models.append(_stepped(plan, views[-1]) if plan.takes_joint_steps else _trained(plan, views[-1], device))
    return tuple(views), models


def _noisy_blocks(table: Transactions, risk: EntityRisk, sharing: StatisticsPlan) -> Mapping[str, BlockCounts]:
    """One bank's own counts under all the noise that n - t banks add together."""
    noise, counts = sharing.noise, bank_counts(table, risk.keys, sharing)[:, :, 0]
    assert noise is not None
    units = counts * noise.resolution
    if isinstance(noise, LaplacePlan):
        # Shares of n - t banks add up to the whole law, which one bank draws at once.
        units = units + laplace_share(units.size, noise.by_one_bank()).reshape(units.shape)
        law = noise.pmf(noise.honest)
    else:
        for _ in range(noise.honest):
            units = units + discrete_gaussian(units.size, noise.share_variance).reshape(units.shape)
        law = replace(noise, banks=noise.honest).pmf()
    frauds = units / noise.resolution
    return {
        kind: BlockCounts(sharing.periods, frauds[:, section], law, noise.resolution)
        for kind, section in sharing.sections.items()
    }


def _trained(plan: RunPlan, bank: BankData, device: torch.device) -> nn.Module:
    """The bank's own noisy training, as often as in the run."""
    schedule = plan.schedule(plan.config.rounds)
    assert schedule.private is not None
    model = schedule.first_model(bank.train.x.shape[1]).to(device)
    for _ in range(plan.trainings):
        train_private(model, bank.train, schedule.local, schedule.private, device=device)
    return model


def _stepped(plan: RunPlan, bank: BankData) -> nn.Module:
    """The run's steps on one bank's rows, with all the noise that n - t banks add together."""
    noise, privacy = plan.joint_noise, plan.config.privacy
    assert noise is not None and privacy is not None
    algorithm = _steps(plan, noise, privacy.expected_batch)
    model = plan.schedule(plan.config.rounds).first_model(bank.train.x.shape[1])
    state = algorithm.begin(flatten(model))
    for number in range(1, plan.config.rounds + 1):
        unflatten(model, algorithm.trains_from(state, Seat(0, number - 1)))
        gradient = algorithm.contribution(model, bank.train, lambda: None)
        average = _noised(gradient.astype(np.float64), noise) / privacy.expected_batch
        state = algorithm.apply(state, ReleasedAverage(number, average, np.ones(len(average), bool), 1, 1))
    unflatten(model, algorithm.scores_with(state, 0))
    return model


def _steps(plan: RunPlan, noise: JointNoise, rows: float) -> JointSteps:
    """The run's steps at the rate that suits all the noise on the rows of one bank."""
    assert plan.config.privacy is not None
    sigma = math.sqrt(noise.once.shares * noise.once.share_variance) * noise.unit  # of a summed gradient
    if plan.config.model.kind == "noisy-or":
        schedule = replace(private_schedule(plan.config.privacy.epsilon), steps=plan.config.rounds)
        local = replace(plan.local, learning_rate=schedule.learning_rate(sigma, rows))
        return NoisyOrSteps(plan.algorithm.timetable, noise.clip_norm, local)
    local = replace(plan.local, learning_rate=NOISE_PER_STEP * rows / sigma)
    return JointSteps(plan.algorithm.timetable, noise.clip_norm, local)


def _noised(gradient: NDArray[np.float64], noise: JointNoise) -> NDArray[np.float64]:
    shares = noise.once.shares
    drawn = discrete_gaussian(shares * len(gradient), Fraction(noise.once.share_variance)).reshape(shares, -1)
    noised: NDArray[np.float64] = (np.rint(gradient / noise.unit) + drawn.sum(axis=0)) * noise.unit
    return noised

"""Training in steps that all banks take together, under one noise: a round is one step.

What it does: `play_shared_rounds` plays the rounds of a run whose noise is shared (`fl.rounds.joint_steps`) and yields
what `fl.rounds.play.play_rounds` yields, so that whoever keeps a run folder need not know which of the two it was.

What it leaves to others: gradients, noise and their encrypted sum (`fl.rounds.joint_steps`), the budget (through
`pay`), measuring (`fl.rounds.play`).

    v_t = momentum * v_(t-1) + g_t          g_t: the noisy mean gradient that the round released
    w_t = w_(t-1) - learning_rate * v_t     v is float64 and part of the checkpoint

That is SGD with momentum (Polyak 1964) on released values alone, as DP-SGD has it: every bank computes it for itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fl.data.federation import BankData
from fl.learning.evaluation import validation_figures
from fl.learning.model import flatten, model_hash, unflatten
from fl.rounds.algorithms.state import State
from fl.rounds.joint_steps import SharedStepPlan, clipped_gradient_sum, shared_gradient
from fl.rounds.play import Affordable, Payment, Progress, RoundRecord, Schedule

VELOCITY = "velocity"


@dataclass(frozen=True)
class SharedTraining:
    """What all banks do alike in every step. `engine`: of the encrypted sum."""

    plan: SharedStepPlan
    schedule: Schedule  # `local` has learning rate, momentum and the weight of a fraud
    engine: str | None = "auto"  # of the encrypted sum; None: in plain sight, for comparison


def play_shared_rounds(
    banks: Sequence[BankData],
    training: SharedTraining,
    *,
    device: torch.device,
    finished: int = 0,
    state: State | None = None,
    pay: Payment | None = None,
    afford: Affordable | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[RoundRecord, State]]:
    """Play rounds `finished + 1` to the schedule's last; yield each round's record and state.

    `pay` is called for every bank before any of them looks at a row; the rounds end early when `afford` says that a
    bank has no step left. Whatever `pay` or the encrypted sum raises ends the rounds.
    """
    schedule = training.schedule
    module = schedule.first_model(banks[0].train.x.shape[1]).to(device)
    if state is None:
        first = flatten(module)
        state = State(first, {VELOCITY: np.zeros(first.shape)})
    names = [bank.name for bank in banks]
    for number in range(finished + 1, schedule.rounds + 1):
        # 1. Every bank records what the step spends; one that cannot afford it stops the round.
        if afford is not None and not afford(names):
            return
        if pay is not None:
            for name in names:
                pay(name, number)

        # 2. Every bank sums the clipped gradients of all its rows at the same model.
        unflatten(module, state.model)
        bound_to, clock, gradients = model_hash(module), time.perf_counter(), []
        for bank in banks:
            gradients.append(_gradient(module, bank, training, device))
            if progress is not None:
                progress(bank.name)
        seconds = time.perf_counter() - clock

        # 3. The sums, each with its share of the noise, become one gradient; nobody sees a single one.
        result = shared_gradient(gradients, training.plan, model_hash=bound_to, engine=training.engine)

        # 4. Every bank takes the same step.
        state = stepped(state, result.average, schedule.local.learning_rate, schedule.local.momentum)
        unflatten(module, state.model)
        precision, auc = validation_figures(banks, [module] * len(banks), device)
        largest, relative = result.error_against(np.sum(gradients, axis=0) / training.plan.divisor)
        yield (
            RoundRecord(
                number=number,
                validation_average_precision=precision,
                validation_roc_auc=auc,
                train_seconds=seconds,
                aggregate=result,
                max_abs_error=largest,
                relative_error=relative,
                members=tuple(names),
                vanished=(),
                attempts=1,
                values=training.plan.dimension,
            ),
            state,
        )


def stepped(state: State, gradient: np.ndarray, learning_rate: float, momentum: float) -> State:
    """The state after one step along `gradient`, float64[length]."""
    velocity = momentum * state.memory[VELOCITY] + gradient
    return State((state.model - learning_rate * velocity).astype(np.float32), {VELOCITY: velocity})


def _gradient(module: nn.Module, bank: BankData, training: SharedTraining, device: torch.device) -> np.ndarray:
    plan, local = training.plan, training.schedule.local
    return clipped_gradient_sum(
        module, bank.train, max_grad_norm=plan.max_grad_norm, pos_weight=local.pos_weight, device=device
    )

"""What federated training is compared with, on the same rows and the same test days.

- `alone`: each bank trains on its own rows, and its model scores its own customers.
- `pooled`: one model on all banks' rows in one place, with the features each bank computed from its own
  rows.
- `pooled_global`: the same, with features computed over all banks' transactions: what sharing features is
  worth.
- `pooled_with_statistics`: pooled rows with the federated run's own columns, shared statistics among them.
- `plain`: the federated schedule again, averaged in plain sight; under differential privacy with noise of
  its own.
- `plain_without_privacy`: the same in plain sight without differential privacy, when the run has it: what
  privacy costs.

`alone` and both `pooled` train without differential privacy: a bank's own model does not leave it, and pooled
data has already left. They make as many passes over the rows as the federated run without privacy does.

All of them are **evaluation only**. They read the same rows outside any budget, are in no ledger and in no
epsilon, and would not be run where the promise of the epsilon is to be kept (`train --no-baselines`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from fl.data.federation import BankData, Federation, pooled_local
from fl.learning.evaluation import Evaluation, evaluate
from fl.learning.training import derive_seed, train_seeded
from fl.rounds.play import Schedule

Baseline = Callable[[], Evaluation]


def baselines(
    federation: Federation,
    local: Federation,
    shared_features: Callable[[], BankData],
    federated: Schedule,
    without_privacy: Schedule,
    *,
    device: torch.device,
    play: Callable[[Schedule], Sequence[nn.Module]],
) -> dict[str, Baseline]:
    """The baselines of a run by name, each a function that trains and measures it.

    `local`: `federation` with bank-local features only, the same object where nothing is shared. `shared_features`:
    makes the pooled table whose features look at all banks' rows. `federated`: the run's own schedule.
    `without_privacy`: the schedule without differential privacy; equal to `federated` when the run has none. `play`:
    the run's own algorithm in plain sight, one model per bank.
    """
    banks = federation.banks

    planned: dict[str, Baseline] = {
        "alone": lambda: alone(local.banks, without_privacy, device),
        "pooled": lambda: pooled(local.banks, pooled_local(local), without_privacy, device),
        "pooled_global": lambda: pooled([everything := shared_features()], everything, without_privacy, device),
        "plain": lambda: evaluate(banks, play(federated), device),
    }
    if federation is not local:
        planned["pooled_with_statistics"] = lambda: pooled(banks, pooled_local(federation), without_privacy, device)
    if federated is not without_privacy:
        planned["plain_without_privacy"] = lambda: evaluate(banks, play(without_privacy), device)
    return planned


def alone(banks: Sequence[BankData], schedule: Schedule, device: torch.device) -> Evaluation:
    """Each bank for itself: its own model from its own rows, measured on its own customers."""
    models = [_train_centrally(bank, schedule, device) for bank in banks]
    return evaluate(banks, models, device)


def pooled(banks: Sequence[BankData], everything: BankData, schedule: Schedule, device: torch.device) -> Evaluation:
    """One model from all banks' rows, `everything`, measured at every bank."""
    return evaluate(banks, [_train_centrally(everything, schedule, device)] * len(banks), device)


def _train_centrally(bank: BankData, schedule: Schedule, device: torch.device) -> nn.Module:
    """As many passes as the rounds make together, without the interruptions."""
    model = schedule.first_model(bank.train.x.shape[1]).to(device)
    local = replace(schedule.local, epochs=schedule.rounds * schedule.local.epochs)
    train_seeded(model, bank.train, local, seed=derive_seed(schedule.seed, "batches", bank.name), device=device)
    return model

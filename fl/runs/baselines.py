"""Train the baselines of federated training, on the same rows and the same test days.

- `alone`: each bank trains on its own rows, and its model scores its own customers.
- `pooled`: one model on all banks' rows in one place, with the features each bank computed from its own
  rows.
- `pooled_global`: the same, with features computed over all banks' transactions: the value of sharing
  features.
- `pooled_with_statistics`: pooled rows with the federated run's own columns, shared statistics among them.
- `plain`: the federated schedule again, averaged without encryption; under differential privacy with new
  noise.
- `plain_without_privacy`: the same without encryption and without differential privacy, when the run has
  it: the cost of privacy.

`alone` and both `pooled` train without differential privacy: a bank's own model does not leave it, and pooled
data has already left. They make as many passes over the rows as the federated run without privacy does.

All of them are **evaluation only**. They read the same rows outside any budget and ledger, and no epsilon covers
them. Leave them out where the promise of the epsilon must be kept (`train --no-baselines`).
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
    """The baselines of a run by name, as functions that train and measure them.

    `local`: `federation` with bank-local features only, the same object where nothing is shared. `shared_features`:
    makes the pooled table with features over all banks' rows. `federated`: the run's own schedule.
    `without_privacy`: the schedule without differential privacy; equal to `federated` when the run has none. `play`:
    the run's own algorithm without encryption, one model per bank.
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
    """Each bank alone: a model from its own rows, measured on its own customers."""
    models = [_train_centrally(bank, schedule, device) for bank in banks]
    return evaluate(banks, models, device)


def pooled(banks: Sequence[BankData], everything: BankData, schedule: Schedule, device: torch.device) -> Evaluation:
    """One model from all banks' rows, `everything`, measured at every bank."""
    return evaluate(banks, [_train_centrally(everything, schedule, device)] * len(banks), device)


def _train_centrally(bank: BankData, schedule: Schedule, device: torch.device) -> nn.Module:
    """Train without rounds, for as many passes as all rounds together."""
    model = schedule.first_model(bank.train.x.shape[1]).to(device)
    local = replace(schedule.local, epochs=schedule.rounds * schedule.local.epochs)
    train_seeded(model, bank.train, local, seed=derive_seed(schedule.seed, "batches", bank.name), device=device)
    return model

"""Train the baselines of federated training, on the same rows and the same test days.

- `alone`: each bank trains on its own rows, and its model scores its own customers.
- `pooled`: one model on all banks' rows in one place, with the features each bank computed from its own
  rows.
- `pooled_global`: the same, with features computed over all banks' transactions: the value of sharing
  features.
- `pooled_with_statistics`: pooled rows with the federated run's own columns, shared statistics among them.
- `plain`: the federated schedule again, averaged without encryption. A run whose every average was that of plain sums,
  number by number, is its own `plain`, and nothing is trained again. A run with differential privacy has none: it would
  be the run with other noise, and each round measures what encryption changes (`max_abs_error`).
- `plain_without_privacy`: the schedule without encryption and without differential privacy, when the run has it: the
  cost of privacy.

`alone` and the `pooled` ones train without differential privacy: a bank's own model does not leave it, and pooled
data has already left. A bank alone makes as many passes over its rows as the federated run without privacy does. A
pooled model makes fewer (`pooled_schedule`): at least as many steps as a bank alone makes, each on rows of all banks.
Both train as `fl.learning.centrally` says: faster than in a round, with other masks of dropout of the same law.

All of them are **evaluation only**. They read the same rows outside any budget and ledger, and no epsilon covers
them. Leave them out where the promise of the epsilon must be kept (`train --no-baselines`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from fl.data.federation import BankData, Federation, pooled_local
from fl.learning.centrally import train_centrally
from fl.learning.evaluation import Evaluation, evaluate
from fl.rounds.play import Schedule
from fl.seeds import derive_seed

MOST_SAVED = 4  # a pooled model makes at least the fourth part of the passes of a bank alone

Baseline = Callable[[], Evaluation]


def baselines(
    federation: Federation,
    local: Federation,
    shared_features: Callable[[], BankData],
    without_privacy: Schedule,
    *,
    private: bool,
    device: torch.device,
    play: Callable[[Schedule], Sequence[nn.Module]],
    own: Callable[[], Sequence[nn.Module]] | None = None,
) -> dict[str, Baseline]:
    """The baselines of a run by name, as functions that train and measure them.

    `local`: `federation` with bank-local features only, the same object where nothing is shared. `shared_features`:
    makes the pooled table with features over all banks' rows. `without_privacy`: the run's own schedule, without
    differential privacy. `private`: whether the run has that. `play`: the run's own algorithm without encryption, one
    model per bank. `own`: the run's own models, where all its averages were those of plain sums; None where not.
    """
    banks = federation.banks
    together = pooled_schedule(without_privacy, len(banks))

    planned: dict[str, Baseline] = {
        "alone": lambda: alone(local.banks, without_privacy, device),
        "pooled": lambda: pooled(local.banks, pooled_local(local), together, device),
        "pooled_global": lambda: pooled([everything := shared_features()], everything, together, device),
    }
    if federation is not local:
        planned["pooled_with_statistics"] = lambda: pooled(banks, pooled_local(federation), together, device)
    if private:
        planned["plain_without_privacy"] = lambda: evaluate(banks, play(without_privacy), device)
    else:
        planned["plain"] = lambda: evaluate(banks, play(without_privacy) if own is None else own(), device)
    return planned


def pooled_schedule(schedule: Schedule, banks: int) -> Schedule:
    """One round of as many passes as a pooled model makes where `schedule` is that of a bank alone.

    A pass over the rows of n banks has n times the steps of a pass over one bank's, so the n-th part of its passes has
    as many steps. At least a quarter of the passes are made.
    """
    passes = math.ceil(schedule.rounds * schedule.local.epochs / min(banks, MOST_SAVED))
    return replace(schedule, rounds=1, local=replace(schedule.local, epochs=passes))


def parts_of(names: Iterable[str], banks: int) -> dict[str, int]:
    """By baseline: in how many parts its work counts, for an estimate of the time that all of them take.

    A network that a bank trains alone counts twelve. Guesses, from runs with the default options.
    """
    known = {"alone": 12, "plain": 12, "plain_without_privacy": 4, "alone_private": 6, "alone_filter": 2, "at_home": 2}
    known |= {"alone_trees": 1, "pooled_trees": 1, "network": 12}
    return {name: known.get(name, 12 // min(banks, MOST_SAVED)) for name in names}


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
    train_centrally(model, bank.train, local, seed=derive_seed(schedule.seed, "batches", bank.name), device=device)
    return model

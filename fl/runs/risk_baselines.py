"""What a federation that knows the risk of shared parties is compared with, on the same rows and the same test days.

Without any privacy, since nothing of it leaves a bank:

- `alone`: each bank's own network, on its own features.
- `alone_filter`: each bank's own noisy-or model on eight weeks of its own rows, with the risk that its own labels show.
- `at_home`: the same with the run's release as well: what a member gains that keeps its model to itself.

Under the run's epsilon:

- `alone_private`: each bank alone with its own noise, for what it would have to publish by itself.

Only for comparison, since all rows would have to be in one place:

- `pooled`: a network on all rows; `pooled_global`: with features computed over all banks' rows.
- `plain`: the run's own steps in plain sight, of a run without privacy (`fl.runs.baselines` says why).
- `plain_without_privacy`: the model of a run with privacy, without any noise.

All of them use private labels outside every budget (`train --no-baselines`). Over Flower each bank computes its own and
sends none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fl.counts.plan import Totals, bank_counts
from fl.counts.settings import plan_sharing
from fl.data.federation import BankData, pooled_local
from fl.learning.evaluation import Evaluation, evaluate
from fl.learning.noisy_or import fit_noisy_or
from fl.rounds.play import Schedule
from fl.runs.baselines import Baseline, alone, pooled, pooled_schedule
from fl.runs.plan import RunPlan
from fl.runs.private_alone import private_alone
from fl.runs.risk import RiskOfParties


def risk_baselines(
    plan: RunPlan,
    parties: RiskOfParties,
    shared_features: Callable[[], BankData],
    without_privacy: Schedule,
    *,
    device: torch.device,
    plainly: Callable[[], Sequence[nn.Module]],
    known: Sequence[BankData],
) -> dict[str, Baseline]:
    """The baselines of a run by name, each a function that trains and measures it.

    `shared_features`: makes the pooled table whose features look at all banks' rows. `without_privacy`: the schedule of
    the networks. `plainly`: the models of the run's own steps in plain sight, one per bank. `known`: the banks' rows
    with what the release says, `parties.released`.
    """
    local = parties.local
    views = parties if parties.scale == "probability" else replace(parties, scale="probability")
    together = pooled_schedule(without_privacy, len(local.banks))
    planned: dict[str, Baseline] = {
        "alone": lambda: alone(local.banks, without_privacy, device),
        "alone_filter": lambda: personal(views.alone, device),
    }
    if parties.risk is not None:
        planned["at_home"] = lambda: personal(views.at_home, device)
    if plan.config.privacy is not None:
        planned["alone_private"] = lambda: evaluate(*private_alone(plan, parties, device), device)
    planned |= {
        "pooled": lambda: pooled(local.banks, pooled_local(local), together, device),
        "pooled_global": lambda: pooled([everything := shared_features()], everything, together, device),
    }
    if plan.config.privacy is None:
        planned["plain"] = lambda: evaluate(known, plainly(), device)
    else:
        planned["plain_without_privacy"] = lambda: exact(plan, views, device)
    return planned


def personal(banks: Sequence[BankData], device: torch.device) -> Evaluation:
    """Each bank's own model, fitted without noise to its own rows, on its own customers."""
    return evaluate(banks, [fit_noisy_or(bank.train) for bank in banks], device)


def exact(plan: RunPlan, views: RiskOfParties, device: torch.device) -> Evaluation:
    """One model of all banks' training rows with exact counts: what the federation would be without privacy."""
    knowing = views if views.risk is None else views.with_totals(exact_totals(plan, views))
    banks = knowing.released
    everything = pooled_local(replace(views.local, banks=banks)).train
    scored = knowing.with_evidence(banks)
    return evaluate(scored, [fit_noisy_or(everything)] * len(scored), device)


def exact_totals(plan: RunPlan, views: RiskOfParties) -> Totals:
    """The run's counts without noise, in one place: for baselines alone."""
    settings = plan.config.statistics
    assert settings is not None and views.keys is not None
    sharing = plan_sharing(plan.source, settings.undecided(), None, fraud_blocks=True)
    tables = (plan.source.table.take(rows) for _, rows, _ in plan.source.banks)
    return Totals(sharing, np.sum([bank_counts(table, views.keys, sharing) for table in tables], axis=0))

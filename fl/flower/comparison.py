"""The same rounds in one process, to compare a network with: same banks, same seeds, same plan, no Flower."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.errors import MetricError
from fl.flower.settings import PlanSettings
from fl.options import LEAST_BANKS
from fl.secure.rule_settings import RobustSettings

if TYPE_CHECKING:
    from fl.rounds.attackers import Attackers


@dataclass(frozen=True)
class InProcess:
    """The model of the run in one process: its hash, and the average precision on all banks' test rows.

    `average_precision` is None, and `not_measured` says why, where there are too few frauds to measure it. `rejected`:
    by bank, the rounds in which a rule left it out.
    """

    model_hash: str
    average_precision: float | None
    not_measured: str | None = None
    rejected: Mapping[str, int] = field(default_factory=dict)


def in_process(
    app: Mapping[str, Any],
    plan: PlanSettings,
    rounds: int,
    folder: Path = Path(),
    robust: RobustSettings | None = None,
    attackers: Attackers | None = None,
) -> InProcess:
    """The model after `rounds` encrypted rounds at the banks that an [app] table leads to.

    app: the [app] table of any of the banks; all of it but `bank` is the same at each. folder: that of its party file.
    robust: the rule that leaves banks out. attackers: banks that poison the model, a simulation.
    """
    import torch

    from fl.data.federation import federation_of
    from fl.flower.client_app import banks_of, schedule_of
    from fl.learning.evaluation import evaluate, require_measurable
    from fl.learning.model import model_hash
    from fl.rounds.algorithms.fedavg import FedAvg
    from fl.rounds.algorithms.participation import Everyone
    from fl.rounds.play import Rounds, play_rounds
    from fl.secure.session import InProcessRounds

    torch.set_num_threads(1)
    federation = federation_of(banks_of(app, folder))
    schedule = schedule_of(app, rounds)
    cpu = torch.device("cpu")
    rule = None if robust is None else robust.asked
    names = [bank.name for bank in federation.banks]
    summed = InProcessRounds(names, clip=plan.clip, quorum=LEAST_BANKS, largest=plan.max_clients, rule=rule)
    played = Rounds(
        federation.banks,
        schedule,
        FedAvg(Everyone(len(federation.banks))),
        lambda joined: summed.average(joined, plan.value_bits),
        clip=plan.clip,
        device=cpu,
        attackers=attackers,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about validation figures over few frauds, which are not used here
        state, rejected = played.begin(), Counter[str]()
        for record, after in play_rounds(played):
            state = after
            rejected.update(record.rejected)
        models, measured, why = played.models(state), None, None
        try:
            require_measurable(federation.banks)
            measured = evaluate(federation.banks, models, cpu).mean["average_precision"]
        except MetricError as fault:
            why = str(fault)
    return InProcess(model_hash(models[0]), measured, why, dict(sorted(rejected.items())))

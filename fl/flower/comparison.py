"""The same rounds in one process, to compare a network with: same banks, same seeds, same plan, no Flower."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.errors import MetricError
from fl.flower.settings import PlanSettings


@dataclass(frozen=True)
class InProcess:
    """The model of the run in one process: its hash, and the average precision on all banks' test rows.

    `average_precision` is None, and `not_measured` says why, where there are too few frauds to measure it.
    """

    model_hash: str
    average_precision: float | None
    not_measured: str | None = None


def in_process(app: Mapping[str, Any], plan: PlanSettings, rounds: int, folder: Path = Path()) -> InProcess:
    """The model after `rounds` encrypted rounds at the banks that an [app] table leads to.

    app: the [app] table of any of the banks; all of it but `bank` is the same at each. folder: that of its party file.
    """
    import torch

    from fl.data.federation import federation_of
    from fl.flower.client_app import banks_of, schedule_of
    from fl.learning.evaluation import evaluate, require_measurable
    from fl.learning.model import layout, model_hash
    from fl.rounds.algorithms.fedavg import FedAvg
    from fl.rounds.algorithms.participation import Everyone
    from fl.rounds.play import Rounds, trained_models
    from fl.secure.cost import plan_for
    from fl.secure.session import encrypted_average

    torch.set_num_threads(1)
    federation = federation_of(banks_of(app, folder))
    schedule = schedule_of(app, rounds)
    model, cpu = schedule.first_model(len(federation.feature_names)), torch.device("cpu")
    agreed = plan_for(layout(model).length, plan.max_clients, plan.clip, plan.value_bits)
    played = Rounds(
        federation.banks,
        schedule,
        FedAvg(Everyone(len(federation.banks))),
        lambda joined: encrypted_average(joined.updates, plan=agreed, model_hash=joined.model_hash),
        clip=plan.clip,
        device=cpu,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about validation figures over few frauds, which are not used here
        models = trained_models(played)
        try:
            require_measurable(federation.banks)
            measured = evaluate(federation.banks, models, cpu).mean["average_precision"]
        except MetricError as fault:
            return InProcess(model_hash(models[0]), None, str(fault))
    return InProcess(model_hash(models[0]), measured)

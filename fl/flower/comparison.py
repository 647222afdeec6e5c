"""The same rounds in one process, to compare a network with: same banks, same seeds, same plan, no Flower."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from fl.flower.settings import PlanSettings


def in_process_hash(app: Mapping[str, Any], plan: PlanSettings, rounds: int) -> str:
    """`model_hash` of the model after `rounds` encrypted rounds at the banks of the embedded generator.

    app: the [app] table of any of the banks; all of it but `bank` is the same at each.
    """
    import torch

    from fl.data.federation import load_federation
    from fl.flower.app_table import simulation_of
    from fl.flower.client_app import schedule_of
    from fl.learning.model import layout, model_hash
    from fl.rounds.algorithms.fedavg import FedAvg
    from fl.rounds.algorithms.participation import Everyone
    from fl.rounds.play import Rounds, trained_models
    from fl.secure.session import encrypted_average, plan_for

    torch.set_num_threads(1)
    seed = int(app["seed"])
    federation = load_federation("simulated", seed=seed, simulation=simulation_of(app))
    schedule = schedule_of(app, rounds)
    model = schedule.first_model(len(federation.feature_names))
    agreed = plan_for(layout(model).length, plan.max_clients, plan.clip, plan.value_bits)
    played = Rounds(
        federation.banks,
        schedule,
        FedAvg(Everyone(len(federation.banks))),
        lambda joined: encrypted_average(joined.updates, plan=agreed, model_hash=joined.model_hash),
        clip=plan.clip,
        device=torch.device("cpu"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about validation figures over few frauds, which are not used here
        return model_hash(trained_models(played)[0])

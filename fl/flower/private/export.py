"""A finished private run as a folder that `demos score` reads: the model, the release, and what the features mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from fl.counts.entity_risk import write_episodes
from fl.counts.key_slots import AllSlots
from fl.counts.plan import Totals
from fl.counts.release import ReleasedCounts, write_totals
from fl.durable import replace_durably, replace_json
from fl.flower.federation_plan import FederationPlan
from fl.runs.config import DataSettings, config_to_toml
from fl.runs.model_file import write_model
from fl.runs.plan import RunPlan
from fl.runs.risk import RiskOfParties

RUN = "run"  # folder beside the party file


def export(
    folder: Path,
    plan: FederationPlan,
    run: RunPlan,
    parties: RiskOfParties,
    release: tuple[Totals, AllSlots] | None,
    module: nn.Module,
    threshold: float,
    data: DataSettings,
) -> None:
    """Write the bank's copy of the run into `folder`. `data`: where this bank's rows are. `threshold`: its own."""
    begin_folder(folder, plan, run, data)
    if release is not None:
        totals, keys = release
        statistics = folder / "statistics"
        statistics.mkdir(mode=0o700, exist_ok=True)
        salt = statistics / "salt"
        salt.touch(mode=0o600)
        replace_durably(salt, keys.kinds[0].salt)
        salt.chmod(0o600)
        assert parties.risk is not None
        write_totals(statistics, ReleasedCounts(totals, 0.0, 0, 0, 0), keys, plan.members)
        write_episodes(statistics, parties.risk.episodes)
    write_model(folder, module, parties.local.schema, run.feature_names, threshold)


def begin_folder(folder: Path, plan: FederationPlan, run: RunPlan, data: DataSettings) -> None:
    """Make the folder of a run, with its configuration and its members. `data`: where this bank's rows are."""
    folder.mkdir(mode=0o700, exist_ok=True)
    replace_durably(folder / "config.toml", config_to_toml(replace(run.config, data=data)).encode())
    replace_json(folder / "manifest.json", {"run_id": plan.run, "data": {"banks": dict.fromkeys(plan.members)}})

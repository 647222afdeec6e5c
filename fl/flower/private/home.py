"""What a bank of a private run compares at home, on its own rows and with its own labels, and sends to nobody.

The columns are those of `demos train`: the federated model with released values alone, and with the bank's own evidence
when scoring; a model at home that uses the release; the bank's own models without it. None of them but the first is
covered by epsilon. Figures are of this bank's customers alone, so they are rougher than those of all banks together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fl.durable import replace_durably
from fl.errors import FederationError
from fl.learning.evaluation import Evaluation, evaluate, require_measurable
from fl.runs.baselines import alone
from fl.runs.plan import RunPlan
from fl.runs.risk import RiskOfParties
from fl.runs.risk_baselines import personal
from fl.runs.verdict import OWN_EVIDENCE, verdict

COMPARISON = "comparison.json"
NAMES = {
    "federated": "federated model, released values alone",
    OWN_EVIDENCE: "federated model, own evidence when scoring (outside epsilon)",
    "at_home": "own model at home, with the release (outside epsilon)",
    "alone_filter": "alone: own model, own labels of shared parties",
    "alone": "alone: own network",
}


def compare(parties: RiskOfParties, plan: RunPlan, model: nn.Module, epsilon: float) -> dict[str, Any]:
    """Figures by name, with the sentence that they amount to. `parties`: of one bank. `epsilon`: what it has spent.

    "not measured" says why where the bank has too few frauds.
    """
    device = torch.device("cpu")
    banks, views = parties.released, replace(parties, scale="probability")
    networks = plan.without_privacy(plan.schedule(plan.config.rounds))
    try:
        require_measurable(banks)
        measures: dict[str, Callable[[], Evaluation]] = {
            "federated": lambda: evaluate(banks, [model], device),
            OWN_EVIDENCE: lambda: evaluate(parties.with_evidence(banks), [model], device),
            "at_home": lambda: personal(views.at_home, device),
            "alone_filter": lambda: personal(views.alone, device),
            "alone": lambda: alone(parties.local.banks, networks, device),
        }
        figures: dict[str, Any] = {name: measure().as_json() for name, measure in measures.items()}
    except FederationError as error:
        return {"bank": parties.local.banks[0].name, "epsilon": epsilon, "not_measured": str(error)}
    assert plan.config.privacy is not None
    result = {
        "metrics": {**figures["federated"], OWN_EVIDENCE: figures[OWN_EVIDENCE]},
        "baselines": {name: figures[name] for name in ("at_home", "alone_filter", "alone")},
        "privacy": {"epsilon": epsilon, "noise": plan.config.privacy.noise},
        "statistics": None if parties.risk is None else {},
    }
    found = verdict(result)
    return {
        "bank": parties.local.banks[0].name,
        "epsilon": epsilon,
        "figures": figures,
        "gain_over_alone": found.gain,
        "verdict": found.sentence,
    }


def keep(folder: Path, compared: dict[str, Any]) -> Path:
    """Write a comparison into the bank's own folder, for its operator alone."""
    path = folder / COMPARISON
    replace_durably(path, json.dumps(compared, indent=1).encode())
    path.chmod(0o600)
    return path


def told(compared: dict[str, Any]) -> str:
    """The comparison in lines for the bank's operator."""
    lines = [f"{compared['bank']}: epsilon {compared['epsilon']:.3g} spent; average precision on its own test rows"]
    if "not_measured" in compared:
        return "\n".join([*lines, f"  not measured: {compared['not_measured']}"])
    figures = compared["figures"]
    lines += [f"  {figures[name]['average_precision']:.3f}  {words}" for name, words in NAMES.items()]
    return "\n".join([*lines, f"  {compared['verdict']}", "  nothing of this was sent"])

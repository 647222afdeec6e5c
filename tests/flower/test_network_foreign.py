"""A Flower app of somebody else in real processes: encrypted under the mod, and plain without it; the same average."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faulty_network import ROOT, step_of

from fl.flower.local_network import LocalNetwork
from fl.flower.local_parties import LocalParties
from fl.flower.settings import PlanSettings

pytestmark = pytest.mark.long

EXAMPLES = ROOT / "examples"
SERVER = Path(__file__).parent / "foreign_server"
PLAN = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=100, max_length=1_000)
ROUNDS = 2
BANKS = [f"bank-{number}" for number in range(3)]


def encrypted(folder: Path) -> np.ndarray:
    """The example under its mod: a SuperLink, a key holder and three banks, each in processes of its own."""
    parties = LocalParties(folder / "parties", PLAN, {name: {} for name in BANKS})
    parties.make()
    network = LocalNetwork(
        parties,
        folder / "work",
        bank_app="foreign_flower_app:app",
        server_app=SERVER,
        node_config={name: f"partition-id={number}" for number, name in enumerate(BANKS)},
        environment={"PYTHONPATH": f"{ROOT}:{EXAMPLES}"},
    )
    with network:
        return np.array(network.run(ROUNDS, 300)["weights"])


def plain() -> np.ndarray:
    """The example's train function under Flower's own FedAvg, in Flower's simulation engine."""
    command = [sys.executable, str(SERVER / "plain.py"), str(ROUNDS)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{EXAMPLES}", "RAY_USAGE_STATS_ENABLED": "0"}
    environment["FLWR_TELEMETRY_ENABLED"] = "0"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.array(json.loads(done.stdout.splitlines()[-1])["weights"])


def test_a_foreign_app_in_real_processes_gives_the_average_that_flower_gives_without_the_mod(tmp_path: Path) -> None:
    with_mod, without = encrypted(tmp_path), plain()
    difference = np.abs(with_mod - without).max()
    print(f"largest difference after {ROUNDS} rounds: {difference:.2e}, one step is {step_of(PLAN):.2e}")
    # Each round is off by at most half a step, and so is what the next round's gradients start from.
    assert 0 < difference <= ROUNDS * step_of(PLAN)
    assert np.abs(without).max() > 0.1  # both moved

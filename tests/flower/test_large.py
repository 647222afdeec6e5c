"""Twenty million values from three banks in real processes: in parts, within the aggregator's memory, and exact.

Measured: the largest resident size of the process that runs the ServerApp, by its own `getrusage`, interpreter and
Flower included; one contribution as its bytes on the wire. The SuperLink's is printed beside it and bound by nothing:
it stores what is under way.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fl.flower.local_network import SUPERLINK, LocalNetwork
from fl.flower.local_parties import LocalParties
from fl.flower.models import FlatModel
from fl.flower.settings import PlanSettings
from fl.flower.transport import PART_BYTES

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LENGTH = 20_000_000
PLAN = PlanSettings(max_clients=3, clip=1.0, value_bits=16, max_weight=1, max_length=LENGTH)
LIMITS = {
    "ready_s": 120.0,
    "call_s": 120.0,
    "train_s": 240.0,
    "contribute_s": 240.0,
    "release_s": 240.0,
    "part_s": 120.0,
}


def peak_memory_of(pid: int) -> int:
    """Bytes: the largest resident size that a process has had (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def test_twenty_million_values_pass_within_four_contributions_of_memory(tmp_path: Path) -> None:
    banks = {f"bank-{number}": {"length": LENGTH, "number": number} for number in range(3)}
    parties = LocalParties(tmp_path / "parties", PLAN, banks)
    parties.make()
    environment = {"PYTHONPATH": f"{ROOT}:{HERE}"}
    with LocalNetwork(parties, tmp_path / "work", bank_app="faulty_apps:app", environment=environment) as network:
        result = network.run(1, 800, evaluate=False, **LIMITS)
        superlink_peak = peak_memory_of(network.processes.pid(SUPERLINK))
    (report,) = result["rounds"]
    figures = {
        "values": LENGTH,
        "banks": len(report["members"]),
        "contribution_bytes": result["contribution_bytes"],
        "aggregator_peak_memory": result["peak_memory"],
        "superlink_peak_memory": superlink_peak,
        "contributions_of_memory": round(result["peak_memory"] / result["contribution_bytes"], 2),
        "largest_message": result["largest_message"],
        **{name: report[name] for name in ("seconds", "seal_seconds", "sum_seconds", "open_seconds")},
    }
    print("\n" + json.dumps(figures))
    assert sorted(report["members"]) == sorted(banks)
    assert result["largest_message"] <= PART_BYTES
    assert result["peak_memory"] < 4 * result["contribution_bytes"]

    exact = np.zeros(LENGTH)
    for name in banks:
        exact += np.load(parties.home(name) / "update-1.npy")
    exact /= len(banks)
    for name in banks:
        model = FlatModel.from_bytes((parties.home(name) / "model.npz").read_bytes())[0]
        assert model.digest.hex() == result["model"]
    assert np.abs(model.vector - exact).max() <= result["error_bound"] + 2.0**-24

"""A hundred banks in Flower's simulation engine: who pays for their number."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.long


def simulated(banks: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "fl.flower.simulation", "--banks", str(banks), "--length", "20000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_hundred_banks_finish_a_round_and_the_servers_costs_grow_with_their_number() -> None:
    few, many = simulated(10), simulated(100)
    print("\n" + json.dumps(few) + "\n" + json.dumps(many))
    assert (few["members"], many["members"]) == (10, 100)
    # Adding is linear in the banks, opening nearly flat (seed masks and signatures), memory does not grow with them.
    assert many["aggregator_seconds"] < 50 * max(few["aggregator_seconds"], 0.01)
    assert many["key_holder_seconds"] < 20 * max(few["key_holder_seconds"], 0.05)
    assert many["aggregator_peak_memory"] < 1.5 * few["aggregator_peak_memory"]

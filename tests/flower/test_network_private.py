"""A private run between real processes: counts, noisy steps, ledgers and comparisons at each bank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


def test_a_private_network_pays_in_every_ledger_and_sends_nothing_but_hashes(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options = ["--epsilon", "3", "--rounds", "2", "--customers", "300", "--keep", str(tmp_path / "kept"), "--json"]
    running = subprocess.run(
        [sys.executable, "-m", "demos", "network", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert running.returncode == 0, running.stderr[-3000:]
    report = json.loads(running.stdout)
    assert report["models_equal"] and len(report["model_hashes"]) == 3 and not report["ended"]
    assert [each["number"] for each in report["rounds"]] == [1, 2, 3] and report["rounds_of_counts"] == 1
    for ledger in report["ledgers"].values():
        kinds = [(line["kind"], line["round"]) for line in ledger["releases"]]
        assert kinds == [("LaplaceCounts", 0), ("SharedSteps", 1), ("SharedSteps", 2)]
        assert 2.9 < ledger["epsilon"] <= 3.0
    assert all(compared["bank"] == bank for bank, compared in report["at_each_bank"].items())
    result = json.loads((tmp_path / "kept" / "network" / "result-1.json").read_bytes())
    assert all(set(said) == {"model_hash"} for said in result["reports"].values())
    assert report["processes_left"] == 0

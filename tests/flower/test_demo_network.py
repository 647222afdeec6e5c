"""`demos network`: real processes, the same model as in one process, and nothing left behind, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import risky_banks

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


def started_by(home: Path) -> list[str]:
    """Command lines of all processes that were started with this HOME."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                mine = f"HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0")
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if mine and line:
                found.append(line)
    return found


def demo(home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "demos", "network", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_network_ends_with_the_model_of_the_in_process_run(tmp_path: Path) -> None:
    running = demo(tmp_path, "--banks", "3", "--rounds", "2", "--json")
    out, err = running.communicate(timeout=400)
    assert running.returncode == 0, err[-3000:]
    report = json.loads(out)
    assert report["models_equal"] and set(report["model_hashes"].values()) == {report["in_process_model_hash"]}
    assert len(report["model_hashes"]) == 3 and [each["number"] for each in report["rounds"]] == [1, 2]
    assert report["processes_left"] == 0 and started_by(tmp_path) == []
    assert list(tmp_path.glob("secagg-network-*")) == []


def test_the_network_grows_the_trees_of_one_process(tmp_path: Path) -> None:
    asked = ["--model", "trees", "--trees", "1", "--depth", "2", "--customers", "300", "--json"]
    out, err = (running := demo(tmp_path, *asked)).communicate(timeout=600)
    assert running.returncode == 0, err[-3000:]
    report = json.loads(out)
    assert report["models_equal"] and set(report["model_hashes"].values()) == {report["in_process_model_hash"]}
    assert len(report["model_hashes"]) == 3 and 1 < len(report["rounds"]) <= report["most_sums"] == 3
    assert all(compared["bank"] == bank for bank, compared in report["at_each_bank"].items())
    assert report["processes_left"] == 0 and started_by(tmp_path) == []


def test_the_network_trains_on_a_file_of_ones_own(tmp_path: Path) -> None:
    data = risky_banks.written(tmp_path, risky_banks.frame())
    asked = ["--data", str(data), "--schema", str(tmp_path / "risky.toml"), "--rounds", "1", "--json"]
    running = demo(tmp_path, *asked)
    out, err = running.communicate(timeout=400)
    assert running.returncode == 0, err[-3000:]
    report = json.loads(out)
    assert report["models_equal"] and list(report["model_hashes"]) == list(risky_banks.BANKS)
    assert 0 < report["average_precision"] <= 1 and report["processes_left"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_network_that_is_interrupted_stops_everything_it_started(tmp_path: Path, number: signal.Signals) -> None:
    running = demo(tmp_path)
    deadline = time.monotonic() + 90
    while not any("fl.flower.resident" in line for line in started_by(tmp_path)):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.2)
    try:
        running.send_signal(number)
        running.communicate(timeout=60)
    finally:
        running.terminate()  # when the test fails: what is left then is this test's to stop
        running.wait(60)
    assert running.returncode not in (0, None)
    assert started_by(tmp_path) == []
    assert list(tmp_path.glob("secagg-network-*")) == []


def test_a_network_whose_program_is_killed_outright_leaves_no_process(tmp_path: Path) -> None:
    running = demo(tmp_path)
    deadline = time.monotonic() + 90
    while not any("fl.flower.resident" in line for line in started_by(tmp_path)):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.2)
    running.kill()
    running.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while left := started_by(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)

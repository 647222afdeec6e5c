"""The command line as a person uses it, in processes of their own: exit codes, files, one real planted slow-down."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import measurement, results
from planted import PLANTER, with_path

from benchmarks.presets import HEADLINE, chosen, preset
from benchmarks.results import load
from benchmarks.tables import FEWEST_REPETITIONS

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--sizes", "20000", "--clients", "3", "--case", "plain-numpy", "--threads", "1"]


def benchmarks(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
    )


def test_a_run_writes_its_results_and_prints_its_table(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    done = benchmarks("run", *TINY, "--cycles", "2", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "plain-numpy" in done.stdout and "20,000 values, 3 clients, 16 bits" in done.stdout
    assert "1 threads used" in done.stderr
    run = load(path)
    assert run.complete and run.machine["threads"] == 1
    assert run.command.endswith("--json r.json")
    assert str(ROOT) not in path.read_text() and str(tmp_path) not in path.read_text()


def test_compare_ends_1_on_a_regression_and_0_on_the_same_code(tmp_path: Path) -> None:
    for name, slower, seed in (("old", 1.0, 0), ("same", 1.0, 1), ("slow", 1.2, 2)):
        own = measurement("secagg-x-masked", 0.4, ours=True, drift=[1.0] * 5, noise=0.02, seed=seed, slower=slower)
        control = measurement("plain-x", 0.1, ours=False, drift=[1.0] * 5, noise=0.02, seed=seed + 10)
        results(own, control).save(tmp_path / f"{name}.json")
    same = benchmarks("compare", str(tmp_path / "old.json"), str(tmp_path / "same.json"))
    assert same.returncode == 0, same.stdout
    slow = benchmarks("compare", str(tmp_path / "old.json"), str(tmp_path / "slow.json"))
    assert slow.returncode == 1
    assert "slower" in slow.stdout


def test_comparing_unlike_machines_is_wrong_usage(tmp_path: Path) -> None:
    own = measurement("secagg-x-masked", 0.4, ours=True, drift=[1.0] * 5)
    results(own).save(tmp_path / "a.json")
    results(own, cores=64).save(tmp_path / "b.json")
    done = benchmarks("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert done.returncode == 2
    assert "UnlikeMachines" in done.stderr and "Traceback" not in done.stderr


def test_a_report_is_written_from_a_file(tmp_path: Path) -> None:
    results(measurement("secagg-x-masked", 0.4, ours=True, drift=[1.0] * 3)).save(tmp_path / "r.json")
    done = benchmarks(
        "report", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"), "--csv", str(tmp_path / "r.csv")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").stat().st_size > 10_000
    assert (tmp_path / "r.csv").read_text().startswith("processor,")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--sizes", "1.5"], 2, "each a whole number"),
        (["run", "--case", "nonsense"], 2, "plain-numpy"),
        (["run", "--resume"], 2, "--json"),
        (["report", "absent.json"], 1, "absent.json"),
        (["report"], 2, "FILES"),
    ],
)
def test_wrong_usage_ends_2_and_unreadable_files_1_with_advice(arguments: list[str], code: int, words: str) -> None:
    done = benchmarks(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


def test_the_schema_is_printed_as_json() -> None:
    done = benchmarks("schema")
    assert json.loads(done.stdout)["properties"]["version"] == {"const": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_done_and_can_be_resumed(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    arguments = ["run", *TINY, "--cycles", "3", "--json", str(path)]
    (tmp_path / "sitecustomize.py").write_text(PLANTER + INTERRUPTION.format(number=int(number)))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=with_path(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, stderr = process.communicate()
    assert process.returncode == 1, stderr
    assert "--resume" in stderr and "Traceback" not in stderr
    kept = load(path)
    assert not kept.complete and len(kept.measurements[0].repetitions) == 1

    done = benchmarks(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    again = load(path)
    assert again.complete
    assert (
        again.measurements[0].repetitions[: len(kept.measurements[0].repetitions)] == kept.measurements[0].repetitions
    )
    assert {r["cycle"] for r in again.measurements[0].repetitions} == set(range(3))


def test_quick_measures_every_kind_of_case_and_full_sweeps_to_a_hundred_million_values() -> None:
    quick, full = preset("quick", "cpu", None), preset("full", "cpu", None)
    names = {name for point in quick.points for name in point.cases}
    assert {"plain-numpy", "plain-torch-cpu", "tenseal-tutorial", "tenseal-nvflare", "tenseal-best-public"} <= names
    assert {"flower-secagg-plus", "secagg-seal-masked", "secagg-seal-unmasked", "round-mlp-encrypted-cpu"} <= names
    assert quick.limit_s is not None and quick.limit_s < 180
    assert quick.points[0].workload == HEADLINE and quick.fewest >= FEWEST_REPETITIONS, "a slow machine cuts the rest"
    workloads = [point.workload for point in full.points]
    assert {10**exponent for exponent in range(3, 9)} <= {w.length for w in workloads}
    assert {2, 1_000} <= {w.clients for w in workloads}
    assert {8, 24} <= {w.value_bits for w in workloads}
    assert len(set(workloads)) == len(workloads)


def test_once_visits_every_point_in_a_single_cycle_and_takes_no_peaks() -> None:
    large = chosen(preset("quick", "cpu", None), "cpu", None, sizes=(10, 20), names=("plain-numpy",), once=True)
    assert [point.workload.length for point in large.points] == [10, 20]
    assert all(point.once for point in large.points)
    assert not any(point.once for point in preset("quick", "cpu", None).points)


@pytest.mark.long
def test_a_slow_down_planted_into_the_real_code_is_found_and_its_absence_is_not(tmp_path: Path) -> None:
    """Two runs of the same code pass; a third, whose encryption takes a fifth longer, does not."""
    arguments = ["run", "--sizes", "2e5", "--clients", "3", "--cycles", "25", "--case", "plain-numpy", "--threads", "1"]
    arguments += ["--case", "tenseal-best-public", "--case", "flower-secagg-plus", "--case", "secagg-seal-unmasked"]
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(PLANTER + SLOW_DOWN)
    for name in ("old", "same"):
        assert benchmarks(*arguments, "--json", str(tmp_path / f"{name}.json"), timeout_s=400).returncode == 0
    slow = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--json", str(tmp_path / "slow.json")],
        cwd=ROOT,
        env=with_path(planted),
        capture_output=True,
        timeout=400,
    )
    assert slow.returncode == 0
    same = benchmarks("compare", str(tmp_path / "old.json"), str(tmp_path / "same.json"))
    assert same.returncode == 0, same.stdout
    if "too busy" in same.stdout:
        pytest.skip("others use this machine: a slow-down of a fifth cannot be told from their work")
    found = benchmarks("compare", str(tmp_path / "old.json"), str(tmp_path / "slow.json"))
    assert found.returncode == 1, found.stdout


SLOW_DOWN = """
import time


def plant(module):  # every encryption takes a fifth longer
    honest = module.Encryptor.encrypt_coefficients

    def slower(self, plaintext, block):
        start = time.perf_counter()
        honest(self, plaintext, block)
        end = start + 1.2 * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass

    module.Encryptor.encrypt_coefficients = slower


sys.meta_path.insert(0, Planter("secagg.ckks", plant))
"""

INTERRUPTION = """
import os
import threading


def plant(module):  # once the first repetition is on disk, an impatient person, or a time limit, signals three times
    honest = module.Journal.add

    def impatient():
        for _ in range(3):
            os.kill(os.getpid(), {number})

    def add(self, entry):
        honest(self, entry)
        if entry["kind"] == "repetition":
            person = threading.Thread(target=impatient)
            person.start()
            person.join()

    module.Journal.add = add


sys.meta_path.insert(0, Planter("benchmarks.runner", plant))
"""

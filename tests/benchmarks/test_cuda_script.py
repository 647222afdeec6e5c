"""The script that gathers the evidence of a GPU: its usage, and all its steps on CPU tensors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import load

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "cuda.sh"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("timeout") is None, reason="the script needs bash and coreutils"
)


def script(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    everything = ["bash", str(SCRIPT), "--python", sys.executable, *arguments]
    return subprocess.run(everything, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


@pytest.mark.parametrize("arguments", [["--device", "abacus"], ["--quick"]], ids=" ".join)
def test_wrong_usage_ends_2_with_what_was_expected(arguments: list[str]) -> None:
    done = script(*arguments)
    assert done.returncode == 2
    assert "expected" in done.stderr and not done.stdout


def test_without_a_device_it_says_so_and_measures_nothing(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = script("--out", str(tmp_path / "out"), "--wheels-from", str(tmp_path))
    assert done.returncode == 1
    assert "no CUDA device: use --device cpu" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_every_step_ends_well_on_cpu_tensors_and_leaves_few_files(tmp_path: Path) -> None:
    done = script("--device", "cpu", "--out", str(tmp_path), "--wheels-from", str(tmp_path), timeout_s=890)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {path.name.rsplit("-", 1)[1] for path in tmp_path.glob("*.json")}
    assert kinds == {"headline.json", "sums.json", "rounds.json", "updates.json"}
    for path in tmp_path.glob("*.json"):
        results = load(path)
        assert results.complete and results.measurements
        assert {m.status for m in results.measurements} == {"ok"}
        assert path.stat().st_size < 1 << 20
    [tables] = tmp_path.glob("*.md")
    text = tables.read_text(encoding="utf-8")
    assert "clients and key holder on cpu" in text and "of the copy bandwidth" in text and "aggregation share" in text

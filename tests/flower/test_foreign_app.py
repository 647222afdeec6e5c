"""The example of a foreign Flower app: with the mod it computes what it computes without, and it stays an example."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl.flower.loopback import LoopbackGrid, Node, local_federation
from fl.flower.settings import PlanSettings

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "foreign_flower_app.py"
PLAN = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=100, max_length=1_000)
ROUNDS = 3


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("foreign_flower_app", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_app_with_and_without_the_mod_gives_the_same_average(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    encrypted = example.serve(*local_federation(tmp_path, example.app, 3, PLAN), rounds=ROUNDS)

    plain_app = ClientApp()
    plain_app.train()(example.train)
    grid = LoopbackGrid([Node(plain_app, {"partition-id": number}) for number in range(3)])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    plain = strategy.start(grid, ArrayRecord([np.zeros(20)]), num_rounds=ROUNDS).arrays

    difference = np.abs(encrypted.to_numpy_ndarrays()[0] - plain.to_numpy_ndarrays()[0]).max()
    step = PLAN.clip / (2 ** (PLAN.value_bits - 1) - 1)
    # Each round is off by at most half a step, and so is what the next round's gradients start from.
    assert 0 < difference <= ROUNDS * step
    assert np.abs(plain.to_numpy_ndarrays()[0]).max() > 0.1  # both moved


def test_the_example_has_at_most_thirty_lines_of_app(example: ModuleType) -> None:
    text = EXAMPLE.read_text()
    body = ast.parse(text).body
    last = next(node.lineno for node in body if isinstance(node, ast.If)) - 1  # before `if __name__ ...`
    code = [line for line in text.splitlines()[:last] if line.strip()]
    assert len(code) <= 30


def test_the_example_runs_as_it_says(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("[-0.2") and '"event": "round done"' in done.stderr

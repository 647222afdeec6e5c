"""Getting ready before the first round: once, in a process of its own, and never silently wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import secagg
from secagg import preparation
from secagg.errors import EngineUnavailable

PLAN = secagg.plan_round(length=100, max_clients=4, value_bits=16)

FRESH_PROCESS = """
import json
import secagg

plan = secagg.plan_round(length=5000, max_clients=4, value_bits=16)
print(json.dumps([secagg.prepare(plan), secagg.prepare(plan)]))
"""


def test_a_second_call_has_nothing_left_to_do() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH_PROCESS], capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout)
    assert first > 0.0
    assert second == 0.0


@pytest.mark.parametrize("engine", ["auto", "seal"])
def test_every_engine_and_number_of_threads_is_prepared_by_itself(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_prepared", set())
    assert secagg.prepare(PLAN, engine, threads=1) > 0.0
    assert secagg.prepare(PLAN, engine, threads=2) > 0.0
    assert secagg.prepare(PLAN, engine, threads=2) == 0.0


def test_an_engine_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineUnavailable, match="expected auto or one of"):
        secagg.prepare(PLAN, "nonsense")


def test_an_engine_that_adds_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = preparation.run_round

    def wrong(*arguments: object, **named: object) -> object:
        result = honest(*arguments, **named)  # type: ignore[arg-type]  # passed on as they came
        result.sums[0] += 1
        return result

    monkeypatch.setattr(preparation, "_prepared", set())
    monkeypatch.setattr(preparation, "run_round", wrong)
    with pytest.raises(EngineUnavailable, match="does not add exactly on this machine"):
        secagg.prepare(PLAN)
    assert not preparation._prepared

"""Getting ready before the first round: once, in a process of its own, and never silently wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import secagg
from secagg import kernels, preparation
from secagg.engines import available_engines
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


COUNT_COMPILATIONS = """
import sys
import numba
import numpy as np
import secagg

threads, prepared = int(sys.argv[1]), sys.argv[2] == "prepared"
params = secagg.plan_round(length=1, max_clients=4, value_bits=8).params
one = secagg.plan_round(length=1, max_clients=4, value_bits=8, params=params)
plan = secagg.plan_round(length=3 * one.values_per_block, max_clients=4, value_bits=8, params=params)
assert plan.blocks == 4
if prepared:
    secagg.prepare(plan, threads=threads)
seen = []
dispatcher = type(numba.njit(lambda x: x))
honest = dispatcher._compile_for_args

def counted(self, *arguments, **named):
    seen.append(self)
    return honest(self, *arguments, **named)

dispatcher._compile_for_args = counted
secagg.run_round([np.zeros(plan.length, kind) for kind in (np.float32, np.float64)] * 2, plan=plan, threads=threads)
print(len(seen))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_after_it_a_round_of_several_blocks_compiles_and_loads_nothing(threads: str) -> None:
    pytest.importorskip("numba", reason="without numba (extra `fast`) nothing is compiled")
    if kernels.NAME != "numba":
        pytest.skip("the compiled loops are switched off in this run")

    def compilations(how: str) -> int:
        command = [sys.executable, "-c", COUNT_COMPILATIONS, threads, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert compilations("not prepared") > 5
    assert compilations("prepared") == 0


@pytest.mark.parametrize("engine", available_engines())
def test_an_engine_whose_sums_are_refused_is_named(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(preparation, "_prepared", set())
    for name in ("unpack_sums", "unpack_transformed"):
        honest = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, honest=honest: honest(*a)._replace(above=True))
    with pytest.raises(EngineUnavailable, match="does not add exactly on this machine"):
        secagg.prepare(PLAN, engine, threads=1)


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

"""What a process's first round waits for, done before it: SEAL's context, tables of roots, compiled loops."""

from __future__ import annotations

import time

import numpy as np

from secagg.engines import resolve_engine
from secagg.errors import EngineUnavailable
from secagg.parameters import ParameterSet
from secagg.plan import RoundPlan, plan_round
from secagg.protocol import run_round
from secagg.workers import threads_for

_CLIENTS = 3
_prepared: set[tuple[ParameterSet, str, int]] = set()


def prepare(plan: RoundPlan, engine: str = "auto", threads: int | None = None) -> float:
    """Make this process ready for rounds of `plan`; returns the seconds that it took, 0 when it was ready.

    Plays one round of three made-up clients with a value each under the plan's parameters and throws it away. Without
    this the first round takes as much longer. engine, threads: as the roles will be given.
    Raises `EngineUnavailable`: no such engine here, or it does not add exactly.
    """
    start = time.perf_counter()
    used = threads_for(threads, plan.residue_bytes)
    key = (plan.params, resolve_engine(engine), used)
    if key in _prepared:
        return 0.0
    small = plan_round(length=1, max_clients=_CLIENTS, value_bits=8, params=plan.params)
    one = np.ones(1, dtype=np.float32)
    result = run_round([one] * _CLIENTS, plan=small, engine=engine, threads=used)
    if result.sums.tolist() != [_CLIENTS * small.max_value]:
        raise EngineUnavailable(f"engine {key[1]!r} does not add exactly on this machine: use engine='seal'")
    _prepared.add(key)
    return time.perf_counter() - start

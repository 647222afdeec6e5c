"""Prepares a process before its first round: SEAL's context, tables of roots, compiled loops."""

from __future__ import annotations

import time

import numpy as np

from secagg.engines import resolve_engine
from secagg.errors import EngineUnavailable, SumRefused
from secagg.parameters import ParameterSet
from secagg.plan import RoundPlan, plan_round
from secagg.protocol import run_round
from secagg.workers import threads_for

_DTYPES = (np.float32, np.float32, np.float64)  # of the three clients' updates; loops are compiled for each
_prepared: set[tuple[ParameterSet, str, int, bool]] = set()


def prepare(plan: RoundPlan, engine: str = "auto", threads: int | None = None) -> float:
    """Make this process ready for rounds of `plan`; returns the seconds that it took, 0 when it was ready.

    Plays one round of three invented clients under the plan's parameters and discards it. It has one block, or two if
    the plan has more than one, because the last block is opened by other code. Without this call the first round takes
    that much longer. engine, threads: as for the roles. Raises `EngineUnavailable` if the engine is not available
    or does not add exactly.
    """
    start = time.perf_counter()
    used = threads_for(threads, plan.residue_bytes)
    key = (plan.params, resolve_engine(engine), used, plan.blocks > 1)
    if key in _prepared:
        return 0.0
    small = plan_round(length=1, max_clients=len(_DTYPES), value_bits=8, params=plan.params)
    if plan.blocks > 1:
        length = small.values_per_block  # the weight is in a second block
        small = plan_round(length=length, max_clients=len(_DTYPES), value_bits=8, params=plan.params)
    try:
        result = run_round([np.ones(small.length, dtype) for dtype in _DTYPES], plan=small, engine=engine, threads=used)
        exact = bool((result.sums == len(_DTYPES) * small.max_value).all())
    except SumRefused:
        exact = False
    if not exact:
        raise EngineUnavailable(f"engine {key[1]!r} does not add exactly on this machine: use engine='seal'")
    _prepared.add(key)
    return time.perf_counter() - start

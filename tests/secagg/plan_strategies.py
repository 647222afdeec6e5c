"""Hypothesis strategies over everything that the planner admits."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from secagg.errors import PlanError
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import MAX_CLIENTS, MAX_LENGTH, MAX_RADIX, MAX_VALUE_BITS, MAX_WEIGHT, RoundPlan, plan_round


@st.composite
def plan_inputs(draw: st.DrawFn, max_length: int = MAX_LENGTH) -> dict[str, Any]:
    """Inputs that the planner admits; each is drawn within the room that the ones before it leave in a lane."""
    value_bits = draw(st.integers(2, MAX_VALUE_BITS))
    room = (MAX_RADIX - 1) // (2 * (2 ** (value_bits - 1) - 1))
    max_clients = draw(st.integers(1, min(MAX_CLIENTS, room)))
    max_weight = draw(st.integers(1, min(MAX_WEIGHT, room // max_clients)))
    return {
        "length": draw(st.one_of(st.integers(1, min(100_000, max_length)), st.integers(1, max_length))),
        "max_clients": max_clients,
        "clip": draw(st.floats(1e-30, 1e30)),
        "value_bits": value_bits,
        "max_weight": max_weight,
    }


@st.composite
def plans(draw: st.DrawFn, max_length: int = MAX_LENGTH) -> RoundPlan:
    """A plan in any parameter set that holds these inputs, not only in the one that is cheapest for the length."""
    inputs = draw(plan_inputs(max_length))
    return plan_round(**inputs, params=draw(st.sampled_from([p for p in ALLOWED if _holds(p, inputs)])))


def _holds(params: ParameterSet, inputs: dict[str, Any]) -> bool:
    try:
        plan_round(**inputs, params=params)
    except PlanError:
        return False
    return True

"""Exact encrypted aggregation: the average of many parties' vectors, and nothing else about them.

    plan = secagg.plan_round(length=1_000_000, max_clients=64, clip=1.0, value_bits=16)
    result = secagg.run_round(updates, plan=plan)       # the whole protocol in this process
    secagg.Client, secagg.Aggregator, secagg.KeyHolder  # the same roles for separate processes

Numpy, TenSEAL, cryptography and blake3; no torch, no sockets. docs/threat-model.md says what is promised and what is
not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from secagg import errors

if TYPE_CHECKING:
    from secagg.aggregator import Aggregator
    from secagg.client import Client
    from secagg.enrolment import Enrolment
    from secagg.identity import Identity, Member
    from secagg.journal import Journal
    from secagg.keyholder import KeyHolder
    from secagg.ledger import Ledger
    from secagg.plan import RoundPlan, plan_round
    from secagg.preparation import prepare
    from secagg.protection import protect_process
    from secagg.protocol import RoundResult, run_round
    from secagg.release import Average, read_release
    from secagg.robust import Robust
    from secagg.robust_aggregator import RobustAggregator
    from secagg.robust_client import RobustClient
    from secagg.robust_keyholder import RobustKeyHolder
    from secagg.rules import Rule
    from secagg.stages import Stage, StageClock
    from secagg.wire import decode, encode

__version__ = "0.1.0"

# Resolved on first use, so that an aggregator's process never loads tenseal.
_HOMES = {
    "Aggregator": "aggregator",
    "Average": "release",
    "Client": "client",
    "Enrolment": "enrolment",
    "Identity": "identity",
    "Journal": "journal",
    "KeyHolder": "keyholder",
    "Ledger": "ledger",
    "Member": "identity",
    "RoundPlan": "plan",
    "RoundResult": "protocol",
    "Robust": "robust",
    "RobustAggregator": "robust_aggregator",
    "RobustClient": "robust_client",
    "RobustKeyHolder": "robust_keyholder",
    "Rule": "rules",
    "Stage": "stages",
    "StageClock": "stages",
    "decode": "wire",
    "encode": "wire",
    "plan_round": "plan",
    "prepare": "preparation",
    "protect_process": "protection",
    "read_release": "release",
    "run_round": "protocol",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secagg' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"secagg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Aggregator",
    "Average",
    "Client",
    "Enrolment",
    "Identity",
    "Journal",
    "KeyHolder",
    "Ledger",
    "Member",
    "Robust",
    "RobustAggregator",
    "RobustClient",
    "RobustKeyHolder",
    "RoundPlan",
    "RoundResult",
    "Rule",
    "Stage",
    "StageClock",
    "decode",
    "encode",
    "errors",
    "plan_round",
    "prepare",
    "protect_process",
    "read_release",
    "run_round",
]

"""The JSON Schema (draft 2020-12) of a results file, version 1. `python -m benchmarks schema` prints it.

A change that a reader of version 1 would misunderstand raises the version (`results.VERSION`).
"""

from __future__ import annotations

from typing import Any

from benchmarks.meter import PHASES, STAGES
from benchmarks.results import METRICS, NAME, VERSION

_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}


def _object(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": required, "required": list(required), **more}


_SPREAD = {
    "median": _NUMBER,
    "lower_quartile": _NUMBER,
    "upper_quartile": _NUMBER,
    "mad": _NUMBER,
    "count": _COUNT,
}
_PHASE = _object(
    {
        "seconds": _NUMBER,
        "cpu_seconds": _NUMBER,
        "calls": _COUNT,
        "stages": {
            "type": "object",
            "propertyNames": {"enum": list(STAGES)},
            "additionalProperties": _object({"seconds": _NUMBER, "bytes": _COUNT}),
        },
    }
)
_REPETITION = _object(
    {
        "cycle": _COUNT,
        "largest_error": _NUMBER,
        "allowed_error": _NUMBER,
        "wire_bytes": {"type": "object", "additionalProperties": _COUNT},
        "phases": {
            "type": "object",
            "propertyNames": {"enum": list(PHASES)},
            "additionalProperties": _PHASE,
        },
    }
)
_SUMMARY = _object(
    {
        "metrics": {
            "type": "object",
            "propertyNames": {"enum": list(METRICS)},
            "additionalProperties": _object({"unit": _TEXT, **_SPREAD}),
        },
        "stages": {"type": "object", "additionalProperties": _object({"bytes": _COUNT, **_SPREAD})},
        "bytes_per_value": {"type": ["number", "null"]},
        "largest_error": {"type": ["number", "null"]},
        "cores_used": {"type": ["number", "null"]},
    }
)
_MEASUREMENT = _object(
    {
        "case": _TEXT,
        "label": _TEXT,
        "family": _TEXT,
        "ours": {"type": "boolean"},
        "workload": _object(
            {"length": _COUNT, "clients": _COUNT, "value_bits": _COUNT, "encrypting": _COUNT, "seed": _COUNT}
        ),
        "status": {"enum": ["ok", "wrong", "failed", "not run"]},
        "reason": _TEXT,
        "parameters": {"type": "object"},
        "warm_up_seconds": {"type": ["number", "null"]},
        "peak_bytes": {"type": "object", "additionalProperties": {"type": ["integer", "null"]}},
        "summary": {"anyOf": [_SUMMARY, {"type": "null"}]},
        "repetitions": {"type": "array", "items": _REPETITION},
    }
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Results of the secagg benchmark suite",
    **_object(
        {
            "schema": {"const": NAME},
            "version": {"const": VERSION},
            "machine": _object(
                {
                    "processor": _TEXT,
                    "cores": _COUNT,
                    "threads": _COUNT,
                    "memory_bytes": _COUNT,
                    "system": _TEXT,
                    "architecture": _TEXT,
                    "device": _TEXT,
                    "python": _TEXT,
                    "versions": {"type": "object", "additionalProperties": _TEXT},
                    "source": _TEXT,
                    "revision": _TEXT,
                }
            ),
            "command": _TEXT,
            "started": _TEXT,
            "settings": {"type": "object"},
            "complete": {"type": "boolean"},
            "growth": {"type": "object"},
            "measurements": {"type": "array", "items": _MEASUREMENT},
        }
    ),
}

"""Say which days the data of a run cover, in the words that a report and a card share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl.data.schema import Schema


def span(schema: Schema, data: Mapping[str, Any]) -> str:
    """The first and the last day, or why there are none. `data`: of a manifest, with the names of both days."""
    if schema.time is None:
        return "without a time"
    if not schema.time.measures_days:
        return "in order, without days"
    first, last = str(data["first_day"]), str(data["last_day"])
    return f"on {first}" if first == last else f"{first} to {last}"

"""Measure how much of each column of numbers lies beyond its bound, where values look alike to the model.

A centre and a scale that do not fit the data cut off nearly all values of a column, and nothing else shows it.
"""

from __future__ import annotations

from typing import Any

from fl.data.scaling import MOST_CLIPPED, clipped_shares
from fl.reports.examination.evidence import Evidence


def scaling(evidence: Evidence) -> dict[str, Any]:
    """Shares of clipped values by column and bank, the most clipped column first; no rows."""
    found = clipped_shares(evidence.by_bank)
    return {
        "most": MOST_CLIPPED,
        "columns": [{"column": each.column, "bound": each.bound, "shares": dict(each.shares)} for each in found],
        "warnings": [each.warning for each in found if each.warning is not None],
    }

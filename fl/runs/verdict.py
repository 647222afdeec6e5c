"""Whether joining was worth it: one sentence from a run's figures, for the bank that has to decide.

What it does: `verdict` compares the federated model with the better of what a bank can do alone, week by week, and says
what to try where joining brought little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

ALONE = {"alone": "its own network", "alone_filter": "its own model and what its own labels show of shared parties"}
LITTLE = 0.01  # of average precision: less is no reason to join


class Verdict(NamedTuple):
    """`gain`: average precision of the federated model over the best that banks reach alone; None if not measured."""

    gain: float | None
    sentence: str


def verdict(result: Mapping[str, Any]) -> Verdict:
    """What `result` (as of `train --json`) says to a bank that could also stay alone."""
    metrics, baselines = result["metrics"], result["baselines"]
    measured = [name for name in ALONE if name in baselines]
    if not measured:
        return Verdict(None, "Nobody knows whether joining is worth it: the baselines were left out (--no-baselines).")
    best = max(measured, key=lambda name: float(baselines[name]["average_precision"]))
    evidence = metrics.get("own_evidence")
    together, how = (metrics, "")
    if evidence is not None:
        released = float(metrics["average_precision"])
        together = evidence
        how = f", banks scoring with their own evidence as well, which no epsilon covers ({released:.3f} without)"
    weekly = [
        float(ours["average_precision"]) - float(theirs["average_precision"])
        for ours, theirs in zip(together["windows"], baselines[best]["windows"], strict=True)
    ]
    gain, weeks = fmean(weekly), len(weekly)
    span = f"{min(weekly):+.3f} to {max(weekly):+.3f} over {weeks} test windows" if weeks > 1 else "one test window"
    epsilon = result["privacy"]["epsilon"]
    privacy = "without privacy" if epsilon is None else f"at epsilon {math.ceil(100 * epsilon) / 100:.2f}"
    figures = (
        f"average precision {together['average_precision']:.3f} together {privacy}{how}, against "
        f"{baselines[best]['average_precision']:.3f} for each bank alone with {ALONE[best]}, without privacy "
        f"({gain:+.3f}; {span})"
    )
    if gain > LITTLE:
        return Verdict(gain, f"Joining is worth more than staying home: {figures}.")
    worth = "little" if gain > -LITTLE else "less than staying home"
    return Verdict(gain, f"Joining brings {worth}: {figures}. {_advice(result, gain)}")


def _advice(result: Mapping[str, Any], gain: float) -> str:
    """What to try, by what the figures rule out."""
    open_figures = result["baselines"].get("plain_without_privacy")
    privacy, statistics = result["privacy"], result["statistics"]
    if open_figures is not None:
        own = result["metrics"].get("own_evidence") or result["metrics"]
        lost = float(open_figures["average_precision"]) - float(own["average_precision"])
        if lost <= max(LITTLE, -gain):
            return "Without privacy it would bring no more: these banks have little to learn from each other's labels."
        if privacy.get("noise") == "own":
            return "Try one noise for all banks (--noise shared), a larger --epsilon, or more banks."
        return "Try a larger --epsilon, or more banks: noise is what costs here."
    if open_figures is None and privacy["epsilon"] is not None and statistics is not None:
        return (
            "Without figures of the same run without privacy nobody can tell whether noise is the reason, or whether "
            "these banks have little to learn from each other: try a larger --epsilon, more steps or more banks."
        )
    if statistics is None:
        return "Try shared counts of the parties that banks have in common ([parties] shared in the schema)."
    return "These banks have little to learn from each other's labels."

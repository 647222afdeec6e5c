"""Whether joining was worth it: one sentence from a run's figures, for the bank that has to decide.

What it does: `verdict` compares the federated model with the better of what a bank can do alone, bank by bank and week
by week. It says to which banks joining is worth it, at which privacy, by how much and how sure that is, and what to try
where joining brought little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

OWN_EVIDENCE = "own_evidence"  # in a result: figures of banks that score with their own labelled rows as well
ALONE = {
    "alone": "its own network",
    "alone_filter": "its own model and what its own labels show of shared parties",
    "alone_trees": "its own trees",
}
MOST_NAMED = 4  # banks that a sentence names
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
    evidence = metrics.get(OWN_EVIDENCE)
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
    if "gain_of_joining" in baselines[best]:
        return _of_each_bank(result, best, gain, weekly, how)
    span = f"{min(weekly):+.3f} to {max(weekly):+.3f} over {weeks} test windows" if weeks > 1 else "one test window"
    privacy = _at(result["privacy"]["epsilon"])
    figures = (
        f"average precision {together['average_precision']:.3f} together {privacy}{how}, against "
        f"{baselines[best]['average_precision']:.3f} for each bank alone with {ALONE[best]}, without privacy "
        f"({gain:+.3f}; {span})"
    )
    if gain > LITTLE:
        return Verdict(gain, f"Joining is worth more than staying home: {figures}.")
    worth = "little" if gain > -LITTLE else "less than staying home"
    return Verdict(gain, f"Joining brings {worth}: {figures}. {_advice(result, gain)}")


def _of_each_bank(result: Mapping[str, Any], best: str, gain: float, weekly: Sequence[float], how: str) -> Verdict:
    """The verdict with what each bank gains, and how sure that is."""
    alone, metrics = result["baselines"][best], result["metrics"]
    paired, together = alone["gain_of_joining"], metrics.get(OWN_EVIDENCE) or metrics
    known = {name: each for name, each in paired["banks"].items() if each is not None}
    gains = [name for name, each in known.items() if each["low"] > 0.0 and each["gain"] > LITTLE]
    loses = [name for name, each in known.items() if each["high"] < 0.0]
    unsure = [name for name in known if name not in gains and name not in loses]
    privacy = _at(result["privacy"]["epsilon"])
    if known and len(gains) == len(known):
        opening = f"Joining is worth it to each of {len(known)} banks {privacy}"
    elif gains:
        opening = f"Joining is worth it to {len(gains)} of {len(known)} banks {privacy}"
    else:
        opening = f"Joining is not surely worth it to any bank {privacy}"
    others = [
        *([f"{_named(unsure)} may gain or lose"] if unsure and gains else []),
        *([f"{_named(loses)} {'loses' if len(loses) == 1 else 'lose'} by it"] if loses else []),
    ]
    each = [float(one["gain"]) for one in known.values()]
    over = f"; by test window {min(weekly):+.3f} to {max(weekly):+.3f}" if len(weekly) > 1 else ""
    by_bank = f"; by bank {min(each):+.3f} to {max(each):+.3f}" if each else ""
    sentence = (
        f"{opening}{''.join(f'; {one}' for one in others)}: average precision {gain:+.3f} in all "
        f"({100 * paired['level']:.0f} % interval {paired['low']:+.3f} to {paired['high']:+.3f}{by_bank}{over}), "
        f"{together['average_precision']:.3f} together{how} against {alone['average_precision']:.3f} for each bank "
        f"alone with {ALONE[best]}, without privacy."
    )
    return Verdict(gain, sentence if gain > LITTLE else f"{sentence} {_advice(result, gain)}")


def _named(banks: Sequence[str]) -> str:
    """The banks by name; by number where they are many."""
    return ", ".join(banks) if len(banks) <= MOST_NAMED else f"{len(banks)} banks"


def _at(epsilon: float | None) -> str:
    return "without privacy" if epsilon is None else f"at epsilon {math.ceil(100 * epsilon) / 100:.2f}"


def _advice(result: Mapping[str, Any], gain: float) -> str:
    """What to try, by what the figures rule out."""
    open_figures = result["baselines"].get("plain_without_privacy")
    privacy, statistics = result["privacy"], result["statistics"]
    if open_figures is not None:
        own = result["metrics"].get(OWN_EVIDENCE) or result["metrics"]
        lost = float(open_figures["average_precision"]) - float(own["average_precision"])
        if lost <= max(LITTLE, -gain):
            return "Without privacy it would bring no more: these banks have little to learn from each other's labels."
        if privacy.get("noise") == "own":
            return "Try one noise for all banks (--noise shared), a larger --epsilon, or more banks."
        return "Try a larger --epsilon, or more banks: noise is what costs here."
    if privacy["epsilon"] is not None and statistics is not None:
        return (
            "Without figures of the same run without privacy nobody can tell whether noise is the reason, or whether "
            "these banks have little to learn from each other: try a larger --epsilon, more steps or more banks."
        )
    if statistics is None:
        return "Try shared counts of the parties that banks have in common ([parties] shared in the schema)."
    return "These banks have little to learn from each other's labels."

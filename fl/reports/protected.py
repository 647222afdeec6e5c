"""What an epsilon protects and what is outside of it, in sentences that tables, reports and cards share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OUTSIDE_EPSILON = (
    "Scores, alerts and declines of a bank that adds its own labels when it scores, and models that a bank keeps at "
    "home, have no epsilon: whoever sees them may learn single labels of that bank."
)


def protection_sentence(privacy: Mapping[str, Any]) -> str | None:
    """What the epsilon of a run's result means to an observer; None without privacy, or where it was not computed.

    `privacy`: as in `train --json`.
    """
    gained = privacy.get("protection")
    if gained is None:
        return None
    return (
        f"what epsilon {privacy['epsilon']:.2f} means here: an observer that sees all releases and the noise shares of "
        f"t = {privacy['colluders']} banks guesses whether one transaction was there in at most "
        f"{100 * gained['attack_accuracy']:.1f} % of cases (a coin: 50 %), becomes at most "
        f"{100 * gained['highest_posterior']:.3g} % sure from {100 * gained['prior']:.1f} %, and guesses whether "
        f"{gained['frauds']} frauds of one card in one count were there in at most "
        f"{100 * gained['accuracy_for_frauds']:.2f} %"
    )

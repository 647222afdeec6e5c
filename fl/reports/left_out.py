"""What a run did about poisoned updates, in sentences that tables, reports and cards share.

Names and numbers of rounds only: a distance or a score of an update is in no result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEEN_FOR_A_RULE = (
    "for the rule, the key holder saw inner products of sketches of the updates; it and the aggregator together could "
    "have read the sketches: thousands of sums of an update's values, or all values of a short update"
)


def rule_sentence(result: Mapping[str, Any]) -> str | None:
    """Who was left out of how many rounds; None without a rule. `result`: as of `train --json`."""
    robust = result.get("robust")
    if robust is None:
        return None
    against = "" if robust["byzantine"] is None else f" against {robust['byzantine']}"
    times = ", ".join(f"{bank} {rounds}" for bank, rounds in robust["rejected"].items())
    judged = "" if result.get("statistics") is None else "; shared counts are not judged by any rule"
    return (
        f"rule {robust['rule']}{against}: rounds in which it left a bank out, of {result['rounds']}: {times or 'none'}"
        f"{judged}"
    )


def attack_sentence(result: Mapping[str, Any]) -> str | None:
    """Which attack was simulated, and by whom; None without one."""
    attack = result.get("attack")
    if attack is None:
        return None
    return f"simulated attack {attack['name']} ({attack['strength']}) by {', '.join(attack['attackers'])}"

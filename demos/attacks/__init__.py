"""Attacks on encrypted aggregation, as code that runs: one file each, in the order of docs/attacks.md.

Each attack is played twice: where the defence is missing (the control, which must succeed), and against this project as
shipped. `python -m demos attack` plays them, and `verdict.py` says how they are judged. No package of the product
imports this one.
"""

from __future__ import annotations

from demos.attacks import (
    amplification,
    checked_sum,
    differencing,
    duplicate,
    key_recovery,
    made_up_sum,
    malformed_ciphertext,
    noise_in_release,
    poisoning,
    robust_round,
    rosters,
    single_victim,
    stock_fedavg,
    substitution,
    tokens_in_lanes,
    trap_model,
)
from demos.attacks.verdict import Attack

ATTACKS: tuple[Attack, ...] = (
    key_recovery.ATTACK,
    *single_victim.ATTACKS,
    *differencing.ATTACKS,
    amplification.ATTACK,
    *duplicate.ATTACKS,
    *substitution.ATTACKS,
    *rosters.ATTACKS,
    trap_model.ATTACK,
    stock_fedavg.ATTACK,
    made_up_sum.ATTACK,
    checked_sum.ATTACK,
    *malformed_ciphertext.ATTACKS,
    tokens_in_lanes.ATTACK,
    *robust_round.ATTACKS,
    noise_in_release.ATTACK,
    poisoning.ATTACK,
)

__all__ = ["ATTACKS", "Attack"]

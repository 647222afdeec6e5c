"""Which robust rule a federation agreed on. A module of its own, so that who names a rule loads no encryption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fl import options
from fl.errors import AggregationError
from secagg.rules import COUNTED, Rule, RuleName


@dataclass(frozen=True)
class RobustSettings:
    """Which rule leaves members out, and the number of attackers that it is to withstand.

    Raises `AggregationError`.
    """

    rule: RuleName = "outliers"
    byzantine: Annotated[int | None, options.ATTACKERS] = None  # None: the rule needs no number

    def __post_init__(self) -> None:
        options.check(self, AggregationError, "robust: ")
        if self.byzantine is None and self.rule in COUNTED:
            raise AggregationError(
                f"robust: {self.rule} leaves out by count: say how many attackers it is to withstand (--byzantine)"
            )

    @property
    def asked(self) -> Rule:
        return Rule(self.rule, self.byzantine)

    def require_enough(self, banks: int) -> None:
        """Raise `secagg.errors.RuleNeedsMoreClients` when rosters of so many banks are too small for the rule."""
        self.asked.require_enough(banks)

    def fewest_kept(self, banks: int) -> int:
        """How many of so many banks stay at the least where the rule does not refuse the round."""
        if self.rule == "krum":
            return 1
        return banks - (self.byzantine or 0) if self.rule in ("nnm", "multikrum") else banks // 2 + 1

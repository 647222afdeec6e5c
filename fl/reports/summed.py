"""What the banks of a run add up, in words that the output of `train` and the card share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Summed:
    """`received`: what every bank receives. `one`, `several`: of what a bank puts in. `opened`: by the key holder."""

    received: str
    one: str
    several: str
    opened: str


UPDATES = Summed("every round's average", "update", "updates", "one sum per round")
HISTOGRAMS = Summed("every sum of histograms", "histogram", "histograms", "one sum per level of a tree")
LEAVES = Summed("every tree's noisy sum", "sum of leaves", "sums of leaves", "one sum per tree")


def summed(result: Mapping[str, Any]) -> Summed:
    """The words for the run with this result, as of `train --json`."""
    trees = result.get("trees")
    if trees is None:
        return UPDATES
    return LEAVES if trees.get("random") else HISTOGRAMS

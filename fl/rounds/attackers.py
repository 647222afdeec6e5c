"""Banks that poison the common model: a simulation, for measuring a defence. It is on only when asked for by name.

    sign-flip     sends its update times -4
    scale         sends its update times 10
    label-flip    trains on its rows with every label turned over
    noise         sends a vector of random direction, 10 times as long as its update
    alie          sends the mean of the honest updates minus 1.5 standard deviations, coordinate by coordinate
    ipm           sends the mean of the honest updates times -10

Sources: `alie`, "a little is enough": Baruch, Baruch, Goldberg, NeurIPS 2019, Algorithm 3, z = 1.5; `ipm`, inner
product manipulation: Xie, Koyejo, Gupta, UAI 2020, section 4, epsilon = 10. The others are in common use, for example
in Blanchard et al., NeurIPS 2017, and Allouah et al., AISTATS 2023.

Attackers work together. For `alie` and `ipm` they know every honest update of the round, which encryption denies to
real ones: a defence that withstands these withstands those who guess. What they send passes the same clipping as
everybody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np

from fl import options
from fl.data.federation import Rows
from fl.errors import AlgorithmError
from fl.secure.session import Update
from fl.seeds import derive_seed

AttackName = Literal["sign-flip", "scale", "label-flip", "noise", "alie", "ipm"]

SIGN_FLIP = -4.0  # times the update
SCALE = 10.0  # times the update
NOISE = 10.0  # lengths of the update
ALIE_DEVIATIONS = 1.5  # z
IPM_FACTOR = -10.0  # -epsilon, times the honest mean

LEAST_HONEST = 2  # a standard deviation of the honest updates needs two

STRENGTHS: Mapping[str, str] = {
    "sign-flip": f"{SIGN_FLIP:g} times the own update",
    "scale": f"{SCALE:g} times the own update",
    "label-flip": "trained on turned labels",
    "noise": f"a random direction, {NOISE:g} times as long as the own update",
    "alie": f"the honest mean minus {ALIE_DEVIATIONS:g} standard deviations",
    "ipm": f"{IPM_FACTOR:g} times the honest mean",
}


@dataclass(frozen=True)
class AttackSettings:
    """What the attackers do, and how many there are. Raises `AlgorithmError`."""

    name: AttackName
    attackers: Annotated[int, options.ATTACKERS]

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "attack: ")

    def require_honest(self, banks: int) -> None:
        """Raise `AlgorithmError` where fewer than two of `banks` would be honest."""
        if banks - self.attackers < LEAST_HONEST:
            raise AlgorithmError(
                f"attack: {self.attackers} attackers need at least {self.attackers + LEAST_HONEST} banks, got {banks}: "
                "lower --attackers"
            )


@dataclass(frozen=True)
class Attackers:
    """The attackers of a run. `members`: positions among the run's banks."""

    name: AttackName
    members: frozenset[int]
    seed: int

    @classmethod
    def drawn(cls, settings: AttackSettings, banks: int, seed: int) -> Attackers:
        """Attackers drawn from `banks` banks by the run's seed. Raises `AlgorithmError` for too many of them."""
        settings.require_honest(banks)
        rng = np.random.default_rng(derive_seed(seed, "attackers"))
        members = rng.choice(banks, settings.attackers, replace=False)
        return cls(settings.name, frozenset(int(bank) for bank in members), seed)

    def trains_on(self, bank: int, rows: Rows) -> Rows:
        """The rows that the bank at position `bank` trains on."""
        turned = self.name == "label-flip" and bank in self.members
        return replace(rows, y=1 - rows.y) if turned else rows

    def sent(self, banks: Sequence[int], updates: Sequence[Update], number: int) -> tuple[Update, ...]:
        """What the members of a roster send in round `number`.

        `banks`: their positions; `updates`: what each of them trained, one float[length] each. If no honest bank is in
        the roster, `alie` and `ipm` use the attackers' own updates instead.
        """
        honest = [update for bank, update in zip(banks, updates, strict=True) if bank not in self.members]
        known = np.stack(honest or list(updates)).astype(np.float64)
        return tuple(
            self._forged(bank, update, known, number) if bank in self.members else update
            for bank, update in zip(banks, updates, strict=True)
        )

    def _forged(self, bank: int, own: Update, known: np.ndarray, number: int) -> Update:
        forged: np.ndarray
        match self.name:
            case "label-flip":
                return own
            case "sign-flip":
                forged = SIGN_FLIP * own
            case "scale":
                forged = SCALE * own
            case "noise":
                rng = np.random.default_rng(derive_seed(self.seed, "attackers", "noise", bank, number))
                direction = rng.standard_normal(own.shape)
                length = float(np.linalg.norm(own.astype(np.float64)))
                forged = NOISE * length / float(np.linalg.norm(direction)) * direction
            case "alie":
                forged = known.mean(axis=0) - ALIE_DEVIATIONS * known.std(axis=0)
            case "ipm":
                forged = IPM_FACTOR * known.mean(axis=0)
        return forged.astype(own.dtype)

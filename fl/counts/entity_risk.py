"""From a release of fraud counts to one input of a model: the probability that a row's parties make it a fraud.

What it does: `EntityRisk` fits the constants of episodes to the released counts (`fl.counts.fit`), filters every
entity's days (`fl.counts.episodes`), and gives each row the probability

    q = 1 - product over the row's shared parties of (1 - fraud share * probability of being compromised)

the noisy-or of its parties (Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988, section 4.3.2).

All of it is computed from released values alone, hence costs nothing, unless a bank adds its own labelled rows
(`fl.counts.evidence`). It may do so when it scores its own customers, and in models that stay at home. What it shows to
others then has no epsilon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl.counts.columns import Parties
from fl.counts.episodes import BlockCounts, Episodes, OwnEvidence, compromised
from fl.counts.fit import EVALUATIONS, fit_episodes, fit_own_episodes
from fl.counts.key_slots import AllSlots
from fl.counts.plan import Totals
from fl.data.schema import Days
from fl.durable import replace_durably
from fl.errors import StatisticsError
from fl.toml import filled

NONE_KNOWN = Episodes(0.0, 1.0, 1.0, 0.5, 0.5, 1.0, present=False, gain=0.0)  # before anything is known of episodes
EPISODES = "episodes.json"
EPISODES_FORMAT = "fl episodes 1"
REMOVE = "remove the file: the constants are then fitted to the released counts again"

Slots = Mapping[str, NDArray[np.int64]]  # by kind of party: int64[n], a row's place among the slots of its kind
Own = Mapping[str, OwnEvidence]  # by kind of party


@dataclass(frozen=True)
class RiskByDay:
    """By kind of party: fraud share times the probability of being compromised, float64[days, slots of the kind]."""

    days: NDArray[np.int64] = field(repr=False)
    shares: Mapping[str, NDArray[np.float64]] = field(repr=False)

    def of(self, day: NDArray[np.int32], slots: Slots) -> NDArray[np.float64]:
        """float64[n] from 0 to 1: q of rows of these days and parties. Raises `StatisticsError` for another day."""
        row = np.searchsorted(self.days, day)
        if len(day) and (row.max() >= len(self.days) or (self.days[row] != day).any()):
            raise StatisticsError(f"expected rows of the days {self.days[0]} to {self.days[-1]}, got others")
        genuine = np.ones(len(day))
        for kind, share in self.shares.items():
            genuine *= 1.0 - share[row, slots[kind]]
        risk: NDArray[np.float64] = 1.0 - genuine
        return risk


@dataclass(frozen=True)
class EntityRisk:
    """What a release says about the shared parties, by the constants that fit it. Public, as the release is.

    `blocks` is empty for a bank that shares nothing and knows its own rows alone.
    """

    keys: AllSlots
    delay: int  # days until a label is known
    blocks: Mapping[str, BlockCounts] = field(repr=False)
    episodes: Mapping[str, Episodes]

    def __post_init__(self) -> None:
        if self.blocks and set(self.blocks) != set(self.episodes):
            raise StatisticsError(
                f"{EPISODES}: expected the constants of {', '.join(self.blocks)}, got those of "
                f"{', '.join(self.episodes) or 'no kind of party'}; {REMOVE}"
            )

    @staticmethod
    def of(
        blocks: Mapping[str, BlockCounts],
        keys: AllSlots,
        delay: int,
        per_day: float,
        today: int,
        *,
        evaluations: int = EVALUATIONS,
    ) -> EntityRisk:
        """The constants are fitted to the counts that are known when day `today` begins.

        `per_day`: public guess of transactions a day and party. `evaluations`: as in `fit_episodes`.
        """
        fitted = {
            kind: _fitted(each.ended_by(today - delay - 1), per_day, evaluations) for kind, each in blocks.items()
        }
        return EntityRisk(keys, delay, blocks, fitted)

    @staticmethod
    def alone(own: Own, keys: AllSlots, delay: int, today: int) -> EntityRisk:
        """What a bank knows without any release: the constants are fitted to its own rows, as known on day `today`."""
        known = {kind: each.known_on(today).until(today - delay - 1) for kind, each in own.items()}
        fitted = {kind: NONE_KNOWN if each is None else fit_own_episodes(each) for kind, each in known.items()}
        return EntityRisk(keys, delay, {}, fitted)

    def with_clearer(self, own: Mapping[str, Episodes], per_day: float) -> EntityRisk:
        """For a bank that scores its own customers: with the constants of its own rows where those show more.

        own: by kind, the constants fitted to its rows (`alone`). Of each kind, the constants with the larger gain over
        one constant rate stay: under much noise a release may show no episodes where the bank's own labels do. What
        follows has no epsilon, as whatever follows from own labels. `per_day`: as in `of`.
        """
        chosen = {}
        for kind, released in self.episodes.items():
            mine = own[kind]
            clearer = mine.present and mine.gain > released.gain
            chosen[kind] = replace(mine, traffic=per_day) if clearer else released
        return replace(self, episodes=chosen)

    def periods(self, kind: str) -> tuple[Days, ...]:
        """The blocks in which frauds of this kind of party were released; none without a release."""
        blocks = self.blocks.get(kind)
        return () if blocks is None else blocks.periods

    def on(self, days: Sequence[int], own: Own | None = None, others_share: float = 1.0) -> RiskByDay:
        """Every entity's risk on each of `days`, from what is known when that day begins.

        `own`: a bank's own labelled rows as further evidence; what follows from them has no epsilon. `others_share`:
        the other banks' part of all transactions.
        """
        ascending = sorted(set(days))
        shares = {}
        for kind, episodes in self.episodes.items():
            mine = None if own is None else own[kind]
            blocks = self.blocks.get(kind)
            found = compromised(blocks, episodes, ascending, self.delay, others_share=others_share, own=mine)
            shares[kind] = episodes.fraud_share * found
        return RiskByDay(np.array(ascending, np.int64), shares)


def blocks_of(totals: Totals) -> dict[str, BlockCounts]:
    """The counts of a release by kind of party."""
    return {kind: totals.blocks(kind) for kind, _ in totals.plan.kinds}


def _fitted(blocks: BlockCounts | None, per_day: float, evaluations: int) -> Episodes:
    return NONE_KNOWN if blocks is None else fit_episodes(blocks, per_day, evaluations=evaluations)


def write_episodes(folder: Path, episodes: Mapping[str, Episodes]) -> None:
    """Keep the constants of a release beside its totals."""
    content = {"format": EPISODES_FORMAT, **{kind: asdict(each) for kind, each in episodes.items()}}
    replace_durably(folder / EPISODES, json.dumps(content, indent=1).encode())


def read_episodes(folder: Path) -> dict[str, Episodes] | None:
    """The constants beside the totals in `folder`; None where they were not fitted yet. Raises `StatisticsError`."""
    path = folder / EPISODES
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as fault:
        raise StatisticsError(f"{path}: expected constants of episodes as JSON, got {fault}; {REMOVE}") from fault
    if not isinstance(content, dict) or content.pop("format", None) != EPISODES_FORMAT:
        raise StatisticsError(f"{path}: expected format {EPISODES_FORMAT!r}; {REMOVE}")
    return {kind: filled(Episodes, each, f"{path}, {kind}", StatisticsError) for kind, each in content.items()}


def slots_of(keys: AllSlots, parties: Parties) -> Slots:
    """Where each row's parties stand among the slots of their kind."""
    return {kind: keys.of_rows(kind, parties[kind]) - section.start for kind, section in keys.sections.items()}

"""A private federation of Flower nodes in this process, on small simulated data: real roles, ledgers and messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flower_federation import end_process

from fl.data.federation import PartitionedTable
from fl.flower import client_app, key_holder_app
from fl.flower.federation_plan import FederationPlan, make_plan
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER
from fl.flower.loopback import LoopbackGrid, Node
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.private.local import private_parties
from fl.flower.private.plan import Course
from fl.flower.settings import load_settings
from fl.flower.workflow import EncryptedRounds, WaitLimits
from fl.privacy.budget import BudgetLedger, ledger_path
from fl.rounds.joint_noise import JointNoise
from fl.runs.asked import configuration
from fl.runs.config import RunConfig
from fl.runs.plan import read_source

BANKS, CUSTOMERS, SEED, FRAUDS = 3, 60, 5, 0.05
MEMBERS = tuple(f"bank-{number}" for number in range(BANKS))
PATIENT = WaitLimits(
    ready_s=2, call_s=60, train_s=60, contribute_s=60, release_s=60, part_s=10, recover_s=1, attempts=3
)
DATA = {"data": "simulated", "banks": BANKS, "customers": CUSTOMERS, "seed": SEED, "fraud_share": FRAUDS}


def config_of(steps: int = 2, **more: object) -> RunConfig:
    asked = {"customers": CUSTOMERS, "clients": BANKS, "fraud_share": FRAUDS, "seed": SEED, "rounds": steps}
    return configuration({**asked, "epsilon": 3.0, "no_baselines": True, **more})


@dataclass
class PrivateFederation:
    """Parties in a folder and the nodes that play them, by one plan. `drawn`: integers of steps, in order."""

    folder: Path
    source: PartitionedTable
    plan: FederationPlan
    drawn: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.course = Course.of(self.plan.at(self.source))
        self.parties = private_parties(self.folder / "parties", self.plan, self.source, dict.fromkeys(MEMBERS, DATA))
        self.nodes = {
            name: Node(key_holder_app.app if name == KEY_HOLDER else client_app.app, {"party": str(self.file(name))})
            for name in (KEY_HOLDER, *MEMBERS)
        }
        self.grid = LoopbackGrid(list(self.nodes.values()))
        self.party = AggregatorParty(load_settings(self.file(AGGREGATOR)))

    def file(self, name: str) -> Path:
        return self.parties.file(name)

    def rounds(self, limits: WaitLimits = PATIENT) -> EncryptedRounds:
        return EncryptedRounds(self.grid, self.party, limits=limits)

    def ledger(self, bank: str, epsilon: float = 3.0) -> BudgetLedger:
        folder = self.parties.home(bank) / "budget"
        folder.mkdir(exist_ok=True)
        return BudgetLedger(ledger_path(folder, bank), bank, epsilon, 1e-5)

    def restart(self, organisation: str) -> None:
        """The party's process ends and another begins: what was only in memory is gone."""
        client_app.app_mod.forget(self.parties.home(organisation))
        end_process(self.file(organisation))

    def close(self) -> None:
        for name in self.nodes:
            self.restart(name)


@contextmanager
def recorded(drawn: list[np.ndarray]) -> Iterator[None]:
    """Keeps what every bank enters the steps' sums with."""
    original = JointNoise.integers

    def integers(self, vector, roster, **more):  # type: ignore[no-untyped-def]
        drawn.append(original(self, vector, roster, **more))
        return drawn[-1]

    JointNoise.integers = integers  # type: ignore[method-assign]
    try:
        yield
    finally:
        JointNoise.integers = original  # type: ignore[method-assign]


def entries(ledger: BudgetLedger) -> Sequence[Mapping[str, object]]:
    """What a ledger was told, without times and names."""
    return [(type(s.mechanism).__name__, s.mechanism, s.round) for s in ledger.spends()]  # type: ignore[misc]


def planned(config: RunConfig) -> tuple[PartitionedTable, FederationPlan]:
    source = read_source(config.data, config.seed)
    return source, make_plan(config, source)

"""A federation of trees of Flower nodes in this process, on small simulated data: real roles, journals and messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flower_federation import end_process

from fl.data.federation import PartitionedTable
from fl.flower import client_app, key_holder_app
from fl.flower.federation_plan import FederationPlan, make_plan
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER
from fl.flower.loopback import LoopbackGrid, Node
from fl.flower.models import FlatModel
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.settings import load_settings
from fl.flower.trees.local import tree_parties
from fl.flower.trees.plan import OF_TREES, TreeCourse
from fl.flower.trees.state import kept_of
from fl.flower.workflow import EncryptedRounds, WaitLimits
from fl.runs.asked import configuration
from fl.runs.config import RunConfig
from fl.runs.plan import read_source
from fl.trees.progress import Progress

BANKS, CUSTOMERS, SEED, FRAUDS = 3, 60, 5, 0.05
MEMBERS = tuple(f"bank-{number}" for number in range(BANKS))
SMALL = {"trees": 2, "depth": 2, "bins": 8}
PATIENT = WaitLimits(
    ready_s=2, call_s=60, train_s=60, contribute_s=60, release_s=60, part_s=10, recover_s=1, attempts=3
)
DATA = {"data": "simulated", "banks": BANKS, "customers": CUSTOMERS, "seed": SEED, "fraud_share": FRAUDS}


def config_of(**more: object) -> RunConfig:
    asked = {"customers": CUSTOMERS, "clients": BANKS, "fraud_share": FRAUDS, "seed": SEED}
    return configuration({**asked, **OF_TREES, **SMALL, **more})


@dataclass
class TreeFederation:
    """Parties in a folder and the nodes that play them, by one plan.

    `extra`: entries of every bank's [app]. `tables`: by bank, entries that lead to its rows; None: simulated ones.
    """

    folder: Path
    source: PartitionedTable
    plan: FederationPlan
    extra: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, str | int]] | None = None

    def __post_init__(self) -> None:
        self.course = TreeCourse.of(self.plan, self.plan.at(self.source))
        given = dict.fromkeys(self.plan.members, DATA) if self.tables is None else self.tables
        tables = {name: {**given[name], **self.extra} for name in self.plan.members}
        self.parties = tree_parties(self.folder / "parties", self.plan, self.course, tables)
        self.nodes = {
            name: Node(key_holder_app.app if name == KEY_HOLDER else client_app.app, {"party": str(self.file(name))})
            for name in (KEY_HOLDER, *self.plan.members)
        }
        self.grid = LoopbackGrid(list(self.nodes.values()))
        self.party = AggregatorParty(load_settings(self.file(AGGREGATOR)))

    def file(self, name: str) -> Path:
        return self.parties.file(name)

    def rounds(self, limits: WaitLimits = PATIENT) -> EncryptedRounds:
        return EncryptedRounds(self.grid, self.party, limits=limits)

    def progress(self, bank: str) -> Progress:
        """The training that a bank has on its disk."""
        model, _, _ = FlatModel.from_bytes((self.parties.home(bank) / "model.npz").read_bytes())
        return kept_of(model, self.course.terms).progress

    def restart(self, organisation: str) -> None:
        """The party's process ends and another begins: what was only in memory is gone."""
        client_app.app_mod.forget(self.parties.home(organisation))
        end_process(self.file(organisation))

    def close(self) -> None:
        for name in self.nodes:
            self.restart(name)


def planned(config: RunConfig, name: str = "network") -> tuple[PartitionedTable, FederationPlan]:
    source = read_source(config.data, config.seed)
    return source, make_plan(config, source, name)

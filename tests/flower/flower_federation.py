"""A federation of Flower nodes in this process: real roles, real messages, no processes and no sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.flower import endpoint, key_holder_app
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.loopback import Fault, LoopbackGrid, Node, honest
from fl.flower.mod import secagg_mod
from fl.flower.models import FlatModel
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.settings import PlanSettings, load_settings
from fl.flower.workflow import EncryptedRounds, WaitLimits
from fl.secure.rule_settings import RobustSettings

LENGTH = 40
QUICK = WaitLimits(
    ready_s=2, call_s=0.5, train_s=0.5, contribute_s=0.5, release_s=0.5, part_s=0.5, recover_s=1.0, attempts=3
)


def update_of(partition: int, number: int, attempt: int, length: int = LENGTH) -> np.ndarray:
    """The update of one bank in one round: a function of exactly these."""
    return np.random.default_rng([partition, number, attempt]).uniform(-0.9, 0.9, length).astype(np.float32)


def alike_of(partition: int, number: int, attempt: int, length: int, factor: float) -> np.ndarray:
    """An update in the direction that all banks of a round have, with noise of half its length, times `factor`."""
    base = np.random.default_rng([number]).normal(0, 0.1, length)
    noise = np.random.default_rng([partition, number, attempt, 1]).normal(0, 0.05, length)
    return (factor * (base + noise)).astype(np.float32)


app = ClientApp(mods=[secagg_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    partition, number, attempt = context.node_config["partition-id"], config["server-round"], config["attempt"]
    if "factor" in context.node_config:
        update = alike_of(partition, number, attempt, weights.size, context.node_config["factor"])
    else:
        update = update_of(partition, number, attempt, weights.size)
    moved = weights + update.reshape(weights.shape)
    metrics = MetricRecord({"num-examples": partition + 1})
    return Message(RecordDict({"arrays": ArrayRecord([moved]), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    return Message(RecordDict({"report": ConfigRecord({"sum": float(weights.sum())})}), reply_to=message)


def first_model(length: int = LENGTH) -> ArrayRecord:
    return ArrayRecord([np.zeros(length, dtype=np.float32)])


def end_process(party_file: Path) -> None:
    """What the party of this file had in memory is gone, and its files are closed."""
    gone = endpoint._ENDPOINTS.pop(party_file.resolve(), None)
    if gone is not None:
        for log in ("_ledger", "_journal"):
            if hasattr(gone.party, log):
                getattr(gone.party, log).close()


@dataclass
class Federation:
    """Parties in a folder and the nodes that play them. faults: by organisation.

    robust: the rule of every round; updates are then alike, and those of `poison` are multiplied by a factor.
    """

    folder: Path
    banks: int = 4
    quorum: int = 3
    max_weight: int = 1
    outsiders: int = 0
    length: int = LENGTH
    model_repeats: int = 8
    faults: Mapping[str, Fault] = field(default_factory=dict)
    reports: Mapping[str, list[str]] = field(default_factory=lambda: {"metrics": ["sum"]})
    robust: RobustSettings | None = None
    poison: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=self.max_weight, max_length=100_000)
        names = {f"bank-{number}": {} for number in range(self.banks)}
        outside = {f"outsider-{number}": {} for number in range(self.outsiders)}
        repeats = self.model_repeats
        self.parties = LocalParties(
            self.folder / "parties", plan, names, self.quorum, outside, repeats, self.reports, self.robust
        )
        self.parties.make()
        organisations = [KEY_HOLDER, *names, *outside]
        self.nodes = {name: self._node(name, number) for number, name in enumerate(organisations)}
        self.grid = LoopbackGrid(list(self.nodes.values()))
        self.party = AggregatorParty(load_settings(self.parties.file(AGGREGATOR)))

    def _node(self, name: str, number: int) -> Node:
        config = {"party": str(self.parties.file(name)), "partition-id": number - 1}
        if self.robust is not None:
            config["factor"] = float(self.poison.get(name, 1.0))
        which = key_holder_app.app if name == KEY_HOLDER else app
        return Node(which, config, self.faults.get(name, honest))

    def rounds(self, limits: WaitLimits = QUICK, **options: object) -> EncryptedRounds:
        """The workflow over this federation's nodes."""
        first = first_model(self.length)
        return EncryptedRounds(self.grid, self.party, initial=first, limits=limits, **options)  # type: ignore[arg-type]

    def fail(self, organisation: str, fault: Fault) -> None:
        self.nodes[organisation].fault = fault

    def restart(self, organisation: str) -> None:
        """The party's process ends and another begins: what was only in memory is gone."""
        end_process(self.parties.file(organisation))

    def close(self) -> None:
        for name in self.nodes:
            self.restart(name)

    def model_of(self, organisation: str) -> FlatModel:
        """The model that a bank has on its disk."""
        stored = self.parties.home(organisation) / "model.npz"
        return FlatModel.from_bytes(stored.read_bytes())[0]

    def exact(self, members: Mapping[int, Callable[[int], int]] | list[int], rounds: int) -> np.ndarray:
        """The model after plain averaging of first attempts over these banks, in float64."""
        total = np.zeros(self.length)
        for number in range(1, rounds + 1):
            total += np.mean([update_of(bank, number, 0, self.length).astype(np.float64) for bank in members], axis=0)
        return total


def only(action: str, fault: Fault, *, times: int = 10**9) -> Fault:
    """`fault` for messages of one action, the first few times; honest otherwise."""
    from fl.flower.transport import action_of

    count = 0

    def limited(message: Message, deliver):  # type: ignore[no-untyped-def]
        nonlocal count
        if action_of(message.content) != action or count >= times:
            return deliver(message)
        count += 1
        return fault(message, deliver)

    return limited


def silent(message: Message, deliver) -> None:  # type: ignore[no-untyped-def]
    """The node never answers, and never saw the message."""


def silent_after_work(message: Message, deliver) -> None:  # type: ignore[no-untyped-def]
    """The node does what it was asked, and its answer is lost."""
    deliver(message)

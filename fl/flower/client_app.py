"""A bank as a ClientApp: the fraud model, trained on the bank's own rows. The mod encrypts.

The party file's [app] table says what to train on, for example

    [app]
    data = "transactions.csv"      # or "simulated", with banks, customers and seed
    bank = "north"                 # name in the data's partition
    seed = 7                       # of the first model and of batch order; the same at every bank

With `federation`, the file of a plan, the bank takes part in a private run (`private/bank.py` lists its entries), or in
one of trees (`trees/bank.py`).

Every bank makes the first model itself from the public seed. torch is loaded when there is something to train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl import options
from fl.flower.admission import ARRAYS, METRICS
from fl.flower.app_table import number, require_constants, require_entries, simulation_of
from fl.flower.errors import SettingsError
from fl.flower.logs import RoleLog
from fl.flower.mod import ATTEMPT, CONFIG, EXAMPLES, ROUND, SecAggMod
from fl.flower.parties.bank import BankApp
from fl.flower.settings import PartySettings, load_settings, party_file

if TYPE_CHECKING:
    from torch import nn

    from fl.data.federation import BankData, PartitionedTable
    from fl.rounds.play import Schedule


@dataclass(frozen=True)
class Workplace:
    """What a bank trains with. features: width of its rows."""

    bank: BankData
    schedule: Schedule
    features: int
    device: Any


def _initial_model(context: Context) -> ArrayRecord:
    place = _workplace(party_file(context))
    return ArrayRecord(place.schedule.first_model(place.features).state_dict())


def _own_app(settings: PartySettings, log: RoleLog) -> BankApp | None:
    if "federation" not in settings.app:
        return None
    from fl.flower.planned_bank import plan_of

    if plan_of(settings).config.trees is not None:
        from fl.flower.trees.bank import TreeBank  # needs the extra `trees`

        return TreeBank(settings, log)
    from fl.flower.private.bank import PrivateBank

    return PrivateBank(settings, log)


app_mod = SecAggMod(_initial_model, _own_app)
app = ClientApp(mods=[app_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local training from the model in the message."""
    from fl.learning.training import derive_seed, train_seeded

    place = _workplace(party_file(context))
    model = _loaded(place, message)
    config = message.content.config_records[CONFIG]
    number, attempt = (int(cast(int, config[name])) for name in (ROUND, ATTEMPT))
    # The first attempt trains as the in-process run does; later ones must differ (an update enters one roster only).
    labels = ("batches", place.bank.name, number, *((attempt,) if attempt else ()))
    seed = derive_seed(place.schedule.seed, *labels)
    train_seeded(model, place.bank.train, place.schedule.local, seed=seed, device=place.device)
    arrays, metrics = ArrayRecord(model.state_dict()), MetricRecord({EXAMPLES: 1})
    return Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Hash of the message's model, as `fl.learning.model` computes it; reported if reports.hashes has "model_hash"."""
    from fl.learning.model import model_hash

    model = _loaded(_workplace(party_file(context)), message)
    return Message(RecordDict({"report": ConfigRecord({"model_hash": model_hash(model)})}), reply_to=message)


def _loaded(place: Workplace, message: Message) -> nn.Module:
    model = place.schedule.first_model(place.features)
    model.load_state_dict(message.content.array_records[ARRAYS].to_torch_state_dict())
    return model


@cache
def _workplace(path: Path) -> Workplace:
    """Rows and schedule of the bank whose party file this is; read once in a process."""
    import torch

    from fl.data.features import features
    from fl.data.federation import bank_of

    app = load_settings(path).app
    require_entries(app, {"data", "bank", "seed"}, path)
    torch.set_num_threads(1)  # the same sums in the same order at every bank and in every run
    source = banks_of(app, path.parent)
    require_constants(source.table.schema, f"{path}: app.schema")
    held = [name for name, _, _ in source.banks]
    if app["bank"] not in held:
        raise SettingsError(
            f"{path}: app.bank: expected a bank of {app['data']} ({', '.join(held)}), got {app['bank']!r}"
        )
    bank, width = bank_of(source, app["bank"]), len(features(source.table.schema))
    return Workplace(bank, schedule_of(app, rounds=0), width, torch.device("cpu"))


def banks_of(app: Mapping[str, Any], folder: Path) -> PartitionedTable:
    """All rows that an [app] table leads to, by bank. `folder`: that of the party file."""
    from fl.data.federation import read_partitioned

    simulation, seed = simulation_of(app), number(app, "seed", options.SEED)
    data = "simulated" if simulation is not None else str(folder / app["data"])
    schema, partition = app.get("schema"), app.get("partition")
    if schema is not None and schema.endswith(".toml"):  # otherwise the name of a shipped one
        schema = str(folder / schema)
    return read_partitioned(data, schema, partition, seed=seed, simulation=simulation)


def schedule_of(app: Mapping[str, Any], rounds: int) -> Schedule:
    """The settings that all banks share; without differential privacy."""
    from fl.learning.training import LocalTraining
    from fl.rounds.play import Schedule

    local = LocalTraining(optimiser="sgd", learning_rate=0.1, epochs=number(app, "epochs", options.EPOCHS, 1))
    return Schedule(rounds, local, private=None, dropout=0.3, prior=0.01, seed=number(app, "seed", options.SEED))

"""A bank as a ClientApp: the fraud model, trained on the bank's own rows. Encryption is the mod's business, not ours.

The party file's [app] table says what to train on, for example

    [app]
    data = "transactions.csv"      # or "simulated", with banks, customers and seed
    bank = "north"                 # name in the data's partition
    seed = 7                       # of the first model and of batch order; the same at every bank

Every bank makes the first model itself from the public seed. torch is loaded when there is something to train.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.flower.errors import SettingsError
from fl.flower.mod import ARRAYS, ATTEMPT, CONFIG, EXAMPLES, METRICS, ROUND, SecAggMod
from fl.flower.settings import load_settings, party_file

if TYPE_CHECKING:
    from torch import nn

    from fl.federation import BankData
    from fl.rounds import Schedule


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


app = ClientApp(mods=[SecAggMod(_initial_model)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local training from the model in the message."""
    from fl.training import derive_seed, train_seeded

    place = _workplace(party_file(context))
    model = _loaded(place, message)
    config = message.content.config_records[CONFIG]
    number, attempt = int(config[ROUND]), int(config[ATTEMPT])  # type: ignore[arg-type]
    # The first attempt is the in-process run's training; later ones must differ (an update enters one roster only).
    labels = ("batches", place.bank.name, number, *((attempt,) if attempt else ()))
    seed = derive_seed(place.schedule.seed, *labels)
    train_seeded(model, place.bank.train, place.schedule.local, seed=seed, device=place.device)
    arrays, metrics = ArrayRecord(model.state_dict()), MetricRecord({EXAMPLES: 1})
    return Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The hash of the model in the message, as `fl.model` computes it."""
    from flwr.app import ConfigRecord

    from fl.model import model_hash

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

    from fl.federation import load_federation
    from fl.simulate import Simulation

    settings = load_settings(path)
    asked = dict(settings.app)
    try:
        data, name, seed = asked.pop("data"), asked.pop("bank"), int(asked.pop("seed"))
    except KeyError as error:
        raise SettingsError(f"{path}: app.{error.args[0]} is missing: what does this bank train on?") from error
    simulation = None
    if data == "simulated":
        banks, customers = int(asked.pop("banks", 3)), int(asked.pop("customers", 150))
        simulation = Simulation(customers=customers, terminals=max(customers // 2, banks), banks=banks, seed=seed)
    else:
        data = str(path.parent / data)
    schedule = schedule_of(asked, seed)
    torch.set_num_threads(1)
    federation = load_federation(data, asked.get("schema"), asked.get("partition"), seed=seed, simulation=simulation)
    bank = next((each for each in federation.banks if each.name == name), None)
    if bank is None:
        raise SettingsError(f"{path}: app.bank: no bank {name!r} in {data}; got {[b.name for b in federation.banks]}")
    return Workplace(bank, schedule, len(federation.feature_names), torch.device("cpu"))


def schedule_of(asked: dict[str, Any], seed: int) -> Schedule:
    """What all banks do alike; without differential privacy."""
    from fl.rounds import Schedule
    from fl.training import LocalTraining

    local = LocalTraining(optimiser="sgd", learning_rate=0.1, epochs=int(asked.get("epochs", 1)))
    return Schedule(rounds=0, local=local, private=None, dropout=0.3, prior=0.01, seed=seed)

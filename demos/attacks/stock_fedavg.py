"""A SuperLink runs Flower's stock FedAvg instead of the encrypted rounds and keeps every bank's answer.

The attack breaks no protocol: a plain "train" message sends a model and asks for the trained one, and a Flower app
answers it. Against this project, the same request goes to banks with the mod, and to banks without the mod whose app
runs in the resident process. Then it goes out in Flower's other message types, and with the fields of an action of the
protocol.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from demos.attacks.federation import UPDATE_SCALE
from demos.attacks.verdict import Attack, Control, Shipped, exposes, largest_error
from secagg.arrays import F64

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from fl.flower.local_parties import LocalParties

BANKS = 3
_LENGTH = 500
_EXACT = 1e-6  # float32


def _control() -> Control:
    with _banks() as parties:
        updates = _updates()
        answers = _fedavg(parties, _app(updates))
    stolen = [array for reply in answers for array in _arrays(reply)]
    errors = [min((largest_error(array, update) for array in stolen), default=np.inf) for update in updates]
    exact = sum(error < _EXACT for error in errors)
    figure = f"{exact} of {BANKS} banks' own models, to {max(errors):.0e}" if exact else f"0 of {BANKS} banks' models"
    return Control("stock Flower without SecAgg", exact == BANKS, figure)


def _shipped() -> Shipped:
    from fl.flower.admission import GuardedApp
    from fl.flower.logs import RoleLog
    from fl.flower.mod import secagg_mod

    answers: list[Message] = []
    with _banks() as parties:
        updates = _updates()
        for app in (_app(updates, secagg_mod), GuardedApp(_app(updates), RoleLog("resident", "any app"))):
            answers += _fedavg(parties, app)
            answers += _asked_otherwise(parties, app)
    estimates = [array for reply in answers for array in _arrays(reply)]
    exposed = sum(any(exposes(array, update) for array in estimates) for update in updates)
    errors = [error for error in map(_error_of, answers) if error]
    outcome = "exposed" if exposed else "accepted" if estimates or len(errors) < len(answers) else "refused"
    return Shipped(outcome, tuple(errors), exposed, f"{len(estimates)} arrays in {len(answers)} replies")


ATTACK = Attack(
    "stock-fedavg",
    "runs Flower's stock FedAvg on the SuperLink, and keeps the model that each bank answers with",
    _control,
    _shipped,
    needs="flower",
)


# --- the banks ------------------------------------------------------------------------------------------------------


@contextmanager
def _banks() -> Iterator[LocalParties]:
    """Party files of banks in a folder of their own. Nothing of the caller's parties is used, and no log is printed."""
    import fl.flower  # noqa: F401  before flwr: it turns off what would call home
    from fl.flower.local_parties import LocalParties
    from fl.flower.logs import LOG_FILE
    from fl.flower.settings import PARTY, PASSPHRASE, PlanSettings

    kept = {name: os.environ.pop(name) for name in (PARTY, PASSPHRASE, LOG_FILE) if name in os.environ}
    logger = logging.getLogger("flwr")
    level = logger.level
    try:
        with tempfile.TemporaryDirectory(prefix="secagg-attack-") as folder:
            os.environ[LOG_FILE] = str(Path(folder) / "log.jsonl")
            logger.setLevel(logging.ERROR)
            plan = PlanSettings(max_clients=BANKS, clip=1.0, value_bits=20, max_weight=1, max_length=_LENGTH)
            parties = LocalParties(Path(folder) / "parties", plan, {f"bank-{number}": {} for number in range(BANKS)})
            parties.make()
            yield parties
    finally:
        logger.setLevel(level)
        os.environ.pop(LOG_FILE, None)
        os.environ.update(kept)


def _app(updates: Sequence[F64], *mods: Any) -> ClientApp:
    """An ordinary Flower app: it answers every type of request with the update that it trained."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    def trained(message: Message, context: Context) -> Message:
        update = updates[int(context.node_config["partition-id"])]
        metrics = MetricRecord({"num-examples": 1, "loss": 0.5})
        records = RecordDict({"arrays": ArrayRecord([update.astype(np.float32)]), "metrics": metrics})
        return Message(records, reply_to=message)

    app = ClientApp(mods=list(mods))
    for register in (app.train, app.evaluate, app.query):
        register()(trained)
    return app


def _updates() -> list[F64]:
    """What each bank trains, from a model of zeros."""
    rng = np.random.default_rng()
    return [rng.normal(scale=UPDATE_SCALE, size=_LENGTH) for _ in range(BANKS)]


# --- the SuperLink --------------------------------------------------------------------------------------------------


def _fedavg(parties: LocalParties, app: Callable[[Message, Context], Message]) -> list[Message]:
    """Every reply that stock FedAvg gets in a round of training and evaluation."""
    from flwr.serverapp.strategy import FedAvg

    answers: list[Message] = []
    strategy = FedAvg(min_train_nodes=BANKS, min_evaluate_nodes=BANKS, min_available_nodes=BANKS)
    arrays = _zeros().array_records["arrays"]
    strategy.start(_grid(parties, app, answers), arrays, num_rounds=1, timeout=1)
    return answers


def _asked_otherwise(parties: LocalParties, app: Callable[[Message, Context], Message]) -> list[Message]:
    """Every reply to the same request in other message types and with fields of the protocol."""
    from flwr.app import ConfigRecord, Message, RecordDict

    answers: list[Message] = []
    grid = _grid(parties, app, answers)
    for kind in ("train.default", "evaluate.default", "query", "query.default"):
        grid.send_and_receive([Message(_zeros(), 1, kind)])
    for action, kind in (("join", "train"), ("contribute", "train"), ("evaluate", "evaluate"), ("train", "train")):
        dressed = RecordDict({"secagg": ConfigRecord({"action": action}), **_zeros()})
        grid.send_and_receive([Message(dressed, 1, kind)])
    return answers


def _grid(parties: LocalParties, app: Callable[[Message, Context], Message], answers: list[Message]) -> Any:
    """Flower's connection to the banks, which puts a copy of every reply into `answers`."""
    from fl.flower.loopback import LoopbackGrid, Node

    class CuriousGrid(LoopbackGrid):
        def pull_messages(self, message_ids: Any) -> list[Message]:
            replies = list(super().pull_messages(message_ids))
            answers.extend(replies)
            return replies

    files = [str(parties.file(name)) for name in parties.banks]
    return CuriousGrid([Node(app, {"party": file, "partition-id": number}) for number, file in enumerate(files)])


def _zeros() -> RecordDict:
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict

    arrays = ArrayRecord([np.zeros(_LENGTH, dtype=np.float32)])
    return RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1, "attempt": 0})})


def _arrays(reply: Message) -> list[F64]:
    """Arrays of a reply. In the control they are models. A reply of this project must have none."""
    if reply.has_error():
        return []
    records = reply.content.array_records.values()
    return [np.ravel(array.numpy()).astype(np.float64) for record in records for array in record.values()]


def _error_of(reply: Message) -> str:
    """The name of the error that a reply reports, or an empty text if it reports none."""
    return str(reply.error.reason).split(":")[0] if reply.has_error() else ""

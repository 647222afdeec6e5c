"""A SuperLink that sends whatever Flower can carry, and apps that answer everything with the model of their bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from flower_federation import LENGTH, first_model, update_of
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import EvaluateIns, FitIns, GetParametersIns, GetPropertiesIns, ndarrays_to_parameters
from flwr.common.constant import ErrorCode
from flwr.compat.common.recorddict_compat import (
    evaluateins_to_recorddict,
    fitins_to_recorddict,
    getparametersins_to_recorddict,
    getpropertiesins_to_recorddict,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fl.flower.admission import ACTIONS
from fl.flower.mod import secagg_mod
from fl.flower.models import FlatModel
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.transport import Call, action_of, message_type, to_records

CATEGORIES = ("train", "evaluate", "query", "system")
LEGACY = ("get_parameters", "get_properties", "reconnect")
TYPES = (*CATEGORIES, *(f"{category}.{name}" for category in CATEGORIES for name in ("default", "own")), *LEGACY)


# --- what it sends --------------------------------------------------------------------------------------------------


def wires(dtype: str = "uint8", stype: str = "secagg.wire") -> ArrayRecord:
    return ArrayRecord(array_dict={"offer": Array(dtype=dtype, shape=(4,), stype=stype, data=b"wire")})


def plain() -> dict[str, Callable[[], RecordDict]]:
    """Contents that no action of the protocol has."""
    parameters, config = ndarrays_to_parameters([np.zeros(LENGTH, dtype=np.float32)]), {"round": 1}
    asked = {"arrays": first_model(), "config": ConfigRecord({"server-round": 1, "attempt": 0})}
    return {
        "nothing": RecordDict,
        "arrays": lambda: RecordDict({"arrays": first_model()}),
        "arrays and config, as FedAvg": lambda: RecordDict(asked),
        "config": lambda: RecordDict({"config": asked["config"]}),
        "metrics": lambda: RecordDict({"metrics": MetricRecord({"loss": 1.0})}),
        "unknown records": lambda: RecordDict({"a": first_model(), "b": ConfigRecord(), "c": MetricRecord()}),
        "fit of old strategies": lambda: fitins_to_recorddict(FitIns(parameters, config), True),
        "evaluate of old strategies": lambda: evaluateins_to_recorddict(EvaluateIns(parameters, config), True),
        "parameters of old strategies": lambda: getparametersins_to_recorddict(GetParametersIns({})),
        "properties of old strategies": lambda: getpropertiesins_to_recorddict(GetPropertiesIns({})),
        "seconds of a reconnect": lambda: RecordDict({"config": ConfigRecord({"seconds": 1})}),
        "action elsewhere": lambda: RecordDict({"config": ConfigRecord({"action": "status"})}),
        "secagg as arrays": lambda: RecordDict({"secagg": first_model()}),
        "secagg as metrics": lambda: RecordDict({"secagg": MetricRecord({"action": 1})}),
        "secagg without action": lambda: RecordDict({"secagg": ConfigRecord({"step": 1})}),
        "wires alone": lambda: RecordDict({"secagg.wires": wires()}),
        "wires and arrays": lambda: RecordDict({"secagg.wires": wires(), **asked}),
        **{
            f"action {action!r}": lambda action=action: RecordDict({"secagg": ConfigRecord({"action": action})})
            for action in ("", "train", "query", "Status", "status ", 1, 1.0, True, b"status", ["status"])
        },
    }


def forged(action: str) -> dict[str, Callable[[], RecordDict]]:
    """Contents that name an action of the protocol. Those that have its records and no others come first."""

    def call(**more: object) -> RecordDict:
        fields = {"name": "contribution", "index": 0, "total": 4, "after": 0, "length": LENGTH, "model": ""}
        return RecordDict({**to_records(Call(fields, {"part": b"wire"}), action), **more})

    asked = {"arrays": first_model(), "config": ConfigRecord({"server-round": 1, "attempt": 0})}
    return {
        "nothing else": lambda: RecordDict({"secagg": ConfigRecord({"action": action})}),
        "fields": call,
        "wires": lambda: call(**{"secagg.wires": wires()}),
        "wires of floats": lambda: call(**{"secagg.wires": wires("float32", "numpy.ndarray")}),
        "arrays and config": lambda: call(**asked),
        "config": lambda: call(config=asked["config"]),
        "metrics": lambda: call(metrics=MetricRecord({"loss": 1.0})),
    }


def started(node: int, party: AggregatorParty) -> Message:
    """The first model, as the workflow sends it for an aggregator."""
    request = party.request("start", 0, FlatModel.from_record(first_model()).digest, LENGTH)
    records = to_records(Call({}, {"request": request}), "start")
    return Message(RecordDict({**records, "arrays": first_model()}), node, "train")


@dataclass(frozen=True)
class Sent:
    """One message of the sweep. admissible: it has the type and the records of an action of the protocol."""

    what: str
    message: Message
    admissible: bool


def everything(node: int, party: AggregatorParty) -> Iterator[Sent]:
    """Every message type with every content. The first model comes before the forged actions, which then have one."""
    yield from foreign(node)
    yield Sent("start", started(node, party), True)
    for kind in TYPES:
        for action in sorted(ACTIONS):
            shapes = forged(action)
            for shape in shapes if kind in ("train", "evaluate") else ("fields", "arrays and config"):
                content = shapes[shape]
                records = set(content()) <= {"secagg", "secagg.wires"}
                sent = Message(content(), node, kind)
                yield Sent(f"{kind}: {action}, {shape}", sent, records and kind == message_type(action))


def foreign(node: int) -> Iterator[Sent]:
    """Every message type with every content that names no action of the protocol."""
    for kind in TYPES:
        for shape, content in plain().items():
            yield Sent(f"{kind}: {shape}", Message(content(), node, kind), False)
        metadata = Message(RecordDict(), node, kind).metadata
        yield Sent(f"{kind}: an error", Message(Error(0, "none"), metadata=metadata), False)  # type: ignore[call-overload]


# --- apps that answer everything with their model -------------------------------------------------------------------


@dataclass
class Eager:
    """A bank's app that tells its model in every way that Flower has. called: the messages that reached it."""

    called: list[Message] = field(default_factory=list)

    def answer(self, message: Message, context: Context) -> Message:
        self.called.append(message)
        weights = trained_by(int(context.node_config["partition-id"]))
        records = {
            "arrays": ArrayRecord([weights]),
            "metrics": MetricRecord({"num-examples": 1, "loss": 0.5, "weights": weights.astype(float).tolist()}),
            "config": ConfigRecord({"bytes": weights.tobytes(), "text": weights.tobytes().hex()}),
        }
        return Message(RecordDict(records), reply_to=message)

    def app(self, *mods: Callable[[Message, Context, ClientAppCallable], Message]) -> ClientApp:
        """With a function for every category, by default and by a name of its own."""
        app = ClientApp(mods=list(mods))
        for register in (app.train, app.evaluate, app.query):
            register()(self.answer)
            register("own")(self.answer)
        return app

    def old_app(self, *mods: Callable[[Message, Context, ClientAppCallable], Message]) -> ClientApp:
        """As apps were written before Flower had messages."""

        def client(context: Context):  # type: ignore[no-untyped-def]
            return _OldClient(self, int(context.node_config["partition-id"])).to_client()

        return ClientApp(client, mods=list(mods))


class _OldClient(NumPyClient):
    def __init__(self, eager: Eager, partition: int) -> None:
        self._eager, self._weights = eager, trained_by(partition)

    def get_parameters(self, config):  # type: ignore[no-untyped-def]
        self._eager.called.append(Message(RecordDict(), 1, "get_parameters"))
        return [self._weights]

    def get_properties(self, config):  # type: ignore[no-untyped-def]
        self._eager.called.append(Message(RecordDict(), 1, "get_properties"))
        return {"bytes": self._weights.tobytes()}

    def fit(self, parameters, config):  # type: ignore[no-untyped-def]
        return self.get_parameters(config), 1, {"bytes": self._weights.tobytes()}

    def evaluate(self, parameters, config):  # type: ignore[no-untyped-def]
        self.get_parameters(config)
        return 0.5, 1, {"bytes": self._weights.tobytes()}


def trained_by(partition: int) -> np.ndarray:
    """One bank's own model after a round of training from zeros."""
    return update_of(partition, 1, 0)


def the_mod_of_before(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """The control: what is not of its workflow goes to the app untouched."""
    if not message.has_content() or action_of(message.content) is None:
        return call_next(message, context)
    return secagg_mod(message, context, call_next)


def as_flower_runs(app: Callable[[Message, Context], Message]) -> Callable[[Message, Context], Message]:
    """The app in Flower's own executor, which tells the SuperLink the text of an exception."""

    def run(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except Exception as error:
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    return run


# --- what comes back ------------------------------------------------------------------------------------------------


def tells(reply: Message, weights: np.ndarray) -> bool:
    """Whether any two neighbouring weights, or one as a float64, stand anywhere in the bytes of a reply."""
    carried = b"".join(part.deflate() for part in get_all_nested_objects(reply).values())
    pairs = [weights[index : index + 2].tobytes() for index in range(0, weights.size, 2)]
    doubles = [each.tobytes() for each in weights.astype(np.float64)]
    texts = [str(each)[:8].encode() for each in weights]
    return any(trace in carried for trace in (*pairs, *doubles, *(pair.hex().encode() for pair in pairs), *texts))


def arrays_in(reply: Message) -> list[Array]:
    """Arrays of a reply that are not the protocol's byte strings."""
    if reply.has_error():
        return []
    records = reply.content.array_records.items()
    return [
        array
        for name, record in records
        for array in record.values()
        if name != "secagg.wires" or array.stype != "secagg.wire"
    ]

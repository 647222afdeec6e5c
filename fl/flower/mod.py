"""The mod that gives any Flower ClientApp encrypted, masked aggregation.

    app = ClientApp(mods=[secagg_mod])          # the app itself stays as it is

The app is called as Flower's own FedAvg would call it: a "train" message with the ArrayRecord "arrays" and the
ConfigRecord "config" ("server-round"), answered with "arrays" and the MetricRecord "metrics" ("num-examples"). The mod
keeps the difference to itself, and what leaves the machine is a masked ciphertext. `workflow.py` is its counterpart.
Messages that are not of this workflow pass through untouched.

`initial_model`, where given, makes the first model on the bank's own machine, so that none has to be sent.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl.errors import FederationError
from fl.flower.endpoint import Answer, Endpoint, endpoint_of, failed_before_it_had_an_endpoint
from fl.flower.errors import ModelMismatch, TransferError
from fl.flower.models import FlatModel
from fl.flower.parties.bank import BankParty, Trained
from fl.flower.parties.party import Refusal
from fl.flower.transport import Call, action_of, to_records

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
ROUND, ATTEMPT, EXAMPLES = "server-round", "attempt", "num-examples"

InitialModel = Callable[[Context], ArrayRecord]


class SecAggMod:
    """A mod `(message, context, call_next) -> message` that plays the bank's role around a ClientApp."""

    def __init__(self, initial_model: InitialModel | None = None) -> None:
        self._initial_model = initial_model

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        action = action_of(message.content) if message.has_content() else None
        if action is None:
            return call_next(message, context)
        try:
            endpoint: Endpoint[BankParty] = endpoint_of(context, BankParty)
            if action == "start":
                return self._start(message, endpoint)
        except (Refusal, FederationError) as error:
            return failed_before_it_had_an_endpoint(message, error)
        app = _CalledApp(message, context, call_next, self._initial_model)

        def role(name: str, call: Call) -> Answer:
            return endpoint.party.answer(name, call, app)

        return endpoint.answer(message, role)

    def _start(self, message: Message, endpoint: Endpoint[BankParty]) -> Message:
        if ARRAYS not in message.content.array_records:
            raise TransferError(f"start: expected the first model in the ArrayRecord {ARRAYS!r}")
        fields = endpoint.party.start(FlatModel.from_record(message.content.array_records[ARRAYS]))
        return Message(to_records(Call(fields), "start"), reply_to=message)


secagg_mod = SecAggMod()


class _CalledApp:
    """The application behind the mod, as `parties.BankApp`."""

    def __init__(
        self, message: Message, context: Context, call_next: ClientAppCallable, initial_model: InitialModel | None
    ) -> None:
        self._message, self._context, self._call_next = message, context, call_next
        self._initial_model = initial_model

    def initial(self) -> FlatModel | None:
        return None if self._initial_model is None else FlatModel.from_record(self._initial_model(self._context))

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        answer = self._called("train", model, ConfigRecord({ROUND: number, ATTEMPT: attempt}))
        if ARRAYS not in answer.array_records:
            raise ModelMismatch(f"the app answered training without the ArrayRecord {ARRAYS!r}")
        trained = FlatModel.from_record(answer.array_records[ARRAYS])
        examples = answer.metric_records.get(METRICS, MetricRecord()).get(EXAMPLES, 1)
        if not isinstance(examples, int):
            raise ModelMismatch(f"the app answered training with {EXAMPLES} {examples!r}: expected an integer")
        return Trained(model.update_to(trained), examples)

    def evaluate(self, model: FlatModel) -> dict[str, float | int | str]:
        answer = self._called("evaluate", model, ConfigRecord())
        reported: dict[str, float | int | str] = {}
        for records in (answer.metric_records, answer.config_records):
            for record in records.values():
                reported |= {name: value for name, value in record.items() if isinstance(value, (int, float, str))}
        return reported

    def _called(self, kind: str, model: FlatModel, config: ConfigRecord) -> RecordDict:
        """The app's answer to a plain Flower message of this kind; the message that we got lends its metadata."""
        ours = self._message.content
        self._message.content = RecordDict({ARRAYS: model.record(), CONFIG: config})
        try:
            answer = self._call_next(self._message, self._context)
        finally:
            self._message.content = ours
        if answer.has_error():
            raise ModelMismatch(f"the app answered {kind} with the error {answer.error.reason}")
        return answer.content

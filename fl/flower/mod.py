"""The mod that gives any Flower ClientApp encrypted, masked aggregation.

    app = ClientApp(mods=[secagg_mod])          # the app itself stays as it is

The app is called as Flower's own FedAvg would call it: a "train" message with the ArrayRecord "arrays" and the
ConfigRecord "config" ("server-round"), answered with "arrays" and the MetricRecord "metrics" ("num-examples"). The mod
sends a masked ciphertext in place of the difference. `workflow.py` is its counterpart. No other message reaches the
app, unless the bank's party file allows its type (`admission.py`); Flower's stock FedAvg gets an error. The text of an
app's error stays in the bank's log, because it may hold data.

`initial_model`, if given, makes the first model on the bank's own machine, so that none has to be sent. `own_app`, if
given, may return an app that plays the bank without Flower's messages, as a private run needs (`private/`).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl.errors import BudgetExhausted, FederationError
from fl.flower.admission import (
    ARRAYS,
    METRICS,
    Value,
    admitted,
    log_refused,
    log_withheld,
    of_the_protocol,
    passed_on,
    refusal,
    reported,
)
from fl.flower.endpoint import Answer, Endpoint, endpoint_of, failed_before_it_had_an_endpoint
from fl.flower.errors import AppFailed, FlowerError, MessageRefused, ModelMismatch, ReplyRefused, TransferError
from fl.flower.logs import RoleLog
from fl.flower.models import FlatModel
from fl.flower.parties.bank import BankApp, BankParty, Released, Trained
from fl.flower.parties.party import Refusal
from fl.flower.settings import NO_REPORTS, PartySettings, Reports
from fl.flower.transport import Call, from_records, to_records

CONFIG = "config"
ROUND, ATTEMPT, EXAMPLES = "server-round", "attempt", "num-examples"

InitialModel = Callable[[Context], ArrayRecord]
OwnApp = Callable[[PartySettings, RoleLog], BankApp | None]  # Raises `SettingsError`
T = TypeVar("T")


class SecAggMod:
    """A mod `(message, context, call_next) -> message` that plays the bank's role around a ClientApp."""

    def __init__(self, initial_model: InitialModel | None = None, own_app: OwnApp | None = None) -> None:
        self._initial_model, self._own_app = initial_model, own_app
        self._own: dict[Path, BankApp | None] = {}

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            endpoint: Endpoint[BankParty] = endpoint_of(context, BankParty)
        except (Refusal, FederationError) as error:
            return _answered_by_nobody(message, error)
        party = endpoint.party
        app: _CalledApp | _GuardedBank
        app = _CalledApp(message, context, call_next, self._initial_model, party.settings.reports, party.log)
        try:
            own = self._app_of(party)
            action = admitted(message, NO_REPORTS if own is not None else party.settings.reports)
            if action is None:
                return app.passed_on()
            if own is not None:
                app = _GuardedBank(own, message, party.settings.reports, party.log)
            if action == "start":
                if own is not None:
                    raise ModelMismatch("start: this bank makes its first model itself, from its own plan")
                return self._start(message, endpoint)
        except MessageRefused as error:
            log_refused(party.log, message, error)
            return refusal(message, error)
        except ReplyRefused as error:
            log_withheld(party.log, message, error)
            return refusal(message, error)
        except (Refusal, FederationError) as error:
            return failed_before_it_had_an_endpoint(message, error)

        def role(name: str, call: Call) -> Answer:
            return party.answer(name, call, app)

        return endpoint.answer(message, role)

    def forget(self, folder: Path) -> None:
        """Drop the app of a party whose process ends, in tests that play several processes in one."""
        self._own.pop(folder, None)

    def _app_of(self, party: BankParty) -> BankApp | None:
        """The app that plays the bank by itself, one for each party file; None for an app of Flower's own kind."""
        folder = party.settings.folder
        if folder not in self._own:
            self._own[folder] = None if self._own_app is None else self._own_app(party.settings, party.log)
        return self._own[folder]

    def _start(self, message: Message, endpoint: Endpoint[BankParty]) -> Message:
        if ARRAYS not in message.content.array_records:
            raise TransferError(f"start: expected the first model in the ArrayRecord {ARRAYS!r}, got none")
        model = FlatModel.from_record(message.content.array_records[ARRAYS])
        fields = endpoint.party.start(model, from_records(message.content))
        return Message(to_records(Call(fields), "start"), reply_to=message)


secagg_mod = SecAggMod()


def _answered_by_nobody(message: Message, error: Exception) -> Message:
    """The answer of a bank that cannot read its own files. Only its own rounds learn what is wrong with them."""
    RoleLog("bank", "")("not ready", error=type(error).__name__, message=str(error))
    if of_the_protocol(message):
        return failed_before_it_had_an_endpoint(message, error)
    return refusal(message, MessageRefused("this bank is not ready: it answers only its own protocol; try later"))


class _CalledApp:
    """The application behind the mod, as `parties.BankApp`. Text that the app writes stays at the bank."""

    def __init__(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        initial_model: InitialModel | None,
        reports: Reports,
        log: RoleLog,
    ) -> None:
        self._message, self._context, self._call_next = message, context, call_next
        self._initial_model, self._reports, self._log = initial_model, reports, log

    def initial(self) -> FlatModel | None:
        if self._initial_model is None:
            return None
        return self._flat("initial_model", self._safely("initial_model", self._initial_model, self._context))

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        answer = self._called("train", model, ConfigRecord({ROUND: number, ATTEMPT: attempt}))
        if ARRAYS not in answer.array_records:
            raise ModelMismatch(f"training: expected the ArrayRecord {ARRAYS!r} from the app, got none")
        trained = self._flat("train", answer.array_records[ARRAYS], model)
        examples = answer.metric_records.get(METRICS, MetricRecord()).get(EXAMPLES, 1)
        if not isinstance(examples, int):
            raise ModelMismatch(f"{EXAMPLES} of the app's training: expected an integer, got {type(examples).__name__}")
        return Trained(model.update_to(trained), examples)

    def moved(self, model: FlatModel, released: Released) -> FlatModel:
        return model.moved_by(released.values)

    def finished(self, model: FlatModel) -> bool:
        return False  # how many rounds there are is the aggregator's affair

    def evaluate(self, model: FlatModel) -> dict[str, Value]:
        answer = self._called("evaluate", model, ConfigRecord())
        try:
            return reported(answer, self._reports)
        except ReplyRefused as error:
            log_withheld(self._log, self._message, error)
            raise

    def passed_on(self) -> Message:
        """The answer to the unchanged message, for a type that the party file allows."""
        kind = self._message.metadata.message_type
        try:
            answer = self._safely(kind, self._call_next, self._for_the_app(self._message.content), self._context)
        except AppFailed as error:
            return refusal(self._message, error)
        return passed_on(self._message, answer, self._reports)

    def _flat(self, call: str, arrays: ArrayRecord, like: FlatModel | None = None) -> FlatModel:
        """The app's arrays as a model of the form of `like`. Raises `ModelMismatch`; the log names what differs."""
        try:
            model = FlatModel.from_record(arrays)
            if like is not None:
                like.require_alike(model)
        except ModelMismatch as error:
            self._log("app failed", call=call, error=type(error).__name__, message=str(error))
            raise ModelMismatch(
                f"{call}: the app returned arrays that cannot be averaged; the bank's log says why"
            ) from error
        return model

    def _called(self, kind: str, model: FlatModel, config: ConfigRecord) -> RecordDict:
        """The app's answer to a plain Flower message of this kind, with the metadata of the message that came."""
        asked = self._for_the_app(RecordDict({ARRAYS: model.record(), CONFIG: config}))
        answer = self._safely(kind, self._call_next, asked, self._context)
        if answer.has_error():
            reason = str(answer.error.reason)
            self._log("app failed", call=kind, error=f"code {answer.error.code}", message=reason)
            raise AppFailed(f"{kind}: the app answered with an error of code {answer.error.code}; see the bank's log")
        return answer.content

    def _for_the_app(self, content: RecordDict) -> Message:
        """A separate message for the app: changes that it makes to metadata or content do not reach our reply."""
        return Message(  # type: ignore[call-overload,no-any-return]  # flwr's overloads leave out `metadata`
            content, metadata=copy(self._message.metadata)
        )

    def _safely(self, call: str, function: Callable[..., T], *arguments: object) -> T:
        return _safely(self._log, call, function, *arguments)


class _GuardedBank:
    """An app that plays the bank by itself. What its own code says when it fails stays in the bank's log."""

    def __init__(self, app: BankApp, message: Message, reports: Reports, log: RoleLog) -> None:
        self._app, self._message, self._reports, self._log = app, message, reports, log

    def initial(self) -> FlatModel | None:
        return self._safely("initial", self._app.initial)

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        trained = self._safely("train", self._app.train, model, number, attempt)
        if (draw := trained.draw) is None:
            return trained
        return replace(trained, draw=lambda roster: self._safely("draw", draw, roster))

    def moved(self, model: FlatModel, released: Released) -> FlatModel:
        return self._safely("moved", self._app.moved, model, released)

    def finished(self, model: FlatModel) -> bool:
        return self._safely("finished", self._app.finished, model)

    def evaluate(self, model: FlatModel) -> dict[str, Value]:
        said = self._safely("evaluate", self._app.evaluate, model)
        try:
            return reported(RecordDict({"report": ConfigRecord(dict(said))}), self._reports)
        except ReplyRefused as error:
            log_withheld(self._log, self._message, error)
            raise

    def _safely(self, call: str, function: Callable[..., T], *arguments: object) -> T:
        # The messages of these two are written for the other side as well.
        return _safely(self._log, call, function, *arguments, told=(FlowerError, BudgetExhausted))


def _safely(
    log: RoleLog, call: str, function: Callable[..., T], *arguments: object, told: tuple[type[Exception], ...] = ()
) -> T:
    """The result of an app's function.

    Raises its exception if it is one of `told`, and otherwise `AppFailed`, with the name of the exception and without
    its text.
    """
    try:
        return function(*arguments)
    except told:
        raise
    except Exception as error:  # an app may raise anything
        # Flower would send its text to the SuperLink, and it may quote a row or a weight.
        log("app failed", call=call, error=type(error).__name__, message=str(error))
        raise AppFailed(f"{call}: the app raised {type(error).__name__}; its text is in the bank's log") from None

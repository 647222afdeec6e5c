"""What a party accepts from Flower and sends out: actions of the protocol, and reports that its operator allows.

A SuperLink may send whatever Flower can carry. Under Flower's stock FedAvg that is a plain "train" message, and an app
answers it with the model it has just trained, unencrypted. So only two kinds of messages reach an app: the actions of
this protocol, each in its Flower message type, and message types that the bank's own party file names. Only numbers and
hashes leave in an app's answer, under names that the party file lists (`settings.Reports`).

# Strategy: every message is checked twice, and either check would be enough. The mod checks before it calls the app.
# The resident process checks before it calls anything, with or without a mod, and checks the answer (`GuardedApp`). A
# reply is always made here: it keeps no metadata, names of records or error texts of an app's answer.
"""

from __future__ import annotations

import math
import re

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fl.flower.errors import MessageRefused, ReplyRefused, SettingsError, TransferError
from fl.flower.logs import RoleLog
from fl.flower.settings import NO_REPORTS, Reports, load_settings, party_file
from fl.flower.transport import RECORDS, action_of, from_records, message_type

ARRAYS, METRICS = "arrays", "metrics"  # records of Flower's FedAvg

ACTIONS = frozenset(
    {
        *("status", "start", "join", "contribute", "sketch", "accept", "abort", "evaluate"),  # a bank's
        # the key holder's, with "status" and "abort"
        *("open", "joins", "close", "reveal", "compare", "release", "stored"),
        *("put", "get"),  # parts of long byte strings
    }
)

_HASH = re.compile(r"[0-9a-f]{64}")  # SHA-256: text of any other form could carry a model
_INTEGERS = range(-(2**63), 2**63)  # what a MetricRecord can carry
_SHOWN = 60  # characters of a peer's text in an answer

Value = int | float | str


# --- in -------------------------------------------------------------------------------------------------------------


def of_the_protocol(message: Message) -> bool:
    """Whether a message claims to be of the protocol. An app never receives such a message as any other kind."""
    return message.has_content() and not RECORDS.isdisjoint(message.content)


def admitted(message: Message, reports: Reports) -> str | None:
    """The action of a message of the protocol; None for a message type that the party file lets through.

    Raises `MessageRefused` for everything else, and for an action in another message type or with other records.
    """
    kind = _shown(message.metadata.message_type)
    if not message.has_content():
        raise MessageRefused(f"{kind} message: expected content, got an error: nothing was asked")
    if not of_the_protocol(message):
        if message.metadata.message_type in reports.messages:
            return None
        raise MessageRefused(
            f"{kind} message: expected the record 'secagg', got none: this party answers only its own protocol; a "
            "bank's operator can allow evaluate and query messages with reports.messages in its party file"
        )
    action = action_of(message.content)
    if action is None or action not in ACTIONS:
        raise MessageRefused(f"{kind} message: expected an action of the protocol, got {_shown(action)}")
    if message.metadata.message_type != message_type(action):
        raise MessageRefused(f"{kind} message with the action {action!r}: expected type {message_type(action)!r}")
    strange = set(message.content) - RECORDS - ({ARRAYS} if action == "start" else set())
    if strange:
        raise MessageRefused(f"{kind} message with the action {action!r}: unexpected record {_shown(min(strange))}")
    return action


def refusal(message: Message, error: Exception) -> Message:
    """The answer to a message that was not carried out: Flower's error, with our error's name and text."""
    reason = f"{type(error).__name__}: {error}"
    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=message)


# --- out ------------------------------------------------------------------------------------------------------------


def reported(content: RecordDict, reports: Reports) -> dict[str, Value]:
    """What an app may report: numbers and hashes by name. Raises `ReplyRefused` when there is anything else."""
    values: dict[str, Value] = {}
    strange = [f"arrays {name}" for name in content.array_records]
    records: list[MetricRecord | ConfigRecord] = [*content.metric_records.values(), *content.config_records.values()]
    for record in records:
        for name, value in record.items():
            listed = (name in reports.metrics and _is_number(value)) or (
                name in reports.hashes and isinstance(value, str) and _HASH.fullmatch(value) is not None
            )
            if listed and name not in values and isinstance(value, (int, float, str)):
                values[name] = value
            else:
                strange.append(f"{type(value).__name__} {name}")
    if strange:
        raise ReplyRefused(
            f"{len(strange)} of the app's values are withheld: expected finite numbers that reports.metrics lists in "
            "the bank's party file, or hexadecimal SHA-256 that reports.hashes lists; the bank's log names the values",
            ", ".join(strange),
        )
    return values


def passed_on(message: Message, answer: Message, reports: Reports) -> Message:
    """The reply to a message type that the party file lets through: one MetricRecord. Raises `ReplyRefused`."""
    numbers = reported(_content(answer), Reports(reports.messages, reports.metrics))
    metrics = MetricRecord({name: value for name, value in numbers.items() if not isinstance(value, str)})
    return Message(RecordDict({METRICS: metrics}), reply_to=message)


def of_the_action(message: Message, answer: Message, action: str) -> Message:
    """The reply to an action: the protocol's own records. Raises `ReplyRefused` for an answer that holds others."""
    content = _content(answer)
    strange = set(content) - RECORDS
    if strange or action_of(content) != action:
        raise ReplyRefused(
            f"{action}: expected the protocol's records, got others: give the app its mod, "
            "ClientApp(mods=[secagg_mod])",
            ", ".join(sorted(strange)),
        )
    try:
        from_records(content)
    except TransferError as error:
        raise ReplyRefused(f"{action}: expected an answer of the protocol, got another", str(error)) from error
    return Message(content, reply_to=message)


def _content(answer: Message) -> RecordDict:
    if answer.has_error():
        raise ReplyRefused(
            f"the app answered with an error of code {answer.error.code}; its reason is in this party's log",
            str(answer.error.reason),
        )
    return answer.content


# --- both -----------------------------------------------------------------------------------------------------------


class GuardedApp:
    """A ClientApp that answers only this protocol, with or without mods."""

    def __init__(self, app: ClientApp, log: RoleLog) -> None:
        self._app, self._log = app, log

    def __call__(self, message: Message, context: Context) -> Message:
        """The app's answer if the message is admitted, and otherwise an error that says why it is not."""
        reports = NO_REPORTS if of_the_protocol(message) else self._reports(context)
        try:
            action = admitted(message, reports)
        except MessageRefused as error:
            log_refused(self._log, message, error)
            return refusal(message, error)
        try:
            answer = self._app(message, context)
        except Exception as error:  # an app may raise anything
            # The text of a defect may hold data: the other side gets only its name, this side's log the text.
            self._log("app failed", error=type(error).__name__, message=str(error))
            reason = type(error).__name__
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        try:
            if action is None:
                return passed_on(message, answer, reports)
            return of_the_action(message, answer, action)
        except ReplyRefused as error:
            log_withheld(self._log, message, error)
            return refusal(message, error)

    def _reports(self, context: Context) -> Reports:
        try:
            return load_settings(party_file(context)).reports
        except SettingsError as error:
            self._log("settings not read", error=type(error).__name__, message=str(error))
            return NO_REPORTS


def log_refused(log: RoleLog, message: Message, error: MessageRefused) -> None:
    """Log one line about a message that was not carried out."""
    log("message refused", run=message.metadata.run_id, error=type(error).__name__, message=str(error))


def log_withheld(log: RoleLog, message: Message, error: ReplyRefused) -> None:
    """Log one line about an answer that was withheld, with the content that the other side does not get."""
    kind = _shown(message.metadata.message_type)
    log("reply refused", type=kind, error=type(error).__name__, message=str(error), withheld=error.withheld)


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return value in _INTEGERS
    return isinstance(value, float) and math.isfinite(value)


def _shown(text: object) -> str:
    """A peer's text in a form that is safe for people and logs."""
    shown = ascii(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
